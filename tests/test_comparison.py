"""What comparison.rst says of other back ends for Pyramid, and of this one."""

from __future__ import annotations

import fakeredis
import pytest
from pyramid.session import SignedCookieSessionFactory
from pyramid_session_redis import RedisSessionFactory
from sqlalchemy.orm.exc import StaleDataError

from tests.application import Application, Browser, Failure, Plain
from tests.stories.transactions import all_of, elsewhere, exception_view

# By pyramid_session_redis.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")

SECRET = "of the other sessions" * 4


class Redis(fakeredis.FakeRedis):
    """A Redis that remembers the commands."""

    def __init__(self):
        super().__init__()
        self.commands = []

    def execute_command(self, *args, **kw):
        self.commands.append(args[0])
        return super().execute_command(*args, **kw)


def signed(redis):
    return SignedCookieSessionFactory(SECRET)


def in_redis(redis):
    return RedisSessionFactory(SECRET, redis_client_callable=lambda *_, **__: redis)


@pytest.fixture
def redis():
    return Redis()


@pytest.fixture
def visit_with(sqlite_engine, redis):
    """Return a function that makes a browser, for sessions of some back end."""
    Plain.__table__.create(sqlite_engine)

    def make_browser(back_end, configure=lambda config: None):
        def use_back_end(config):
            if back_end is not None:
                config.set_session_factory(back_end(redis))

        application = Application(
            sqlite_engine, Plain, configure=all_of(use_back_end, configure)
        )
        browser = Browser(application)
        browser.visit(lambda request: request.session.update({"n": 0, "list": [1]}))
        return browser

    return make_browser


def keys(browser):
    """Return the keys of the session."""
    return sorted(browser.ask(lambda session: list(session.keys())))


def twin(browser):
    """Return another browser with copies of the cookies."""
    other = Browser(browser.application)
    for cookie in browser.cookiejar:
        other.cookiejar.set_cookie(cookie)
    return other


def change(request):
    """Change the session."""
    request.session["changed"] = 1


def overtaken_by(rival, view):
    """Return a view that reads, is overtaken by another request, and writes."""

    def overtaken(request):
        n = request.session["n"]
        elsewhere(rival.visit, view)
        request.session["n"] = n + 1

    return overtaken


@pytest.mark.parametrize(
    ("back_end", "is_kept"), [(signed, True), (in_redis, True), (None, False)]
)
def test_exception_view(visit_with, back_end, is_kept):
    """What a failed view changed is kept by others if an exception view answers."""
    sorry = exception_view(lambda request: "sorry", Failure)
    browser = visit_with(back_end, sorry)

    def view(request):
        change(request)
        raise Failure

    browser.visit(view, status=500)
    assert ("changed" in keys(browser)) is is_kept


@pytest.mark.parametrize(
    ("back_end", "is_kept"), [(signed, False), (in_redis, True), (None, False)]
)
def test_failure(visit_with, back_end, is_kept):
    """What a failed view changed is in Redis, even if nothing answers."""
    browser = visit_with(back_end)
    browser.fail(change)
    assert ("changed" in keys(browser)) is is_kept


@pytest.mark.parametrize("back_end", [signed, in_redis])
def test_others_lose_updates(visit_with, back_end):
    """The last one of two requests wins, though they change different keys."""
    browser = visit_with(back_end)
    browser.visit(overtaken_by(twin(browser), change))
    assert keys(browser) == ["list", "n"]
    assert browser.ask(lambda session: session["n"]) == 1


def test_no_update_is_lost(visit_with):
    """Here both are kept, since they change different keys."""
    browser = visit_with(None)
    browser.visit(overtaken_by(twin(browser), change))
    assert keys(browser) == ["changed", "list", "n"]
    assert browser.ask(lambda session: session["n"]) == 1


