"""The events that tell of sessions: after the commit, and only of what is stored."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import time_machine
from pyramid.config import Configurator
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid_retry import RetryableException
from sqlalchemy import Engine, Integer, String
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    AsyncSessionStore,
    BaseMixin,
    IdleMixin,
    RenewalMixin,
    SessionCreatedEvent,
    SessionEvent,
    SessionExpiredEvent,
    SessionRevokedEvent,
    SessionRotatedEvent,
    SessionStore,
    UseridMixin,
    UserSessionAuthenticationHelper,
)
from pyramid_sqlalchemy_sessions.cookie import SessionCookie
from tests.application import Application, Browser, Failure, statements
from tests.stories.transactions import Refuser, all_of, exception_view, tween_above

helper = UserSessionAuthenticationHelper()
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_servers = pytest.mark.parametrize(
    "database_url", ["postgresql", "mariadb"], indirect=True
)


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Timed(UseridMixin, IdleMixin, AbsoluteMixin, RenewalMixin, BaseMixin, Base):
    """A session with a user and all timeouts."""

    __tablename__ = "event_session"


class Anonymous(BaseMixin, Base):
    """A session without a user."""

    __tablename__ = "event_anonymous"


class Note(Base):
    """What a subscriber writes."""

    __tablename__ = "event_note"
    id = mapped_column(Integer, primary_key=True)
    text = mapped_column(String(50))


class Ear:
    """A browser of an application, and the events that a subscriber heard."""

    def __init__(self, engine: Engine, configure: Any = None, **kw: Any):
        self.heard: list[SessionEvent] = []

        def subscribe(config: Any) -> None:
            config.add_subscriber(self.heard.append, SessionEvent)

        kw.setdefault("model", Timed)
        kw["model"].__table__.create(engine, checkfirst=True)
        parts = [subscribe] if configure is None else [subscribe, configure]
        self.application = Application(engine, configure=all_of(*parts), **kw)
        self.browser = Browser(self.application)
        self.visit, self.fail = self.browser.visit, self.browser.fail
        self.factory = self.application.registry.getUtility(ISessionFactory)

    def tell(self) -> list[tuple[type, str, Any]]:
        """Return kind, cause and user of all events since the last time."""
        told = [(type(each), each.cause, each.userid) for each in self.heard]
        self.heard.clear()
        return told

    def store(self, dbsession: Session) -> SessionStore:
        """Return a store in the transaction of the dbsession."""
        return SessionStore(dbsession, self.factory)

    @contextmanager
    def outside(self) -> Iterator[SessionStore]:
        """Give a store outside of a request, where the application is known."""
        config = Configurator(registry=self.application.registry)
        config.begin()
        try:
            with Session(self.application.engine) as self.dbsession:
                yield self.store(self.dbsession)
        finally:
            config.end()


@pytest.fixture
def ear(engine: Engine) -> Ear:
    """An ear on a database of every kind."""
    return Ear(engine)


def write(request: Any) -> None:
    """Store something."""
    request.session["a"] = request.session.get("a", 0) + 1


def log_in(request: Any, userid: int = 7) -> None:
    """Log somebody in."""
    helper.remember(request, userid)


CREATED = (SessionCreatedEvent, "data", None)
LOGGED_IN = (SessionCreatedEvent, "login", 7)
LOGGED_OUT = (SessionRevokedEvent, "logout", 7)


# What there is to tell.


def test_life_of_a_session(ear):
    """Every turn in the life of a session is told, with its cause and its user."""
    ear.visit(write)
    assert ear.tell() == [CREATED]
    ear.visit(log_in)
    assert ear.tell() == [(SessionRotatedEvent, "login", 7)]
    ear.visit(lambda request: log_in(request, 8))
    assert ear.tell() == [(SessionRotatedEvent, "switch", 8)]
    ear.visit(lambda request: request.session.rotate())
    assert ear.tell() == [(SessionRotatedEvent, "rotate", 8)]
    ear.visit(lambda request: setattr(request.session, "userid", None))
    assert ear.tell() == [(SessionRotatedEvent, "logout", 8)]
    ear.visit(lambda request: request.session.invalidate())
    assert ear.tell() == [(SessionRevokedEvent, "invalidate", None)]


@on_sqlite
def test_logout(ear):
    """A logout ends the session; the farewell message begins another one."""

    def log_out(request):
        helper.forget(request)
        request.session.flash("Good-bye!")

    ear.visit(log_in)
    ear.visit(log_out)
    assert ear.tell() == [LOGGED_IN, LOGGED_OUT, CREATED]


@on_sqlite
def test_nothing_to_tell(ear):
    """Reads, writes, and new sessions that nobody stores are not told of."""
    ear.visit(lambda request: request.session.get("a"))
    ear.visit(lambda request: (write(request), request.session.clear()))
    ear.visit(lambda request: (log_in(request), request.session.invalidate()))
    assert ear.tell() == []
    ear.visit(write)
    ear.tell()
    ear.visit(write)
    ear.visit(lambda request: request.session["a"])
    assert ear.tell() == []


def test_model_without_user(sqlite_engine):
    """A model that has no user is told of with None in its place."""
    ear = Ear(sqlite_engine, model=Anonymous)
    ear.visit(write)
    ear.visit(lambda request: request.session.rotate())
    ear.visit(lambda request: request.session.invalidate())
    assert ear.tell() == [
        CREATED,
        (SessionRotatedEvent, "rotate", None),
        (SessionRevokedEvent, "invalidate", None),
    ]


@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
@pytest.mark.parametrize(
    ("cause", "seconds"), [("idle", 11), ("absolute", 101)], ids=str
)
def test_expiry(make_engine, level, cause, seconds):
    """A session that is found expired is told of, wherever it is deleted."""
    engine = make_engine()
    if engine.dialect.name != "sqlite":
        engine = make_engine(isolation_level=level)
    idle = {"idle_timeout": 10} if cause == "idle" else {}
    ear = Ear(engine, absolute_timeout=100, **idle)
    with time_machine.travel(1_000_000, tick=False) as clock:
        ear.visit(log_in)
        ear.tell()
        clock.shift(seconds)
        ear.visit(lambda request: request.session.get("a"))
    assert ear.application.rows() == []
    assert ear.tell() == [(SessionExpiredEvent, cause, 7)]


@pytest.mark.parametrize("fails", [False, True])
def test_renewal_violation(ear_that_renews, fails):
    """That a session ended because its cookie was copied is told, also on rollback."""
    ear = ear_that_renews
    with time_machine.travel(1_000_000, tick=False) as clock:
        ear.visit(log_in)
        thief = Browser(ear.application)
        thief.set_cookie("session", ear.browser.cookie)
        for _ in range(3):
            clock.shift(31)
            ear.visit(lambda request: request.session.get("a"))
        ear.tell()
        (thief.fail if fails else thief.visit)(lambda request: request.session.get("a"))
    assert ear.application.rows() == []
    assert ear.tell() == [(SessionRevokedEvent, "renewal violation", 7)]


@pytest.fixture
def ear_that_renews(engine: Engine) -> Ear:
    """An ear of an application whose cookies change every thirty seconds."""
    return Ear(engine, renewal_timeout=30, renewal_grace=10)


# What the events carry.


def test_fingerprints(sqlite_engine):
    """All that happens to a session can be put together by its fingerprints."""
    ear = Ear(sqlite_engine)
    ear.visit(write)
    row = ear.application.row()
    ear.visit(log_in)
    keys = [row.id, ear.application.row().renewal_id]
    ear.visit(lambda request: request.session.invalidate())
    created, rotated, revoked = ear.heard
    assert created.fingerprint == rotated.fingerprint
    assert len({each.fingerprint for each in (created, rotated, revoked)}) == 1
    told = "".join(map(repr, ear.heard))
    for each in keys:
        assert each.hex not in told
        assert str(each) not in told
    assert created.fingerprint in told


def fingerprint_of(*keys: bytes) -> str:
    """Return the fingerprint that an id has with a key ring."""
    cookie = SessionCookie("session", AESGCMSerializer(list(keys)))
    return cookie.fingerprint(uuid.UUID(int=5))


def test_fingerprint_is_that_of_the_first_key():
    """A fingerprint is the same in each process, and another one with another key."""
    one, other = bytes(32), bytes(range(32))
    assert fingerprint_of(one) == fingerprint_of(one, other) == "e042425d6d06263c"
    assert fingerprint_of(one) != fingerprint_of(other)


def test_fingerprint_without_a_key():
    """A serializer of another kind leads to fingerprints that last with the process."""

    class Plain:
        def dumps(self, data):
            return data

        def loads(self, value):
            return value

    one, other = (SessionCookie("session", Plain()) for _ in "12")
    key = uuid.UUID(int=5)
    assert one.fingerprint(key) == one.fingerprint(key) != other.fingerprint(key)


def test_request(sqlite_engine):
    """An event has the request in which it happened."""
    ear = Ear(sqlite_engine)
    seen = []
    ear.visit(lambda request: (write(request), seen.append(request)))
    assert [each.request for each in ear.heard] == seen


def test_subscribing_to_one_kind(sqlite_engine):
    """Who subscribes to one kind of event is told of no other."""
    heard = []
    ear = Ear(
        sqlite_engine,
        lambda config: config.add_subscriber(heard.append, SessionRevokedEvent),
    )
    ear.visit(log_in)
    ear.visit(lambda request: request.session.invalidate())
    assert heard == ear.heard[1:]
    assert [type(each) for each in heard] == [SessionRevokedEvent]


# When they are sent.


def test_after_the_commit(ear):
    """A subscriber finds in the database what it is told of."""
    numbers = []

    def count(told):
        numbers.append(len(ear.application.rows()))

    ear.application.registry.registerHandler(count, (SessionEvent,))
    ear.visit(write)
    ear.visit(lambda request: request.session.invalidate())
    assert numbers == [1, 0]


def test_with_one_connection(make_engine):
    """By then the connection is free for what the subscriber writes."""
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0.2)
    Note.__table__.create(engine)

    def keep(told):
        with Session(engine) as dbsession, dbsession.begin():
            dbsession.add(Note(text=told.cause))

    ear = Ear(engine, lambda config: config.add_subscriber(keep, SessionEvent))
    ear.visit(write)
    with Session(engine) as dbsession:
        assert dbsession.query(Note).one().text == "data"


def test_rollback(ear):
    """Nothing is told of what was rolled back."""
    ear.visit(log_in)
    ear.tell()
    ear.fail(lambda request: request.session.rotate())
    ear.fail(lambda request: request.session.invalidate())
    ear.visit(lambda request: (request.session.invalidate(), request.tm.doom()))
    ear.browser.reset()
    ear.fail(write)
    assert ear.tell() == []


@pytest.mark.parametrize("phase", ["tpc_begin", "commit", "tpc_vote"])
def test_failed_commit(ear, phase):
    """Nothing is told if the commit fails, whatever made it fail."""

    def refuse(request):
        log_in(request)
        sort_key = "~pyramid_sqlalchemy_sessions!" if phase == "commit" else ""
        request.tm.get().join(Refuser(phase, sort_key))

    with pytest.raises(Exception, match=r"^$"):
        ear.visit(refuse)
    assert ear.application.rows() == []
    assert ear.tell() == []
    ear.visit(write)
    assert ear.tell() == [CREATED]


def test_retries(engine):
    """Of several attempts the one that was committed is told of, once."""
    ear = Ear(engine, lambda config: config.include("pyramid_retry"))

    def third_time(request):
        requests.append(request)
        log_in(request)
        if len(requests) == 1:
            raise RetryableException
        if len(requests) == 2:
            request.tm.get().join(Refuser("commit", "~p~", RetryableException))

    requests = []
    ear.visit(third_time)
    assert len(requests) == 3
    assert [each.request for each in ear.heard] == requests[2:]
    assert ear.tell() == [LOGGED_IN]


def test_savepoint(ear):
    """What was rolled back to a savepoint has not happened."""

    def change_mind(request):
        with request.dbsession.begin_nested() as savepoint:
            request.session.invalidate()
            savepoint.rollback()

    ear.visit(log_in)
    ear.tell()
    ear.visit(change_mind)
    assert ear.tell() == []
    ear.visit(lambda request: request.session.invalidate())
    assert ear.tell() == [LOGGED_OUT]


@on_servers
def test_savepoint_of_the_transaction(ear):
    """So it is with savepoints of the request's transaction."""

    def change_mind(request):
        savepoint = request.tm.savepoint()
        request.session.invalidate()
        ear.store(request.dbsession).create({})
        savepoint.rollback()

    ear.visit(log_in)
    ear.tell()
    ear.visit(change_mind)
    assert ear.tell() == []


