"""The sample of production.rst about Galera."""

from sqlalchemy import event


def wait_for_other_nodes(engine):
    @event.listens_for(engine, "connect")
    def connect(connection, record):
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION wsrep_sync_wait = 1")
