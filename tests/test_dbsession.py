"""The include that makes request.dbsession, and gets in no application's way."""

from __future__ import annotations

from typing import Any

import pytest
import transaction
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationExecutionError
from pyramid.request import Request
from pyramid.response import Response
from pyramid_retry import RetryableException
from sqlalchemy import Engine, delete, func, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, sessionmaker
from sqlalchemy.types import Integer, String
from webtest import TestApp

from pyramid_sqlalchemy_sessions.dbsession import get_tm_session
from tests.application import SECRET, Application, Browser, Full
from tests.application import Base as SessionBase

INCLUDE = "pyramid_sqlalchemy_sessions.dbsession"


class Base(DeclarativeBase):
    """The declarative base of the model below."""


class Note(Base):
    """Something that an application stores."""

    __tablename__ = "note"
    id = mapped_column(Integer, primary_key=True)
    text = mapped_column(String(40))


@pytest.fixture
def notes(engine: Engine) -> Engine:
    """A database with the tables of the notes and of the sessions."""
    Base.metadata.create_all(engine)
    SessionBase.metadata.create_all(engine)
    return engine


class Site(Application):
    """An application whose dbsession is that of the include."""

    def __init__(self, engine: Engine, *includes: str, **settings: Any):
        config = Configurator(
            settings={
                "dbengine": engine,
                "session.secret_key": SECRET,
                "session.model_class": Full,
                **settings,
            }
        )
        for name in (INCLUDE, "pyramid_sqlalchemy_sessions", *includes):
            config.include(name)
        config.add_route("view", "/{rest:.*}")
        config.add_view(self._call_view, route_name="view")
        config.add_exception_view(self._see_error, KeyError)
        self.wsgi, self.registry = config.make_wsgi_app(), config.registry
        self.engine, self.model = engine, Full

    def _see_error(self, request: Any) -> Response:
        request.session["error"] = "seen"
        return Response("sorry")


def texts(engine: Engine) -> list[str]:
    """Return what the notes say."""
    with Session(engine) as dbsession:
        return list(dbsession.scalars(select(Note.text).order_by(Note.text)))


def add(request: Any) -> None:
    request.dbsession.add(Note(text="new"))
    request.session["n"] = 1


def test_what_a_request_does_is_committed(notes: Engine) -> None:
    """Objects and session are stored together."""
    browser = Browser(Site(notes))
    browser.visit(add)
    assert texts(notes) == ["new"]
    assert browser.ask(dict) == {"n": 1}


def test_what_a_failed_request_does_is_rolled_back(notes: Engine) -> None:
    """But what the exception view changes in the session is stored."""

    def fail(request: Any) -> None:
        add(request)
        request.dbsession.flush()
        raise KeyError

    browser = Browser(Site(notes))
    browser.visit(fail)
    assert texts(notes) == []
    assert browser.ask(dict) == {"error": "seen"}


@pytest.mark.parametrize(
    "statement",
    [
        insert(Note).values(id=2, text="two"),
        update(Note).values(text="two").execution_options(synchronize_session=False),
        delete(Note),
    ],
    ids=["insert", "update", "delete"],
)
def test_statements_are_noticed(notes: Engine, statement: Any) -> None:
    """A transaction that only executes statements about classes is committed."""
    with Session(notes) as dbsession, dbsession.begin():
        dbsession.add(Note(id=1, text="one"))
    browser = Browser(Site(notes))
    browser.visit(lambda request: request.dbsession.execute(statement))
    assert texts(notes) != ["one"]


def test_queries_that_change_are_noticed(notes: Engine) -> None:
    """So are the bulk methods of a Query."""
    with Session(notes) as dbsession, dbsession.begin():
        dbsession.add(Note(id=1, text="one"))
    browser = Browser(Site(notes))
    browser.visit(lambda request: request.dbsession.query(Note).update({"text": "two"}))
    assert texts(notes) == ["two"]
    browser.visit(lambda request: request.dbsession.query(Note).delete())
    assert texts(notes) == []