@on_sqlite
def test_open_savepoint(ear):
    """A savepoint that is still open at the commit is part of it."""

    def leave_open(request):
        request.dbsession.begin_nested()
        request.dbsession.begin_nested()
        write(request)

    ear.visit(leave_open)
    assert len(ear.application.rows()) == 1
    assert ear.tell() == [CREATED]


@on_sqlite
def test_subrequest(ear):
    """What a subrequest does is told when the outer transaction is committed."""
    inner = []

    def outer(request):
        if request.path == "/inner":
            log_in(request)
            return
        subrequest = Request.blank("/inner")
        subrequest.tm, subrequest.dbsession = request.tm, request.dbsession
        request.invoke_subrequest(subrequest)
        inner.append(list(ear.heard))
        if request.path == "/fail":
            raise Failure

    ear.visit(outer)
    assert inner == [[]]
    assert ear.tell() == [LOGGED_IN]
    with pytest.raises(Failure):
        ear.visit(outer, "/fail")
    assert ear.tell() == []


@on_sqlite
def test_exception_view(engine):
    """What an exception view stores is told; what the failed view did is not."""
    ear = Ear(engine, exception_view(lambda request: request.session.flash("Sorry")))
    ear.visit(lambda request: log_in(request) or fail(), status=500)
    assert ear.tell() == [CREATED]
    ear.application.view = lambda request: request.session.invalidate() or fail()
    ear.browser.get("/", status=500)
    assert ear.tell() == []


