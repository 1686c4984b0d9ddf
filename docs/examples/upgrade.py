"""The migration from version 0.1.0, for Alembic."""

import sqlalchemy as sa
from alembic import op


def upgrade():
    op.add_column(
        "session",
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
    )
    op.alter_column("session", "version", server_default=None)
    op.alter_column("session", "created", type_=sa.BigInteger())
    op.add_column("session", sa.Column("rotated", sa.BigInteger(), nullable=True))
    op.add_column("session", sa.Column("rotated_from", sa.Uuid(), nullable=True))
    op.add_column("session", sa.Column("sent", sa.BigInteger(), nullable=True))
    # UseridMixin
    op.add_column("session", sa.Column("authenticated", sa.BigInteger(), nullable=True))
    # Without RenewalMixin
    op.add_column("session", sa.Column("renewal_id", sa.Uuid(), nullable=True))
    # IdleMixin
    op.alter_column("session", "idle_expire", type_=sa.BigInteger())
    # ConfigIdleMixin
    op.alter_column("session", "extension_delay", type_=sa.Integer())
    op.alter_column("session", "extension_chance", type_=sa.Integer())
    op.alter_column("session", "extension_deadline", type_=sa.Integer())
    # ConfigAbsoluteMixin
    op.alter_column("session", "absolute_expire", type_=sa.BigInteger())
    # RenewalMixin
    op.add_column("session", sa.Column("renewal_previous", sa.Uuid(), nullable=True))
    op.alter_column("session", "renewed", type_=sa.BigInteger())
    op.alter_column("session", "renewal_tried", type_=sa.BigInteger())
    # ConfigRenewalMixin
    op.alter_column("session", "renewal_try_every", type_=sa.Integer())
