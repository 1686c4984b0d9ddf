"""The samples of events."""

import logging

from sqlalchemy import Integer, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

from pyramid_sqlalchemy_sessions import SessionEvent, SessionsCollectedEvent

audit = logging.getLogger("audit")


class Base(DeclarativeBase):
    pass


class Login(Base):
    __tablename__ = "login"

    id = mapped_column(Integer, primary_key=True)
    userid = mapped_column(Integer)
    session = mapped_column(String(16))


def write_log(event):
    line = "session %s of user %s: %s (%s)"
    what = type(event).__name__
    audit.info(line, event.fingerprint, event.userid, what, event.cause)


def keep(event):
    with event.request.registry["dbsession_factory"].begin() as dbsession:
        dbsession.add(Login(userid=event.userid, session=event.fingerprint))


def includeme(config):
    config.add_subscriber(write_log, SessionEvent)


def count(event):
    for cause, number in event.counts.items():
        audit.info("%d sessions expired: %s", number, cause)


def tell_of_collections(config):
    config.add_subscriber(count, SessionsCollectedEvent)
