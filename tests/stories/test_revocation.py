"""The sessions of a user are ended while that user's other requests go on.

At READ COMMITTED of MariaDB a statement has no snapshot: it walks through the table
while others change it.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyramid.interfaces import ISessionFactory
from sqlalchemy import Index, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.orm.exc import StaleDataError

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    RenewalMixin,
    SessionStore,
    UseridMixin,
    UserSessionAuthenticationHelper,
)
from tests.application import Application, Browser

#: How many sessions of others a scan has to pass. With 200,000 it's the same.
OTHERS = 20_000
BUSY = 8  # sessions of the user that are being used
IDLE = 30  # and others
USER = 7

HELPER = UserSessionAuthenticationHelper()


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Scanned(RenewalMixin, UseridMixin, CSRFMixin, BaseMixin, Base):
    """A session whose user is found by reading the whole table."""

    __tablename__ = "scanned_session"


class Indexed(RenewalMixin, UseridMixin, CSRFMixin, BaseMixin, Base):
    """A session whose user is found by an index."""

    __tablename__ = "indexed_session"
    __table_args__ = (Index("indexed_session_userid", "userid"),)


def rotate(request):
    """Change the cookie."""
    request.session.rotate()


def write(request):
    """Make the row longer, so that it may move within the table's pages."""
    request.session["a"] = request.session.get("a", "") + "x" * 500


def log_in_again(request):
    """Prove once more who one is."""
    HELPER.remember(request, USER)


def renew(request):
    """Read, when a renewal is always due."""
    request.session.get("a")


DEEDS = (rotate, write, log_in_again, renew)


@pytest.fixture(params=[Scanned, Indexed], ids=lambda model: model.__name__)
def application(request, database_url):
    """An application at READ COMMITTED, with the sessions of many others."""
    model = request.param
    engine = create_engine(
        database_url, isolation_level="READ COMMITTED", pool_size=BUSY + 4
    )
    Base.metadata.create_all(engine)
    application = Application(engine, model, renewal_timeout=1, renewal_try_every=1)
    browsers(application, 16, 1)
    names = "created, data, flash, version, userid"
    table = model.__tablename__
    with engine.begin() as connection:
        number = 16
        while number < OTHERS:
            wanted = min(number, OTHERS - number)
            copied = f"SELECT uuid(), {names} FROM {table} LIMIT {wanted}"
            connection.execute(text(f"INSERT INTO {table} (id, {names}) {copied}"))
            number += wanted
    yield application
    engine.dispose()


def browsers(application, number, userid):
    """Return browsers in which the user is logged in."""
    found = [Browser(application) for _ in range(number)]

    def log_in(request):
        request.session.userid = userid
        request.session["a"] = ""

    for each in found:
        each.visit(log_in)
    return found


def ids_of(application):
    """Return the ids of the user's sessions, as text."""
    table = application.model.__tablename__
    query = text(f"SELECT id FROM {table} WHERE userid = :userid")
    with application.engine.connect() as connection:
        return set(connection.scalars(query, {"userid": USER}))


def revoke(application):
    """End all sessions of the user that are committed by now; return what is left."""
    there = ids_of(application)
    factory = application.registry.queryUtility(ISessionFactory)
    with Session(application.engine) as dbsession, dbsession.begin():
        SessionStore(dbsession, factory).revoke_user(USER)
    return there & ids_of(application), len(there)


def keep_busy(application, browser, place, is_over):
    """Use a session until it ends or all is over; return how often that went well."""
    number = 0
    while not is_over.is_set():
        deed = DEEDS[(place + number) % len(DEEDS)]
        try:
            browser.get("/", extra_environ={"app.deed": deed})
        except (StaleDataError, DBAPIError):
            continue
        number += 1
    return number


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_sessions_in_use(application):
    """None that was there is missed, while all are rotated, renewed and logged in."""
    application.view = lambda request: request.environ["app.deed"](request)
    with ThreadPoolExecutor(BUSY) as pool:
        for _ in range(4):
            view, is_over = application.view, threading.Event()
            busy = browsers(application, BUSY, USER)
            browsers(application, IDLE, USER)
            application.view = view
            futures = [
                pool.submit(keep_busy, application, each, place, is_over)
                for place, each in enumerate(busy)
            ]
            time.sleep(0.3)
            left, number = revoke(application)
            is_over.set()
            done = [each.result() for each in futures]
            assert all(done)
            assert number >= BUSY // 2 + IDLE
            assert left == set()


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.parametrize("deed", DEEDS)
def test_session_that_is_locked(application, deed):
    """It waits for a slow request, and ends what that one has made of its session."""
    slow, other = browsers(application, 2, USER)
    browsers(application, IDLE, USER)
    is_locked, may_end = threading.Event(), threading.Event()

    def view(request):
        deed(request)
        request.session["slow"] = True
        request.session.persist()
        is_locked.set()
        assert may_end.wait(20)

    def answer(request):
        return request.environ["app.deed"](request)

    application.view = answer
    with ThreadPoolExecutor(3) as pool:
        is_over = threading.Event()
        slow_one = pool.submit(slow.get, "/", extra_environ={"app.deed": view})
        assert is_locked.wait(20)
        busy = pool.submit(keep_busy, application, other, 0, is_over)
        revoked = pool.submit(revoke, application)
        time.sleep(0.5)
        assert not revoked.done()
        may_end.set()
        slow_one.result()
        left, number = revoked.result()
        is_over.set()
        busy.result()
    assert number == IDLE + 2
    assert left == set()
