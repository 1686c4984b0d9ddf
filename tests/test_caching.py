"""What shared caches may keep: never a cookie, never somebody's page for somebody else.

``SharedCache`` is a cache of RFC 9111 that keeps and reuses whatever it is allowed to,
and stands between the browsers and the real application.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase
from webtest import TestApp

from pyramid_sqlalchemy_sessions import FullyFeaturedSession
from pyramid_sqlalchemy_sessions.session import Session
from tests.application import Application, Browser, Failure


class Models(DeclarativeBase):
    """The declarative base of the model below."""


class Everything(FullyFeaturedSession, Models):
    """A session with all features."""

    __tablename__ = "everything"


# The cache.

#: The status codes that may be kept without a word about it (RFC 9110, 15.1).
HEURISTIC = {200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}


def directives(response: Any) -> dict[str, str]:
    """Return the directives of Cache-Control, by their names in lower case."""
    text = ", ".join(response.headers.getall("Cache-Control"))
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.strip().partition("=")
        found[name.lower()] = value
    return found


def storable(response: Any) -> bool:
    """Tell whether a shared cache may store the response to a GET (RFC 9111, 3)."""
    said = directives(response)
    if "no-store" in said or said.get("private") == "":
        return False
    return (
        bool({"public", "max-age", "s-maxage"} & set(said))
        or "Expires" in response.headers
        or response.status_int in HEURISTIC
    )


class SharedCache:
    """Stands before an application; what it stores stays fresh for ever."""

    def __init__(self, wsgi: Any) -> None:
        self.wsgi = wsgi
        self.stored: list[tuple[Any, Any]] = []  # requests and their responses
        self.hits = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        response = next(self.reusable(request), None)
        if response is not None:
            self.hits += 1
        else:
            response = request.get_response(self.wsgi)
            if request.method == "GET" and storable(response):
                kept = Request(environ.copy())
                self.stored.append((kept, response.copy()))
        return response(environ, start_response)

    def reusable(self, request: Any) -> Iterator[Any]:
        """Find stored responses for the same URL and the same Vary (RFC 9111, 4)."""
        for earlier, response in self.stored:
            if earlier.url != request.url or request.method != "GET":
                continue
            varying = ", ".join(response.headers.getall("Vary"))
            names = [name.strip() for name in varying.split(",") if name.strip()]
            if "*" not in names and all(
                earlier.headers.get(name) == request.headers.get(name) for name in names
            ):
                yield response.copy()


@pytest.fixture
def make_application(sqlite_engine: Engine) -> Callable[..., Application]:
    """Make applications with all features on one database."""

    def make(**options: Any) -> Application:
        Models.metadata.create_all(sqlite_engine)
        return Application(sqlite_engine, Everything, **options)

    return make


@pytest.mark.parametrize(
    ("headers", "status", "expected"),
    [
        ({}, 200, True),
        ({}, 403, False),
        ({"Cache-Control": "max-age=5"}, 403, True),
        ({"Expires": "Thu, 01 Dec 2095 16:00:00 GMT"}, 403, True),
        ({"Cache-Control": "public, s-maxage=5"}, 200, True),
        ({"Cache-Control": "private"}, 200, False),
        ({"Cache-Control": "max-age=5, Private"}, 200, False),
        ({"Cache-Control": 'private="Set-Cookie", max-age=5'}, 200, True),
        ({"Cache-Control": "no-store"}, 200, False),
    ],
)
def test_cache(headers: Any, status: int, expected: bool) -> None:
    """The cache of these tests stores what RFC 9111 lets it store."""
    assert storable(Response(headers=headers, status=status)) is expected


# Vary.


def edit(session: Session) -> None:
    """Change a setting of the session, if it is new."""
    if session.new:
        with session.settings as settings:
            settings.idle_timeout = 100


#: Every way of using a session, by the attribute of the session that it uses.
WAYS: dict[str, Callable[[Session], Any]] = {
    "get": lambda s: s.get("a"),
    "__getitem__": lambda s: s.new or s["a"],
    "__contains__": lambda s: "a" in s,
    "__iter__": list,
    "__reversed__": lambda s: list(reversed(s)),
    "__len__": len,
    "__bool__": bool,
    "__eq__": lambda s: s == {},
    "__setitem__": lambda s: s.__setitem__("a", 1),
    "__delitem__": lambda s: s.__delitem__("a") if "a" in s else None,
    "keys": lambda s: list(s.keys()),
    "values": lambda s: list(s.values()),
    "items": lambda s: list(s.items()),
    "pop": lambda s: s.pop("a", None),
    "popitem": lambda s: s.popitem() if s else None,
    "setdefault": lambda s: s.setdefault("a", 1),
    "update": lambda s: s.update(a=1),
    "clear": lambda s: s.clear(),
    "created": lambda s: s.created,
    "new": lambda s: s.new,
    "changed": lambda s: s.changed(),
    "invalidate": lambda s: s.invalidate(),
    "rotate": lambda s: s.rotate(),
    "instance": lambda s: s.new or s.instance,
    "flash": lambda s: s.flash("hello"),
    "pop_flash": lambda s: s.pop_flash(),
    "peek_flash": lambda s: s.peek_flash(),
    "get_csrf_token": lambda s: s.get_csrf_token(),
    "new_csrf_token": lambda s: s.new_csrf_token(),
    "userid": lambda s: s.userid,
    "userid, setting": lambda s: setattr(s, "userid", 5),
    "settings": lambda s: s.settings.idle_timeout,
    "settings, mapping": lambda s: dict(s.settings),
    "settings, editing": edit,
    "__or__": lambda s: s | {"b": 1},
    "__ror__": lambda s: {"b": 1} | s,
    "__ior__": lambda s: s.__ior__({"b": 1}),
    "__json__": lambda s: s.__json__(None),
    "copy": lambda s: s.copy(),
    "id": lambda s: s.id,
    "is_late": lambda s: s.is_late,
    "persist": lambda s: s.persist(),
    "authenticate": lambda s: s.authenticate(5),
    "authenticated": lambda s: s.authenticated,
    "is_fresh": lambda s: s.is_fresh(60),
    "expires": lambda s: s.expires,
}
ONLY_IN_A_TRANSACTION = {"instance", "persist"}
OUTSIDE_OF_TRANSACTION = {
    name: way for name, way in WAYS.items() if name not in ONLY_IN_A_TRANSACTION
}

#: What is the same whatever the request is.
CONSTANT = {"model_class"}


def test_every_way_is_known() -> None:
    """Nobody adds a method to the session that is not tried here."""
    public = {name for name in dir(Session) if not name.startswith("_")}
    special = {name for name in WAYS if name.startswith("__")}
    defined = {name for kind in Session.__mro__[:-1] for name in vars(kind)}
    assert public - CONSTANT <= {name.partition(",")[0] for name in WAYS}
    assert special >= defined & {
        *("__getitem__", "__setitem__", "__delitem__", "__iter__", "__len__"),
        *("__contains__", "__reversed__", "__bool__", "__eq__"),
        *("__or__", "__ror__", "__ior__", "__json__"),
    }


def varies(response: Any) -> bool:
    """Tell whether the response says once that it depends on the cookie."""
    return response.headers.getall("Vary") == ["Cookie"]


def assert_varying(browser: Browser, view: Any, ways: Any = WAYS) -> None:
    """Check that each way of using a session, new or stored, is told to caches.

    ``view`` makes a view of a way.
    """
    for name, way in ways.items():
        for is_stored in (False, True):
            browser.reset()
            if is_stored:
                browser.visit(lambda r: r.session.update(a=1))
            response = browser.visit(view(way), expect_errors=True)
            assert varies(response), (name, is_stored)
            if "Set-Cookie" in response.headers:
                assert not storable(response), (name, is_stored)


def test_view(make_application: Any) -> None:
    """A view that uses the session in any way makes the response vary."""
    assert_varying(
        Browser(make_application()),
        lambda way: lambda r: Response(repr(way(r.session))),
    )


def test_doomed_transaction(make_application: Any) -> None:
    """So it does if nothing of it is stored."""

    def doomed(way: Any) -> Any:
        def view(request: Any) -> None:
            way(request.session)
            request.tm.doom()

        return view

    assert_varying(Browser(make_application()), doomed)


def test_exception_view(make_application: Any) -> None:
    """So does an exception view that uses it, and one after a view that has."""
    answer: Any = None

    def add_exception_view(config: Any) -> None:
        config.add_exception_view(
            lambda error, request: Response(repr(answer(request)), status=500),
            context=Failure,
        )

    def in_exception_view(way: Any) -> Any:
        nonlocal answer
        answer = lambda request: way(request.session)  # noqa: E731
        return fail

    def in_failed_view(way: Any) -> Any:
        nonlocal answer
        answer = lambda request: None  # noqa: E731
        return lambda request: (way(request.session), fail(request))

    browser = Browser(make_application(configure=add_exception_view))
    assert_varying(browser, in_exception_view, OUTSIDE_OF_TRANSACTION)
    assert_varying(browser, in_failed_view)


def fail(request: Any) -> None:
    """Fail."""
    raise Failure


class Tweens:
    """A tween that does once what it is told to do, before or after all others."""

    before: Any = None
    after: Any = None

    def factory(self, handler: Any, registry: Any) -> Any:
        """Make a tween."""

        def tween(request: Any) -> Any:
            before, self.before = self.before, None
            after, self.after = self.after, None
            if before:
                before(request.session)
            response = handler(request)
            if after:
                after(request.session)
            return response

        return tween


@pytest.mark.parametrize("place", ["over", "under"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_tween(
    place: str, moment: str, make_application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does a tween, with a transaction or without one."""
    tweens = Tweens()
    monkeypatch.setattr(f"{__name__}.tween_factory", tweens.factory, raising=False)

    def configure(config: Any) -> None:
        config.add_tween(
            f"{__name__}.tween_factory", **{place: "pyramid_tm.tm_tween_factory"}
        )

    def in_tween(way: Any) -> Any:
        setattr(tweens, moment, way)
        return lambda request: None

    ways = WAYS if place == "under" else OUTSIDE_OF_TRANSACTION
    assert_varying(Browser(make_application(configure=configure)), in_tween, ways)


