"""What a contender is, and what contenders of the same make have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any

import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy import Engine, MetaData, create_engine, event
from sqlalchemy.orm import sessionmaker

from ..databases import do_not_wait_for_the_disk
from ..workloads import Workload, payload

__all__ = [
    "TIMEOUT",
    "Contender",
    "DictContender",
    "PyramidContender",
    "PyramidDictContender",
    "sql_of",
]

#: The idle timeout in seconds, if there is one.
TIMEOUT = 3600


class Contender:
    """An application that does the actions that the workloads name.

    ``create`` is one of them: its response sets the cookie of a session that has
    ``self.data`` and what ``workload.model`` says.
    """

    def __init__(self, url: str, workload: Workload):
        self.url = url
        self.workload = workload
        self.data = payload(workload.size)
        self.numbers = count(1)  # what the workload "write" writes

    @classmethod
    def can(cls, workload: Workload, backend: str) -> bool:
        """Tell whether it can do the workload in such a database.

        By default it can do each action that it has a method for.
        """
        return hasattr(cls, workload.action)

    def application(self, action: str) -> Any:
        """Return a WSGI application whose only view does the action."""
        raise NotImplementedError

    def sql(self) -> AbstractContextManager[list[str]]:
        """Collect the first words of what's sent to the database in the meantime."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove what it has made in the database."""


class DictContender(Contender):
    """The actions of every session that's a dict: ``request.session``."""

    @classmethod
    def can(cls, workload: Workload, backend: str) -> bool:
        return (
            workload.model in ("plain", "idle")
            and workload.isolation is None
            and super().can(workload, backend)
        )

    @property
    def extends(self) -> bool:
        """Whether each request extends the idle timeout."""
        return self.workload.model == "idle"

    def untouched(self, request: Any) -> str:
        return "ok"

    def read(self, request: Any) -> str:
        value: str = request.session["key"]
        return value

    extend = read

    def read_missing(self, request: Any) -> str:
        return f"{request.session.get('key')}"

    def write(self, request: Any) -> str:
        request.session["counter"] = next(self.numbers)
        return "ok"

    def assign(self, request: Any) -> str:
        request.session["key"] = "value"
        return "value"

    def create(self, request: Any) -> str:
        request.session.update(self.data)
        return "ok"


class PyramidContender(Contender):
    """An application with pyramid_tm, and a dbsession made as in the cookiecutter."""

    def __init__(self, url: str, workload: Workload, metadata: MetaData):
        super().__init__(url, workload)
        options = {}
        if workload.isolation is not None:
            options["isolation_level"] = workload.isolation
        self.engine = create_engine(url, **options)
        do_not_wait_for_the_disk(self.engine)
        self.metadata = metadata
        metadata.create_all(self.engine)

    def application(self, action: str) -> Any:
        settings = {
            "tm.manager_hook": "pyramid_tm.explicit_manager",
            "tm.annotate_user": False,
        }
        config = Configurator(settings=settings)
        config.include("pyramid_tm")
        self.add_dbsession(config)
        self.configure(config)
        config.add_route("view", "/")
        config.add_view(self.view(action), route_name="view")
        return config.make_wsgi_app()

    def add_dbsession(self, config: Configurator) -> None:
        """Do what the cookiecutter does for ``request.dbsession``."""
        factory = sessionmaker()
        factory.configure(bind=self.engine)

        def dbsession(request: Any) -> Any:
            dbsession = request.environ.get("app.dbsession")
            if dbsession is None:
                dbsession = _get_tm_session(factory, request.tm, request=request)
            return dbsession

        config.add_request_method(dbsession, reify=True)

    def configure(self, config: Configurator) -> None:
        """Add what the contender adds to the application."""

    def view(self, action: str) -> Any:
        """Return the view that does the action: the method itself."""
        return getattr(self, action)

    def sql(self) -> AbstractContextManager[list[str]]:
        return sql_of(self.engine)

    def close(self) -> None:
        self.metadata.drop_all(self.engine)
        self.engine.dispose()


def _get_tm_session(factory: Any, manager: Any, request: Any) -> Any:
    dbsession = factory(info={"request": request})
    zope.sqlalchemy.register(dbsession, transaction_manager=manager)
    return dbsession


class PyramidDictContender(DictContender, PyramidContender):
    """A session of Pyramid that is a dict, in such an application."""

    def view(self, action: str) -> Any:
        act = getattr(self, action)
        return lambda request: Response(act(request))


@contextmanager
def sql_of(engine: Engine) -> Iterator[list[str]]:
    """Collect the first words of what the engine sends in the meantime."""
    words: list[str] = []

    def statement(
        connection: Any, cursor: Any, statement: str, *arguments: Any
    ) -> None:
        words.append(statement.split()[0].upper())

    def end(word: str) -> Any:
        return lambda connection: words.append(word)

    listeners = [
        ("before_cursor_execute", statement),
        *((name, end(name.upper())) for name in ("begin", "commit", "rollback")),
    ]
    for name, listener in listeners:
        event.listen(engine, name, listener)
    try:
        yield words
    finally:
        for name, listener in listeners:
            event.remove(engine, name, listener)
