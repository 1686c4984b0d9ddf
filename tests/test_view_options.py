"""The view options ``extend_session`` and ``fresh``, and ``remember(max_age=...)``."""

from __future__ import annotations

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationExecutionError
from pyramid.httpexceptions import HTTPForbidden, HTTPSeeOther
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    ConfigCookieMixin,
    FreshLoginRequired,
    FullyFeaturedSession,
    IdleMixin,
    LastSeenMixin,
    RenewalMixin,
    SettingsError,
    UseridMixin,
    UserSessionAuthenticationHelper,
    UserSessionAuthenticationPolicy,
    later,
)
from tests.application import Application, Browser


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class Kept(
    LastSeenMixin,
    RenewalMixin,
    IdleMixin,
    ConfigCookieMixin,
    UseridMixin,
    BaseMixin,
    Models,
):
    """A session for which much can be due."""

    __tablename__ = "kept_session"


class Fixed(UseridMixin, BaseMixin, Models):
    """A session without settings of its own."""

    __tablename__ = "fixed_session"


class Anonymous(BaseMixin, Models):
    """A session without a user."""

    __tablename__ = "anonymous_session"


class Everything(LastSeenMixin, FullyFeaturedSession, Models):
    """A session with all features."""

    __tablename__ = "everything_session"


def configure(config):
    """Add a view for each option."""

    def view(request):
        return Response(repr(request.registry.settings["test.view"](request)))

    for name, options in {
        "poll": {"extend_session": False},
        "page": {"extend_session": True},
        "fresh": {"fresh": 60},
    }.items():
        config.add_view(view, route_name="view", request_param=name, **options)


@pytest.fixture
def open_browser(engine):
    """Make browsers of new applications with these views."""

    def open_browser(model=Kept, configure=configure, **settings):
        Models.metadata.create_all(engine)
        application = Application(
            engine, model, configure=lambda config: configure(config), **settings
        )
        return Browser(application)

    return open_browser


def ask(browser, option, view, **kw):
    """Let the view with this option answer; return the response."""
    browser.application.registry.settings["test.view"] = view
    return browser.get(f"/?{option}", **kw)


def log_in(request):
    """Log a user in."""
    UserSessionAuthenticationHelper().remember(request, 5)


def read(request):
    """Read the session."""
    return request.session.get("a")


def write(request):
    """Write the session."""
    request.session["a"] = 1


# extend_session.

SETTINGS = {"idle_timeout": 100, "renewal_timeout": 50, "cookie_max_age": 300}


@pytest.mark.parametrize("model", [Kept, Everything])
@pytest.mark.parametrize("view", [read, lambda request: request.session.clear()])
def test_poll_does_not_extend(open_browser, model, view):
    """Nothing that a use of the session is followed by is due."""
    browser = open_browser(model, **SETTINGS)
    browser.visit(write)
    before = browser.application.row()
    with later(60):
        response = ask(browser, "poll", view)
    stored = browser.application.row()
    for name in ("idle_expire", "renewal_next", "last_seen", "sent"):
        assert getattr(stored, name) == getattr(before, name)
    assert response.headers.getall("Set-Cookie") == []
    with later(60):
        ask(browser, "page", read)
    assert browser.application.row().idle_expire > before.idle_expire


def test_poll_begins_a_timeout_that_was_switched_on(open_browser, engine):
    """A session that has no end so far gets one, whatever uses it."""
    browser = open_browser(renewal_timeout=50)
    browser.visit(write)
    later_on = open_browser(**SETTINGS)
    later_on.set_cookie("session", browser.cookie)
    ask(later_on, "poll", read)
    assert browser.application.row().idle_expire is not None


def test_session_ends_while_it_is_polled(open_browser):
    """Polling keeps no session alive, and notices its end."""
    browser = open_browser(**SETTINGS)
    browser.visit(write)
    end = browser.ask(lambda session: session.expires)
    for seconds in (30, 60, 90):
        with later(seconds):
            response = ask(browser, "poll", lambda request: request.session.expires)
            assert response.text == str(end)
    with later(102):
        response = ask(browser, "poll", lambda request: request.session.expires)
    assert response.text == "None"
    assert browser.application.rows() == []


