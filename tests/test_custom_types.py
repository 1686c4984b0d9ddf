"""Columns with types of the application's own."""

from __future__ import annotations

import json
import traceback
import uuid
import zlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pyramid.interfaces import ISessionFactory
from sqlalchemy import (
    JSON,
    Engine,
    ForeignKey,
    LargeBinary,
    Text,
    TypeDecorator,
    Uuid,
    text,
)
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, relationship

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    InconsistentDataError,
    JSONDataMixin,
    SessionStore,
    UseridMixin,
)
from tests.application import Application, Browser, statements
from tests.histories import check_history


class Compressed(TypeDecorator):
    """Bytes, compressed."""

    impl = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        assert value is None or type(value) is bytes
        return value if value is None else zlib.compress(value)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value if value is None else zlib.decompress(value)


class ShortCompressed(Compressed):
    """What is compressed has to fit into few bytes."""

    impl = LargeBinary(200)
    cache_ok = True


class CompressedJSON(TypeDecorator):
    """A dict as JSON, compressed."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        assert value is None or type(value) is dict
        return value if value is None else zlib.compress(json.dumps(value).encode())

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value if value is None else json.loads(zlib.decompress(value))


class TextOfJSON(TypeDecorator):
    """A dict as a text that is JSON."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        assert value is None or type(value) is dict
        return value if value is None else json.dumps(value)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value if value is None else json.loads(value)


Mutable = MutableDict.as_mutable

COLUMNS: dict[str, Callable[[], dict[str, Any]]] = {
    "compressed": lambda: {"data": Compressed},
    "flash in text": lambda: {"flash": TextOfJSON},
    "both": lambda: {"data": Compressed, "flash": TextOfJSON},
    "compressed JSON": lambda: {"json": True, "data": CompressedJSON},
    "data in text": lambda: {"json": True, "data": TextOfJSON},
    "mutable": lambda: {"json": True, "data": Mutable(JSON), "flash": Mutable(JSON)},
    "mutable flash": lambda: {"flash": Mutable(JSON)},
    "mutable text": lambda: {"flash": Mutable(TextOfJSON)},
}


def make_model(json: bool = False, is_eager: bool = False, **types: Any) -> Any:
    """Make a model with columns of these types."""

    class Base(DeclarativeBase):
        pass

    body: dict[str, Any] = {"__tablename__": "session"}
    for name, kind in types.items():
        body[name] = mapped_column(kind, nullable=False)
    if is_eager:
        body["other_id"] = mapped_column(Uuid, ForeignKey("session.id"))
        body["other"] = relationship("Model", remote_side="Model.id", lazy="joined")
    mixins = (JSONDataMixin,) if json else ()
    return type("Model", (*mixins, UseridMixin, CSRFMixin, BaseMixin, Base), body)


def serve(engine: Engine, model: Any) -> Application:
    """Make the tables and an application."""
    model.metadata.create_all(engine)
    return Application(engine, model)


@pytest.fixture(params=[False, True], ids=["lazy", "eager"])
def is_eager(request: pytest.FixtureRequest) -> bool:
    """Whether the row is loaded as a mapped object."""
    return request.param


@pytest.fixture(params=COLUMNS)
def application(
    request: pytest.FixtureRequest, is_eager: bool, engine: Engine
) -> Application:
    """An application whose model has such columns."""
    return serve(engine, make_model(is_eager=is_eager, **COLUMNS[request.param]()))


def test_history(application: Application) -> None:
    """Each of these types serves a whole history."""
    check_history(application)
    check_history(application, **{"retry.attempt": 1})


def test_changes(application: Application) -> None:
    """Changes in place are found, reads write nothing, messages keep their order."""
    browser = Browser(application)

    def view(request: Any) -> None:
        request.session["a"] = {"b": [1]}
        request.session["amount"] = Decimal("9.95")
        request.session.flash("one")
        request.session.flash({"two": [2]}, "other")

    browser.visit(view)
    browser.visit(lambda r: r.session["a"]["b"].append(2))
    browser.visit(lambda r: r.session.flash("three"))
    expected = {"a": {"b": [1, 2]}, "amount": Decimal("9.95")}
    assert browser.ask(dict) == expected
    version = application.row().version
    with statements(application.engine) as executed:
        browser.ask(lambda s: (s["a"]["b"], s.peek_flash(), s.instance))
    assert {each.split()[0] for each in executed} == {"SELECT"}
    assert application.row().version == version
    assert browser.ask(lambda s: s.pop_flash()) == ["one", "three"]
    assert browser.ask(lambda s: s.pop_flash("other")) == [{"two": [2]}]
    assert application.row().flash == {}
    assert browser.ask(dict) == expected


