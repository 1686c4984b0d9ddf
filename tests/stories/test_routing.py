"""Where sessions are: schemas and policies of tenants, small pools, and replicas.

The request's dbsession decides that, in every transaction of the request.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import zope.sqlalchemy
from pyramid.httpexceptions import HTTPForbidden, HTTPFound
from sqlalchemy import (
    Engine,
    Integer,
    MetaData,
    String,
    create_engine,
    event,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import Delete, Update

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    IdleMixin,
    RenewalMixin,
    RenewalViolationEvent,
    UseridMixin,
)
from pyramid_sqlalchemy_sessions.cookie import Ticket
from tests.application import Application, Browser, Failure
from tests.stories.parallel import cookie_of
from tests.stories.test_faults import only_readable
from tests.stories.transactions import (
    all_of,
    exception_view,
    logged,
    set_cookies,
)
from tests.test_docs import load

IDLE = 1000
SETTINGS = {"idle_timeout": IDLE, "renewal_timeout": 5000}
TENANT = "red"


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Tenanted(UseridMixin, IdleMixin, RenewalMixin, BaseMixin, Base):
    """A session of a tenant, whose name only the database knows."""

    __tablename__ = "tenanted_session"
    tenant = mapped_column(String(20))


class Thing(Base):
    """Something of the application's own."""

    __tablename__ = "routing_thing"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)


Make = Callable[[Any, Any], Session]


def forbidden(request: Any) -> HTTPFound:
    """Flash a message and redirect: the everyday exception view."""
    request.session.flash("Please log in.")
    return HTTPFound("/login")


def visitor(engine: Engine, make: Make | None = None, **kw: Any) -> Browser:
    """Return a browser of an application whose dbsessions are made like this."""
    configure = [exception_view(forbidden, HTTPForbidden)]
    if "configure" in kw:
        configure.append(kw.pop("configure"))
    return Browser(
        Application(
            engine,
            Tenanted,
            make_dbsession=make,
            configure=all_of(*configure),
            **{**SETTINGS, **kw},
        )
    )


def begin(request: Any) -> None:
    """Store a session."""
    request.session["n"] = 1


def forbid(request: Any) -> None:
    """Change the session, and refuse to answer."""
    request.session["n"] = 100
    raise HTTPForbidden


def fail(request: Any) -> None:
    """Use the session, and fail."""
    request.session.get("n")
    raise Failure


# What happens after the request's transaction, happens where the session is.


@dataclass
class Place:
    """Where the sessions of a tenant are, and how to look at them from outside."""

    engine: Engine
    make: Make
    #: The sessions of the tenant, and what must never be touched.
    table: Any
    others: Any = None
    look: Callable[[Any], None] = lambda connection: None

    def rows(self, table: Any) -> list[Any]:
        with self.engine.connect() as connection:
            self.look(connection)
            return [tuple(row) for row in connection.execute(select(table))]

    def row(self) -> Any:
        with self.engine.connect() as connection:
            self.look(connection)
            return connection.execute(select(self.table)).one()

    def change(self, **values: Any) -> None:
        with self.engine.begin() as connection:
            self.look(connection)
            connection.execute(update(self.table).values(**values))


def use_after_the_transaction(place: Place) -> None:
    """Let everything happen that's done after the request's own transaction."""
    browser = visitor(place.engine, place.make)
    browser.visit(begin)
    before: list[Any] = []
    if place.others is not None:  # a twin of the session that nothing may touch
        with place.engine.begin() as connection:
            rows = connection.execute(select(place.table)).mappings().all()
            connection.execute(place.others.insert(), [dict(row) for row in rows])
        before = place.rows(place.others)
        assert before

    browser.visit(forbid, status=302)
    assert browser.ask(lambda session: session.pop_flash()) == ["Please log in."]
    assert browser.ask(lambda session: session["n"]) == 1

    now = int(time.time())
    place.change(idle_expire=now + 10)
    assert browser.ask(lambda session: session["n"]) == 1
    assert place.row().idle_expire >= now + IDLE

    events: list[Any] = []
    thief = visitor(
        place.engine,
        place.make,
        configure=lambda config: config.add_subscriber(
            events.append, RenewalViolationEvent
        ),
    )
    thief.set_cookie("session", cookie_of(Ticket(place.row().id, uuid.uuid4())))
    thief.fail(fail)
    assert len(events) == 1
    assert place.rows(place.table) == []
    if place.others is not None:
        assert place.rows(place.others) == before
    assert place.engine.pool.checkedout() == 0