def test_no_update_of_one_key_is_lost(visit_with):
    """Here the second one is refused, if both change the same key."""
    browser = visit_with(None)
    with pytest.raises(StaleDataError):
        browser.visit(
            overtaken_by(twin(browser), lambda request: request.session.update(n=7))
        )
    assert browser.ask(lambda session: session["n"]) == 7


def log_out(request):
    request.session.invalidate()


@pytest.mark.parametrize("back_end", [signed, in_redis])
def test_others_come_back_after_a_logout(visit_with, back_end):
    """A request that was under way stores what was there before."""
    browser = visit_with(back_end)
    browser.visit(overtaken_by(twin(browser), log_out))
    assert keys(browser) == ["list", "n"]


def test_logout_is_final(visit_with):
    """Here the request that was under way is refused."""
    browser = visit_with(None)
    with pytest.raises(StaleDataError):
        browser.visit(overtaken_by(twin(browser), log_out))
    assert keys(browser) == []


@pytest.mark.parametrize(
    ("back_end", "is_good"), [(signed, True), (in_redis, False), (None, False)]
)
def test_copy_of_the_cookie(visit_with, back_end, is_good):
    """After a logout a copy of a signed cookie is as good as before."""
    browser = visit_with(back_end)
    thief = twin(browser)
    browser.visit(log_out)
    assert keys(browser) == []
    assert bool(keys(thief)) is is_good


@pytest.mark.parametrize(
    ("back_end", "expected"), [(signed, [1]), (in_redis, [1, 2]), (None, [1, 2])]
)
def test_nested_change(visit_with, back_end, expected):
    """A signed cookie does not notice it."""
    browser = visit_with(back_end)
    browser.visit(lambda request: request.session["list"].append(2))
    assert browser.ask(lambda session: list(session["list"])) == expected


@pytest.mark.parametrize("back_end", [in_redis, None])
def test_large_value(visit_with, back_end):
    """A store has room for it."""
    browser = visit_with(back_end)
    browser.visit(lambda request: request.session.update({"text": "x" * 20_000}))
    assert len(browser.ask(lambda session: session["text"])) == 20_000


def test_large_value_in_a_cookie(visit_with):
    """A cookie has not."""
    browser = visit_with(signed)
    with pytest.raises(ValueError, match="too long to store"):
        browser.visit(lambda request: request.session.update({"text": "x" * 4_000}))


@pytest.mark.parametrize(
    ("back_end", "expected"),
    [
        (signed, {"path=/", "samesite=lax"}),
        (in_redis, {"path=/", "httponly"}),
        (None, {"path=/", "httponly", "samesite=lax"}),
    ],
)
def test_attributes_of_the_cookie(visit_with, back_end, expected):
    """The defaults differ."""
    browser = visit_with(back_end)
    browser.reset()
    header = browser.visit(change).headers["Set-Cookie"].lower()
    assert set(header.split("; ")[1:]) == expected


@pytest.mark.parametrize(
    ("back_end", "expected"), [(signed, [1]), (in_redis, (1,)), (None, (1,))]
)
def test_values(visit_with, back_end, expected):
    """A signed cookie is JSON, the others are pickles."""
    browser = visit_with(back_end)
    browser.visit(lambda request: request.session.update({"pair": (1,)}))
    assert browser.ask(lambda session: session["pair"]) == expected


def test_commands_of_redis(visit_with, redis):
    """A read is a write as well; a request that does not use the session is nothing."""
    browser = visit_with(in_redis)
    redis.commands.clear()
    browser.visit(lambda request: None)
    assert redis.commands == []
    browser.ask(lambda session: session["n"])
    assert redis.commands[0] == "GET"
    assert set(redis.commands[1:]) <= {"SETEX", "EXPIRE"}
    assert len(redis.commands) == 2


def test_same_id_after_a_login(visit_with, redis):
    """pyramid_session_redis has one id for a session all its life."""
    browser = visit_with(in_redis)
    before = browser.cookie
    browser.visit(lambda request: request.session.update({"auth.userid": 1}))
    assert browser.cookie == before
    assert len(redis.keys()) == 1