def test_response_callback(make_application: Any) -> None:
    """So does a response callback, also if nobody has used the session before."""

    def in_callback(way: Any) -> Any:
        return lambda request: request.add_response_callback(
            lambda request, response: way(request.session)
        )

    assert_varying(Browser(make_application()), in_callback, OUTSIDE_OF_TRANSACTION)


def nested(depth: int, way: Any, is_failing: bool = False) -> Any:
    """Return a view that asks a view, ``depth`` times, that uses the session."""

    def view(request: Any) -> Any:
        level = int(request.params.get("level", 0))
        if level == depth:
            way(request.session)
            if is_failing:
                raise Failure
            return "the answer"
        subrequest = Request.blank(f"/?level={level + 1}")
        subrequest.headers["Cookie"] = request.headers.get("Cookie", "")
        try:
            return request.invoke_subrequest(subrequest, use_tweens=True).text
        except Failure:
            return "no answer"

    return view


@pytest.mark.parametrize("depth", [1, 3])
def test_subrequest(depth: int, make_application: Any) -> None:
    """So does a subrequest: the outer response is made of its answer."""
    assert_varying(Browser(make_application()), lambda way: nested(depth, way))


def test_subrequest_that_fails(make_application: Any) -> None:
    """Also one that has no answer."""
    browser = Browser(make_application())
    view = nested(1, lambda session: session.get("a"), is_failing=True)
    assert varies(browser.visit(view))


