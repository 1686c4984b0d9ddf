"""What a contender is, and what those that are made with Pyramid have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import zope.sqlalchemy
from pyramid.config import Configurator
from sqlalchemy import MetaData, create_engine, event
from sqlalchemy.orm import sessionmaker

from ..workloads import Workload, payload

__all__ = ["Contender", "PyramidContender"]


class Contender:
    """An application that does the actions which the workloads name.

    ``create`` is one of them: its response sets the cookie of a session that has
    ``self.data`` and what ``workload.model`` says. A contender that cannot do an
    action leaves it out.
    """

    def __init__(self, url: str, workload: Workload):
        self.url = url
        self.workload = workload
        self.data = payload(workload.size)
        self.numbers = count(1)  # what the workload "write" writes

    def application(self, action: str) -> Any:
        """Return a WSGI application whose only view does the action."""
        raise NotImplementedError

    @contextmanager
    def sql(self) -> Iterator[list[str]]:
        """Collect the first words of what is sent to the database meanwhile."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove what was made in the database."""


class PyramidContender(Contender):
    """An application with pyramid_tm, and a dbsession made as in the cookiecutter.

    An action is a method that is used as a view.
    """

    def __init__(self, url: str, workload: Workload, metadata: MetaData):
        super().__init__(url, workload)
        self.engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _do_not_wait_for_the_disk)
        self.metadata = metadata
        metadata.create_all(self.engine)

    def application(self, action: str) -> Any:
        settings = {
            "tm.manager_hook": "pyramid_tm.explicit_manager",
            "tm.annotate_user": False,
        }
        config = Configurator(settings=settings)
        config.include("pyramid_tm")
        factory = sessionmaker()
        factory.configure(bind=self.engine)

        def dbsession(request: Any) -> Any:
            dbsession = request.environ.get("app.dbsession")
            if dbsession is None:
                dbsession = factory(info={"request": request})
                zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
            return dbsession

        config.add_request_method(dbsession, reify=True)
        self.configure(config)
        config.add_route("view", "/")
        config.add_view(getattr(self, action), route_name="view")
        return config.make_wsgi_app()

    def configure(self, config: Configurator) -> None:
        """Add what the contender adds to the application."""

    @contextmanager
    def sql(self) -> Iterator[list[str]]:
        words: list[str] = []

        def statement(
            connection: Any, cursor: Any, statement: str, *arguments: Any
        ) -> None:
            words.append(statement.split()[0].upper())

        def end(word: str) -> Any:
            return lambda connection, *arguments: words.append(word)

        listeners = [("before_cursor_execute", statement)] + [
            (name, end(name.upper().replace("_", " ")))
            for name in (
                "commit",
                "rollback",
                "savepoint",
                "release_savepoint",
                "rollback_savepoint",
            )
        ]
        for name, listener in listeners:
            event.listen(self.engine, name, listener)
        try:
            yield words
        finally:
            for name, listener in listeners:
                event.remove(self.engine, name, listener)

    def close(self) -> None:
        self.metadata.drop_all(self.engine)
        self.engine.dispose()


def _do_not_wait_for_the_disk(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")