def fail() -> None:
    """Let a view fail."""
    raise Failure


@on_sqlite
def test_exception_view_that_logs_out(engine):
    """An exception view that ends the session is told of."""
    ear = Ear(engine, exception_view(lambda request: request.session.invalidate()))
    ear.visit(log_in)
    ear.visit(lambda request: fail(), status=500)
    assert ear.tell() == [LOGGED_IN, LOGGED_OUT]


@on_sqlite
def test_tween_above_the_transaction(engine):
    """So is a tween that has no transaction."""

    def tween(handler, request):
        response = handler(request)
        write(request)
        return response

    ear = Ear(engine, tween_above(tween))
    ear.visit(lambda request: None)
    assert ear.tell() == [CREATED]


def test_without_pyramid_tm(sqlite_engine):
    """So is an application without pyramid_tm."""
    ear = Ear(
        sqlite_engine,
        pyramid_tm=False,
        explicit=False,
        make_dbsession=lambda request, manager: Session(sqlite_engine),
    )
    ear.visit(write)
    assert ear.tell() == [CREATED]


# Subscribers.


@pytest.mark.parametrize("where", ["inside", "aside"])
def test_subscriber_that_fails(sqlite_engine, caplog, where):
    """A subscriber that raises is logged; response, cookie and session are there."""

    def break_down(told):
        raise Failure("no audit today")

    def tween(handler, request):
        if where == "aside":
            write(request)
        return handler(request)

    def subscribe(config):
        config.add_subscriber(break_down, SessionEvent)

    ear = Ear(sqlite_engine, all_of(subscribe, tween_above(tween)))
    ear.visit(write if where == "inside" else lambda request: None)
    assert ear.browser.cookie
    assert len(ear.application.rows()) == 1
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "A subscriber failed" in record.getMessage()
    assert record.exc_info[0] is Failure


