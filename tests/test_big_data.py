"""Large data, data of version 0.1.0, and data that cannot be read."""

from __future__ import annotations

import json
import pickle
import random
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text, update
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    InconsistentDataError,
    JSONDataMixin,
    UseridMixin,
)
from tests.application import Application, Browser

MEGABYTE = 2**20


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Pickled(UseridMixin, CSRFMixin, BaseMixin, Base):
    """A session whose data is a pickle."""

    __tablename__ = "pickled"


class InJSON(JSONDataMixin, UseridMixin, CSRFMixin, BaseMixin, Base):
    """A session whose data is JSON."""

    __tablename__ = "in_json"


@pytest.fixture(params=[Pickled, InJSON], ids=lambda model: model.__name__)
def application(request: pytest.FixtureRequest, engine: Engine) -> Application:
    """An application whose sessions hold pickles, and one whose sessions hold JSON."""
    Base.metadata.create_all(engine)
    return Application(engine, request.param)


@pytest.fixture
def pickled(engine: Engine) -> Application:
    """An application whose sessions hold pickles."""
    Base.metadata.create_all(engine)
    return Application(engine, Pickled)


@pytest.fixture
def in_json(engine: Engine) -> Application:
    """An application whose sessions hold JSON."""
    Base.metadata.create_all(engine)
    return Application(engine, InJSON)


def corrupt(application: Application, **values: Any) -> None:
    """Write something else into the only row."""
    with application.engine.begin() as connection:
        connection.execute(update(application.model).values(**values))


def log_in(application: Application) -> Browser:
    """Return a browser in which user 1 is logged in, with data and a message."""
    browser = Browser(application)

    def view(request: Any) -> None:
        request.session.userid = 1
        request.session["a"] = 1
        request.session.flash("hello")

    browser.visit(view)
    return browser


# A megabyte.


def test_a_megabyte_of_text(application: Application) -> None:
    """A megabyte of text is stored and comes back."""
    browser = Browser(application)
    word = "".join(map(chr, random.Random(1).choices(range(0x20, 0x2FF), k=1024)))
    book = word * 1024
    browser.visit(lambda r: r.session.update(book=book))
    assert browser.visit(lambda r: r.session["book"] == book).text == "True"