def of_session(engine: Engine, schema: str) -> Make:
    """Let the dbsession itself carry the schema."""

    def make(request: Any, manager: Any) -> Session:
        options = {"schema_translate_map": {None: schema}}
        dbsession = Session(engine, execution_options=options)
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        return dbsession

    return make


def of_connection(engine: Engine, schema: str) -> Make:
    """Let the first connection of the dbsession carry the schema, and no other."""

    def make(request: Any, manager: Any) -> Session:
        options = {"schema_translate_map": {None: schema}}
        dbsession = Session(engine)
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        dbsession.connection(execution_options=options)
        return dbsession

    return make


@pytest.fixture
def schema(engine: Engine, make_story_engine: Any, tmp_path: Path) -> Iterator[Any]:
    """Another engine, on which extensions are late, and the name of a schema there."""
    if engine.dialect.name == "sqlite":
        other, name = make_story_engine(), TENANT

        @event.listens_for(other, "connect")
        def attach(connection: Any, record: Any) -> None:
            connection.execute(f"ATTACH DATABASE '{tmp_path / 'red.sqlite'}' AS red")

        create = drop = None
    else:
        other = make_story_engine(isolation_level="REPEATABLE READ")
        name = f"pss_red_{uuid.uuid4().hex}"
        create, drop = f"CREATE SCHEMA {name}", f"DROP SCHEMA {name} CASCADE"
        if engine.dialect.name != "postgresql":
            drop = f"DROP SCHEMA {name}"
    if create:
        with engine.begin() as connection:
            connection.execute(text(create))
    for place in (None, name):
        with other.begin() as connection:
            options = {"schema_translate_map": {None: place}}
            Base.metadata.create_all(connection.execution_options(**options))
    yield other, name
    if drop:
        other.dispose()
        with engine.begin() as connection:
            connection.execute(text(drop))


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(
            of_session,
            marks=pytest.mark.skipif(
                version("sqlalchemy").startswith("2.0."),
                reason="Session(execution_options=...) is new in SQLAlchemy 2.1",
            ),
        ),
        of_connection,
    ],
)
def test_a_schema_of_its_own(schema: Any, way: Callable[[Engine, str], Make]) -> None:
    """With a map of schemas all that's done is done in the tenant's schema."""
    engine, name = schema
    there = Tenanted.__table__.to_metadata(MetaData(), schema=name)
    use_after_the_transaction(
        Place(engine, way(engine, name), there, Tenanted.__table__)
    )


@pytest.fixture
def policies(engine: Engine, make_story_engine: Any) -> Iterator[Any]:
    """An engine that may do nothing before after_begin has chosen role and tenant."""
    suffix = uuid.uuid4().hex
    nobody, role = f"pss_nobody_{suffix}", f"pss_role_{suffix}"
    Base.metadata.create_all(engine)
    table = Tenanted.__tablename__
    with engine.begin() as connection:
        schema = connection.scalar(text("SELECT current_schema()"))
        for statement in (
            f"CREATE ROLE {nobody}",
            f"CREATE ROLE {role}",
            f"GRANT USAGE ON SCHEMA {schema} TO {role}, {nobody}",
            f"GRANT ALL ON {table} TO {role}",
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} ALTER tenant"
            " SET DEFAULT current_setting('app.tenant', true)",
            f"CREATE POLICY own ON {table}"
            " USING (tenant = current_setting('app.tenant', true))",
        ):
            connection.execute(text(statement))
    other = make_story_engine(isolation_level="REPEATABLE READ")

    @event.listens_for(other, "connect")
    def connect(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET ROLE {nobody}")
        cursor.close()
        connection.commit()

    yield other, role
    other.dispose()
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {role}, {nobody} CASCADE"))
        connection.execute(text(f"DROP ROLE {role}, {nobody}"))
        connection.execute(text(f"DROP TABLE {table}"))


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_policies_of_rows(policies: Any) -> None:
    """What after_begin sets for a transaction holds in the short ones as well."""
    engine, role = policies

    def enter(connection: Any) -> None:
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        connection.execute(text(f"SET LOCAL app.tenant = '{TENANT}'"))

    def make(request: Any, manager: Any) -> Session:
        dbsession = Session(engine)
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)

        @event.listens_for(dbsession, "after_begin")
        def after_begin(dbsession: Any, transaction: Any, connection: Any) -> None:
            enter(connection)

        return dbsession

    place = Place(engine, make, Tenanted.__table__, look=enter)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="denied"):
        connection.execute(select(Tenanted.__table__))
    use_after_the_transaction(place)


