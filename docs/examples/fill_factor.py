"""A migration that leaves room for updates in a table that is there, for Alembic."""

from alembic import op


def upgrade():
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE session SET (fillfactor = 90)")


def downgrade():
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE session RESET (fillfactor)")
