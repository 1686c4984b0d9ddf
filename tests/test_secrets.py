"""No secret is told: not in logs, errors and tracebacks, nor in what repr() shows."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

import pytest
from pyramid.interfaces import ISessionFactory
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, MappedAsDataclass
from webtest import TestApp

import pyramid_sqlalchemy_sessions
from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    FullyFeaturedSession,
    InvalidCookieErrorEvent,
    UserSessionAuthenticationPolicy,
)
from stress.secrets_in_logs import DATA, NAMES, everything_logged, listen, spellings
from tests.application import SECRET, Application, Browser, Full

PACKAGE = Path(pyramid_sqlalchemy_sessions.__file__).parent


def test_nothing_is_told(database_url: str) -> None:
    """Mixed requests, half of which fail, tell no secret to any logger."""
    traffic = listen(database_url, 180, seed=4)
    assert set(traffic.done) == set(NAMES)
    assert len(traffic.failed) >= 8


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_secrets_would_be_noticed(database_url: str) -> None:
    """An engine that hides no parameters tells secrets, and that is noticed."""
    with pytest.raises(AssertionError, match="INSERT INTO web_session"):
        listen(database_url, 100, seed=4, hide_parameters=False)


def echo(url: str, level: int, hide_parameters: bool) -> tuple[str, Any]:
    """Make a session and read it; return what was logged, and the row."""
    with everything_logged() as said:
        logging.getLogger("sqlalchemy.engine").setLevel(level)
        engine = create_engine(url, hide_parameters=hide_parameters)
        Full.__table__.create(engine, checkfirst=True)
        application = Application(engine)
        browser = Browser(application)
        browser.visit(lambda r: r.session.update(a=DATA))
        browser.visit(lambda r: r.session.get_csrf_token())
        row = application.row()
        engine.dispose()
        return said.getvalue(), row


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("level", "hide_parameters", "is_told"),
    [
        (logging.INFO, True, False),
        (logging.INFO, False, True),
        (logging.DEBUG, True, True),
    ],
    ids=["hidden", "parameters", "rows"],
)
def test_echo(
    level: int, hide_parameters: bool, is_told: bool, database_url: str
) -> None:
    """What SQLAlchemy logs holds ids unless it hides parameters, and prints no rows."""
    said, row = echo(database_url, level, hide_parameters)
    assert "INSERT INTO full_session" in said
    assert any(each in said for each in spellings(row.id)) is is_told


class Dataclasses(MappedAsDataclass, DeclarativeBase):
    """A base whose objects show their fields."""


class Shown(FullyFeaturedSession, Dataclasses):
    """A session whose class is a dataclass."""

    __tablename__ = "shown_session"


def test_what_repr_shows(sqlite_engine: Engine) -> None:
    """The objects of the library show no secret, whatever shows them."""
    Dataclasses.metadata.create_all(sqlite_engine)
    events: list[Any] = []

    def configure(config: Any) -> None:
        config.add_subscriber(events.append, InvalidCookieErrorEvent)

    application = Application(sqlite_engine, Shown, configure=configure)
    factory = application.registry.queryUtility(ISessionFactory)
    shown = [factory, factory.settings, factory.config, factory.config.cookie]
    shown += [application.registry.settings, application.registry.introspector]
    shown += application.registry.introspector.get_category("sessions")
    shown += [AESGCMSerializer(bytes(range(32))), UserSessionAuthenticationPolicy()]
    browser = Browser(application)

    def write(request: Any) -> None:
        request.session["a"] = DATA
        request.session.flash(DATA)
        request.session.get_csrf_token()
        shown.append(request.session)

    browser.visit(write)
    browser.visit(
        lambda r: shown.extend([r.session, r.session.instance, r.session.settings])
    )
    cookie = browser.cookie
    assert cookie is not None
    headers = {"Cookie": f"session={cookie[:-1]}!"}
    TestApp(application.wsgi).get("/", headers=headers)
    shown += [*events, events[0].exception]
    text = "\n".join(f"{each!r} {each!s}" for each in shown)
    row = application.row()
    secrets = {DATA, SECRET, cookie[:-1], *spellings(bytes(range(32)))}
    secrets |= spellings(row.id) | spellings(row.csrf_token)
    assert [secret for secret in secrets if secret in text] == []
    assert "Shown" in text


def test_spellings() -> None:
    """A secret is found however it is spelled."""
    assert {"00ff", "00FF", r"\x00\xff", "0, 255", "AP8"} <= spellings(b"\0\xff")


# Log lines.

#: What log calls put into their lines. None of it comes from a client, or is a secret.
HARMLESS = {
    "message",  # one of the literals that SessionConfig.warn_once is called with
    "ATTEMPTS",  # how many there are
    "_name_of(exc)",  # that of its class
    "type(exc.orig).__name__",
    "type(getattr(exc, 'orig', exc)).__name__",
    "kind.__name__",  # that of the class of a value
    "model_class.__qualname__",
    "setting.mixin",
    "setting.name",
    "name",  # that of the model
    "number",
    "seconds",
    "level",
    "method if method in _METHODS else '?'",
    "'without a route' if route is None else f'route {route.name}'",
    "self.cookie_name",
    "self.attempt",
    "self.attempts",
    "'; '.join(self._brief)",  # without any value
    "text",  # how many rows were encrypted anew
    "view and view.module",  # what stands in the code
    "view and view.function",
    "type(error).__name__",
    "line",
    "assigned('cookie_samesite', 'None', prefix)",  # from the settings
    "assigned('cookie_partitioned', True, prefix)",
    "', '.join(sorted(self._edits))",  # names of settings
    "shown(key)",  # what the developer has to look for; as repr() shows it
}

#: StaleDataErrors, of the library or of SQLAlchemy, which tell columns and tables.
STALE = {("follow_up.py", "exc")}


def log_calls() -> list[tuple[str, ast.Call]]:
    """Return all calls of loggers in the package, with their places."""
    calls = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "log"
                and node.func.attr != "isEnabledFor"
            ):
                calls.append((f"{path.name}:{node.lineno}", node))
    return calls


def test_log_lines_are_made_of_literals() -> None:
    """A log call has a literal text, and nothing in it that a client has sent."""
    calls = log_calls()
    assert len(calls) > 10
    for place, call in calls:
        text, *arguments = call.args
        assert isinstance(text, ast.Constant) or ast.unparse(text) in HARMLESS, place
        for argument in arguments:
            name = ast.unparse(argument)
            is_stale = (place.partition(":")[0], name) in STALE
            assert is_stale or name in HARMLESS, (place, name)


def test_warnings_are_literals() -> None:
    """So are the warnings that are given once."""
    found = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and "warn_once" in ast.unparse(node.func):
                found += 1
                text = node.args[0]
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                for part in parts:
                    is_text = isinstance(part, ast.Constant)
                    assert is_text or ast.unparse(part.value) in HARMLESS
    assert found >= 2


@pytest.mark.parametrize(
    "evil",
    [
        "line\r\nERROR forged",
        "\x1b[2Jescape",
        "\x00nul",
        "\xc2\x85next",
        '"; session="',
    ],
)
def test_client_bytes_are_not_logged(evil: str, sqlite_engine: Engine) -> None:
    """Nothing that a client sends reaches a line of the library's log."""
    Full.__table__.create(sqlite_engine)
    with everything_logged() as said:
        application = Application(
            sqlite_engine,
            settings={"tm.manager_hook": None},
            explicit=False,
            configure=lambda config: config.add_tween(
                f"{__name__}.write_over", over="pyramid_tm.tm_tween_factory"
            ),
        )
        application.view = lambda r: r.session.update(a=1)
        send(application, evil)
        application.view = lambda r: (r.tm.doom(), r.session.update(a=1))
        send(application, evil)
        records = said.getvalue()
    assert "A session is being changed outside of pyramid_tm's transaction" in records
    assert evil not in records
    assert "forged" not in records


def write_over(handler: Any, registry: Any) -> Any:
    """Make a tween that writes to the session outside of a transaction."""

    def tween(request: Any) -> Any:
        request.session["evil"] = request.environ["PATH_INFO"]
        return handler(request)

    return tween


def send(application: Application, evil: str) -> None:
    """Make a request, of which all that can be evil is."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": f"/{evil}",
        "QUERY_STRING": evil,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": evil,
        "REMOTE_ADDR": evil,
        "wsgi.url_scheme": "http",
        "HTTP_HOST": evil,
        "HTTP_USER_AGENT": evil,
        f"HTTP_X_{evil}": evil,
        "HTTP_COOKIE": f"session={evil}; session={evil}; {evil}={evil}",
    }
    b"".join(application.wsgi(environ, lambda *started: None))
