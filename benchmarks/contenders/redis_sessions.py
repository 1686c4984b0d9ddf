"""pyramid_session_redis: the sessions are in Redis."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from pyramid.config import Configurator
from sqlalchemy import MetaData

from ..workloads import Workload
from .base import TIMEOUT, PyramidDictContender

__all__ = ["RedisSessions", "redis_answers"]

_URL = "redis://127.0.0.1:6379/0"
_PREFIX = "benchmark:"


class RedisSessions(PyramidDictContender):
    """Redis on this machine; the keys get their own prefix."""

    def __init__(self, url: str, workload: Workload):
        super().__init__(url, workload, MetaData())
        _clear()  # what a run that was interrupted has left
        self.settings = {
            "redis.sessions.secret": secrets.token_hex(64),
            "redis.sessions.redis_url": _URL,
            "redis.sessions.prefix": _PREFIX,
            "redis.sessions.timeout": TIMEOUT if self.extends else 0,
        }

    def configure(self, config: Configurator) -> None:
        config.add_settings(self.settings)
        config.include("pyramid_session_redis")

    @contextmanager
    def sql(self) -> Iterator[list[str]]:
        """Collect the names of the commands: a pipeline is one trip."""
        words: list[str] = []
        send = redis.Connection.send_packed_command

        def counted(connection: Any, command: Any, *arguments: Any, **kw: Any) -> None:
            parts = command if isinstance(command, list) else [command]
            words.append(b"".join(map(bytes, parts)).split(b"\r\n")[2].decode("ascii"))
            send(connection, command, *arguments, **kw)

        redis.Connection.send_packed_command = counted  # type: ignore[method-assign]
        try:
            yield words
        finally:
            redis.Connection.send_packed_command = send  # type: ignore[method-assign]

    def close(self) -> None:
        _clear()
        super().close()


def _clear() -> None:
    with redis.Redis.from_url(_URL) as client:
        for key in client.scan_iter(f"{_PREFIX}*", count=1000):
            client.unlink(key)


def redis_answers() -> bool:
    """Tell whether a Redis is running."""
    with redis.Redis.from_url(_URL, socket_connect_timeout=2) as client:
        try:
            client.ping()
        except redis.RedisError:
            return False
    return True
