"""What transactions.rst says about savepoints on SQLite."""

from sqlalchemy import event


def let_savepoints_work(engine):
    @event.listens_for(engine, "connect")
    def connect(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")