def test_subscriber_that_writes_to_the_session(sqlite_engine, caplog):
    """A subscriber that changes the session is too late, and is told so."""
    ear = Ear(
        sqlite_engine, lambda config: config.add_subscriber(write_to, SessionEvent)
    )
    ear.visit(write)
    assert ear.application.row().version == 1
    assert "cannot be changed any more" in caplog.text


def write_to(told: SessionEvent) -> None:
    """Change the session of an event."""
    told.request.session["told"] = True


def test_nobody_listens(sqlite_engine):
    """Without subscribers a dbsession gets no listeners, and no statement is made."""
    Timed.__table__.create(sqlite_engine)
    application = Application(sqlite_engine, Timed)
    browser = Browser(application)
    infos = []

    def create(request):
        write(request)
        infos.append(request.dbsession.info)

    browser.visit(create)
    assert [list(info) for info in infos] == [[]]


# The stores.

STORED = (SessionCreatedEvent, "store", None)
ENDED = (SessionRevokedEvent, "store", 7)


def test_store(ear):
    """What a store does is told when the caller commits, and not if he does not."""
    with ear.outside() as store:
        key = store.create({"a": 1})
        assert ear.tell() == []
        ear.dbsession.commit()
        assert ear.heard[0].request is None
        assert ear.tell() == [STORED]
        store.delete(key)
        ear.dbsession.rollback()
        assert not store.delete(uuid.UUID(int=5))
        ear.dbsession.commit()
        assert ear.tell() == []
        assert store.delete(key)
        ear.dbsession.commit()
    assert ear.tell() == [(SessionRevokedEvent, "store", None)]


