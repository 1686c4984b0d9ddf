"""A migration of the column data from pickles to JSON, for Alembic."""

import sqlalchemy as sa
from alembic import op

from pyramid_sqlalchemy_sessions.codec import JSON_CODEC, PICKLE_CODEC


def upgrade():
    op.add_column("session", sa.Column("data_json", sa.JSON(), nullable=True))
    session = sa.table(
        "session",
        sa.column("id", sa.Uuid()),
        sa.column("data", sa.LargeBinary()),
        sa.column("data_json", sa.JSON()),
    )
    connection = op.get_bind()
    for key in connection.scalars(sa.select(session.c.id)).all():
        is_row = session.c.id == key
        pickled = connection.scalar(sa.select(session.c.data).where(is_row))
        data = JSON_CODEC.dumps(PICKLE_CODEC.loads(pickled))
        connection.execute(session.update().where(is_row).values(data_json=data))
    with op.batch_alter_table("session") as table:
        table.drop_column("data")
        table.alter_column(
            "data_json",
            new_column_name="data",
            nullable=False,
            existing_type=sa.JSON(),
            existing_nullable=True,
        )