# Pools that are small.


def count_held(engine: Engine) -> dict[str, int]:
    """Count the connections that a thread has at once, and return the most so far."""
    own, counted = threading.local(), {"most": 0}

    @event.listens_for(engine, "checkout")
    def checkout(*arguments: Any) -> None:
        own.number = getattr(own, "number", 0) + 1
        counted["most"] = max(counted["most"], own.number)

    @event.listens_for(engine, "checkin")
    def checkin(*arguments: Any) -> None:
        own.number = getattr(own, "number", 0) - 1

    return counted


@pytest.mark.parametrize("isolation", [None, "SERIALIZABLE"])
def test_a_pool_of_one(
    engine: Engine, make_story_engine: Any, isolation: str | None
) -> None:
    """One connection is enough, also after a flush that failed."""
    options = {} if isolation is None else {"isolation_level": isolation}
    small = make_story_engine(pool_size=1, max_overflow=0, pool_timeout=1, **options)
    Base.metadata.create_all(small)
    held = count_held(small)
    seen: list[Any] = []

    def view(request: Any) -> None:
        request.session["n"] = 100
        request.dbsession.add_all([Thing(id=1), Thing(id=2)])
        request.dbsession.flush()
        request.dbsession.execute(Thing.__table__.insert(), {"id": 2})

    def answer(request: Any) -> str:
        seen.append((request.session["n"], request.session.peek_flash()))
        request.session.flash("failed")
        request.session["answer"] = 1
        return "sorry"

    browser = visitor(small, configure=exception_view(answer, IntegrityError))
    browser.visit(begin)
    assert browser.visit(view, status=500).text == "sorry"
    assert seen == [(1, [])]
    assert browser.ask(dict) == {"n": 1, "answer": 1}
    assert browser.ask(lambda session: session.pop_flash()) == ["failed"]
    with small.begin() as connection:
        assert connection.execute(select(Thing)).all() == []
        connection.execute(update(Tenanted).values(idle_expire=int(time.time()) + 5))
    browser.ask(dict)
    assert browser.application.row().idle_expire > int(time.time()) + 5
    assert held == {"most": 1}
    assert small.pool.checkedout() == 0


