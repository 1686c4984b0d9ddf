"""What breaks while the application runs costs nobody a write, nor a session.

``python -m stress`` breaks more, for longer, in real workers on servers of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from pyramid.registry import Registry
from sqlalchemy import create_engine, delete, event, insert, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import sessionmaker

from docs.examples.sqlite_workers import let_processes_share
from pyramid_sqlalchemy_sessions.serializer import AESGCMSerializer
from pyramid_sqlalchemy_sessions.session import SessionFactory
from pyramid_sqlalchemy_sessions.session_config import SessionConfig
from stress.application import TABLES, Entry, Options, Visitor
from stress.load import Load, running
from stress.workers import ROOT, Worker
from tests.application import Application, Base, Browser
from tests.stories.transactions import set_cookies

IDLE = 1000
SETTINGS = {"idle_timeout": IDLE, "renewal_timeout": 100}

on_servers = pytest.mark.parametrize(
    "engine", ["postgresql", "mariadb"], indirect=["engine"]
)


class Clock:
    """A clock that a test sets."""

    def __init__(self, now=1_000_000):
        self.now = now

    def __call__(self):
        return self.now


def visitor(engine, clock=None, configure=None, **settings):
    """Return a browser whose session was begun a while ago: much is due."""
    clock = clock or Clock()

    def with_clock(config):
        serializer = AESGCMSerializer(bytes(range(32)))
        made = SessionConfig.make(serializer, Visitor, {**SETTINGS, **settings}, clock)
        config.set_session_factory(SessionFactory(made))
        if configure is not None:
            configure(config)

    return Browser(Application(engine, Visitor, configure=with_clock, **SETTINGS))


# A database that cannot be written to.


def only_readable(engine):
    """Return another engine on the same database, which can only read."""
    if engine.dialect.name == "sqlite":
        path = engine.url.database
        return create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    statement = {
        "postgresql": "SET default_transaction_read_only = on",
        "mysql": "SET SESSION TRANSACTION READ ONLY",
    }[engine.dialect.name]
    other = create_engine(engine.url)

    @event.listens_for(other, "connect")
    def connect(connection, record):
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()

    return other


@pytest.fixture
def read_only_engine(engine):
    """An engine that can only read what ``engine`` writes."""
    other = only_readable(engine)
    yield other
    other.dispose()


def a_while_later(engine, other, passed):
    """Return a browser that comes back later, to an application on another engine."""
    clock = Clock()
    browser = visitor(engine, clock)
    browser.visit(lambda request: request.session.update(a=1))
    clock.now += passed
    later = visitor(other, clock)
    later.set_cookie("session", browser.cookie)
    return later


def test_read_in_read_only_database(engine, read_only_engine):
    """Where nothing can be stored, a session is read although much of it is due."""
    later = a_while_later(engine, read_only_engine, 500)
    before = later.application.row().idle_expire
    response = later.visit(lambda request: str(dict(request.session)))
    assert response.text == "{'a': 1}"
    assert set_cookies(response) == []
    assert later.application.row().idle_expire == before


def test_expired_in_read_only_database(engine, read_only_engine):
    """Where nothing can be stored, an expired session is over all the same."""
    later = a_while_later(engine, read_only_engine, IDLE + 1)
    assert later.ask(lambda session: session.new)
    assert len(later.application.rows()) == 1


@pytest.mark.parametrize("passed", [0, 500, IDLE + 1], ids=["", "due", "expired"])
def test_write_in_read_only_database(engine, read_only_engine, passed):
    """A write there ends in the error of the database that says why."""
    later = a_while_later(engine, read_only_engine, passed)
    with pytest.raises(DBAPIError, match=r"(?i)read[- ]?only"):
        later.visit(lambda request: request.session.update(a=2))


@contextlib.contextmanager
def failing_updates(engine, *places):
    """Let these of the next UPDATEs of the engine fail, counted from 0."""
    updates = []

    def fail(connection, cursor, statement, parameters, context, executemany):
        if statement.startswith("UPDATE"):
            updates.append(statement)
            if len(updates) - 1 in places:
                raise OperationalError(statement, parameters, Exception("no luck"))

    event.listen(engine, "before_cursor_execute", fail)
    yield updates
    event.remove(engine, "before_cursor_execute", fail)


def test_what_is_due_fails(engine):
    """An extension that fails is made after the commit, and the read goes well."""
    later = a_while_later(engine, engine, 50)
    before = later.application.row().idle_expire
    with failing_updates(engine, 0) as updates:
        assert later.ask(dict) == {"a": 1}
    assert len(updates) == 2
    assert later.application.row().idle_expire == before + 50


def test_renewal_fails_for_good(engine):
    """A renewal that fails in both transactions changes nothing and sends no cookie.

    A cookie that no row knows of would be taken for a stolen one.
    """
    later = a_while_later(engine, engine, 500)
    before = later.application.row()
    with failing_updates(engine, 0, 1) as updates:
        response = later.visit(lambda request: str(request.session["a"]))
    assert response.text == "1"
    assert len(updates) == 2
    assert set_cookies(response) == []
    row = later.application.row()
    assert (row.renewal_next, row.renewal_tried) == (None, None)
    assert (row.renewal_id, row.idle_expire) == (before.renewal_id, before.idle_expire)
    assert later.ask(dict) == {"a": 1}


def test_renewal_fails_before_the_commit(engine):
    """A renewal that fails is made after the commit; the cookie has the candidate."""
    later = a_while_later(engine, engine, 500)
    with failing_updates(engine, 0) as updates:
        response = later.visit(lambda request: str(request.session["a"]))
    assert len(updates) == 2
    (cookie,) = set_cookies(response)
    candidate = later.application.row().renewal_next
    assert candidate is not None
    later.reset()
    later.set_cookie("session", cookie.partition(";")[0].partition("=")[2])
    assert later.ask(dict) == {"a": 1}
    row = later.application.row()
    assert (row.renewal_id, row.renewal_next) == (candidate, None)


@on_servers
def test_what_is_due_fails_beside_a_write(engine):
    """A request that wrote something else fails with it: nothing of it is stored."""
    later = a_while_later(engine, engine, 50)

    def view(request):
        request.session["a"]
        request.dbsession.add(Entry(number=1, padding=""))

    with (
        failing_updates(engine, 0),
        pytest.raises(OperationalError, match="no luck"),
    ):
        later.visit(view)
    assert entries(engine) == []


def entries(engine):
    """Return the numbers in the application's own table."""
    with engine.connect() as connection:
        return list(connection.scalars(select(Entry.number).order_by(Entry.number)))