def test_changes_can_be_marked(notes: Engine) -> None:
    """zope.sqlalchemy can be told of what it can't see."""

    def view(request: Any) -> None:
        request.dbsession.execute(text("INSERT INTO note (id, text) VALUES (1, 'sql')"))
        zope.sqlalchemy.mark_changed(request.dbsession)

    Browser(Site(notes)).visit(view)
    assert texts(notes) == ["sql"]


def test_savepoints_take_back(notes: Engine) -> None:
    """Both what the dbsession and what the session did."""
    if notes.dialect.name == "sqlite":
        pytest.skip("zope.sqlalchemy has no savepoints on SQLite")

    def view(request: Any) -> None:
        request.session["kept"] = 1
        request.dbsession.scalar(select(func.count(Note.id)))
        savepoint = request.tm.savepoint()
        add(request)
        savepoint.rollback()

    browser = Browser(Site(notes))
    browser.visit(view)
    assert texts(notes) == []
    assert browser.ask(dict) == {"kept": 1}


def test_another_attempt_begins_anew(notes: Engine) -> None:
    """pyramid_retry repeats the request with another dbsession."""
    attempts: list[Session] = []

    def view(request: Any) -> None:
        attempts.append(request.dbsession)
        add(request)
        request.dbsession.flush()
        if len(attempts) == 1:
            raise RetryableException

    browser = Browser(Site(notes, "pyramid_sqlalchemy_sessions.retry"))
    browser.visit(view)
    assert attempts[0] is not attempts[1]
    assert texts(notes) == ["new"]
    assert browser.ask(dict) == {"n": 1}


def test_commit_is_the_managers_affair(notes: Engine) -> None:
    """As zope.sqlalchemy has it."""

    def view(request: Any) -> None:
        add(request)
        with pytest.raises(AssertionError, match="transaction manager"):
            request.dbsession.commit()

    Browser(Site(notes)).visit(view)


def test_dbsession_of_a_test_is_used(sqlite_engine: Engine) -> None:
    """It's the one in the environ."""
    site, given = Site(sqlite_engine), Session(sqlite_engine)
    browser = Browser(site, **{"app.dbsession": given})
    browser.visit(lambda request: setattr(site, "used", request.dbsession))
    assert site.used is given  # type: ignore[attr-defined]


def test_other_dbsessions_of_the_sessionmaker_are_left_alone(notes: Engine) -> None:
    """They have no transaction manager, and are committed by hand."""
    site = Site(notes)
    Browser(site).visit(add)
    with site.registry["dbsession_factory"]() as dbsession:
        dbsession.add(Note(text="by hand"))
        dbsession.commit()
    assert texts(notes) == ["by hand", "new"]


def listeners(factory: Any, name: str) -> int:
    """Count the listeners that dbsessions of a sessionmaker have, and others don't."""
    here, elsewhere = (getattr(each().dispatch, name) for each in (factory, Session))
    return len(list(here)) - len(list(elsewhere))


def test_listeners_are_registered_once(sqlite_engine: Engine) -> None:
    """However many requests there are, and whoever asks for dbsessions."""
    site = Site(sqlite_engine)
    factory = site.registry["dbsession_factory"]
    for _ in range(3):
        Browser(site).visit(lambda request: request.dbsession.connection())
        get_tm_session(factory, transaction.TransactionManager()).close()
    assert listeners(factory, "after_begin") == 1


def test_listeners_are_registered_where_another_sessionmaker_has_been() -> None:
    """A new one may get the address in memory of one that's gone."""
    addresses: set[int] = set()
    for _ in range(50):
        factory = sessionmaker()
        get_tm_session(factory, transaction.TransactionManager()).close()
        assert listeners(factory, "after_begin") == 1
        addresses.add(id(factory))
        del factory
    assert len(addresses) < 50


