"""Helpers for tests: real requests that leave nothing behind, and a dummy session."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sqlalchemy import create_engine
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session as DBSession
from sqlalchemy.orm import class_mapper, registry, sessionmaker
from sqlalchemy.orm.attributes import set_committed_value

from . import session_config
from .model import (
    EncryptedDataMixin,
    FullyFeaturedSession,
    create_session_model,
)
from .serializer import AESGCMSerializer
from .session import Session
from .session_config import SessionConfig
from .settle import born
from .state import State

__all__ = ["DummySession", "later", "rolled_back"]


@contextmanager
def rolled_back(
    engine: Engine, *session_factories: sessionmaker[Any]
) -> Generator[Connection]:
    """Let requests commit, and roll everything back in the end.

    Begins a transaction on a connection, which is returned, and rolls it back.
    In between, the dbsessions of the factories (SQLAlchemy's, such as
    ``app.registry["dbsession_factory"]``) use that connection, and their transactions
    are savepoints on it: what a request commits is there for the next one. On SQLite,
    whose driver begins transactions too late for savepoints, this begins one itself.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(engine.connect())
        if engine.dialect.name == "sqlite":
            stack.enter_context(_without_transactions_of_the_driver(connection))
        stack.callback(connection.begin().rollback)
        if engine.dialect.name == "sqlite" and not _driver(connection).in_transaction:
            connection.exec_driver_sql("BEGIN")
        for factory in session_factories:
            stack.callback(factory.kw.update, factory.kw.copy())
            stack.callback(factory.kw.clear)
            factory.configure(
                bind=connection,
                join_transaction_mode="create_savepoint",
                twophase=False,  # which a savepoint can't be
            )
        yield connection


@contextmanager
def _without_transactions_of_the_driver(connection: Connection) -> Generator[None]:
    driver = _driver(connection)
    before = driver.isolation_level
    driver.isolation_level = None
    try:
        yield
    finally:
        driver.isolation_level = before


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


@contextmanager
def later(seconds: float) -> Generator[None]:
    """Set the clock of all sessions ahead by some seconds, in a ``with`` block.

    No other clock is changed.
    """
    now = vars(session_config)["time"].time
    ahead = SimpleNamespace(time=lambda: now() + seconds)
    with mock.patch.object(session_config, "time", ahead):
        yield


class DummySession(Session):
    """A session in memory, for ``pyramid.testing.DummyRequest``.

    It's the real session without a database, a cookie and a transaction: calls are
    checked as usual, and nothing is stored. It holds the ``data``, and belongs to the
    user with the ``userid``. ``new`` says whether it behaves like one that isn't stored
    yet.

    It has all features. With a ``model_class``, it has those of that model, which
    doesn't need a table.
    """

    __slots__ = ()

    def __init__(
        self,
        data: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
        *,
        userid: Any = None,
        new: bool = True,
        model_class: type | None = None,
    ):
        memory = _Memory(_config_of(model_class or _every_feature()))
        super().__init__(memory.config, lambda: memory)
        self.update(data)
        if userid is not None:
            self.authenticate(userid)
        if not new:
            memory.persist()


class _Memory:
    """Holds what a visit would find in the database."""

    request: Any = None

    def __init__(self, config: SessionConfig):
        self.config = config
        self._state = State(config, None)
        self._instance: Any = None

    @property
    def dbsession(self) -> DBSession:
        """A dbsession that's only asked which database it has."""
        return DBSession(create_engine("sqlite://"))

    def read(self) -> State:
        return self._state

    def touch(self, state: State) -> State:
        return state

    def lend(self, state: State, value: Any) -> Any:
        return value

    def persist(self) -> None:
        """Make the session one that's already stored."""
        if self._state.loaded is None:
            self._state.clean(born(self._state))

    def foresee(self, state: State) -> None:
        """Return what is going to be due: nothing, since time doesn't pass here."""

    def instance(self) -> Any:
        """Return an object of the model without a dbsession, or None while it's new."""
        row = self._state.loaded
        if row is None:
            return None
        if self._instance is None or self._instance.id != row["id"]:
            manager: Any = class_mapper(self.config.table.model_class).class_manager
            self._instance = manager.new_instance()
            for name, value in row.items():
                set_committed_value(self._instance, name, value)
        return self._instance


@cache
def _every_feature() -> type[Any]:
    return create_session_model(registry().generate_base(), FullyFeaturedSession)


@cache
def _config_of(model_class: type) -> SessionConfig:
    is_encrypted = issubclass(model_class, EncryptedDataMixin)
    keys = {"data_keys": bytes(32)} if is_encrypted else {}
    return SessionConfig.make(AESGCMSerializer(bytes(32)), model_class, keys)
