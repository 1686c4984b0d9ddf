"""The recipes of the page on performance do what they are there for."""

from __future__ import annotations

import csv
import json

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase

from benchmarks.page import FIGURES, TABLE, rows_of
from benchmarks.workloads import WORKLOADS
from pyramid_sqlalchemy_sessions import BaseMixin, JSONDataMixin
from tests.application import Application, Browser
from tests.test_docs import load

orjson_recipe = load("orjson_engine")


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class JSONSession(JSONDataMixin, BaseMixin, Base):
    """A session that is stored as JSON."""

    __tablename__ = "performance_session"


def test_table_is_what_was_measured():
    """The table has the figures of the run that's beside it, and tests' statements."""
    figures = json.loads(FIGURES.read_text("utf-8"))
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == rows_of(figures)
    assert [int(row[1]) for row in rows] == [each.sql for each in WORKLOADS]


def test_orjson_and_json_read_each_other(database_url):
    """The engine can be changed over live sessions, and back again."""
    value = {"text": "ü \N{SNOWMAN}", "numbers": [1, 2.5, None, True]}
    with_orjson = orjson_recipe.engine_with_orjson(database_url)
    engines = [create_engine(database_url), with_orjson]
    Base.metadata.create_all(engines[0])
    first, second = (Browser(Application(each, JSONSession)) for each in engines)
    for writer, reader in ((first, second), (second, first)):
        writer.visit(lambda request: request.session.update(value))
        writer.visit(lambda request: request.session.flash("a message"))
        reader.set_cookie("session", writer.cookie)
        assert reader.ask(dict) == value
        assert reader.ask(lambda session: session.pop_flash()) == ["a message"]
        reader.visit(lambda request: request.session.invalidate())
    for engine in engines:
        engine.dispose()
