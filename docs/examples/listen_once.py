"""A sample of performance.rst."""

from sqlalchemy import event
from sqlalchemy.orm import Session
from zope.sqlalchemy import ZopeTransactionEvents

EVENTS = (
    "after_attach",
    "after_begin",
    "after_bulk_delete",
    "after_bulk_update",
    "after_flush",
    "before_commit",
    "do_orm_execute",
)


def listen_once(dbsession_factory):
    """Let zope.sqlalchemy listen to all dbsessions of a sessionmaker."""
    for name in EVENTS:
        event.listen(dbsession_factory, name, passed_on(name))


def passed_on(name):
    def listener(subject, *arguments):
        dbsession = subject if isinstance(subject, Session) else subject.session
        return getattr(dbsession.info["zope"], name)(subject, *arguments)

    return listener


def get_tm_session(dbsession_factory, transaction_manager, request=None):
    events = ZopeTransactionEvents(transaction_manager=transaction_manager)
    return dbsession_factory(info={"request": request, "zope": events})