def test_merging(application: Application) -> None:
    """Two requests that change different keys and queues both succeed."""
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(a=[1], b=[1]))
    other = Browser(application)
    other.set_cookie("session", str(browser.cookie))

    def view(request: Any) -> None:
        request.session["a"].append(2)
        request.session.flash("mine")
        other.application.view = lambda r: (
            r.session["b"].append(2),
            r.session.flash("yours"),
        )
        other.get("/")

    browser.visit(view)
    assert browser.ask(dict) == {"a": [1, 2], "b": [1, 2]}
    assert browser.ask(lambda s: s.pop_flash()) == ["yours", "mine"]


def test_instance(application: Application) -> None:
    """The mapped object has what is stored, and may stand beside a change."""
    browser = Browser(application)

    def fill(request: Any) -> None:
        request.session["a"] = [1]
        request.session.flash("one")

    browser.visit(fill)

    def view(request: Any) -> None:
        instance = request.session.instance
        assert instance.flash == {"": ["one"]}
        assert instance.data
        request.session["a"].append(2)
        request.session.flash("two")
        request.dbsession.flush()

    browser.visit(view)
    assert browser.ask(dict) == {"a": [1, 2]}
    assert browser.ask(lambda s: s.peek_flash()) == ["one", "two"]


def test_persist(application: Application) -> None:
    """The row can be written in the midst of a request, and again at its end."""
    browser = Browser(application)

    def view(request: Any) -> None:
        request.session["a"] = [1]
        request.session.persist()
        request.session["a"].append(2)
        request.session.flash("one")

    browser.visit(view)
    assert browser.ask(dict) == {"a": [1, 2]}
    assert browser.ask(lambda s: s.peek_flash()) == ["one"]


def test_store(application: Application) -> None:
    """A SessionStore reads and writes the same."""
    factory = application.registry.getUtility(ISessionFactory)
    with Session(application.engine) as dbsession, dbsession.begin():
        store = SessionStore(dbsession, factory)
        key = store.create({"a": [Decimal(1)]})
    with Session(application.engine) as dbsession, dbsession.begin():
        store = SessionStore(dbsession, factory)
        assert store.get(key) == {"a": [Decimal(1)]}
        store.set(key, {"b": (2,)})
        assert store.get(key) == {"b": (2,)}
        assert store.get(uuid.uuid4()) is None


def stored(engine: Engine, name: str) -> Any:
    """Return what the only row really holds."""
    with engine.connect() as connection:
        return connection.scalar(text(f"SELECT {name} FROM session"))


def test_what_is_stored(engine: Engine) -> None:
    """The types do what they are for."""
    application = serve(engine, make_model(data=Compressed, flash=TextOfJSON))
    browser = Browser(application)

    def view(request: Any) -> None:
        request.session["large"] = "x" * 10**5
        request.session.flash("message")

    browser.visit(view)
    assert len(stored(engine, "data")) < 1000
    assert stored(engine, "flash") == '{"": ["message"]}'


def test_limit_is_of_what_is_stored(engine: Engine) -> None:
    """A column that holds little takes much, if that is compressed to little."""
    browser = Browser(serve(engine, make_model(data=ShortCompressed)))
    browser.visit(lambda r: r.session.update(large="x" * 10**4))
    assert len(stored(engine, "data")) < 200
    assert browser.ask(lambda s: len(s["large"])) == 10**4


@pytest.mark.parametrize(
    "data", [b"nonsense", zlib.compress(b"nonsense")], ids=["outside", "inside"]
)
def test_garbage(data: bytes, engine: Engine) -> None:
    """What the type cannot read is an error that names the column, without a quote."""
    application = serve(engine, make_model(data=Compressed))
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(a=1))
    with engine.begin() as connection:
        connection.execute(text("UPDATE session SET data = :data"), {"data": data})
    with pytest.raises(InconsistentDataError, match="'data'") as caught:
        browser.visit(lambda r: r.session["a"])
    assert "nonsense" not in "".join(traceback.format_exception(caught.value))
