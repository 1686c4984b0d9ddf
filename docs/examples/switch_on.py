"""A migration that gives an idle timeout to sessions that have none, for Alembic."""

import time

import sqlalchemy as sa
from alembic import op

IDLE_TIMEOUT = 1200


def upgrade():
    op.execute(
        sa.text(
            "UPDATE session SET idle_expire = :expire WHERE idle_expire IS NULL"
        ).bindparams(expire=int(time.time()) + IDLE_TIMEOUT)
    )
