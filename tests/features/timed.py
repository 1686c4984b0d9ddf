"""Models with all timeouts, and what the tests of the features have in common."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import Cookie
from typing import Any, NamedTuple

import pytest
from pyramid.response import Response
from sqlalchemy import Engine, event, update
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    ClientAddressMixin,
    ConfigCookieMixin,
    CSRFMixin,
    FullyFeaturedSession,
    IdleMixin,
    LastSeenMixin,
    RenewalMixin,
    UserAgentMixin,
    UseridMixin,
)
from tests.application import Browser, Failure
from tests.stories.transactions import elsewhere

OURS = AESGCMSerializer(bytes(range(32)))


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class Timed(
    IdleMixin, AbsoluteMixin, RenewalMixin, UseridMixin, CSRFMixin, BaseMixin, Models
):
    """A session with the timeouts of the application."""

    __tablename__ = "timed_session"


class Own(FullyFeaturedSession, Models):
    """A session with timeouts and cookie attributes of its own."""

    __tablename__ = "own_session"


class Attributed(ConfigCookieMixin, IdleMixin, BaseMixin, Models):
    """A session with nothing of its own but the attributes of its cookie."""

    __tablename__ = "attributed_session"


class Traced(
    LastSeenMixin,
    UserAgentMixin,
    ClientAddressMixin,
    UseridMixin,
    BaseMixin,
    Models,
):
    """A session that says when, with what and from where it was used."""

    __tablename__ = "traced_session"


class Sent(NamedTuple):
    """The session cookie that a response carries."""

    value: str
    attributes: list[str]

    @property
    def is_deletion(self) -> bool:
        """Whether the browser is to forget the cookie."""
        return self.value == ""

    @property
    def id(self) -> uuid.UUID:
        """The id of the session that it names."""
        return uuid.UUID(bytes=OURS.loads(self.value)[:16])

    @property
    def renewal_id(self) -> uuid.UUID | None:
        """The renewal id in it, if there is one."""
        rest = OURS.loads(self.value)[16:]
        return uuid.UUID(bytes=rest) if rest else None


def now() -> int:
    """Return the time as the library has it."""
    return int(time.time())


def read(request: Any) -> str:
    """Read the session."""
    return str(request.session.get("a"))


def write(request: Any) -> None:
    """Write the session."""
    request.session["a"] = request.session.get("a", 0) + 1


def read_and_fail(request: Any) -> None:
    """Read the session, then fail."""
    read(request)
    raise Failure


def write_and_fail(request: Any) -> None:
    """Write the session, then fail."""
    write(request)
    raise Failure


def read_and_doom(request: Any) -> None:
    """Read the session in a transaction that is aborted without an error."""
    read(request)
    request.tm.doom()


def catching(config: Any) -> None:
    """Let the application answer failures with an exception view."""
    config.add_view(_failed, context=Failure)


def _failed(request: Any) -> Response:
    return Response("failed", status=500)


def sent(response: Any) -> Sent | None:
    """Return the one session cookie that the response carries, None if there is none.

    More than one, with whatever attributes, is a mistake.
    """
    headers = response.headers.getall("Set-Cookie")
    assert len(headers) <= 1
    if not headers:
        return None
    pair, *attributes = headers[0].split("; ")
    return Sent(pair.partition("=")[2], attributes)


def row(browser: Browser) -> Any:
    """Return the only row of the table."""
    return browser.application.row()


def age(browser: Browser, **columns: Any) -> None:
    """Change the columns of all sessions, behind the application's back."""
    with browser.application.engine.begin() as connection:
        connection.execute(update(browser.application.model).values(columns))


def forged(browser: Browser) -> str:
    """Return a cookie for the only session, with a renewal id that never was."""
    return OURS.dumps(row(browser).id.bytes + uuid.uuid4().bytes).decode("ascii")


def use_cookie(browser: Browser, value: str) -> None:
    """Give the browser this session cookie instead of the one that it has."""
    browser.reset()
    # As if the application had sent it: the next one is to take its place.
    browser.cookiejar.set_cookie(
        Cookie(
            version=0,
            name="session",
            value=value,
            port=None,
            port_specified=False,
            domain="localhost.local",
            domain_specified=False,
            domain_initial_dot=False,
            path="/",
            path_specified=True,
            secure=False,
            expires=None,
            discard=True,
            comment=None,
            comment_url=None,
            rest={},
        )
    )


def twin(browser: Browser, value: str | None = None) -> Browser:
    """Return another browser with the same cookie, or with another one."""
    other = Browser(browser.application)
    value = value or browser.cookie
    assert value
    use_cookie(other, value)
    return other


def visit_meanwhile(browser: Browser, view: Callable[[Any], Any], **kw: Any) -> Any:
    """Play a whole request with the same cookie, while one of the browser is under way.

    Returns its response. The browser keeps its cookie.
    """
    application = browser.application
    under_way = application.view
    try:
        return elsewhere(lambda: twin(browser).visit(view, **kw))
    finally:
        application.view = under_way  # for pyramid_retry


@contextmanager
def pausing(clock: Any, seconds: float) -> Iterator[None]:
    """Do something some seconds later, and turn back the clock."""
    before = time.time()
    clock.shift(seconds)
    try:
        yield
    finally:
        clock.move_to(before)


def isolate_snapshots(engine: Engine) -> Engine:
    """Let MariaDB refuse to write what another transaction wrote."""

    @event.listens_for(engine, "connect")
    def isolate(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")
        if not cursor.fetchall():
            pytest.skip("this MariaDB has no innodb_snapshot_isolation")
        cursor.execute("SET innodb_snapshot_isolation = ON")
        cursor.close()

    return engine