def test_as_many_threads_as_connections(
    engine: Engine, make_story_engine: Any, caplog: Any
) -> None:
    """No request needs two connections at once, whatever is due and whatever fails."""
    threads, times = 6, 8
    before = time.monotonic()
    small = make_story_engine(
        pool_size=threads,
        max_overflow=0,
        pool_timeout=1,
        isolation_level="SERIALIZABLE",
    )
    Base.metadata.create_all(small)
    held = count_held(small)
    errors: list[BaseException] = []
    barrier = threading.Barrier(threads)

    def visit() -> None:
        browser = visitor(small)
        try:
            barrier.wait(10)
            for number in range(times):
                _patiently(browser, begin)
                _patiently(browser, forbid, status=302)
                _patiently(browser, lambda request: request.session.get("n"))
                if number % 2:
                    _patiently(browser, log_in)
                if number % 3 == 2:
                    _patiently(browser, lambda request: request.session.invalidate())
        except BaseException as exc:
            errors.append(exc)

    running = [threading.Thread(target=visit) for _ in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join(20)
    assert errors == []
    assert held == {"most": 1}
    assert small.pool.checkedout() == 0
    assert not [each for each in logged(caplog, "ERROR") if "QueuePool" in each]
    assert time.monotonic() - before < 20


def _patiently(browser: Browser, view: Any, **kw: Any) -> None:
    """Visit again as long as other requests are in the way; an empty pool is not."""
    for _ in range(50):
        try:
            browser.visit(view, **kw)
        except DBAPIError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError("the database was in the way for ever")


# A leader that is written to, and followers that are read from.


def log_in(request: Any) -> None:
    """Log somebody in."""
    request.session.userid = 5


def routing(leader: Engine, follower: Engine) -> Make:
    """Make dbsessions like those of SQLAlchemy's documentation."""

    class RoutingSession(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None, **kw: Any) -> Any:
            if self._flushing or isinstance(clause, (Update, Delete)):
                return leader
            return follower

    def make(request: Any, manager: Any) -> Session:
        dbsession = RoutingSession()
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        return dbsession

    return make


@pytest.fixture
def routed(engine: Engine) -> Iterator[Browser]:
    """A browser of an application that reads where it can't write."""
    Base.metadata.create_all(engine)
    follower = only_readable(engine)
    yield visitor(engine, routing(engine, follower))
    assert follower.pool.checkedout() == 0
    follower.dispose()


def test_a_session_is_written_to_the_leader(routed: Browser) -> None:
    """Whatever becomes of a session, the statements that write go to the leader."""
    browser = routed
    browser.visit(begin)
    assert browser.ask(dict) == {"n": 1}

    browser.visit(lambda request: request.session.update(n=2))
    assert browser.ask(dict) == {"n": 2}

    before, cookie = browser.application.row(), browser.cookie
    browser.visit(log_in)
    row = browser.application.row()
    assert (row.id, row.userid) == (before.id, 5)
    assert browser.cookie != cookie
    assert browser.ask(lambda session: session.userid) == 5

    browser.visit(forbid, status=302)
    assert browser.ask(lambda session: session.pop_flash()) == ["Please log in."]

    now = int(time.time())
    with browser.application.engine.begin() as connection:
        connection.execute(update(Tenanted).values(idle_expire=now + 10))
    assert browser.ask(dict) == {"n": 2}
    assert browser.application.row().idle_expire >= now + IDLE

    browser.visit(lambda request: request.session.invalidate())
    assert browser.application.rows() == []
    assert not browser.cookie


def test_what_is_written_at_once_is_written_to_the_leader(routed: Browser) -> None:
    """A new session that's persisted is in the leader's table, and then goes on."""

    def view(request: Any) -> None:
        request.session["n"] = 1
        request.session.persist()
        request.session["n"] = 2

    routed.visit(view)
    assert routed.ask(dict) == {"n": 2}


def test_the_second_transaction_is_routed(routed: Browser) -> None:
    """A stolen cookie ends the session at the leader, though the request fails."""
    routed.visit(begin)
    row = routed.application.row()
    thief = visitor(routed.application.engine, routed.application._make_dbsession)
    thief.set_cookie("session", cookie_of(Ticket(row.id, uuid.uuid4())))
    thief.fail(fail)
    assert routed.application.rows() == []


class Lagging:
    """A follower that shows what was there a while ago."""

    def __init__(self, engine: Engine, path: Path):
        self.engine = engine
        self._path = path
        url = f"sqlite:///file:{path}?mode=ro&uri=true"
        self.follower = create_engine(url, poolclass=NullPool)
        self.events: list[Any] = []
        make = routing(engine, self.follower)
        configure = self._configure
        # One reads from the leader itself, the others from the follower.
        self.first = visitor(engine, renewal_grace=60)
        self.second = visitor(engine, make, configure=configure, renewal_grace=60)
        self.later = visitor(engine, make, configure=configure, renewal_grace=0)

    def _configure(self, config: Any) -> None:
        config.add_subscriber(self.events.append, RenewalViolationEvent)

    def copy(self) -> None:
        """Let the follower see what is there now, and nothing that comes after it."""
        shutil.copyfile(self.engine.url.database, self._path)

    def check(self, data: dict[str, Any] | None = None) -> None:
        """Check that the session is found with the leader's cookie, and stays."""
        before = self.first.application.row()
        for browser in (self.second, self.later):
            browser.reset()
            browser.set_cookie("session", self.first.cookie)
            found = []

            def view(request: Any, found: list[Any] = found) -> None:
                session = request.session
                found.append((session.new, session.is_late, session.id, dict(session)))

            response = browser.visit(view)
            assert set_cookies(response) == []
            assert found[0][:3] == (False, False, before.id)
            if data is not None:
                assert found[0][3] == data
        row = self.first.application.row()
        for name in ("id", "version", "data", "renewal_id", "userid"):
            assert getattr(row, name) == getattr(before, name)
        assert self.events == []


@pytest.fixture
def lagging(engine: Engine, tmp_path: Path) -> Iterator[Lagging]:
    """A leader, and a follower that is a copy of its file."""
    Base.metadata.create_all(engine)
    lagging = Lagging(engine, tmp_path / "follower.sqlite")
    lagging.copy()
    yield lagging
    lagging.follower.dispose()


on_sqlite = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@on_sqlite
def test_begun_after_the_copy(lagging: Lagging) -> None:
    """A session that the follower doesn't have yet isn't gone."""
    lagging.first.visit(begin)
    lagging.check({"n": 1})


@on_sqlite
@pytest.mark.parametrize("before", [None, "rotate"])
def test_rotated_after_the_copy(lagging: Lagging, before: str | None) -> None:
    """A new cookie isn't late, of no use or stolen where only the old one is known."""
    lagging.first.visit(begin)
    if before is not None:
        lagging.first.visit(lambda request: request.session.rotate())
    lagging.copy()
    lagging.first.visit(log_in)
    lagging.check({"n": 1})


@on_sqlite
def test_renewed_after_the_copy(lagging: Lagging) -> None:
    """A candidate that the follower doesn't know yet isn't stolen."""
    lagging.first.visit(begin)
    lagging.copy()
    with lagging.engine.begin() as connection:
        connection.execute(update(Tenanted).values(renewed=1))
    lagging.first.visit(lambda request: request.session["n"])
    row = lagging.first.application.row()
    assert row.renewal_next is not None
    browser = lagging.later
    browser.set_cookie("session", lagging.first.cookie)
    assert browser.ask(dict) == {"n": 1}
    assert lagging.first.application.row().renewal_id == row.renewal_next
    assert lagging.events == []
    lagging.check({"n": 1})


@on_sqlite
def test_extended_after_the_copy(lagging: Lagging) -> None:
    """A session that has expired at the follower only lives on."""
    lagging.first.visit(begin)
    with lagging.engine.begin() as connection:
        connection.execute(update(Tenanted).values(idle_expire=int(time.time()) - 5))
    lagging.copy()
    with lagging.engine.begin() as connection:
        connection.execute(update(Tenanted).values(idle_expire=int(time.time()) + IDLE))
    lagging.check({"n": 1})


@on_sqlite
def test_written_after_the_copy(lagging: Lagging) -> None:
    """A write on top of an old row is merged with what the leader has."""
    lagging.first.visit(begin)
    lagging.copy()
    lagging.first.visit(lambda request: request.session.update(other=1))
    browser = lagging.second
    browser.set_cookie("session", lagging.first.cookie)
    browser.visit(lambda request: request.session.update(own=1))
    assert lagging.first.ask(dict) == {"n": 1, "other": 1, "own": 1}


@on_sqlite
def test_ended_after_the_copy(lagging: Lagging) -> None:
    """A session that ended is not revived, and an end of it goes well."""
    lagging.first.visit(begin)
    cookie = lagging.first.cookie
    lagging.copy()
    lagging.first.visit(lambda request: request.session.invalidate())
    browser = lagging.second
    browser.set_cookie("session", cookie)
    browser.fail(lambda request: request.session.update(n=2))
    assert lagging.first.application.rows() == []
    response = browser.visit(lambda request: request.session.invalidate())
    assert lagging.first.application.rows() == []
    (deletion,) = set_cookies(response)
    assert deletion.startswith("session=; ")


@on_sqlite
def test_sample_reads_sessions_from_the_primary(lagging: Lagging) -> None:
    """The sample of production.rst notices a logout at once, and reads elsewhere."""
    factory = load("replicas").make_dbsession_factory(lagging.engine, lagging.follower)

    def make(request: Any, manager: Any) -> Session:
        dbsession = factory()
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        return dbsession

    def view(request: Any) -> str:
        assert request.dbsession.scalars(select(Thing)).all() == []
        request.dbsession.add(Thing(id=len(request.session) + 1))
        return str(request.session.userid)

    browser = visitor(lagging.engine, make)
    lagging.first.visit(log_in)
    lagging.copy()
    browser.set_cookie("session", lagging.first.cookie)
    assert browser.visit(view).text == "5"
    lagging.first.visit(lambda request: request.session.update(n=1))
    assert browser.visit(view).text == "5"
    lagging.first.visit(lambda request: request.session.invalidate())
    assert browser.ask(lambda session: session.userid) is None
    with lagging.engine.connect() as connection:
        assert connection.scalars(select(Thing.id)).all() == [1, 2]


@on_sqlite
def test_expired_for_the_leader_as_well(lagging: Lagging) -> None:
    """What's over at the leader, too, is over, and its row goes."""
    lagging.first.visit(begin)
    with lagging.engine.begin() as connection:
        connection.execute(update(Tenanted).values(idle_expire=int(time.time()) - 5))
    lagging.copy()
    browser = lagging.second
    browser.set_cookie("session", lagging.first.cookie)
    assert browser.ask(lambda session: session.new)
    assert lagging.first.application.rows() == []
