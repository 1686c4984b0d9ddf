"""What production.rst says of several machines, without servers of its own.

The clusters take minutes: ``python -m stress.galera`` and ``python -m stress.standby``.
"""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
import time_machine
from sqlalchemy import create_engine, make_url, text

from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin, generate_secret_key
from stress import galera, standby
from tests.application import Application, Base, Browser
from tests.test_docs import PAGES, load

IDLE_TIMEOUT = 3600


class Shared(IdleMixin, BaseMixin, Base):
    """The session of a browser whose requests go to any machine."""

    __tablename__ = "shared_session"


@pytest.fixture
def make_machine(sqlite_engine):
    """Make machines: applications of their own on one database."""
    Base.metadata.create_all(sqlite_engine)

    def make(*keys: str) -> Application:
        settings = {"secret_key": " ".join(keys), "idle_timeout": IDLE_TIMEOUT}
        return Application(sqlite_engine, Shared, **settings)

    return make


def knows(machine: Application, first: Application) -> bool:
    """Tell whether a machine knows the session that began on another one."""
    browser, other = Browser(first), Browser(machine)
    browser.visit(lambda request: request.session.update(n=1))
    other.set_cookie("session", browser.cookie)
    return other.ask(lambda session: not session.new)


def test_keys_are_exchanged_in_three_steps(make_machine):
    """In each step, machines before and after it read each other's cookies."""
    old, new = generate_secret_key(), generate_secret_key()
    steps = [make_machine(*ring) for ring in ((old,), (old, new), (new, old), (new,))]
    for before, after in pairwise(steps):
        assert knows(before, after)
        assert knows(after, before)


def test_new_key_in_front_too_early(make_machine):
    """A machine that does not know the key yet deletes a cookie that is good."""
    old, new = generate_secret_key(), generate_secret_key()
    first, second = make_machine(new, old), make_machine(old)
    browser = Browser(first)
    browser.visit(lambda request: request.session.update(n=1))
    browser.app, browser.application = second.wsgi, second
    assert browser.ask(dict) == {}
    assert browser.cookie is None


def test_clocks(make_machine):
    """A machine that is ahead by the idle timeout ends sessions, a bit of it none."""
    key = generate_secret_key()
    here, there = make_machine(key), make_machine(key)
    now = int(time.time())
    browser, elsewhere = Browser(here), Browser(there)
    for ahead, is_known in ((5, True), (IDLE_TIMEOUT + 1, False)):
        with time_machine.travel(now, tick=False):
            browser.reset()
            browser.visit(lambda request: request.session.update(n=1))
        elsewhere.set_cookie("session", browser.cookie)
        with time_machine.travel(now + ahead, tick=False):
            assert elsewhere.ask(lambda session: not session.new) == is_known
        with time_machine.travel(now, tick=False):
            assert browser.ask(lambda session: not session.new) == is_known


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_wait_for_other_nodes(make_engine):
    """Each connection waits, also after a transaction that was rolled back."""
    with make_engine().connect() as connection:
        query = text("SHOW VARIABLES LIKE 'wsrep_sync_wait'")
        if not connection.execute(query).all():
            pytest.skip("this server is built without Galera")
    engine = make_engine(pool_size=2)
    load("galera").wait_for_other_nodes(engine)
    query = text("SELECT @@wsrep_sync_wait")
    with engine.connect() as one, engine.connect() as other:
        assert (one.scalar(query), other.scalar(query)) == (1, 1)
        other.rollback()
    with engine.connect() as again:
        assert again.scalar(query) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_url_of_primary_and_standby(database_url):
    """The URL finds the server that takes writes, wherever in the list it stands."""
    page = PAGES["production"]
    (shown,) = re.findall(r"sqlalchemy.url = (postgresql\S+)", page)
    server = make_url(database_url)
    url = make_url(shown).set(
        username=server.username, password=server.password, database=server.database
    )
    assert url.query["host"] == ("first:5432", "second:5432")
    there = f"{server.host}:{server.port or 5432}"
    url = url.update_query_dict({"host": ["127.0.0.1:1", there]})
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW transaction_read_only")) == "off"
    engine.dispose()


@pytest.mark.parametrize("program", [galera, standby], ids=["galera", "standby"])
def test_refused(program, monkeypatch, capsys):
    """A scenario that is none starts no server, and the others are named."""
    monkeypatch.setattr("sys.argv", ["stress", "tpyo"])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert set(program.SCENARIOS) <= set(re.findall(r"[\w-]+", capsys.readouterr().err))
