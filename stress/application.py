"""The application under load: each write is in its session and in another table.

Its workers are processes, which get their options from the environment.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.util import shift_path_info

from pyramid.response import Response
from sqlalchemy import BigInteger, Engine, Integer, String, create_engine, event
from sqlalchemy.orm import mapped_column

from docs.examples.sqlite_workers import let_processes_share
from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin, RenewalMixin
from pyramid_sqlalchemy_sessions.serializer import AESGCMSerializer
from pyramid_sqlalchemy_sessions.session import SessionFactory
from pyramid_sqlalchemy_sessions.session_config import SessionConfig
from tests.application import Application, Base

#: The environment variable that carries the options to a worker, as JSON.
OPTIONS = "STRESS_OPTIONS"

_KEY = bytes(range(32))


class Visitor(RenewalMixin, IdleMixin, BaseMixin, Base):
    """The session of a client."""

    __tablename__ = "stress_session"


class Other(BaseMixin, Base):
    """The session of a client of the other application in the same process."""

    __tablename__ = "stress_other_session"


class Entry(Base):
    """A write, as the application's own table knows it."""

    __tablename__ = "stress_entry"
    id = mapped_column(Integer, primary_key=True)
    number = mapped_column(BigInteger, nullable=False)
    padding = mapped_column(String(10_000), nullable=False)


MODELS = (Visitor, Other)
TABLES = [each.__table__ for each in (*MODELS, Entry)]


@dataclass(frozen=True)
class Options:
    """How the application is made.

    ``on_connect`` are statements for each new connection. With ``sqlite_recipe``
    SQLite's connections are as the documentation recommends for several processes.
    ``session`` has the settings of sessions, ``other`` those of another application at
    ``/other``, if there is one. ``clock`` names a file with the number of seconds that
    the sessions' clock is wrong by.
    """

    url: str
    attempts: int = 10
    engine: dict[str, Any] = field(default_factory=dict)
    on_connect: tuple[str, ...] = ()
    sqlite_recipe: bool = False
    session: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] | None = None
    clock: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a worker."""
        return {**os.environ, OPTIONS: json.dumps(asdict(self))}

    def make_engine(self, **more: Any) -> Engine:
        """Make an engine like the application's."""
        engine = create_engine(self.url, **{**self.engine, **more})

        def connected(connection: Any, record: Any) -> None:
            cursor = connection.cursor()
            for statement in self.on_connect:
                cursor.execute(statement)
            cursor.close()
            connection.commit()

        if self.on_connect:
            event.listen(engine, "connect", connected)
        if self.sqlite_recipe:
            let_processes_share(engine)
        return engine


def from_environment() -> Any:
    """Make the WSGI application of a worker, which uses its database at once."""
    options = Options(**json.loads(os.environ[OPTIONS]))
    engine = options.make_engine()
    with engine.connect():
        return make_application(options, engine)


def make_application(options: Options, engine: Engine) -> Any:
    """Make the WSGI application."""
    progress = Progress()
    progress.watch(engine)
    mine = _make(options, engine, progress, Visitor, options.session)
    if options.other is None:
        return mine
    other = _make(options, engine, progress, Other, options.other)

    def dispatch(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"].startswith("/other/"):
            shift_path_info(environ)
            return other(environ, start_response)
        return mine(environ, start_response)

    return dispatch


def _make(
    options: Options,
    engine: Engine,
    progress: Progress,
    model: type,
    settings: dict[str, Any],
) -> Reporting:
    def configure(config: Any) -> None:
        config.include("pyramid_retry")
        config.include("pyramid_sqlalchemy_sessions.retry")
        if options.clock is not None:
            clock = WrongClock(Path(options.clock))
            config.set_session_factory(
                SessionFactory(
                    SessionConfig.make(AESGCMSerializer(_KEY), model, settings, clock)
                )
            )

    application = Application(
        engine,
        model,
        settings={"retry.attempts": options.attempts},
        configure=configure,
        **settings,
    )
    application.registry["dbsession_factory"] = application.make_session

    def view(request: Any) -> Response:
        progress.committing = False
        return VIEWS[request.path_info](request)

    application.view = view
    return Reporting(application, progress)


class Progress(threading.local):
    """Whether the thread has sent a COMMIT since its transaction began."""

    committing = False

    def watch(self, engine: Engine) -> None:
        """Follow the transactions of the engine."""
        event.listen(engine, "begin", lambda connection: self._set(False))
        event.listen(engine, "commit", lambda connection: self._set(True))

    def _set(self, committing: bool) -> None:
        self.committing = committing


class WrongClock:
    """A clock that's wrong by the number of seconds in a file."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self) -> int:
        return int(time.time()) + int(self.path.read_text())


class Reporting:
    """Answers an exception with its name, and with whether a COMMIT had been sent."""

    def __init__(self, application: Application, progress: Progress):
        self.registry = application.registry
        self._wsgi = application.wsgi
        self._progress = progress

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self._progress.committing = False
        try:
            return self._wsgi(environ, start_response)
        except Exception as exc:
            phase = "commit" if self._progress.committing else "before"
            name = type(getattr(exc, "orig", None) or exc).__name__
            headers = [("Content-Type", "text/plain"), ("X-Phase", phase)]
            start_response("500 Internal Server Error", headers)
            return [f"{name}: {exc}".encode()]


# What clients can ask for.


def _begin(request: Any) -> Response:
    """Begin a session for its owner, and write a number to it."""
    request.session["owner"] = request.params["owner"]
    request.session["numbers"] = []
    return _write(request)


def _write(request: Any) -> Response:
    """Write a number to the session and to the table, in one transaction."""
    session = request.session
    if session.new and "owner" not in session:
        return Response("the session is gone", status=410)
    number = int(request.params["number"])
    session["numbers"].append(number)
    padding = "." * int(request.params.get("padding", 0))
    request.dbsession.add(Entry(number=number, padding=padding))
    request.dbsession.flush()
    time.sleep(float(request.params.get("pause", 0)))
    return Response(session["owner"])


def _read(request: Any) -> Response:
    """Read the session."""
    session = request.session
    if session.new:
        return Response("the session is gone", status=410)
    return Response(session["owner"])


def _alive(request: Any) -> Response:
    """Answer without a session or a database."""
    return Response(str(os.getpid()))


VIEWS = {"/begin": _begin, "/write": _write, "/read": _read, "/alive": _alive}