def test_no_connection_for_what_is_due(sqlite_engine):
    """A read goes well if no connection is left for what is due after the commit."""
    url = sqlite_engine.url
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    let_processes_share(engine)
    Base.metadata.create_all(engine, tables=TABLES)
    later = a_while_later(engine, engine, 50)
    before = later.application.row().idle_expire
    taken = []

    def view(request):
        request.add_response_callback(lambda *args: taken.append(engine.connect()))
        assert request.session["a"] == 1

    later.visit(view)
    taken[0].close()
    assert later.application.row().idle_expire == before
    assert later.ask(dict) == {"a": 1}
    assert later.application.row().idle_expire == before + 50
    engine.dispose()


def test_disk_full(sqlite_engine):
    """On a full disk a write is refused as a whole, and reading goes on."""
    Base.metadata.create_all(sqlite_engine, tables=TABLES)
    room = []

    @event.listens_for(sqlite_engine, "connect")
    def connect(connection, record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + (room or [4])[-1]}")

    sqlite_engine.dispose()
    browser = visitor(sqlite_engine)
    browser.visit(lambda request: request.session.update(a="small"))

    def view(request):
        request.dbsession.add(Entry(number=1, padding=""))
        request.session["a"] = "." * 100_000

    with pytest.raises(OperationalError, match="disk is full"):
        browser.visit(view)
    assert browser.ask(dict) == {"a": "small"}
    assert entries(sqlite_engine) == []
    room.append(1000)
    sqlite_engine.dispose()
    browser.visit(view)
    assert browser.ask(lambda session: len(session["a"])) == 100_000
    assert entries(sqlite_engine) == [1]


# A table that is put back.


def test_restored_table(engine):
    """Ended sessions are back, new ones are gone, and renewed ones look stolen."""
    clock = Clock()
    ended, begun, renewed = (visitor(engine, clock) for _ in range(3))
    for browser in (ended, renewed):
        browser.visit(lambda request: request.session.update(a=1))
    copy_of_ended = visitor(engine, clock)
    copy_of_ended.set_cookie("session", ended.cookie)
    table = Visitor.__table__
    with engine.connect() as connection:
        backup = [dict(row._mapping) for row in connection.execute(select(table))]

    clock.now += 200
    ended.visit(lambda request: request.session.invalidate())
    begun.visit(lambda request: request.session.update(a=1))
    for _ in range(2):
        assert renewed.ask(dict) == {"a": 1}
    with engine.begin() as connection:
        connection.execute(delete(table))
        connection.execute(insert(table), backup)

    assert copy_of_ended.ask(dict) == {"a": 1}
    assert begun.ask(lambda session: session.new)
    assert len(renewed.application.rows()) == 2
    assert renewed.ask(lambda session: session.new)
    assert len(renewed.application.rows()) == 1


