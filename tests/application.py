"""A real application for the tests, and browsers to visit it with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import transaction
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from webtest import TestApp

from pyramid_sqlalchemy_sessions import BaseMixin, CSRFMixin, UseridMixin

#: Key bytes 0..31, as in the vectors of the wire format.
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Plain(BaseMixin, Base):
    """A session without any feature."""

    __tablename__ = "plain_session"


class Full(UseridMixin, CSRFMixin, BaseMixin, Base):
    """A session with a user and a CSRF token."""

    __tablename__ = "full_session"


def explicit_manager(request: Any) -> transaction.TransactionManager:
    """Make a transaction manager that nobody can use outside of a transaction."""
    return transaction.TransactionManager(explicit=True)


class Application:
    """An application made like the cookiecutter's, with one view that tests replace.

    ``settings`` are those of the application; ``session.`` ones get the prefix by
    themselves if they are given as keyword arguments. ``configure`` is called with
    the configurator before the application is made.
    """

    def __init__(
        self,
        engine: Engine,
        model: type = Full,
        *,
        settings: dict[str, Any] | None = None,
        configure: Callable[[Configurator], None] | None = None,
        pyramid_tm: bool = True,
        explicit: bool = True,
        make_dbsession: Callable[[Any, Any], Session] | None = None,
        **session_settings: Any,
    ):
        self.engine = engine
        self.model = model
        self.make_session = sessionmaker(engine)
        self._make_dbsession = make_dbsession or self._tm_session
        self.view: Callable[[Any], Any] = lambda request: None
        merged = {
            "session.secret_key": SECRET,
            "session.model_class": model,
            **{f"session.{name}": value for name, value in session_settings.items()},
            **(settings or {}),
        }
        if explicit:
            merged.setdefault("tm.manager_hook", explicit_manager)
        config = Configurator(settings=merged)
        if pyramid_tm:
            config.include("pyramid_tm")
        config.add_request_method(self._dbsession, "dbsession", reify=True)
        config.include("pyramid_sqlalchemy_sessions")
        if configure is not None:
            configure(config)
        config.add_route("view", "/{rest:.*}")  # what no other route matches
        config.add_view(self._call_view, route_name="view")
        self.wsgi = config.make_wsgi_app()
        self.registry = config.registry

    def _tm_session(self, request: Any, manager: Any) -> Session:
        dbsession = self.make_session()
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        return dbsession

    def _dbsession(self, request: Any) -> Session:
        given = request.environ.get("app.dbsession")
        if given is not None:
            return given
        return self._make_dbsession(request, getattr(request, "tm", None))

    def _call_view(self, request: Any) -> Response:
        result = self.view(request)
        if isinstance(result, Response):
            return result
        return Response("" if result is None else str(result), charset="utf-8")

    def rows(self) -> list[Any]:
        """Return what the table holds, oldest first."""
        with Session(self.engine) as dbsession:
            return list(dbsession.query(self.model).order_by(self.model.created))

    def row(self) -> Any:
        """Return the only row."""
        (row,) = self.rows()
        return row

    def clear(self) -> None:
        """Empty the table."""
        with self.engine.begin() as connection:
            connection.execute(text(f"DELETE FROM {self.model.__tablename__}"))


class Browser(TestApp):
    """A browser: it keeps its cookies, and visits the application with a view."""

    def __init__(self, application: Application, **environ: Any):
        super().__init__(application.wsgi, extra_environ=environ)
        self.application = application

    def visit(self, view: Callable[[Any], Any], url: str = "/", **kw: Any) -> Any:
        """Answer one GET request with the view, and return the response."""
        self.application.view = view
        return self.get(url, **kw)

    def ask(self, question: Callable[[Any], Any], **kw: Any) -> Any:
        """Answer one GET request; return what the question makes of its session."""
        answers: list[Any] = []
        self.visit(lambda request: answers.append(question(request.session)), **kw)
        return answers[0]

    def fail(self, view: Callable[[Any], Any], url: str = "/", **kw: Any) -> None:
        """Answer one GET request with a view that raises _Failure after its work."""

        def failing(request: Any) -> None:
            view(request)
            raise Failure

        with contextlib.suppress(Failure):
            self.visit(failing, url, **kw)

    @property
    def cookie(self) -> str | None:
        """The value of the session cookie, None if there is none."""
        return self.cookies.get("session")


class Failure(Exception):
    """What a failing view raises."""


@contextlib.contextmanager
def statements(engine: Engine):
    """Collect the SQL statements that the engine executes."""
    collected: list[str] = []

    def collect(connection, cursor, statement, parameters, context, executemany):
        collected.append(statement)

    event.listen(engine, "before_cursor_execute", collect)
    try:
        yield collected
    finally:
        event.remove(engine, "before_cursor_execute", collect)


def environ_of_get(cookie: str | None, **more: Any) -> dict[str, Any]:
    """Return the environ of a GET request, for calls without WebTest, which is slow.

    ``cookie`` is the value of the Cookie header.
    """
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
        **more,
    }
    return environ if cookie is None else {**environ, "HTTP_COOKIE": cookie}
