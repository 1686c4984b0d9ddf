"""The databases that tests run on, one of each kind per test session.

SQLite is a file. On PostgreSQL the session makes itself a schema, on MariaDB a
database, under a name of its own, so that any number of test runs share a server. Both
are dropped at the end; what an interrupted run left is dropped by a later one.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

KINDS = ("sqlite", "postgresql", "mariadb")

#: The environment variables that name the servers, and what they are by default.
SERVERS = {
    "postgresql": (
        "PSS_TEST_POSTGRESQL_URL",
        "postgresql+psycopg2://postgres@127.0.0.1:5432/test",
    ),
    "mariadb": (
        "PSS_TEST_MARIADB_URL",
        "mysql+pymysql://root@127.0.0.1:3306/test",
    ),
}

#: Set to 1 (continuous integration does), it makes a missing server a failure.
REQUIRE = "PSS_REQUIRE_DATABASES"

_NAME = re.compile(r"pss_(\d{10})_\d+_[0-9a-f]{8}")
_DAY = 24 * 60 * 60


@dataclass
class Database:
    """An empty database of one kind, made when it is first asked for."""

    kind: str
    directory: Path = field(default_factory=Path)

    @property
    def url(self) -> str:
        """The URL that leads SQLAlchemy into it, also from another process.

        It holds no percent sign of its own, so that it can stand in an ini file.
        """
        if self.kind == "sqlite":
            return f"sqlite:///{self.directory / 'test.sqlite'}"
        if self.kind == "postgresql":
            options = f"-csearch_path={self.name}"
            url = self._server.update_query_dict({"options": options}, append=False)
            rendered = url.render_as_string(hide_password=False)
            return rendered.replace("=-csearch_path%3D", "=-csearch_path=")
        url = self._server.set(database=self.name)
        return url.render_as_string(hide_password=False)

    @cached_property
    def missing(self) -> str | None:
        """Why there is no such database here; None when there is one."""
        if self.kind == "sqlite":
            return None
        try:
            self._administer(lambda connection: None)
        except (ImportError, SQLAlchemyError) as error:
            variable, _ = SERVERS[self.kind]
            server = self._server.render_as_string()
            reason = str(error).strip().splitlines()[0]
            return f"no {self.kind} at {server} ({variable}): {reason}"
        return None

    def clear(self) -> None:
        """Drop every table and whatever else is in it."""
        if self.kind == "sqlite":
            for path in self.directory.glob("test.sqlite*"):
                path.unlink()
        elif "name" in self.__dict__:
            self._administer(self._clear)

    def drop(self) -> None:
        """Leave nothing behind."""
        if self.kind == "sqlite":
            self.clear()
        elif "name" in self.__dict__:
            self._administer(lambda connection: self._drop(connection, self.name))
            del self.name

    @property
    def _server(self) -> URL:
        variable, default = SERVERS[self.kind]
        return make_url(os.environ.get(variable) or default)

    @cached_property
    def name(self) -> str:
        """The schema or database, made at this moment."""
        name = f"pss_{int(time.time())}_{os.getpid()}_{secrets.token_hex(4)}"
        self._administer(self._drop_abandoned)
        self._administer(lambda connection: self._create(connection, name))
        return name

    def _administer(self, work: Callable[[Connection], None]) -> None:
        """Do ``work`` on the server, in autocommit, and give up waiting soon."""
        engine = create_engine(
            self._server,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 5},
        )
        with engine.connect() as connection:
            # Who waits here waits for a test that left a transaction open.
            if self.kind == "postgresql":
                connection.execute(text("SET lock_timeout = '10s'"))
            else:
                connection.execute(text("SET lock_wait_timeout = 10"))
            work(connection)

    def _create(self, connection: Connection, name: str) -> None:
        if self.kind == "postgresql":
            connection.execute(text(f"CREATE SCHEMA {name}"))
        else:
            connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))

    def _drop(self, connection: Connection, name: str) -> None:
        if self.kind == "postgresql":
            # Not the notices that tell of every table.
            connection.execute(text("SET client_min_messages = warning"))
            connection.execute(text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
        else:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))

    def _clear(self, connection: Connection) -> None:
        self._drop(connection, self.name)
        self._create(connection, self.name)

    def _drop_abandoned(self, connection: Connection) -> None:
        """Drop what runs of more than a day ago could not drop themselves."""
        names = connection.scalars(
            text("SELECT schema_name FROM information_schema.schemata")
        )
        for name in names.all():
            match = _NAME.fullmatch(name)
            if match and int(match[1]) < time.time() - _DAY:
                try:
                    self._drop(connection, name)
                except DBAPIError:
                    # Another run is dropping it at the same time.
                    continue
