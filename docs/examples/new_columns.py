"""The columns that are newer than the first development versions, for Alembic."""

import sqlalchemy as sa
from alembic import op


def upgrade():
    op.add_column("session", sa.Column("rotated", sa.BigInteger(), nullable=True))
    op.add_column("session", sa.Column("rotated_from", sa.Uuid(), nullable=True))
    op.add_column("session", sa.Column("sent", sa.BigInteger(), nullable=True))
    # UseridMixin
    op.add_column("session", sa.Column("authenticated", sa.BigInteger(), nullable=True))
    # Without RenewalMixin
    op.add_column("session", sa.Column("renewal_id", sa.Uuid(), nullable=True))