def test_expires_is_what_this_request_makes_of_it(open_browser):
    """On a page that extends, it's the time after the extension."""
    browser = open_browser(**SETTINGS)
    browser.visit(write)
    with later(60):
        told = ask(browser, "page", lambda request: request.session.expires)
    assert told.text == str(browser.application.row().idle_expire)


def test_poll_acknowledges_a_renewal(open_browser):
    """A candidate that comes back with a poll is taken over."""
    browser = open_browser(**SETTINGS)
    browser.visit(write)
    with later(60):
        browser.visit(read)
        candidate = browser.application.row().renewal_next
        assert candidate is not None
        ask(browser, "poll", read)
    assert browser.application.row().renewal_id == candidate


def test_poll_stores_what_it_changes(open_browser):
    """A view with the option may write, too."""
    browser = open_browser(**SETTINGS)
    browser.visit(write)
    ask(browser, "poll", lambda request: request.session.update(b=2))
    assert browser.ask(dict) == {"a": 1, "b": 2}


@pytest.mark.parametrize("refusal", [{"permission": "read"}, {"fresh": 60}])
def test_poll_that_is_refused(open_browser, refusal):
    """What the forbidden view writes then doesn't extend the session, either."""

    class Policy(UserSessionAuthenticationHelper):
        def permits(self, request, context, permission):
            return False

    def forbidden(request):
        request.session.flash("no")
        return Response("", status=403)

    def configure(config):
        config.set_security_policy(Policy())
        config.add_forbidden_view(forbidden)
        config.add_view(
            lambda request: Response(""),
            route_name="view",
            request_param="poll",
            extend_session=False,
            **refusal,
        )

    browser = open_browser(configure=configure, **SETTINGS)
    browser.visit(write)
    before = browser.application.row().idle_expire
    with later(60):
        assert browser.get("/?poll", status=403)
        assert browser.application.row().idle_expire == before
        assert browser.ask(lambda session: session.pop_flash()) == ["no"]


@pytest.mark.parametrize("value", ["false", 0, None])
def test_bad_extend_session(open_browser, value):
    """It's True or False."""

    def bad(config):
        config.add_route("bad", "/bad")
        config.add_view(lambda request: None, route_name="bad", extend_session=value)

    with pytest.raises(ConfigurationExecutionError, match="extend_session"):
        open_browser(configure=bad)


def test_options_of_a_factory_made_by_hand():
    """The module can be included by itself, and twice."""
    config = Configurator(autocommit=True)
    config.include("pyramid_sqlalchemy_sessions.view_options")
    config.include("pyramid_sqlalchemy_sessions.view_options")
    config.add_view(lambda request: Response(), fresh=5, extend_session=False)


# fresh.


def test_fresh_login(open_browser):
    """The view is there for a while after the login."""
    browser = open_browser()
    browser.visit(log_in)
    with later(59):
        assert ask(browser, "fresh", lambda request: "seen").text == "'seen'"


@pytest.mark.parametrize("begin", [lambda request: None, write])
def test_fresh_without_login(open_browser, begin):
    """Without a login it's forbidden."""
    browser = open_browser()
    browser.visit(begin)
    assert ask(browser, "fresh", read, status=403)


def test_login_that_is_not_fresh(open_browser):
    """After a while it's forbidden, until the user proves again who they are."""
    browser = open_browser()
    browser.visit(log_in)
    with later(62):
        response = ask(browser, "fresh", write, status=403)
        assert "log in again" in response.text
        assert browser.ask(dict) == {}
        browser.visit(log_in)
        ask(browser, "fresh", write)


def test_login_by_userid_alone_is_never_fresh(open_browser):
    """Whoever sets `userid` doesn't say that the user has proved anything."""
    browser = open_browser()
    browser.visit(lambda request: setattr(request.session, "userid", 5))
    ask(browser, "fresh", read, status=403)