def test_a_megabyte_of_astral_text(application: Application) -> None:
    """So do characters that take four bytes."""
    browser = Browser(application)
    book = "\N{GRINNING FACE}" * (MEGABYTE // 4)
    browser.visit(lambda r: r.session.update(book=book))
    assert browser.visit(lambda r: r.session["book"] == book).text == "True"


def test_a_megabyte_of_bytes(pickled: Application) -> None:
    """So do a megabyte of bytes, whatever they are."""
    browser = Browser(pickled)
    book = random.Random(1).randbytes(MEGABYTE)
    browser.visit(lambda r: r.session.update(book=book))
    assert browser.visit(lambda r: r.session["book"] == book).text == "True"


def test_a_megabyte_of_small_values(application: Application) -> None:
    """So do a great many small values, and a change deep inside them is noticed."""
    browser = Browser(application)
    rows = {str(number): [number, str(number) * 5] for number in range(20_000)}
    browser.visit(lambda r: r.session.update(rows=rows))
    browser.visit(lambda r: r.session["rows"]["19999"].append("new"))
    found = json.loads(browser.visit(lambda r: json.dumps(r.session["rows"])).text)
    assert found == {**rows, "19999": [19999, "19999" * 5, "new"]}


def test_a_megabyte_of_flash_messages(application: Application) -> None:
    """So does a megabyte of flash messages."""
    browser = Browser(application)
    message = "ä" * (MEGABYTE // 2)
    browser.visit(lambda r: r.session.flash(message))
    assert browser.visit(lambda r: r.session.pop_flash() == [message]).text == "True"


def test_shrinking(application: Application) -> None:
    """A session that held a megabyte can become small again."""
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(book="a" * MEGABYTE))
    browser.visit(lambda r: r.session.update(book="a"))
    assert browser.visit(lambda r: dict(r.session)).text == "{'book': 'a'}"


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("name", "part", "size"),
    [
        ("data", "x", 1),
        ("flash", "x", 1),
        ("data", '"', 2),  # the driver writes it with a backslash
        ("flash", "\N{GRINNING FACE}", 14),
    ],
)
def test_more_than_a_packet(
    name: str, part: str, size: int, application: Application, engine: Engine
) -> None:
    """It's an error that names the limit, in each column, and all that's less fits."""
    with engine.connect() as connection:
        packet = connection.execute(text("SELECT @@max_allowed_packet")).scalar_one()

    def put(request: Any, value: str) -> None:
        if name == "data":
            request.session["a"] = value
        else:
            request.session.flash(value)

    browser = Browser(application)
    is_twice_escaped = name == "flash" or application.model is InJSON
    small = part * (packet // 5 // size // (2 if is_twice_escaped else 1))
    browser.visit(lambda r: put(r, small))
    message = rf"its {name} is \d+, and max_allowed_packet of the server is {packet}"
    with pytest.raises(ValueError, match=message):
        browser.visit(lambda r: put(r, part * (packet // size)))
    assert application.row().version == 1


# Data of version 0.1.0.


def insert_row(application: Application, **values: Any) -> Browser:
    """Return a browser with the cookie of a row that is inserted past the library."""
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(a=1))
    with application.engine.begin() as connection:
        row = connection.execute(application.model.__table__.select()).one()._asdict()
        connection.execute(application.model.__table__.delete())
        connection.execute(insert(application.model).values(**{**row, **values}))
    return browser


def test_data_of_0_1_0(pickled: Application) -> None:
    """A pickle of version 0.1.0, which holds SQLAlchemy's MutableDict, is read."""
    old = MutableDict({"cart": ["book"], "seen": {1, 2}, 3: uuid.UUID(int=3)})
    browser = insert_row(pickled, data=pickle.dumps(old, 4))
    assert browser.visit(lambda r: dict(r.session) == dict(old)).text == "True"
    assert browser.visit(lambda r: list(r.session)).text == "['cart', 'seen', 3]"


def test_reading_data_of_0_1_0(pickled: Application) -> None:
    """Reading it changes nothing, not even when a mutable value is handed out."""
    data = pickle.dumps(MutableDict({"cart": ["book"]}), 4)
    browser = insert_row(pickled, data=data)
    assert browser.visit(lambda r: r.session["cart"]).text == "['book']"
    row = pickled.row()
    assert (row.data, row.version) == (data, 1)


def test_changing_data_of_0_1_0(pickled: Application) -> None:
    """The next change stores a plain dict, a pickle of protocol 4."""
    browser = insert_row(pickled, data=pickle.dumps(MutableDict({"cart": ["book"]}), 4))
    browser.visit(lambda r: r.session["cart"].append("pen"))
    data = pickled.row().data
    assert data[:2] == b"\x80\x04"
    assert b"MutableDict" not in data
    assert pickle.loads(data) == {"cart": ["book", "pen"]}


def test_nested_mutable_dict(pickled: Application) -> None:
    """A MutableDict inside the data of version 0.1.0 is read, too."""
    old = MutableDict({"inner": MutableDict({"a": [1]})})
    browser = insert_row(pickled, data=pickle.dumps(old, 4))
    browser.visit(lambda r: r.session["inner"]["a"].append(2))
    assert browser.visit(lambda r: r.session["inner"]["a"]).text == "[1, 2]"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_protocols(protocol: int, pickled: Application) -> None:
    """Pickles of every protocol are read; protocol 4 is written."""
    browser = insert_row(pickled, data=pickle.dumps({"a": [1]}, protocol))
    assert browser.visit(lambda r: r.session["a"]).text == "[1]"
    browser.visit(lambda r: r.session.update(b=2))
    assert pickled.row().data[:2] == b"\x80\x04"


# Data that cannot be read.


class Gone:
    """A class that will be gone when its object is read."""


def pickle_of_a_class_that_is_gone() -> bytes:
    """Return a pickle that names a class that no longer exists."""
    return pickle.dumps({"a": Gone()}, 4).replace(b"Gone", b"Lost")


CORRUPT = {
    "empty": b"",
    "zero": b"\0",
    "garbage": b"garbage",
    "truncated": pickle.dumps({"a": 1}, 4)[:-3],
    "future": b"\x80\x7f.",
    "list": pickle.dumps([("a", 1)], 4),
    "none": pickle.dumps(None, 4),
    "class": pickle_of_a_class_that_is_gone(),
    "module": pickle.dumps({"a": Gone()}, 4).replace(
        b"test_big_data", b"nest_big_data"
    ),
    "json": b'{"a": 1}',
}


@pytest.fixture(params=CORRUPT)
def corrupted(request: pytest.FixtureRequest, pickled: Application) -> Browser:
    """A browser in which user 1 is logged in; the data of the session is corrupt."""
    browser = log_in(pickled)
    corrupt(pickled, data=CORRUPT[request.param])
    return browser


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "view",
    [
        lambda r: r.session["a"],
        lambda r: r.session.get("a"),
        lambda r: r.session.update(a=1),
        lambda r: "a" in r.session,
        lambda r: dict(r.session),
        lambda r: len(r.session),
        lambda r: r.session.clear(),
    ],
    ids=["getitem", "get", "update", "contains", "dict", "len", "clear"],
)
def test_corrupt_data(view: Any, corrupted: Browser) -> None:
    """Data that cannot be read is an error that names the column and the remedy."""
    with pytest.raises(InconsistentDataError, match=r"'data'.*delete the row") as info:
        corrupted.visit(view)
    assert "garbage" not in str(info.value)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_user_of_corrupt_data(corrupted: Browser) -> None:
    """Whose session it is can be read all the same, and the rest that is no data."""

    def view(request: Any) -> Any:
        session = request.session
        return session.userid, session.peek_flash(), session.new

    assert corrupted.visit(view).text == "(1, ['hello'], False)"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_writing_beside_corrupt_data(corrupted: Browser) -> None:
    """Flash, token and cookie can be changed; the data stays what it is."""
    data = corrupted.application.row().data

    def view(request: Any) -> None:
        request.session.flash("again")
        request.session.get_csrf_token()
        request.session.rotate()

    corrupted.visit(view)
    row = corrupted.application.row()
    assert (row.userid, row.data) == (1, data)
    assert row.flash == {"": ["hello", "again"]}
    corrupted.visit(lambda r: setattr(r.session, "userid", None))
    row = corrupted.application.row()
    assert (row.userid, row.data) == (None, data)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_switching_users_over_corrupt_data(corrupted: Browser) -> None:
    """Another user starts with an empty dict, without a look at what was there."""
    corrupted.visit(lambda r: setattr(r.session, "userid", 2))
    assert corrupted.ask(dict) == {}
    row = corrupted.application.row()
    assert (row.userid, row.flash) == (2, {})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_invalidating_corrupt_data(corrupted: Browser) -> None:
    """Such a session can be ended: logging out helps."""
    corrupted.visit(lambda r: r.session.invalidate())
    assert corrupted.application.rows() == []
    assert corrupted.cookie is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_replacing_corrupt_data(corrupted: Browser) -> None:
    """And the new session of the same request can be used."""

    def view(request: Any) -> None:
        request.session.invalidate()
        request.session["b"] = 2

    corrupted.visit(view)
    assert corrupted.visit(lambda r: dict(r.session)).text == "{'b': 2}"


def test_corrupt_data_everywhere(pickled: Application) -> None:
    """So it is on every database."""
    browser = log_in(pickled)
    corrupt(pickled, data=b"garbage")
    with pytest.raises(InconsistentDataError, match="'data'"):
        browser.visit(lambda r: r.session["a"])
    assert browser.visit(lambda r: r.session.userid).text == "1"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("value", [[], ["a"], "text", 1, True])
@pytest.mark.parametrize("name", ["data", "flash"])
def test_json_that_is_no_object(
    name: str, value: Any, in_json: Application, engine: Engine
) -> None:
    """A JSON column that holds no object is an error that names it and the remedy."""
    browser = log_in(in_json)
    corrupt(in_json, **{name: value})

    def view(request: Any) -> Any:
        return request.session["a"] if name == "data" else request.session.pop_flash()

    with pytest.raises(InconsistentDataError, match=rf"'{name}'.*delete the row"):
        browser.visit(view)
    assert browser.visit(lambda r: r.session.userid).text == "1"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["data", "flash"])
def test_text_that_is_no_json(name: str, in_json: Application) -> None:
    """Text that is no JSON, which SQLite lets anybody write, is the same error."""
    browser = log_in(in_json)
    with in_json.engine.begin() as connection:
        connection.execute(text(f"UPDATE in_json SET {name} = '{{broken'"))
    with pytest.raises(InconsistentDataError, match=rf"'{name}'.*delete the row"):
        browser.visit(lambda r: (r.session.get("a"), r.session.pop_flash()))