def test_subrequest_without_a_session(make_application: Any) -> None:
    """One that does not use the session leaves the outer response alone."""
    response = Browser(make_application()).visit(nested(1, lambda session: None))
    assert "Vary" not in response.headers


def test_session_that_is_not_used(make_application: Any) -> None:
    """A response of a request that did nothing with its session is as it would be."""
    browser = Browser(make_application())
    browser.visit(lambda r: r.session.update(a=1))
    for view in (
        lambda r: None,
        lambda r: repr(r.session),
        lambda r: r.session.settings,
    ):
        response = browser.visit(view)
        assert "Vary" not in response.headers
        assert "Cache-Control" not in response.headers
        assert storable(response)


# Behind a cache.

#: What an application says about its pages, whether that is wise or not.
SAID = [
    None,
    "public, max-age=60",
    "s-maxage=60",
    "max-age=60, must-revalidate",
    'private="Set-Cookie", public',
    "PUBLIC,S-MaxAge=60",
]


def test_response_with_a_cookie_is_not_stored(make_application: Any) -> None:
    """No shared cache may store a response that sets or deletes our cookie."""
    application = make_application()
    browser = Browser(application)
    seen = 0
    for said in SAID:
        for status in (200, 301, 404):
            for name in ("update", "rotate", "userid, setting", "flash", "invalidate"):

                def view(request: Any, way: Any = WAYS[name], said: Any = said) -> Any:
                    way(request.session)
                    headers = {"Cache-Control": said} if said else {}
                    return Response(status=status, headers=headers)  # noqa: B023

                response = browser.visit(view, expect_errors=True)
                if "Set-Cookie" in response.headers:
                    seen += 1
                    assert not storable(response), (said, status, name)
    assert seen > 50


