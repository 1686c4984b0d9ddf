"""Stores of both kinds over every driver, so that one test can be about all of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    AsyncSessionStore,
    SessionStore,
    get_session_factory,
)
from pyramid_sqlalchemy_sessions.session import SessionFactory
from tests.databases import Database

#: The drivers of SessionStore and of AsyncSessionStore, by kind of database.
DRIVERS = (
    ("sqlite", "sqlite"),
    ("sqlite", "sqlite+aiosqlite"),
    ("postgresql", "postgresql+psycopg2"),
    ("postgresql", "postgresql+psycopg_async"),
    ("postgresql", "postgresql+asyncpg"),
    ("mariadb", "mysql+pymysql"),
    ("mariadb", "mysql+asyncmy"),
)


class Clock:
    """A clock that tests push forward."""

    def __init__(self, now: int):
        self.now = now

    def __call__(self) -> int:
        return self.now


def make_factory(model: type, clock: Clock, **settings: Any) -> SessionFactory:
    """Make a session factory with a clock that tests push forward."""
    factory = get_session_factory(AESGCMSerializer(bytes(16)), model, **settings)
    return SessionFactory(replace(factory.config, clock=clock))


class Stores:
    """Makes stores over one driver, each in a transaction."""

    def __init__(self, database: Database, driver: str):
        url = make_url(database.url)
        self.checks = create_engine(url)  # to look at what was stored
        self._loop: asyncio.AbstractEventLoop | None = None
        if driver == url.drivername:
            self.engine = self.checks
            return
        options: dict[str, Any] = {}
        if driver == "postgresql+asyncpg":
            url = url.set(query={})
            options["server_settings"] = {"search_path": database.name}
        self._loop = asyncio.new_event_loop()
        self._async_engine = create_async_engine(
            url.set(drivername=driver), connect_args=options
        )
        self.engine = self._async_engine.sync_engine

    def close(self) -> None:
        """Leave nothing open."""
        self.checks.dispose()
        if self._loop is not None:
            self._loop.run_until_complete(self._async_engine.dispose())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    @contextmanager
    def begin(self, factory: SessionFactory) -> Iterator[Any]:
        """Begin a transaction, and commit it: but not after an exception."""
        if self._loop is None:
            with Session(self.engine) as dbsession, dbsession.begin():
                yield SessionStore(dbsession, factory)
            return
        run = self._loop.run_until_complete
        dbsession = AsyncSession(self._async_engine)
        try:
            yield Awaiting(AsyncSessionStore(dbsession, factory), run)
            run(dbsession.commit())
        finally:
            run(dbsession.close())


class Awaiting:
    """An AsyncSessionStore whose methods are awaited, so that tests read alike."""

    def __init__(self, store: AsyncSessionStore, run: Any):
        self._store = store
        self._run = run

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if not inspect.iscoroutinefunction(value):
            return value
        return lambda *args, **kw: self._run(value(*args, **kw))
