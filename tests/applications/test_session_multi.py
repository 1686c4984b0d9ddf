"""pyramid_session_multi, with two of our factories beside ``request.session``."""

from __future__ import annotations

import re

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid.response import Response
from pyramid_session_multi import register_session_factory
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    UseridMixin,
    session_factory_from_settings,
)
from tests.application import SECRET, Application, Browser, statements
from tests.stories.transactions import logged, set_cookies


class Base(DeclarativeBase):
    """The base of the models below."""


class Visit(UseridMixin, CSRFMixin, BaseMixin, Base):
    """The session of the pages for everybody."""

    __tablename__ = "visit"


class AdminVisit(UseridMixin, CSRFMixin, BaseMixin, Base):
    """The session of the pages for administrators."""

    __tablename__ = "admin_visit"


def registering(*namespaces, **settings):
    """Return a ``configure`` that registers a factory for each namespace."""

    def configure(config):
        config.include("pyramid_session_multi")
        for namespace in namespaces:
            prefix = f"{namespace}."
            given = {
                f"{prefix}secret_key": SECRET,
                f"{prefix}model_class": Visit,
                f"{prefix}cookie_name": namespace,
            }
            given.update({name.replace("__", "."): x for name, x in settings.items()})
            factory = session_factory_from_settings(given, config.maybe_dotted, prefix)
            register_session_factory(config, namespace, factory)

    return configure


@pytest.fixture(params=[Visit, AdminVisit], ids=["one model", "two models"])
def browser(request, sqlite_engine):
    """Visit an application with three sessions, of one model or of two."""
    Base.metadata.create_all(sqlite_engine)
    configure = registering("user", "admin", admin__model_class=request.param)
    return Browser(Application(sqlite_engine, Visit, configure=configure))


def fill(request):
    """Write something else to each session."""
    request.session["a"] = 0
    request.session_multi["user"]["a"] = 1
    request.session_multi["admin"]["a"] = 2


def contents(browser):
    """Return what is in the sessions of the next request."""
    found = []

    def view(request):
        multi = request.session_multi
        found.extend(map(dict, (request.session, multi["user"], multi["admin"])))

    browser.visit(view)
    return found


def test_separate_sessions(browser, caplog):
    """Each has a cookie and data of its own, in the same transaction."""
    response = browser.visit(fill)
    names = [cookie.partition("=")[0] for cookie in set_cookies(response)]
    assert sorted(names) == ["admin", "session", "user"]
    assert contents(browser) == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert response.headers["Vary"] == "Cookie"
    assert logged(caplog, "WARNING") == []


def test_rollback(browser):
    """What one request did to all of them is taken back from all of them."""
    browser.visit(fill)

    def view(request):
        for namespace in ("user", "admin"):
            request.session_multi[namespace]["b"] = 1

    browser.fail(view)
    assert contents(browser) == [{"a": 0}, {"a": 1}, {"a": 2}]


def test_invalidation(browser):
    """Ending one of them leaves the others, ending all of them none."""
    browser.visit(fill)
    response = browser.visit(lambda r: r.session_multi["admin"].invalidate())
    (cookie,) = set_cookies(response)
    assert cookie.startswith("admin=;")
    assert contents(browser) == [{"a": 0}, {"a": 1}, {}]
    browser.visit(lambda request: request.session_multi.invalidate())
    assert contents(browser) == [{"a": 0}, {}, {}]


def test_login(browser):
    """A login rotates the session in which it is made, and no other."""
    browser.visit(fill)
    before = dict(browser.cookies)
    browser.visit(lambda r: setattr(r.session_multi["admin"], "userid", 1))
    after = dict(browser.cookies)
    assert {name for name in after if after[name] != before[name]} == {"admin"}
    assert contents(browser) == [{"a": 0}, {"a": 1}, {"a": 2}]


def test_lazy(browser):
    """Who uses one session does not load the others."""
    browser.visit(fill)
    with statements(browser.application.engine) as executed:
        browser.visit(lambda request: dict(request.session_multi["user"]))
    assert len(executed) == 1


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({}, {"a": 1}),
        ({"admin__secret_key": SECRET.replace("A", "B")}, {}),
        ({"admin__model_class": AdminVisit}, {}),
    ],
    ids=["all the same", "another key", "another model"],
)
def test_cookie_of_another_factory(sqlite_engine, settings, taken):
    """A factory with another key, or another model, takes no cookie of another one."""
    Base.metadata.create_all(sqlite_engine)
    configure = registering("user", "admin", **settings)
    browser = Browser(Application(sqlite_engine, Visit, configure=configure))
    browser.visit(fill)
    other = Browser(browser.application)
    other.set_cookie("admin", browser.cookies["user"])
    assert contents(other) == [{}, {}, taken]


def test_one_cookie_name_for_two(sqlite_engine):
    """pyramid_session_multi reads the names of the cookies, and they must differ."""
    configure = registering("user", "admin", admin__cookie_name="user")
    with pytest.raises(ConfigurationError, match="already registered another cookie"):
        Application(sqlite_engine, Visit, configure=configure)


def test_panel(sqlite_engine, caplog):
    """Its panel for pyramid_debugtoolbar shows both, and loses nothing."""
    Base.metadata.create_all(sqlite_engine)

    def configure(config):
        registering("user", "admin")(config)
        config.include("pyramid_debugtoolbar")

    settings = {"debugtoolbar.includes": "pyramid_session_multi.debugtoolbar"}
    application = Application(
        sqlite_engine, Visit, configure=configure, settings=settings
    )
    browser = Browser(application, REMOTE_ADDR="127.0.0.1")
    browser.set_cookie("pdtb_active", "session_multi")

    def view(request):
        for namespace in ("user", "admin"):
            session = request.session_multi[namespace]
            session[f"{namespace}-visits"] = session.get(f"{namespace}-visits", 0) + 1
        return Response("<html><body></body></html>")

    assert len(set_cookies(browser.visit(view))) == 2
    assert set_cookies(browser.visit(view)) == []
    ((request_id, _),) = application.registry.pdtb_history.last(1)
    html = browser.get(f"/_debug_toolbar/{request_id}").html
    for key in ("user-visits", "admin-visits"):
        row = html.find(string=re.compile(key)).find_parent("tr")
        assert [code.text for code in row.find_all("code")] == ["1", "2"]
    assert logged(caplog, "WARNING") == logged(caplog, "ERROR") == []