def test_all_that_zope_sqlalchemy_listens_to_is_passed_on(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of it may listen to more."""
    names: set[str] = set()
    monkeypatch.setattr(
        "sqlalchemy.event.listen", lambda target, name, listener: names.add(name)
    )
    zope.sqlalchemy.register(Session())
    monkeypatch.undo()
    factory = sessionmaker(sqlite_engine)
    get_tm_session(factory, transaction.TransactionManager()).close()
    assert {name for name in names if listeners(factory, name) == 1} == names


def test_objects_of_a_script_can_be_kept(notes: Engine) -> None:
    """With keep_session they outlive the transaction."""
    manager = transaction.TransactionManager(explicit=True)
    dbsession = get_tm_session(sessionmaker(notes), manager, keep_session=True)
    with manager:
        note = Note(text="kept")
        dbsession.add(note)
    assert note in dbsession
    dbsession.close()
    assert texts(notes) == ["kept"]


def test_session_is_stored_beside_the_applications_transaction(notes: Engine) -> None:
    """The dbsession that is made for it doesn't join the application's manager."""
    factory = sessionmaker(notes)
    manager = transaction.TransactionManager(explicit=True)  # that is never begun
    application = Application(
        notes,
        pyramid_tm=False,
        make_dbsession=lambda request, _: get_tm_session(factory, manager, request),
    )
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))
    assert application.row().version == 1


# An application that has its own.


def own_dbsession(request: Any) -> str:
    return "the application's"


def in_an_include(config: Configurator) -> None:
    config.add_request_method(own_dbsession, "dbsession", reify=True)


def as_a_method(config: Configurator) -> None:
    config.add_request_method(own_dbsession, "dbsession")


def on_the_class(config: Configurator) -> None:
    class OwnRequest(Request):
        dbsession = property(own_dbsession)

    config.set_request_factory(OwnRequest)


@pytest.mark.parametrize("own", [in_an_include, as_a_method, on_the_class])
@pytest.mark.parametrize("is_first", [True, False])
def test_dbsession_of_the_application_is_left_alone(own: Any, is_first: bool) -> None:
    """Whichever is included first; no database is asked for."""
    config = Configurator()
    for include in (own, INCLUDE) if is_first else (INCLUDE, own):
        config.include(include)

    def view(request: Any) -> Response:
        found = request.dbsession
        return Response(found() if callable(found) else found)

    config.add_route("view", "/")
    config.add_view(view, route_name="view")
    assert TestApp(config.make_wsgi_app()).get("/").text == "the application's"
    assert "dbsession_factory" not in config.registry


def test_sessionmaker_of_the_application_is_used(sqlite_engine: Engine) -> None:
    """It may have options that the include doesn't know."""
    factory = sessionmaker(sqlite_engine, expire_on_commit=False)
    config = Configurator()
    config.registry["dbsession_factory"] = factory
    config.include(INCLUDE)
    config.add_route("view", "/")
    found: list[Session] = []

    def view(request: Any) -> Response:
        found.append(request.dbsession)
        return Response()

    config.add_view(view, route_name="view")
    TestApp(config.make_wsgi_app()).get("/")
    assert isinstance(found[0], factory.class_)


def test_engine_is_made_from_the_settings(sqlite_url: str) -> None:
    """They begin with ``sqlalchemy.``, as in the cookiecutter's."""
    config = Configurator(
        settings={"sqlalchemy.url": sqlite_url, "sqlalchemy.echo": "false"}
    )
    config.include(INCLUDE)
    config.make_wsgi_app()
    engine = config.registry["dbsession_factory"].kw["bind"]
    assert engine.url.render_as_string(hide_password=False) == sqlite_url
    engine.dispose()


def test_missing_database_is_an_error() -> None:
    """It's said when the application starts, with the setting."""
    config = Configurator()
    config.include(INCLUDE)
    with pytest.raises(ConfigurationExecutionError, match=r"sqlalchemy\.url"):
        config.make_wsgi_app()