def test_untouched_page_is_everybodys(make_application: Any) -> None:
    """A page that uses no session is stored, and reused whatever the cookies are."""
    application = make_application()
    cache = SharedCache(application.wsgi)
    application.view = lambda request: Response("hello")
    for cookie in (None, "session=a", "session=b; other=c"):
        headers = {"Cookie": cookie} if cookie else {}
        assert TestApp(cache).get("/", headers=headers).text == "hello"
    assert cache.hits == 2


def test_page_that_reads_is_reused_for_the_same_cookie(make_application: Any) -> None:
    """A page that only reads the session is stored, for one cookie."""
    application = make_application()
    cache = SharedCache(application.wsgi)
    alice, bob = TestApp(cache), TestApp(cache)
    application.view = lambda request: request.session.update(name="Alice")
    alice.post("/")
    application.view = lambda request: Response(request.session.get("name", "nobody"))
    answers = [alice.get("/").text, alice.get("/").text, bob.get("/").text]
    assert answers == ["Alice", "Alice", "nobody"]
    assert cache.hits == 1


class Crowd:
    """Browsers that visit one application through one cache."""

    def __init__(self, application: Application, seed: int) -> None:
        self.random = random.Random(seed)
        self.application = application
        self.cache = SharedCache(application.wsgi)
        self.browsers = [TestApp(self.cache) for _ in range(4)]
        self.received: list[set[str]] = [set() for _ in self.browsers]

    def visit(self) -> None:
        """Let somebody visit some page, and check that it is about nobody else."""
        rng = self.random
        number = rng.randrange(len(self.browsers))
        said = rng.choice(SAID)
        name = rng.choice(["__setitem__", "get", "rotate", "invalidate", "peek_flash"])

        def view(request: Any) -> Any:
            session = request.session
            WAYS[name](session)
            if name == "__setitem__":
                session["owner"] = number
            text = str(session.get("owner", ""))
            return Response(text, headers={"Cache-Control": said} if said else {})

        self.application.view = view
        response = self.browsers[number].get(f"/{rng.randrange(3)}")
        assert response.text in ("", str(number))
        for text in response.headers.getall("Set-Cookie"):
            value = text.partition(";")[0].partition("=")[2]
            assert not any(value in each for each in self.received) or not value
            self.received[number].add(value)


@pytest.mark.parametrize("seed", range(3))
def test_browsers_behind_a_cache(seed: int, make_application: Any) -> None:
    """Behind a cache nobody sees the page of somebody else, or gets his cookie."""
    crowd = Crowd(make_application(), seed)
    for _ in range(150):
        crowd.visit()
    assert crowd.cache.hits > 10
    for _, response in crowd.cache.stored:
        assert "Set-Cookie" not in response.headers
