"""The recipes of the page on performance do what they are there for."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Integer, create_engine, delete, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, sessionmaker
from zope.sqlalchemy import ZopeTransactionEvents

from benchmarks.workloads import WORKLOADS
from pyramid_sqlalchemy_sessions import BaseMixin, JSONDataMixin
from tests.application import Application, Browser
from tests.applications.starter import PAGES
from tests.test_docs import load

recipes = load("listen_once")
orjson_recipe = load("orjson_engine")


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Order(Base):
    """What the application itself stores."""

    __tablename__ = "performance_order"
    id = mapped_column(Integer, primary_key=True)
    number = mapped_column(Integer, nullable=False)


class JSONSession(JSONDataMixin, BaseMixin, Base):
    """A session that is stored as JSON."""

    __tablename__ = "performance_session"


def test_table_names_the_statements_of_each_workload():
    """The page has a row for each workload, with the statements that tests count."""
    rows = re.findall(r"^   \* - (.+)\n     - (\d)\n", PAGES["performance"], re.M)
    # That of the recipe is told in the text.
    listed = [each for each in WORKLOADS if each.name != "listening-once"]
    assert [int(number) for _, number in rows[: len(listed)]] == [
        each.sql for each in listed
    ]


def add(dbsession):
    """Write in a flush."""
    dbsession.add(Order(number=2))


def change(dbsession):
    """Write in a flush of something that was loaded."""
    dbsession.scalars(select(Order)).one().number = 2


def execute_insert(dbsession):
    """Write in a statement."""
    dbsession.execute(insert(Order), [{"number": 2}])


def execute_update(dbsession):
    """Write in a statement."""
    dbsession.execute(update(Order).values(number=2))


def execute_delete(dbsession):
    """Write in a statement."""
    dbsession.execute(delete(Order))


def query_update(dbsession):
    """Write in the manner of SQLAlchemy 1."""
    dbsession.query(Order).update({"number": 2})


def query_delete(dbsession):
    """Write in the manner of SQLAlchemy 1."""
    dbsession.query(Order).delete()


WAYS = {
    add: [1, 2],
    change: [2],
    execute_insert: [1, 2],
    execute_update: [2],
    execute_delete: [],
    query_update: [2],
    query_delete: [],
}


@pytest.fixture
def numbers(engine):
    """The numbers of the orders, of which there is one at first."""
    Base.metadata.create_all(engine)
    with Session(engine) as dbsession, dbsession.begin():
        dbsession.add(Order(number=1))

    def numbers() -> list[int]:
        with Session(engine) as dbsession:
            return sorted(dbsession.scalars(select(Order.number)))

    return numbers


@pytest.fixture
def browser(engine, numbers):
    """A browser of an application whose listeners are registered once."""
    factory = sessionmaker(engine)
    recipes.listen_once(factory)
    return Browser(
        Application(
            engine,
            JSONSession,
            make_dbsession=lambda request, manager: recipes.get_tm_session(
                factory, manager, request
            ),
        )
    )


@pytest.mark.parametrize("write", WAYS)
def test_what_is_written_is_committed(write, browser, numbers):
    """Each way of writing is noticed, with a session beside it and without one."""
    browser.visit(lambda request: write(request.dbsession))
    assert numbers() == WAYS[write]
    browser.visit(lambda request: request.session.update(key=1))
    assert browser.ask(dict) == {"key": 1}


@pytest.mark.parametrize("write", WAYS)
def test_what_fails_is_rolled_back(write, browser, numbers):
    """Nothing stays, neither of the application nor of the session."""

    def view(request):
        request.session["key"] = 1
        write(request.dbsession)
        request.dbsession.flush()

    browser.fail(view)
    assert numbers() == [1]
    assert browser.ask(dict) == {}


def test_savepoint(browser, numbers):
    """What is rolled back to a savepoint is forgotten, and the rest is stored."""

    def view(request):
        request.session["key"] = 1
        add(request.dbsession)
        savepoint = request.dbsession.begin_nested()
        request.session["key"] = 2
        query_delete(request.dbsession)
        savepoint.rollback()

    browser.visit(view)
    assert numbers() == [1, 2]
    assert browser.ask(dict) == {"key": 1}


def test_commit_beside_the_transaction_manager_is_refused(browser, numbers):
    """As zope.sqlalchemy does it: who commits the dbsession itself makes a mistake."""

    def view(request):
        add(request.dbsession)
        request.dbsession.commit()

    with pytest.raises(AssertionError, match="using the transaction manager"):
        browser.visit(view)
    assert numbers() == [1]


def test_events_are_all_that_zope_sqlalchemy_listens_to():
    """A new version of it may listen to more."""
    helpers = {"join_transaction", "mark_changed"}
    listeners = {
        name for name in vars(ZopeTransactionEvents) if not name.startswith("_")
    }
    assert listeners - helpers == set(recipes.EVENTS)


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
