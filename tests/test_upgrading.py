"""Sessions of other kinds are moved as comparison.rst says: nobody is logged out."""

from __future__ import annotations

import time

import fakeredis
import pytest
import time_machine
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.csrf import SessionCSRFStoragePolicy, get_csrf_token
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from sqlalchemy.orm import DeclarativeBase
from webtest import TestApp

from pyramid_sqlalchemy_sessions import BaseMixin, UseridMixin
from tests.application import Application, Browser, statements
from tests.stories.transactions import all_of, exception_view, set_cookies
from tests.test_docs import load

SECRET = "of the sessions that were there before" * 2
moving = load("moving")

# By pyramid_session_redis.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")


class Base(DeclarativeBase):
    """The base of the model below."""


class WebSession(UseridMixin, BaseMixin, Base):
    """A session whose CSRF token is in its dict, as it was before."""

    __tablename__ = "session"


def fill(request):
    """Use the old session for all that a session is used for."""
    request.session["cart"] = ["lamp"]
    request.session.flash("one")
    request.session.flash("two", "news")
    SessionAuthenticationHelper().remember(request, 7)
    return get_csrf_token(request)


def contents(session):
    """Return what is in a session, in the same form for each request."""
    flash = session.peek_flash(), session.peek_flash("news")
    return session.userid, session.get("cart"), session.get("_csrft_"), *flash


class Cookies:
    """Signed cookies, Pyramid's own sessions."""

    settings = {"old_session.secret": SECRET}
    include = staticmethod(moving.from_cookies)

    def __init__(self):
        self.factory = SignedCookieSessionFactory(SECRET)

    def is_ended(self):
        """Tell whether the server has forgotten it: it never knew of it."""
        return True


class Redis:
    """Sessions of pyramid_session_redis, in a Redis that this process plays."""

    def __init__(self):
        from pyramid_session_redis import session_factory_from_settings

        self.server = fakeredis.FakeRedis()
        self.settings = {
            "redis.sessions.secret": SECRET,
            "redis.sessions.redis_client_callable": lambda *_, **__: self.server,
        }
        self.factory = session_factory_from_settings(self.settings)

    include = staticmethod(moving.from_redis)

    def is_ended(self):
        """Tell whether the server has forgotten it."""
        return self.server.keys() == []


@pytest.fixture(params=[Cookies, Redis])
def old(request):
    """Return what the application had before."""
    return request.param()


class Site:
    """An application before and after the move, and a browser that lives through it."""

    def __init__(self, old, engine):
        config = Configurator(session_factory=old.factory)
        config.set_csrf_storage_policy(SessionCSRFStoragePolicy())
        config.add_route("view", "/")
        config.add_view(lambda r: Response(fill(r)), route_name="view")
        before = TestApp(config.make_wsgi_app())
        self.token = before.get("/").text
        self.moved = (7, ["lamp"], self.token, ["one"], ["two"])
        Base.metadata.create_all(engine)
        forbidden = lambda request: request.session.flash("no")  # noqa: E731
        configure = all_of(old.include, exception_view(forbidden, HTTPForbidden))
        self.application = Application(
            engine,
            WebSession,
            configure=configure,
            settings={
                "tm.activate_hook": lambda request: request.path != "/static",
                **old.settings,
            },
            cookie_name="websession",
        )
        self.browser = Browser(self.application)
        for cookie in before.cookiejar:
            self.browser.cookiejar.set_cookie(cookie)


@pytest.fixture
def site(old, sqlite_engine):
    return Site(old, sqlite_engine)


def test_everything_is_moved_once(site, old):
    """The first request finds all of it, and the old session is no more."""
    assert site.browser.ask(contents) == site.moved
    assert set(site.browser.cookies) == {"websession"}
    assert old.is_ended()
    assert site.browser.ask(contents) == site.moved
    assert len(site.application.rows()) == 1


def test_what_fails_moves_nothing(site):
    """A request that is rolled back leaves the old session where it was."""
    site.browser.fail(lambda request: request.session.clear())
    assert site.application.rows() == []
    assert set(site.browser.cookies) == {"session"}
    assert site.browser.ask(contents) == site.moved


def test_logout_at_once(site, old):
    """Who logs out with the first request is logged out."""
    site.browser.visit(lambda request: request.session.invalidate())
    assert dict(site.browser.cookies) == {}
    assert old.is_ended()
    assert site.browser.ask(contents)[:2] == (None, None)


def test_exception_view(site):
    """What it writes is kept, and the next request moves the rest."""

    def view(request):
        raise HTTPForbidden

    site.browser.visit(view, status=500)
    assert set(site.browser.cookies) == {"session", "websession"}
    userid, cart, token, _, news = site.moved
    expected = (userid, cart, token, ["no", "one"], news)
    assert site.browser.ask(contents) == expected
    assert set(site.browser.cookies) == {"websession"}


@pytest.mark.parametrize("cookie", ["", "forged"])
def test_cookie_of_no_session(site, cookie):
    """It is deleted, and nothing is stored."""
    other = Browser(site.application)
    response = other.visit(lambda r: None, headers={"Cookie": f"session={cookie}"})
    (header,) = set(set_cookies(response))
    assert header.startswith("session=;")
    assert site.application.rows() == []


def test_without_a_transaction(site):
    """A request for which pyramid_tm is off moves nothing, and works."""
    assert site.browser.visit(lambda request: "icon", "/static").text == "icon"
    assert set(site.browser.cookies) == {"session"}


def test_without_an_old_cookie(site, sqlite_engine):
    """A request that does not use its session costs nothing."""
    other = Browser(site.application)
    with statements(sqlite_engine) as executed:
        other.visit(lambda request: None)
    assert executed == []


@pytest.mark.parametrize(("age", "userid"), [(1190, 7), (1210, None)])
def test_timeout(site, age, userid):
    """An old session lives no longer than it would have lived."""
    with time_machine.travel(time.time() + age):
        assert site.browser.ask(lambda session: session.userid) == userid
    assert "session" not in site.browser.cookies
