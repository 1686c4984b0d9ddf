"""What is there for the users' own tests."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sqlite3
import subprocess
import sys
import time
import uuid

import pytest
from pyramid import testing
from pyramid.csrf import get_csrf_token
from pyramid.httpexceptions import HTTPForbidden
from pyramid.interfaces import ISession, ISessionFactory
from sqlalchemy import Integer, String, Uuid, create_engine, event, func, select, text
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.orm.exc import StaleDataError
from zope.interface.verify import verifyObject

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    IdleMixin,
    JSONDataMixin,
    UseridMixin,
)
from pyramid_sqlalchemy_sessions import session as session_module
from pyramid_sqlalchemy_sessions.pytest_fixtures import testapp, tm  # noqa: F401
from pyramid_sqlalchemy_sessions.testing import DummySession, later, rolled_back
from tests.application import Application, Browser, Full
from tests.stories.transactions import exception_view


class Base(DeclarativeBase):
    """The base of the models below."""


class Timed(IdleMixin, BaseMixin, Base):
    """A session with an idle timeout."""

    __tablename__ = "timed_session"


class Own(JSONDataMixin, UseridMixin, BaseMixin, Base):
    """A model with a constructor, a validating column and a user id of its own."""

    __tablename__ = "own_session"
    userid = mapped_column(Uuid)
    country = mapped_column(String(2), default="??")

    def __init__(self):
        raise AssertionError("the library calls no constructor")


class Thing(Base):
    """What a test prepares."""

    __tablename__ = "thing"
    id = mapped_column(Integer, primary_key=True)


class TestRolledBack:
    """Requests commit, and nothing stays."""

    @pytest.fixture
    def application(self, engine):
        for model in (Full, Thing):
            model.__table__.create(engine)
        return Application(engine)

    @pytest.fixture
    def connection(self, application):
        factory = application.make_session
        with rolled_back(application.engine, factory) as connection:
            yield connection

    def test_requests_commit(self, application):
        """What one request stores is there for the next one, and gone afterwards."""
        with rolled_back(application.engine, application.make_session) as connection:
            browser = Browser(application)
            browser.visit(lambda r: r.session.update(a=1))
            assert browser.ask(dict) == {"a": 1}
            assert connection.scalar(select(func.count()).select_from(Full)) == 1
        assert application.rows() == []
        assert browser.ask(dict) == {}

    def test_requests_fail(self, application, connection):
        """A request that fails takes back what is its own, and nothing else."""
        browser = Browser(application)
        browser.visit(lambda r: r.session.update(a=1))
        browser.fail(lambda r: r.session.update(b=2))
        assert browser.ask(dict) == {"a": 1}

    def test_broken_statement(self, application, connection):
        """A statement that the database refuses does not end the test."""
        browser = Browser(application)

        def view(request):
            request.session["b"] = 2
            request.dbsession.execute(text("SELECT * FROM nothing"))

        with pytest.raises(Exception, match="nothing"):
            browser.visit(view)
        browser.visit(lambda r: r.session.update(a=1))
        assert browser.ask(dict) == {"a": 1}

    def test_prepared_data(self, application, connection):
        """Requests see what a dbsession of the test has flushed, without a commit."""
        with application.make_session() as dbsession:
            dbsession.add(Thing(id=7))
            dbsession.flush()
            browser = Browser(application)

            def view(request):
                request.session["a"] = 1
                return request.dbsession.scalar(select(Thing.id))

            assert browser.visit(view).text == "7"
            browser.fail(view)
            assert dbsession.scalar(select(func.count()).select_from(Full)) == 1
            assert browser.visit(view).text == "7"

    def test_exception_view(self, engine):
        """What an exception view stores is taken back, too."""
        Full.__table__.create(engine)

        def forbidden(request):
            request.session.flash("no")
            return "no"

        configure = exception_view(forbidden, HTTPForbidden)
        application = Application(engine, configure=configure)

        def view(request):
            raise HTTPForbidden

        with rolled_back(engine, application.make_session):
            browser = Browser(application)
            browser.visit(view, status="*")
            assert browser.ask(lambda session: session.pop_flash()) == ["no"]
        assert application.rows() == []

    def test_extension(self, engine):
        """An idle extension that is stored after the commit is taken back, too."""
        Timed.__table__.create(engine)
        application = Application(engine, Timed, idle_timeout=1200)
        with rolled_back(engine, application.make_session):
            browser = Browser(application)
            browser.visit(lambda r: r.session.update(a=1))
            for seconds in (1000, 2000, 3000):
                with later(seconds):
                    assert browser.ask(dict) == {"a": 1}
        assert application.rows() == []

    def test_rollback_of_the_test(self, application, connection):
        """A test that rolls back takes back what requests did since it began."""
        browser = Browser(application)
        browser.visit(lambda r: r.session.update(a=1))
        with application.make_session() as dbsession:
            dbsession.add(Thing(id=7))
            dbsession.flush()
            browser.visit(lambda r: r.session.update(b=2))
            dbsession.rollback()
        assert browser.ask(dict) == {"a": 1}

    def test_conflict(self, application, connection):
        """A conflict of two requests is one here, too."""
        browser, rival = Browser(application), Browser(application)
        browser.visit(lambda r: r.session.update(a=1))
        rival.set_cookie("session", browser.cookie)

        def view(request):
            request.session["a"] += 1
            # As another request would, which cannot run at the same time here.
            statement = "UPDATE full_session SET version = version + 1, userid = 5"
            request.dbsession.execute(text(statement))

        with pytest.raises(StaleDataError):
            browser.visit(view)
        assert rival.ask(lambda session: (dict(session), session.userid)) == (
            {"a": 1},
            None,
        )

    def test_merged_writes(self, application, connection):
        """What is no conflict of two requests is merged here, too."""
        browser = Browser(application)
        browser.visit(lambda r: r.session.update(a=1))

        def view(request):
            request.session["a"] += 1
            statement = "UPDATE full_session SET version = version + 1, csrf_token = :t"
            request.dbsession.execute(text(statement), {"t": bytes(20)})

        browser.visit(view)
        token = "A" * 27 + "="
        assert browser.ask(lambda s: (dict(s), s.get_csrf_token())) == ({"a": 2}, token)

    def test_silence(self, application, connection, caplog):
        """The library has no reason to warn."""
        caplog.set_level(logging.WARNING)
        Browser(application).visit(lambda r: r.session.update(a=1))
        assert caplog.messages == []

    def test_restoration(self, sqlite_engine):
        """Factory and driver are left as they were, also after an error."""
        application = Application(sqlite_engine)
        before = dict(application.make_session.kw)

        def driver():
            with sqlite_engine.connect() as connection:
                return connection.connection.dbapi_connection.isolation_level

        level = driver()
        with (
            contextlib.suppress(ZeroDivisionError),
            rolled_back(sqlite_engine, application.make_session),
        ):
            assert application.make_session.kw != before
            raise ZeroDivisionError
        assert application.make_session.kw == before
        assert driver() == level == ""

    def test_engine_that_begins(self, tmp_path):
        """An engine whose transactions begin where SQLAlchemy says so is fine."""
        engine = create_engine(f"sqlite:///{tmp_path / 'test.sqlite'}")

        @event.listens_for(engine, "connect")
        def connect(connection, record):
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def begin(connection):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        Full.__table__.create(engine)
        application = Application(engine)
        with rolled_back(engine, application.make_session):
            browser = Browser(application)
            browser.visit(lambda r: r.session.update(a=1))
            assert browser.ask(dict) == {"a": 1}
        assert application.rows() == []
        engine.dispose()

    def test_outer_transaction_is_real(self, sqlite_engine):
        """Nobody else sees what requests have committed."""
        Full.__table__.create(sqlite_engine)
        application = Application(sqlite_engine)
        with rolled_back(sqlite_engine, application.make_session):
            Browser(application).visit(lambda r: r.session.update(a=1))
            other = sqlite3.connect(sqlite_engine.url.database)
            assert other.execute("SELECT * FROM full_session").fetchall() == []
            other.close()

    def test_two_phases(self, application):
        """Those of an application with several databases work, too."""
        factory = application.make_session
        factory.configure(twophase=True)
        with rolled_back(application.engine, factory):
            browser = Browser(application)
            browser.visit(lambda r: r.session.update(a=1))
            assert browser.ask(dict) == {"a": 1}
        assert factory.kw["twophase"]
        factory.configure(twophase=False)
        assert application.rows() == []

    def test_several_factories(self, sqlite_engine):
        """All factories take part."""
        Full.__table__.create(sqlite_engine)
        one, two = Application(sqlite_engine), Application(sqlite_engine)
        with rolled_back(sqlite_engine, one.make_session, two.make_session):
            browser = Browser(one)
            browser.visit(lambda r: r.session.update(a=1))
            other = Browser(two)
            other.set_cookie("session", browser.cookie)
            assert other.ask(dict) == {"a": 1}
        assert one.rows() == []


class TestPytestFixtures:
    """The fixtures for the cookiecutter's projects."""

    @pytest.fixture
    def dbengine(self, engine):
        Full.__table__.create(engine)
        return engine

    @pytest.fixture
    def app(self, request, dbengine):
        settings = getattr(request, "param", {})
        self.application = Application(dbengine, **settings)
        registry = self.application.registry
        registry["dbsession_factory"] = self.application.make_session
        yield self.application.wsgi
        assert self.application.rows() == []

    @pytest.mark.parametrize("time", [1, 2])
    def test_requests_commit(self, testapp, tm, time):  # noqa: F811
        """What one request stores is there for the next one, and for the test."""

        def view(request):
            request.session["a"] = request.session.get("a", 0) + 1
            return request.session["a"]

        self.application.view = view
        assert [testapp.get("/").text for _ in range(2)] == ["1", "2"]
        dbsession = self.application._tm_session(None, tm)
        assert dbsession.query(Full).count() == 1

    @pytest.mark.parametrize(
        ("app", "scheme"),
        [
            ({"cookie_secure": "auto"}, "http"),
            ({"cookie_secure": "false"}, "http"),
            ({"cookie_secure": "true", "cookie_name": "__Host-session"}, "https"),
        ],
        indirect=["app"],
    )
    def test_cookie_comes_back(self, testapp, scheme):  # noqa: F811
        """Requests come by https where the cookie needs it."""

        def view(request):
            request.session["a"] = request.session.get("a", 0) + 1
            return f"{request.scheme} {request.session['a']}"

        self.application.view = view
        assert [testapp.get("/").text for _ in range(2)] == [
            f"{scheme} 1",
            f"{scheme} 2",
        ]

    def test_sessions_of_others(self, app, request):
        """An application may have another factory of sessions, or none."""
        app.registry.registerUtility(lambda request: {}, ISessionFactory)
        browser = request.getfixturevalue("testapp")
        self.application.view = lambda request: request.scheme
        assert browser.get("/").text == "http"


