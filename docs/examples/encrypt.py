"""A migration for EncryptedDataMixin, and back, for Alembic."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB

COLUMNS = ["flash"]  # with JSONDataMixin: ["flash", "data"]
BINARY = sa.LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")


def upgrade():
    for name in COLUMNS:
        change(name, sa.JSON(), BINARY, f"convert_to({name}::text, 'UTF8')", "BLOB")


def downgrade():
    for name in COLUMNS:
        change(name, BINARY, sa.JSON(), f"convert_from({name}, 'UTF8')::json", "TEXT")


def change(name, before, after, using, sqlite_type):
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column(
            "session",
            name,
            type_=after,
            existing_type=before,
            existing_nullable=False,
            postgresql_using=using,
        )
        return
    op.add_column("session", sa.Column("changed", after, nullable=True))
    op.execute(f"UPDATE session SET changed = CAST({name} AS {sqlite_type})")
    with op.batch_alter_table("session") as table:
        table.drop_column(name)
        table.alter_column(
            "changed", new_column_name=name, nullable=False, existing_type=after
        )