# The clock.


@pytest.mark.parametrize("jump", [-1, -IDLE, -86400, -1_000_000, 100, IDLE])
def test_clock_jumps(engine, jump):
    """A clock that is set back shortens no session, nor one that is set a bit forward.

    Not when the jump is made, and not when it is taken back.
    """
    clock = Clock()
    browser = visitor(engine, clock)
    browser.visit(lambda request: request.session.update(a=1))
    for now in (0, jump, 0, jump, 0):
        clock.now = 1_000_000 + now
        assert browser.ask(dict) == {"a": 1}
        browser.visit(lambda request: request.session.update(b=2))
        browser.visit(lambda request: request.session.pop("b"))


# Connections.


def ending(engine):
    """Return a function that ends a connection, as an administrator would."""
    number, end = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
        "mysql": ("SELECT connection_id()", "KILL CONNECTION {}"),
    }[engine.dialect.name]

    def end_connection(connection):
        cursor = connection.connection.cursor()
        cursor.execute(number)
        name = cursor.fetchone()[0]
        cursor.close()
        with engine.connect() as administrator:
            administrator.execute(text(end.format(name)))

    return end_connection


def writer(application_engine, attempts):
    """Return a browser whose requests write to a session and to a table at once."""

    def configure(config):
        config.include("pyramid_retry")
        config.include("pyramid_sqlalchemy_sessions.retry")

    application = Application(
        application_engine,
        Visitor,
        settings={"retry.attempts": attempts, "retry.delay": 0},
        configure=configure,
    )
    return Browser(application)


def write(request):
    """Write to the session and to the table."""
    request.session["n"] = request.session.get("n", 0) + 1
    request.dbsession.add(Entry(number=request.session["n"], padding=""))
    request.dbsession.flush()


def stored(browser, engine):
    """Return what the session and the table hold."""
    return browser.ask(lambda session: session.get("n")), entries(engine)


@on_servers
@pytest.mark.parametrize(
    ("attempts", "pre_ping"), [(1, True), (2, False)], ids=["pre-ping", "retry"]
)
def test_idle_connection_ends(engine, make_story_engine, attempts, pre_ping):
    """A connection that ended while nobody used it is no error to anybody."""
    own = make_story_engine(pool_pre_ping=pre_ping)
    browser = writer(own, attempts)
    browser.visit(write)
    with own.connect() as connection:
        ending(engine)(connection)
    browser.visit(write)
    assert stored(browser, engine) == (2, [1, 2])


@on_servers
def test_busy_connection_ends(engine, make_story_engine):
    """A request whose connection ends before the commit is tried again."""
    end = ending(engine)
    browser = writer(make_story_engine(), 2)
    browser.visit(write)
    attempts = []

    def view(request):
        write(request)
        attempts.append(request)
        if len(attempts) == 1:
            end(request.dbsession.connection())
        request.dbsession.execute(text("SELECT 1"))

    browser.visit(view)
    assert len(attempts) == 2
    assert stored(browser, engine) == (2, [1, 2])


@on_servers
def test_connection_ends_during_the_commit(engine, make_story_engine):
    """Such a request is an error and not tried again; here nothing of it is stored."""
    end = ending(engine)
    own = make_story_engine()
    browser = writer(own, 5)
    browser.visit(write)
    attempts = []

    def view(request):
        attempts.append(request)
        write(request)
        event.listen(own, "commit", end, once=True)

    with pytest.raises(OperationalError):
        browser.visit(view)
    assert len(attempts) == 1
    assert stored(browser, engine) == (1, [1])


# Processes and threads.


@pytest.fixture
def shared_options(sqlite_url):
    """How processes share an SQLite file whose tables have been made."""
    options = Options(sqlite_url, sqlite_recipe=True)
    engine = options.make_engine()
    Base.metadata.create_all(engine, tables=TABLES)
    engine.dispose()
    return options


@contextlib.contextmanager
def working(options, number, threads=4):
    """Let processes answer requests as long as the context lasts."""
    workers = [Worker(options, threads) for _ in range(number)]
    with contextlib.ExitStack() as stack:
        for worker in workers:
            stack.callback(worker.stop)
            worker.launch()
        for worker in workers:
            worker.wait()
        yield workers


def audit(load, options):
    """Compare what the clients know with what is stored."""
    engine = options.make_engine()
    outcome = load.audit(engine)
    engine.dispose()
    return outcome


