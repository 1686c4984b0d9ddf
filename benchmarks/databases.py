"""A place in the database for each worker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url, text

__all__ = ["DATABASES", "SQLITE_PRAGMAS", "do_not_wait_for_the_disk", "places"]

#: What is measured unless the command line names others.
DATABASES = (
    "sqlite://",
    "postgresql+psycopg2://postgres@/test",
    "mysql+pymysql://root@127.0.0.1:3306/test",
)

#: How SQLite is set up: as applications with more than one worker have it.
SQLITE_PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL")


@contextmanager
def places(database: str, number: int) -> Iterator[list[str]]:
    """Make that many places, and yield their URLs: files, schemas or databases.

    Commits don't wait for the disk if that's possible: its speed has nothing to do with
    the contenders, and would hide the differences.
    """
    url = make_url(database)
    names = [f"benchmark_{index}" for index in range(number)]
    backend = url.get_backend_name()
    if backend == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            yield [f"sqlite:///{Path(directory, name)}" for name in names]
        return
    # MySQL and MariaDB: a schema is a database.
    drop = "DROP SCHEMA IF EXISTS {}"
    if backend == "postgresql":
        drop += " CASCADE"
    _execute(url, [drop, "CREATE SCHEMA {}"], names)
    try:
        yield [_place(url, name) for name in names]
    finally:
        _execute(url, [drop], names)


def do_not_wait_for_the_disk(engine: Engine) -> None:
    """Let SQLite's commits wait for the disk as rarely as is safe."""

    def on_connect(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", on_connect)


def _place(url: URL, name: str) -> str:
    if url.get_backend_name() == "postgresql":
        options = f"-csearch_path={name} -csynchronous_commit=off"
        url = url.update_query_dict({"options": options})
    else:
        url = url.set(database=name)
    return url.render_as_string(hide_password=False)


def _execute(url: URL, statements: list[str], names: list[str]) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for name in names:
            for statement in statements:
                connection.execute(text(statement.format(name)))
    engine.dispose()
