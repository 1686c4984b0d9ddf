"""Litestar with the SQLAlchemy session back end of Advanced Alchemy, its ORM plugin."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Any

from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from advanced_alchemy.extensions.litestar.session import (
    SessionModelMixin,
    SQLAlchemyAsyncSessionBackend,
)
from litestar import Litestar, MediaType, Request, get
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.base import SessionMiddleware
from litestar.middleware.session.server_side import ServerSideSessionConfig
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..databases import do_not_wait_for_the_disk
from ..workloads import Workload
from .base import TIMEOUT, DictContender, sql_of

try:
    import uvloop
except ImportError:
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

__all__ = ["LitestarSessions"]


class UserSession(SessionModelMixin):
    """The model of the sessions, as in the documentation."""

    __tablename__ = "session"


class LitestarSessions(DictContender):
    """An ASGI application on an asynchronous driver."""

    def __init__(self, url: str, workload: Workload):
        super().__init__(url, workload)
        self.loop = new_event_loop()
        self.engine = _async_engine(url)
        engine = create_engine(url)
        UserSession.metadata.create_all(engine)
        engine.dispose()

    @classmethod
    def can(cls, workload: Workload, backend: str) -> bool:
        return backend in _DRIVERS and super().can(workload, backend)

    def application(self, action: str) -> Any:
        act = getattr(self, action)

        @get("/", media_type=MediaType.TEXT)
        async def view(request: Request[Any, Any, Any]) -> str:
            answer: str = act(request)
            return answer

        alchemy = SQLAlchemyAsyncConfig(engine_instance=self.engine)
        backend = SQLAlchemyAsyncSessionBackend(
            config=ServerSideSessionConfig(max_age=TIMEOUT),
            alchemy_config=alchemy,
            model=UserSession,
        )
        app = Litestar(
            [view],
            middleware=[DefineMiddleware(SessionMiddleware, backend=backend)],
            plugins=[SQLAlchemyPlugin(config=alchemy)],
            openapi_config=None,
        )
        return _as_wsgi(app, self.loop)

    def sql(self) -> AbstractContextManager[list[str]]:
        return sql_of(self.engine.sync_engine)

    def close(self) -> None:
        self.loop.run_until_complete(self.engine.dispose())
        self.loop.close()
        engine = create_engine(self.url)
        UserSession.metadata.drop_all(engine)
        engine.dispose()


_DRIVERS = {"postgresql": "asyncpg", "sqlite": "aiosqlite"}


def _async_engine(url: str) -> AsyncEngine:
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    parsed = parsed.set(drivername=f"{backend}+{_DRIVERS[backend]}")
    arguments: dict[str, Any] = {}
    if backend == "postgresql":
        # As libpq reads them: "-cNAME=VALUE -cNAME=VALUE".
        options = str(parsed.query["options"]).split()
        pairs = (option.removeprefix("-c").split("=") for option in options)
        arguments["server_settings"] = {name: value for name, value in pairs}
        parsed = parsed.difference_update_query(["options"])
    engine = create_async_engine(parsed, connect_args=arguments)
    do_not_wait_for_the_disk(engine.sync_engine)
    return engine


def _as_wsgi(app: Litestar, loop: asyncio.AbstractEventLoop) -> Any:
    """Let the application answer in the event loop, which runs for each request."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        headers = [(b"host", b"localhost")]
        if "HTTP_COOKIE" in environ:
            headers.append((b"cookie", environ["HTTP_COOKIE"].encode("latin-1")))
        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        scope: Any = {**_SCOPE, "headers": headers}
        loop.run_until_complete(app(scope, receive, send))
        start, *bodies = messages
        sent = [(name.decode(), value.decode()) for name, value in start["headers"]]
        start_response(f"{start['status']} ", sent)
        return [message["body"] for message in bodies]

    return application


_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "client": ("127.0.0.1", 1),
    "server": ("localhost", 80),
}