@pytest.mark.parametrize("returning", [True, False])
def test_revoking_a_user(ear, returning):
    """Each session that a store ends is told of, whose request does it as well."""
    ear.application.engine.dialect.delete_returning &= returning
    others = [Browser(ear.application) for _ in "123"]
    for browser in others:
        browser.visit(log_in)
    Browser(ear.application).visit(lambda request: log_in(request, 8))
    ear.visit(log_in)
    known = {each.fingerprint for each in ear.heard if each.userid == 7}
    ear.tell()

    def revoke(request, keep=None):
        return ear.store(request.dbsession).revoke_user(7, keep=keep)

    def end_others(request):
        return revoke(request, keep=request.session)

    ear.fail(end_others)
    assert ear.tell() == []
    assert ear.visit(end_others).text == "3"
    ended = {each.fingerprint for each in ear.heard}
    assert ended < known
    assert ear.tell() == [ENDED] * 3
    assert ear.visit(lambda r: r.session.get("a") or revoke(r)).text == "1"
    (last,) = ear.heard
    assert {last.fingerprint} | ended == known
    assert ear.tell() == [ENDED]
    assert [row.userid for row in ear.application.rows()] == [8]


def test_savepoints_of_a_store(ear):
    """What a store does after a savepoint counts unless that is rolled back."""
    with ear.outside() as store:
        outer = ear.dbsession.begin_nested()
        store.create({})
        inner = ear.dbsession.begin_nested()
        store.create({})
        inner.rollback()
        outer.commit()
        outer = ear.dbsession.begin_nested()
        with ear.dbsession.begin_nested():
            store.create({})
        outer.rollback()
        assert ear.tell() == []
        ear.dbsession.commit()
        assert ear.tell() == [STORED]
        store.create({})
        ear.dbsession.close()
        ear.dbsession.commit()
    assert ear.tell() == []
    assert len(ear.application.rows()) == 1


def test_expired_sessions(sqlite_engine):
    """Subscribers are told of each session that is deleted because it has expired."""
    ear = Ear(sqlite_engine, idle_timeout=10)
    with time_machine.travel(1_000_000, tick=False) as clock, ear.outside() as store:
        store.create({})
        ear.dbsession.commit()
        ear.tell()
        clock.shift(11)
        assert store.delete_expired() == 1
        ear.dbsession.commit()
    assert ear.tell() == [(SessionExpiredEvent, "idle", None)]


def test_store_without_subscribers(sqlite_engine):
    """Where nobody listens, a store does what it did."""
    ear = Ear(sqlite_engine)
    with Session(sqlite_engine) as dbsession, statements(sqlite_engine) as made:
        store = ear.store(dbsession)
        store.create({})
        assert store.delete_all() == 1
        dbsession.commit()
    assert ear.tell() == []
    assert ["RETURNING" in each for each in made] == [False, False]


@on_sqlite
def test_async_store(engine, database_url):
    """What an AsyncSessionStore does is told when it is committed, too."""
    ear = Ear(engine)

    async def work() -> None:
        async_engine = create_async_engine(
            database_url.replace("sqlite:", "sqlite+aiosqlite:")
        )
        async with AsyncSession(async_engine) as dbsession:
            store = AsyncSessionStore(dbsession, ear.factory)
            key = await store.create({})
            await dbsession.commit()
            assert ear.tell() == [STORED]
            await store.delete(key)
            assert ear.tell() == []
            await dbsession.commit()
        await async_engine.dispose()

    with ear.outside():
        asyncio.run(work())
    assert ear.tell() == [(SessionRevokedEvent, "store", None)]