def test_worker_is_killed(shared_options):
    """Of two processes that share an SQLite file, one dies in the middle of its work.

    Nothing that was acknowledged is lost, nothing is there by halves, and the other one
    goes on.
    """
    with working(shared_options, 2) as workers:
        load = Load([worker.port for worker in workers], clients=4, sessions=2)
        with running(load):
            load.fault_ended()
            load.wait_for_success()
            workers[0].kill()
            load.fault_ended()
            load.wait_for_success(of=(1, 3))
    outcome = audit(load, shared_options)
    assert outcome.acknowledged >= 6
    assert outcome.faults == 0, outcome


def test_crowd(shared_options):
    """Eight threads answer eight clients, each of whom gets its own session."""
    with working(shared_options, 1, threads=8) as workers:
        load = Load([workers[0].port], sessions=8, reads=10, pause=0)
        with running(load):
            while len(load.attempts) < 300:
                load.fault_ended()
                load.wait_for_success()
    outcome = audit(load, shared_options)
    assert outcome.acknowledged >= 8
    assert (outcome.faults, outcome.errors, outcome.failed_reads) == (0, 0, 0), outcome


def test_savepoint_in_a_shared_file(shared_options):
    """What is rolled back to a savepoint is gone from the session and the table."""
    engine = shared_options.make_engine()
    browser = visitor(engine)

    def view(request):
        request.session["a"] = 1
        with contextlib.suppress(ZeroDivisionError), request.dbsession.begin_nested():
            request.session["a"] = 2
            request.dbsession.add(Entry(number=1, padding=""))
            request.dbsession.flush()
            raise ZeroDivisionError

    browser.visit(view)
    assert browser.ask(dict) == {"a": 1}
    assert entries(engine) == []
    engine.dispose()


def test_two_applications(engine):
    """Two applications in one process have one name for their cookies, and no more."""
    mine = Application(engine, Visitor, idle_timeout=IDLE, cookie_path="/")
    key = {"session.secret_key": "ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1-f4CBgoM="}
    other = Application(engine, settings=key, cookie_samesite="Strict")
    first, second = Browser(mine), Browser(other)
    lax = first.visit(lambda request: request.session.update(n=1))
    strict = second.visit(lambda request: request.session.update(n=2))
    assert "SameSite=Lax" in set_cookies(lax)[0]
    assert "SameSite=Strict" in set_cookies(strict)[0]
    both = "; ".join(f"session={browser.cookie}" for browser in (first, second))
    for application, number in ((mine, 1), (other, 2)):
        browser = Browser(application)
        seen = browser.visit(lambda r: r.session["n"], headers={"Cookie": both})
        assert (seen.text, set_cookies(seen)) == (str(number), [])
    assert mine.row().idle_expire is not None
    assert not hasattr(other.row(), "idle_expire")


FORKING = """
import os
from pyramid_sqlalchemy_sessions.cookie import SessionCookie, Ticket
from pyramid_sqlalchemy_sessions.identifiers import new_id
from pyramid_sqlalchemy_sessions.serializer import AESGCMSerializer

cookie = SessionCookie("session", AESGCMSerializer(bytes(range(32))))

def draw():
    ids = [new_id() for _ in range(100)]
    return "".join(f"{each.hex} {cookie.seal(Ticket(each))}\\n" for each in ids)

draw()
for _ in range(2):
    if os.fork() == 0:
        os.write(1, draw().encode())
        os._exit(0)
for _ in range(2):
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_processes_differ():
    """Processes forked after the first cookie draw other ids, and other nonces."""
    command = [sys.executable, "-c", FORKING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    drawn = [line.split() for line in done.stdout.splitlines()]
    assert len(drawn) == 200
    assert len({number for number, _ in drawn}) == 200
    assert len({sealed[:20] for _, sealed in drawn}) == 200
    serializer = AESGCMSerializer(bytes(range(32)))
    assert all(serializer.loads(sealed).hex() == number for number, sealed in drawn)


def test_forked_engine(sqlite_engine):
    """What gunicorn calls in a forked process leaves the connections to its parent."""
    name = ROOT / "docs/examples/gunicorn.conf.py"
    spec = importlib.util.spec_from_file_location("gunicorn_conf", name)
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    registry = Registry()
    registry["dbsession_factory"] = sessionmaker(sqlite_engine)
    router = SimpleNamespace(registry=registry)
    parents = sqlite_engine.pool
    connection = sqlite_engine.raw_connection()
    parents_own = connection.driver_connection
    connection.close()
    conf.post_fork(SimpleNamespace(app=SimpleNamespace(wsgi=lambda: router)), None)
    assert sqlite_engine.pool is not parents
    assert parents.checkedin() == 1
    assert parents_own.execute("SELECT 1").fetchone() == (1,)
    parents.dispose()