def test_exception_view_for_those_who_are_not_fresh(open_browser):
    """An application can ask for the password instead, and keeps its forbidden view."""

    def with_views(config):
        configure(config)

        def ask_again(exception, request):
            return HTTPSeeOther(f"/password?within={exception.seconds}")

        config.add_exception_view(ask_again, context=FreshLoginRequired)
        config.add_forbidden_view(lambda request: HTTPSeeOther("/login"))

    browser = open_browser(configure=with_views)
    response = ask(browser, "fresh", read, status=303)
    assert response.location.endswith("/password?within=60")
    assert issubclass(FreshLoginRequired, HTTPForbidden)


@pytest.mark.parametrize("value", [0, -1, "60", 1.5, True])
def test_bad_fresh(open_browser, value):
    """It's a number of seconds."""

    def bad(config):
        config.add_route("bad", "/bad")
        config.add_view(lambda request: None, route_name="bad", fresh=value)

    with pytest.raises(ConfigurationExecutionError, match="fresh"):
        open_browser(configure=bad)


def test_fresh_without_users(open_browser):
    """Without UseridMixin the error names it."""
    browser = open_browser(Anonymous)
    with pytest.raises(NotImplementedError, match="UseridMixin"):
        ask(browser, "fresh", read)


# remember(max_age=...).

HELPERS = [UserSessionAuthenticationHelper(), UserSessionAuthenticationPolicy()]


@pytest.mark.parametrize("helper", HELPERS)
@pytest.mark.parametrize("is_stored", [False, True])
def test_lasting_login(open_browser, helper, is_stored):
    """The browser keeps the cookie that long; flash messages and data stay."""
    browser = open_browser()
    if is_stored:
        browser.visit(lambda request: request.session.flash("hello"))
    response = browser.visit(lambda request: helper.remember(request, 5, max_age=500))
    (header,) = response.headers.getall("Set-Cookie")
    assert "Max-Age=500" in header
    assert browser.ask(lambda session: session.userid) == 5
    messages = browser.ask(lambda session: session.pop_flash())
    assert messages == (["hello"] if is_stored else [])


def test_login_that_is_not_lasting(open_browser):
    """Without max_age the setting stays as it is."""
    browser = open_browser(cookie_max_age=700)
    browser.visit(log_in)
    assert browser.application.row().cookie_max_age == 700


def test_bad_max_age(open_browser):
    """What isn't a max-age is refused, and nobody is logged in."""
    browser = open_browser()

    def view(request):
        with pytest.raises(ValueError, match="cookie_max_age"):
            HELPERS[0].remember(request, 5, max_age=0)
        return request.session.userid

    assert browser.visit(view).text == ""


def test_max_age_without_the_mixin(open_browser):
    """The error names what the model lacks."""
    browser = open_browser(Fixed)
    with pytest.raises(SettingsError, match="ConfigCookieMixin"):
        browser.visit(lambda request: HELPERS[0].remember(request, 5, max_age=500))


def test_expires_in_an_exception_view(open_browser):
    """A failed request doesn't extend the session, unless its exception view writes."""
    told = []

    def answer(error, request):
        if "write" in request.params:
            request.session["b"] = 1
        told.append(request.session.expires)
        return Response("")

    def configure(config):
        config.add_exception_view(answer, ZeroDivisionError)

    def failing(request):
        request.session["a"] = 2
        raise ZeroDivisionError

    browser = open_browser(idle_timeout=100, configure=configure)
    browser.visit(write)
    for url in ("/", "/?write"):
        with later(10):
            browser.visit(failing, url)
        assert told.pop() == browser.application.row().idle_expire


@pytest.mark.parametrize("use_tweens", [False, True])
def test_poll_with_a_subrequest(open_browser, use_tweens):
    """What a view asks for in a subrequest doesn't extend the session either."""
    seen = []

    def inner(request):
        seen.append(request.session["a"])
        return Response("")

    def configure_more(config):
        configure(config)
        config.add_route("inner", "/inner")
        config.add_view(inner, route_name="inner")

    def poll(request):
        url, cookies = "/inner", dict(request.cookies)
        subrequest = Request.blank(url, cookies=cookies)
        request.invoke_subrequest(subrequest, use_tweens=use_tweens)

    browser = open_browser(idle_timeout=100, configure=configure_more)
    browser.visit(write)
    before = browser.application.row().idle_expire
    with later(60):
        ask(browser, "poll", poll)
    assert seen == [1]
    assert browser.application.row().idle_expire == before