class TestDummySession:
    """The double behaves as the session does."""

    def test_interface(self):
        """It is an ISession, and all that the real one is."""
        session = DummySession()
        verifyObject(ISession, session)
        assert isinstance(session, session_module.Session)

    def test_signatures(self):
        """No method of the session is replaced."""
        assert set(vars(DummySession)) & set(vars(session_module.Session)) <= {
            *("__init__", "__module__", "__doc__", "__slots__", "__qualname__"),
            *("__firstlineno__", "__static_attributes__", "__abstractmethods__"),
            *("_abc_impl", "__implemented__", "__provides__", "__parameters__"),
        }
        assert inspect.signature(DummySession().flash).parameters.keys() == {
            *("msg", "queue", "allow_duplicate")
        }

    def test_dict(self):
        """It is a dict that begins with what it is given."""
        session = DummySession({"a": [1]})
        session["a"].append(2)
        session.setdefault("b", 3)
        assert session.pop("b") == 3
        assert dict(session) == {"a": [1, 2]}
        assert dict(DummySession([(1, 2)])) == {1: 2}
        session.clear()
        assert not session
        session.changed()

    def test_given_data(self):
        """The mapping that it is given stays as it is."""
        data = {"a": 1}
        DummySession(data)["b"] = 2
        assert data == {"a": 1}

    def test_flash(self):
        """Flash messages are as in the real one: JSON, apart from the dict."""
        session = DummySession()
        session.flash("a")
        session.flash("a", allow_duplicate=False)
        session.flash(["b"], "other")
        with pytest.raises(TypeError, match="JSON"):
            session.flash(object())
        session.clear()
        assert session.peek_flash() == session.pop_flash() == ["a"]
        assert session.pop_flash() == []
        assert session.pop_flash("other") == [["b"]]

    def test_new(self):
        """It is new or not, and invalidation makes a new one."""
        session = DummySession({"a": 1}, userid=7, new=False)
        assert (session.new, session.userid, dict(session)) == (False, 7, {"a": 1})
        session.flash("bye")
        session.invalidate()
        assert (session.new, session.userid, dict(session)) == (True, None, {})
        assert session.pop_flash() == []
        session["b"] = 1
        assert DummySession().new
        assert dict(session) == {"b": 1}

    def test_created(self):
        """It was created just now."""
        assert abs(DummySession().created - time.time()) < 60
        with later(1000):
            assert 900 < DummySession().created - time.time() < 1100

    def test_token(self):
        """It has a CSRF token, which a login replaces if the session is not new."""
        session = DummySession(new=False)
        token = session.get_csrf_token()
        assert session.get_csrf_token() == token
        session.userid = 1
        assert session.get_csrf_token() != token
        token = session.get_csrf_token()
        session.rotate()
        assert session.get_csrf_token() != token
        assert session.new_csrf_token() == session.get_csrf_token()

    def test_settings(self):
        """Settings are checked, and can be changed, also when it's stored."""
        session = DummySession()
        with session.settings as settings:
            settings.idle_timeout = 600
        assert session.settings.idle_timeout == 600
        with pytest.raises(ValueError, match="idle_timeout"), session.settings as s:
            s.idle_timeout = 0
        stored = DummySession(new=False)
        with stored.settings as settings:
            settings.idle_timeout = 600
        assert stored.settings.idle_timeout == 600

    def test_model(self):
        """With a model it has what the model has, and lacks what that lacks."""
        user = uuid.uuid4()
        session = DummySession({"a": 1}, userid=user, model_class=Own)
        assert session.userid == user
        with pytest.raises(TypeError, match="JSON"):
            session[1] = 2
        with pytest.raises(NotImplementedError, match="CSRFMixin"):
            session.get_csrf_token()
        with pytest.raises(NotImplementedError, match="UseridMixin"):
            DummySession(model_class=Timed).userid  # noqa: B018

    def test_instance(self):
        """A session that is not new has an object of the model."""
        session = DummySession(userid=uuid.uuid4(), model_class=Own, new=False)
        instance = session.instance
        assert type(instance) is Own
        assert instance.userid == session.userid
        instance.country = "nl"
        assert session.instance.country == "nl"
        session.invalidate()
        assert session.instance is None

    def test_dummy_request(self):
        """Pyramid's CSRF functions take it."""
        request = testing.DummyRequest(session=DummySession())
        with testing.testConfig(request=request):
            assert get_csrf_token(request) == request.session.get_csrf_token()

    def test_two(self):
        """Two of them share nothing."""
        one, other = DummySession(), DummySession()
        one["a"] = 1
        one.userid = 1
        one.flash("a")
        assert (dict(other), other.userid, other.pop_flash()) == ({}, None, [])


