"""Django's sessions in the database."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.http import HttpResponse
from django.test.utils import CaptureQueriesContext
from django.urls import path
from sqlalchemy import URL, make_url

from ..databases import SQLITE_PRAGMAS
from ..workloads import Workload
from .base import DictContender

__all__ = ["DjangoSessions"]


class DjangoSessions(DictContender):
    """``django.contrib.sessions.backends.db``, each view in a transaction."""

    def __init__(self, url: str, workload: Workload):
        super().__init__(url, workload)
        if not settings.configured:
            _configure(make_url(url))
        settings.SESSION_SAVE_EVERY_REQUEST = self.extends
        from django.contrib.sessions.models import Session

        self.model = Session
        with connection.schema_editor() as editor:
            editor.create_model(Session)

    @classmethod
    def can(cls, workload: Workload, backend: str) -> bool:
        return backend in _DATABASES and super().can(workload, backend)

    def application(self, action: str) -> Any:
        act = getattr(self, action)

        def view(request: Any) -> HttpResponse:
            return HttpResponse(act(request))

        settings.ROOT_URLCONF = (path("", view),)
        return WSGIHandler()

    @contextmanager
    def sql(self) -> Iterator[list[str]]:
        words: list[str] = []
        with CaptureQueriesContext(connection) as queries:
            yield words
        words += [query["sql"].split()[0].upper() for query in queries]

    def close(self) -> None:
        with connection.schema_editor() as editor:
            editor.delete_model(self.model)
        connection.close()


def _configure(url: URL) -> None:
    database = {
        **_DATABASES[url.get_backend_name()],
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or "",
        "PORT": url.port or "",
        "CONN_MAX_AGE": None,  # connections are kept, as they are in SQLAlchemy's pool
        "ATOMIC_REQUESTS": True,
    }
    if url.query:
        database["OPTIONS"] = dict(url.query)
    settings.configure(
        ALLOWED_HOSTS=["localhost"],
        DATABASES={"default": database},
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        SECRET_KEY=secrets.token_hex(64),
        SESSION_COOKIE_NAME="session",
        USE_TZ=True,
    )
    django.setup()


#: What's particular to each kind of database.
_DATABASES: dict[str, dict[str, Any]] = {
    "postgresql": {"ENGINE": "django.db.backends.postgresql"},
    "sqlite": {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {"init_command": "; ".join(SQLITE_PRAGMAS)},
    },
}
