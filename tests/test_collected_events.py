"""What subscribers are told of the sessions that the collector deletes."""

from __future__ import annotations

import uuid

import pytest
from pyramid.config import Configurator
from pyramid.interfaces import ISessionFactory
from sqlalchemy import insert
from sqlalchemy.orm import Session

from pyramid_sqlalchemy_sessions import (
    ConfigAbsoluteMixin,
    ConfigIdleMixin,
    SessionEvent,
    SessionExpiredEvent,
    SessionsCollectedEvent,
    SessionStore,
    UseridMixin,
    create_session_model,
    gc,
)
from tests.application import SECRET, Application, Base, Failure, statements

Timed = create_session_model(
    Base,
    *(ConfigIdleMixin, ConfigAbsoluteMixin, UseridMixin),
    table_name="collected_session",
)

#: What the subscribers of the application that the command starts have heard.
HEARD = []


@pytest.fixture(autouse=True)
def heard():
    """What was heard in this test."""
    HEARD.clear()
    return HEARD


def listen_to(*kinds):
    """Return a ``configure`` that subscribes to events."""

    def configure(config):
        for kind in kinds:
            config.add_subscriber(HEARD.append, kind)

    return configure


def fill(engine):
    """Store four sessions: two idle, one too old, one alive."""
    Timed.__table__.create(engine, checkfirst=True)
    row = dict.fromkeys(Timed.__table__.columns.keys())
    row.update(version=1, created=1, data=b"", flash={}, userid=7)
    ended = [(1, None), (1, 2), (None, 1), (None, None)]
    with Session(engine) as dbsession, dbsession.begin():
        for idle, absolute in ended:
            own = {"idle_expire": idle, "idle_timeout": idle, "id": uuid.uuid4()}
            values = {**row, **own, "absolute_expire": absolute}
            dbsession.execute(insert(Timed.__table__).values(values))


@pytest.fixture
def collect(engine):
    """Collect, as an application does that listens; return the statements."""
    fill(engine)

    def collect(configure, limit=None, fails=False):
        application = Application(engine, Timed, configure=configure)
        config = Configurator(registry=application.registry)
        config.begin()
        factory = application.registry.getUtility(ISessionFactory)
        before = len(HEARD)
        try:
            with statements(engine) as made, Session(engine) as dbsession:
                SessionStore(dbsession, factory).delete_expired(limit)
                assert len(HEARD) == before
                if fails:
                    raise Failure
                dbsession.commit()
        except Failure:
            pass
        finally:
            config.end()
        return made

    return collect


def told():
    """Return what was heard: causes and users one by one, and the numbers."""
    each = [(e.cause, e.userid) for e in HEARD if isinstance(e, SessionExpiredEvent)]
    counts = [e.counts for e in HEARD if isinstance(e, SessionsCollectedEvent)]
    return sorted(each), counts


def test_both_kinds(collect):
    """Each session is told of, with its user and cause, and their number by cause."""
    collect(listen_to(SessionEvent, SessionsCollectedEvent))
    each = [("absolute", 7), ("idle", 7), ("idle", 7)]
    assert told() == (each, [{"idle": 2, "absolute": 1}])
    assert isinstance(HEARD[-1], SessionsCollectedEvent)
    assert len({event.fingerprint for event in HEARD[:-1]}) == 3
    assert repr(HEARD[-1]).startswith("<SessionsCollectedEvent {")
    collect(listen_to(SessionEvent, SessionsCollectedEvent))
    assert len(HEARD) == 4


def test_where_a_deletion_says_nothing(collect, engine, monkeypatch):
    """Without DELETE ... RETURNING, as on MySQL, the same is told."""
    monkeypatch.setattr(engine.dialect, "delete_returning", False)
    collect(listen_to(SessionEvent, SessionsCollectedEvent))
    each = [("absolute", 7), ("idle", 7), ("idle", 7)]
    assert told() == (each, [{"idle": 2, "absolute": 1}])


def test_one_kind(collect):
    """Subscribers hear what they subscribe to."""
    collect(listen_to(SessionsCollectedEvent))
    assert told() == ([], [{"idle": 2, "absolute": 1}])


def test_limit(collect):
    """No more is told than was deleted."""
    collect(listen_to(SessionEvent), limit=2)
    assert len(HEARD) == 2


def test_rollback(collect):
    """Nothing is told of what is rolled back."""
    collect(listen_to(SessionEvent, SessionsCollectedEvent), fails=True)
    assert HEARD == []


def test_no_cost(collect):
    """Without a subscriber the database isn't asked what it deletes."""
    made = collect(lambda config: None)
    assert not any("RETURNING" in each or "CASE" in each for each in made)


def application(global_config, **settings):
    """Make the application of the command's configuration."""
    from tests import test_gc

    app = test_gc.application(global_config, **settings)
    kinds = (SessionEvent, SessionsCollectedEvent)
    for kind in kinds:
        app.registry.registerHandler(HEARD.append, [kind])
    app.registry.has_listeners = True
    return app


@pytest.mark.parametrize("size", ["1", "100"])
def test_command(engine, database_url, tmp_path, size):
    """The application that the command starts is told, once of the numbers."""
    fill(engine)
    path = tmp_path / "test.ini"
    path.write_text(
        "[app:main]\nuse = call:tests.test_collected_events:application\n"
        f"sqlalchemy.url = {database_url}\nsession.secret_key = {SECRET}\n"
        "session.model_class = tests.test_collected_events.Timed\n",
        encoding="utf-8",
    )
    assert gc.main([str(path), "--quiet", "--batch-size", size]) == 0
    each = [("absolute", 7), ("idle", 7), ("idle", 7)]
    assert told() == (each, [{"idle": 2, "absolute": 1}])
    assert all(event.request.registry is not None for event in HEARD)
