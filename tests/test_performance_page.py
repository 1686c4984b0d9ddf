"""The recipes of the page on performance do what they are there for."""

from __future__ import annotations

import re

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase

from benchmarks.workloads import WORKLOADS
from pyramid_sqlalchemy_sessions import BaseMixin, JSONDataMixin
from tests.application import Application, Browser
from tests.applications.starter import PAGES
from tests.test_docs import load

orjson_recipe = load("orjson_engine")


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class JSONSession(JSONDataMixin, BaseMixin, Base):
    """A session that is stored as JSON."""

    __tablename__ = "performance_session"


def test_table_names_the_statements_of_each_workload():
    """The page has a row for each workload, with the statements that tests count."""
    rows = re.findall(r"^   \* - (.+)\n     - (\d)\n", PAGES["performance"], re.M)
    # That of our own dbsession is told in the text.
    listed = [each for each in WORKLOADS if each.name != "listening-once"]
    assert [int(number) for _, number in rows[: len(listed)]] == [
        each.sql for each in listed
    ]


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