class TestLater:
    """The clock of sessions can be moved, and no other."""

    def test_timeout(self, sqlite_engine):
        """A session expires when its time has come, and not before."""
        Base.metadata.create_all(sqlite_engine)
        browser = Browser(Application(sqlite_engine, Timed, idle_timeout=1200))
        browser.visit(lambda r: r.session.update(a=1))
        with later(1190):
            assert browser.ask(dict) == {"a": 1}
        with later(1190 + 1100):
            assert browser.ask(dict) == {"a": 1}
        with later(1190 + 1100 + 1210):
            assert browser.ask(dict) == {}

    def test_nested(self):
        """It goes on from where it is, and back again."""
        now = int(time.time())
        with later(100), later(1000):
            assert 1090 < DummySession().created - now < 1200
        assert abs(DummySession().created - now) < 60

    def test_other_clocks(self):
        """Nobody else's clock is moved."""
        now = time.time()
        with later(1000):
            assert time.time() - now < 900


def test_imports():
    """Requests do not pay for the module, and it needs no test runner."""
    code = """
import sys
import pyramid_sqlalchemy_sessions
early = {"pyramid_sqlalchemy_sessions.testing"} & set(sys.modules)
from pyramid_sqlalchemy_sessions import rolled_back
late = {"pytest", "webtest"} & set(sys.modules)
sys.exit(f"imported: {early | late}" if early | late else 0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
