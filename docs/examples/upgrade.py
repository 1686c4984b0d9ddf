"""The first part of the migration from version 0.1.0, for Alembic."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB

BINARY = sa.LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")


def upgrade():
    with op.batch_alter_table("session") as table:
        version = sa.Column("version", sa.Integer(), server_default="1", nullable=False)
        table.add_column(version)
    with op.batch_alter_table("session") as table:
        table.alter_column(
            "version",
            server_default=None,
            existing_type=sa.Integer(),
            existing_nullable=False,
        )
        table.alter_column("id", type_=sa.Uuid(), existing_nullable=False)
        table.alter_column("created", type_=sa.BigInteger(), existing_nullable=False)
        table.alter_column("data", type_=BINARY, existing_nullable=False)
        # IdleMixin
        table.alter_column("idle_expire", type_=sa.BigInteger())
        # ConfigIdleMixin
        table.alter_column("extension_delay", type_=sa.Integer())
        table.alter_column("extension_chance", type_=sa.Integer())
        table.alter_column("extension_deadline", type_=sa.Integer())
        # ConfigAbsoluteMixin
        table.alter_column("absolute_expire", type_=sa.BigInteger())
        # RenewalMixin
        table.add_column(sa.Column("renewal_previous", sa.Uuid(), nullable=True))
        table.alter_column("renewal_id", type_=sa.Uuid())
        table.alter_column("renewal_next", type_=sa.Uuid())
        table.alter_column("renewed", type_=sa.BigInteger())
        table.alter_column("renewal_tried", type_=sa.BigInteger())
        # ConfigRenewalMixin
        table.alter_column("renewal_try_every", type_=sa.Integer())
