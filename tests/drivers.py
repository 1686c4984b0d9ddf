"""The drivers that applications use, and connections that are lost at a word."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

#: Set to 1, it makes a missing driver a failure.
REQUIRE_DRIVERS = "PSS_REQUIRE_DRIVERS"


@dataclass(frozen=True)
class Driver:
    """A driver: its kind of database, its name for SQLAlchemy, and its module."""

    kind: str
    dialect: str
    module: str
    is_async: bool = False


DRIVERS = {
    "psycopg2": Driver("postgresql", "postgresql+psycopg2", "psycopg2"),
    "psycopg": Driver("postgresql", "postgresql+psycopg", "psycopg"),
    "pg8000": Driver("postgresql", "postgresql+pg8000", "pg8000"),
    "asyncpg": Driver("postgresql", "postgresql+asyncpg", "asyncpg", True),
    "pymysql": Driver("mariadb", "mysql+pymysql", "pymysql"),
    "mysqlclient": Driver("mariadb", "mysql+mysqldb", "MySQLdb"),
    "mariadb": Driver("mariadb", "mariadb+mariadbconnector", "mariadb"),
    "asyncmy": Driver("mariadb", "mysql+asyncmy", "asyncmy", True),
    "sqlite3": Driver("sqlite", "sqlite", "sqlite3"),
    "aiosqlite": Driver("sqlite", "sqlite+aiosqlite", "aiosqlite", True),
}


def open_engine(url: str | URL, driver: str) -> Engine:
    """Make an engine of the driver on the test's database."""
    known = DRIVERS[driver]
    if os.environ.get(REQUIRE_DRIVERS) != "1":
        pytest.importorskip(known.module, reason=f"{driver} is not installed")
    parsed = make_url(url).set(drivername=known.dialect)
    options = str(parsed.query.get("options", ""))
    # Some drivers don't know this parameter.
    parsed = parsed.difference_update_query(["options"])
    connect_args = {"timeout": 0} if known.kind == "sqlite" else {}
    create = _create_async_engine if known.is_async else create_engine
    engine = create(parsed, connect_args=connect_args)
    if options:
        _set_on_connect(engine, options.removeprefix("-c").replace("=", " TO "))
    return engine


def _create_async_engine(url: URL, **options: Any) -> Engine:
    return create_async_engine(url, **options).sync_engine


def _set_on_connect(engine: Engine, setting: str) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET {setting}")
        cursor.close()
        connection.commit()


def with_any_driver(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test as ``AsyncSession`` runs what it is given.

    So it can use drivers for asyncio as if they were like the others. At the end, the
    connections of the fixture ``engine`` are closed.
    """

    @functools.wraps(test)
    def run(*, engine: Engine, **fixtures: Any) -> None:
        async def main() -> None:
            try:
                await greenlet_spawn(test, engine=engine, **fixtures)
            finally:
                await greenlet_spawn(engine.dispose)

        asyncio.run(main())

    return run


def unwrap(context: Any) -> None:
    """Raise the driver's own error, as PyPI's warehouse does."""
    wrapped = context.sqlalchemy_exception
    if isinstance(wrapped, DBAPIError) and wrapped.orig:
        raise wrapped.orig from wrapped


class Proxy:
    """Stands between an engine and its server, and hangs up at a word."""

    def __init__(self, host: str, port: int):
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._word = b""
        self._answers = True
        threading.Thread(target=self._accept, daemon=True).start()

    def hang_up_at(self, word: str, answers: bool) -> None:
        """Hang up once, when the client says the word.

        If ``answers``, the server hears it, and its answer is lost.
        """
        self._word, self._answers = word.upper().encode(), answers

    def close(self) -> None:
        """Accept no more connections."""
        # The shutdown wakes the thread.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                _Line(self, client, server).open()

    def hears(self, data: bytes) -> bool:
        """Tell whether it is time to hang up."""
        if not self._word or self._word not in data.upper():
            return False
        self._word = b""
        return True

    @property
    def answers(self) -> bool:
        """Tell whether the server hears the word."""
        return self._answers


class _Line:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket):
        self._proxy, self._client, self._server = proxy, client, server
        self._is_ending = False

    def open(self) -> None:
        for talk in (self._to_server, self._to_client):
            threading.Thread(target=self._run, args=[talk], daemon=True).start()

    def _run(self, talk: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            talk()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _to_server(self) -> None:
        while data := self._client.recv(65536):
            if self._proxy.hears(data):
                self._is_ending = True
                if not self._proxy.answers:
                    return
            self._server.sendall(data)

    def _to_client(self) -> None:
        while (data := self._server.recv(65536)) and not self._is_ending:
            self._client.sendall(data)


@contextlib.contextmanager
def proxy_of(url: str) -> Iterator[tuple[Proxy, URL]]:
    """Open a proxy before the server of the URL; yield it, and the URL through it."""
    parsed = make_url(url)
    assert parsed.host
    assert parsed.port
    proxy = Proxy(parsed.host, parsed.port)
    yield proxy, parsed.set(host="127.0.0.1", port=proxy.port)
    proxy.close()
