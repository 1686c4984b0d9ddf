"""What others have made of the cookie or the row, and what no column can hold.

Broken cookies, rows that somebody else wrote, values that are too large: there is a new
session, or an error that says what to do, and nothing that was sent is quoted anywhere.
"""

from __future__ import annotations

import json
import pickle
import traceback
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Uuid,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, mapped_column, relationship

import pyramid_sqlalchemy_sessions as sessions
from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    BaseMixin,
    ClientAddressMixin,
    FullyFeaturedSession,
    InconsistentDataError,
    JSONDataMixin,
    LastSeenMixin,
    UserAgentMixin,
    UseridMixin,
)
from pyramid_sqlalchemy_sessions.columns import limits_of, refuse_excess
from pyramid_sqlalchemy_sessions.cookie import SessionCookie, Ticket
from pyramid_sqlalchemy_sessions.identifiers import new_id
from stress.fuzz_cookies import Judge
from tests.application import Application, Browser, Failure, statements


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class Everything(
    LastSeenMixin, UserAgentMixin, ClientAddressMixin, FullyFeaturedSession, Models
):
    """A session with every column."""

    __tablename__ = "everything"


class InJSON(JSONDataMixin, BaseMixin, Models):
    """A session whose data is JSON."""

    __tablename__ = "in_json"


class User(Models):
    """A user, who comes along with the session."""

    __tablename__ = "user_of_session"

    id = mapped_column(Integer, primary_key=True)


class Eager(UseridMixin, BaseMixin, Models):
    """A session that is loaded as a mapped object."""

    __tablename__ = "eager"

    userid = mapped_column(ForeignKey(User.id))
    user = relationship(User, lazy="joined")


class Small(UseridMixin, BaseMixin, Models):
    """A session whose columns hold little."""

    __tablename__ = "small"

    userid = mapped_column(String(5))
    data = mapped_column(LargeBinary(100), nullable=False)


class Blob(UseridMixin, BaseMixin, Models):
    """A session whose data is a plain BLOB, of 64 KiB on MariaDB."""

    __tablename__ = "blob"

    data = mapped_column(LargeBinary, nullable=False)


TIMEOUTS = {"idle_timeout": 1000, "absolute_timeout": 10_000, "renewal_timeout": 500}

#: Stands in the rows below, and may stand in no message.
MARKER = "garbage"


def make(engine: Engine, model: type = Everything, **settings: Any) -> Application:
    """Make an application and the table of its model."""
    Models.metadata.create_all(engine, [model.__table__, User.__table__])
    return Application(engine, model, **settings)


# Cookies.


def test_fuzzed_cookies() -> None:
    """No Cookie header makes an error, or SQL without being authentic."""
    judge = Judge(seed=1)
    assert [wrong for _ in range(2000) if (wrong := judge.try_one())] == []
    assert min(judge.seen.values()) > 400


class Verbose:
    """A serializer whose values are long."""

    def __init__(self, length: int) -> None:
        self.length = length

    def dumps(self, data: bytes) -> bytes:
        return b"x" * self.length

    def loads(self, value: bytes | str) -> bytes:
        raise NotImplementedError


def test_cookie_that_browsers_would_drop() -> None:
    """A cookie of more than 4096 characters, with its name, is an error."""
    ticket = Ticket(new_id())
    assert len(SessionCookie("name", Verbose(4092)).seal(ticket)) == 4092
    with pytest.raises(ValueError, match=r"4 \+ 4093 characters .*4096"):
        SessionCookie("name", Verbose(4093)).seal(ticket)


def test_cookie_is_short() -> None:
    """With both ids the value of the cookie has 88 characters."""
    cookie = SessionCookie("session", AESGCMSerializer(bytes(range(32))))
    assert len(cookie.seal(Ticket(new_id(), new_id()))) == 88


# Rows that somebody else has written.

#: SQL for what SQLite takes in any column.
GARBAGE = {
    "null": "NULL",
    "text": f"'{MARKER}'",
    "empty": "''",
    "negative": "-5",
    "huge": "9223372036854775807",
    "float": "1.5",
    "blob": f"CAST('{MARKER}' AS BLOB)",
    "no UTF-8": f"CAST(x'fffe' || '{MARKER}' AS TEXT)",
}
NO_NUMBER = {"text", "empty", "float", "blob", "no UTF-8"}
OUT_OF_RANGE = NO_NUMBER | {"negative", "huge"}
UNREADABLE = set(GARBAGE) - {"null"}

#: The garbage that is an error, for each column; the rest is what a session could hold:
#: NULL where nothing was set, or the column is newer, or any text that may be a domain.
ERRORS = {
    "created": OUT_OF_RANGE,
    "version": OUT_OF_RANGE,
    "data": UNREADABLE,
    "flash": UNREADABLE,
    "userid": NO_NUMBER,
    "authenticated": OUT_OF_RANGE,
    "csrf_token": UNREADABLE,
    "idle_expire": OUT_OF_RANGE,
    "idle_timeout": OUT_OF_RANGE,
    "extension_delay": OUT_OF_RANGE,
    "extension_chance": OUT_OF_RANGE,
    "extension_deadline": OUT_OF_RANGE,
    "absolute_expire": OUT_OF_RANGE,
    "renewal_id": UNREADABLE,
    "rotated": OUT_OF_RANGE,
    "rotated_from": UNREADABLE,
    "sent": OUT_OF_RANGE,
    "renewal_next": UNREADABLE,
    "renewal_previous": UNREADABLE,
    "renewed": OUT_OF_RANGE,
    "renewal_tried": OUT_OF_RANGE,
    "renewal_timeout": OUT_OF_RANGE,
    "renewal_try_every": OUT_OF_RANGE,
    "cookie_max_age": OUT_OF_RANGE,
    "cookie_path": set(GARBAGE) - {"null"},
    "cookie_domain": {"blob", "no UTF-8", "huge", "float"},
    # SQLAlchemy takes whatever is true for True.
    "cookie_secure": {"no UTF-8"},
    "cookie_httponly": {"no UTF-8"},
    "last_seen": OUT_OF_RANGE,
    "user_agent": {"blob", "no UTF-8"},
    "client_address": {"blob", "no UTF-8"},
    # Who is looked for by an id does not find what has none.
    "id": set(),
}
NOT_NULL = {"id", "created", "version", "data", "flash"}


def fill(request: Any) -> None:
    """Make a session that has everything."""
    session = request.session
    session["a"] = [1]
    session.flash("hello")
    session.userid = 5
    session.get_csrf_token()


def use(request: Any) -> None:
    """Use everything in a session."""
    session = request.session
    session.get("a")
    session.peek_flash()
    session.get_csrf_token()
    session["a"] = [2]
    session.flash("again")


@pytest.fixture
def browser(engine: Engine) -> Browser:
    """A browser with a session that has everything, on every kind of database."""
    browser = Browser(make(engine, **TIMEOUTS))
    browser.visit(fill)
    return browser


@pytest.fixture
def lite_browser(sqlite_engine: Engine) -> Browser:
    """A browser with a session that has everything, on SQLite."""
    browser = Browser(make(sqlite_engine, **TIMEOUTS))
    browser.visit(fill)
    return browser


def assert_explained(browser: Browser, name: str, view: Any = use) -> str:
    """Check that the request fails with an error that names the column alone."""
    with pytest.raises(InconsistentDataError, match=name) as caught:
        browser.visit(view)
    message = str(caught.value)
    assert "the row" in message or "Set it" in message
    assert MARKER not in "".join(traceback.format_exception(caught.value))
    return message


@pytest.mark.parametrize("name", ERRORS)
def test_garbage_in_a_column(name: str, lite_browser: Browser) -> None:
    """What a session never holds is an error that names the column and the remedy."""
    application, cookie = lite_browser.application, lite_browser.cookie
    with application.engine.connect() as connection:
        good = dict(connection.execute(text("SELECT * FROM everything")).one()._mapping)
    insert = (
        f"INSERT INTO everything ({', '.join(good)})"
        f" VALUES ({', '.join(f':{key}' for key in good)})"
    )
    for kind, sql in GARBAGE.items():
        if kind == "null" and name in NOT_NULL:
            continue
        lite_browser.reset()
        lite_browser.set_cookie("session", cookie)
        with application.engine.begin() as connection:
            connection.execute(text("DELETE FROM everything"))
            connection.execute(text(insert), good)
            connection.execute(text(f"UPDATE everything SET {name} = {sql}"))
        if kind in ERRORS[name]:
            assert_explained(lite_browser, name)
        else:
            lite_browser.visit(use)


def test_every_column_is_tried() -> None:
    """There is no column for which nobody has thought about garbage."""
    mixins = {name for name in sessions.__all__ if name.endswith("Mixin")}
    bases = {base.__name__ for base in Everything.__mro__}
    # tests/test_encryption.py is about the last one.
    assert mixins - bases == {"JSONDataMixin", "EncryptedDataMixin"}
    assert set(ERRORS) == set(Everything.__table__.columns.keys())


#: What every database takes, with the column that is named.
WELL_TYPED: list[tuple[str, dict[str, Any]]] = [
    ("created", {"created": -5}),
    ("created", {"created": 2**63 - 1}),
    ("version", {"version": -5}),
    ("version", {"version": 2**31 - 1}),
    ("data", {"data": MARKER.encode()}),
    ("data", {"data": pickle.dumps({MARKER: 1}, 4)[:-3]}),
    ("data", {"data": pickle.dumps([MARKER], 4)}),
    ("data", {"data": b"cnobody\nhas_it\n."}),
    ("data", {"data": f"F{MARKER}\n.".encode()}),
    ("flash", {"flash": None}),
    ("flash", {"flash": [MARKER]}),
    ("flash", {"flash": {"": MARKER}}),
    ("flash", {"flash": {"": None}}),
    ("csrf_token", {"csrf_token": b""}),
    ("csrf_token", {"csrf_token": MARKER.encode()}),
    ("idle_expire", {"idle_expire": -5}),
    ("idle_expire", {"idle_expire": 2**63 - 1}),
    ("absolute_timeout", {"absolute_expire": 5}),
    ("absolute_expire", {"absolute_expire": -5}),
    ("renewed", {"renewed": 2**63 - 1}),
    ("renewal_tried", {"renewal_tried": -5}),
    ("rotated", {"rotated": 2**63 - 1}),
    ("sent", {"sent": -5}),
    ("authenticated", {"authenticated": 2**63 - 1}),
    ("cookie_path", {"cookie_path": MARKER}),
    ("cookie_domain", {"cookie_domain": f"{MARKER}; HttpOnly"}),
]

#: What a row holds that is older than a column, or than a timeout.
OLDER: list[dict[str, Any]] = [
    {"idle_expire": None},
    {"renewed": None},
    {"renewal_next": new_id(), "renewal_tried": None},
    {"cookie_httponly": None},
    {"cookie_path": None},
    {"extension_chance": None, "extension_deadline": None},
    {"renewal_try_every": None},
]


def test_garbage_everywhere(browser: Browser) -> None:
    """It is so on every database, with what that database takes."""
    application = browser.application
    table = Everything.__table__
    with application.engine.connect() as connection:
        good = dict(connection.execute(table.select()).one()._mapping)
    for name, values in WELL_TYPED:
        with application.engine.begin() as connection:
            connection.execute(table.update().values({**good, **values}))
        assert_explained(browser, name)
    cookie = browser.cookie
    for values in ({}, *OLDER):
        browser.set_cookie("session", cookie)
        with application.engine.begin() as connection:
            connection.execute(table.update().values({**good, **values}))
        browser.visit(use)
        assert application.row().flash == {"": ["hello", "again"]}, values
        assert application.row().idle_expire is not None


def test_column_of_a_bad_setting(lite_browser: Browser) -> None:
    """If a setting is derived from a column, the error names both."""
    with lite_browser.application.engine.begin() as connection:
        connection.execute(update(Everything).values(absolute_expire=5))
    message = assert_explained(lite_browser, "absolute_timeout")
    assert "absolute_timeout (from absolute_expire) must be" in message


def test_class_that_is_gone_is_named(lite_browser: Browser) -> None:
    """If a class is gone, the error says which one."""
    with lite_browser.application.engine.begin() as connection:
        gone = b"cpyramid_sqlalchemy_sessions\nGone\n."
        connection.execute(update(Everything).values(data=gone))
    assert "attribute 'Gone'" in assert_explained(lite_browser, "'data'")


def test_empty_csrf_token_protects_nobody(lite_browser: Browser) -> None:
    """A token that anybody could guess is an error, and a login gives a good one."""
    with lite_browser.application.engine.begin() as connection:
        connection.execute(update(Everything).values(csrf_token=b""))
    assert_explained(lite_browser, "csrf_token")
    lite_browser.visit(lambda r: r.session.rotate())
    assert len(lite_browser.ask(lambda session: session.get_csrf_token())) == 28


def test_garbage_in_a_mapped_object(sqlite_engine: Engine) -> None:
    """A session that is loaded with its relationships says the same."""
    browser = Browser(make(sqlite_engine, Eager))
    browser.visit(lambda r: r.session.update(a=1))
    for sql in (GARBAGE["text"], GARBAGE["blob"], GARBAGE["no UTF-8"]):
        for name in ("flash", "version"):
            with sqlite_engine.begin() as connection:
                connection.execute(text("UPDATE eager SET flash = '{}', version = 1"))
                connection.execute(text(f"UPDATE eager SET {name} = {sql}"))
            assert_explained(browser, f"'{name}'", lambda r: r.session.get("a"))


def test_garbage_in_an_exception_view(sqlite_engine: Engine) -> None:
    """An exception view that uses such a session fails in the same way."""

    def add_exception_view(config: Any) -> None:
        config.add_exception_view(lambda error, r: use(r), context=Failure)

    application = make(sqlite_engine, configure=add_exception_view, **TIMEOUTS)
    browser = Browser(application)
    browser.visit(fill)
    with sqlite_engine.begin() as connection:
        connection.execute(text(f"UPDATE everything SET renewed = '{MARKER}'"))

    def fail(request: Any) -> None:
        raise Failure

    assert_explained(browser, "'renewed'", fail)


@pytest.mark.parametrize(
    "sql", ['{"a": NaN}', '{"a": Infinity}', '{"a": "\\ud800"}', "[" * 100_000, "1"]
)
def test_json_that_others_wrote(sql: str, sqlite_engine: Engine) -> None:
    """JSON of another program is read, or it is an error; it can be replaced."""
    browser = Browser(make(sqlite_engine, InJSON))
    browser.visit(lambda r: r.session.update(a=1))
    with sqlite_engine.begin() as connection:
        connection.execute(text("UPDATE in_json SET data = :sql"), {"sql": sql})

    def replace(request: Any) -> None:
        request.session.clear()
        request.session["a"] = 2

    if sql.startswith("{"):
        browser.visit(replace)
        assert json.loads(raw_data(sqlite_engine)) == {"a": 2}
    else:
        assert_explained(browser, "'data'", replace)


def raw_data(engine: Engine) -> Any:
    """Return the text in the column data of the only row."""
    with engine.connect() as connection:
        return connection.execute(text("SELECT data FROM in_json")).scalar_one()


# What no column can hold.


@pytest.fixture(params=[Small, Blob])
def too_much(
    request: pytest.FixtureRequest, engine: Engine
) -> Iterator[tuple[Application, dict[str, Any]]]:
    """An application, and attributes of a session that its table cannot hold."""
    is_mysql = engine.dialect.name == "mysql"
    is_sqlite = engine.dialect.name == "sqlite"
    if request.param is Small:
        yield make(engine, Small), {"userid": MARKER, "data": MARKER * 20}
    else:
        large = MARKER * (10_000 if is_mysql else 10)
        number = 2**70 if is_sqlite else 2**40
        yield (
            make(engine, Blob),
            {"userid": number, **({"data": large} if is_mysql else {})},
        )


def put(session: Any, name: str, value: Any) -> None:
    """Put a value into what is stored in the column."""
    if name == "userid":
        session.userid = value
    else:
        session["a"] = value


def assert_refused(browser: Browser, name: str, value: Any) -> None:
    """Check that the value is refused before the database sees anything of it."""
    application = browser.application
    before = [(row.id, row.version) for row in application.rows()]
    with (
        statements(application.engine) as collected,
        pytest.raises(
            ValueError, match=f"the session cannot be stored.*{name}"
        ) as info,
    ):
        browser.visit(lambda r: put(r.session, name, value))
    assert [each for each in collected if not each.startswith("SELECT")] == []
    assert str(value) not in "".join(traceback.format_exception(info.value))
    assert [(row.id, row.version) for row in application.rows()] == before


def test_too_much_for_a_column(too_much: Any) -> None:
    """What a column cannot hold is an error before any statement, without the value."""
    application, excess = too_much
    for name, value in excess.items():
        assert_refused(Browser(application), name, value)
    browser = Browser(application)
    browser.visit(lambda r: put(r.session, "data", "x"))
    for name, value in excess.items():
        assert_refused(browser, name, value)


def test_just_enough_for_a_column(engine: Engine) -> None:
    """What fits is stored, to the last byte and the highest number."""
    small, blob = make(engine, Small), make(engine, Blob)
    browser = Browser(small)
    empty = len(pickle.dumps({"a": ""}, 4))
    browser.visit(lambda r: r.session.update(a="x" * (100 - empty)))
    browser.visit(lambda r: put(r.session, "userid", "ÄÖÜäö"))
    assert (len(small.row().data), small.row().userid) == (100, "ÄÖÜäö")
    Browser(blob).visit(lambda r: put(r.session, "userid", 2**31 - 1))
    assert blob.row().userid == 2**31 - 1


def test_user_who_is_no_number(engine: Engine) -> None:
    """A text that is no number is refused at the call, also where that is SQLite."""
    application = make(engine, Blob)
    for value in (MARKER, "7.0", "07", " 7", b"7", 7.0, True):
        with pytest.raises(
            TypeError, match="a userid of this model must be an int"
        ) as info:
            Browser(application).visit(
                lambda r, value=value: put(r.session, "userid", value)
            )
        assert MARKER not in "".join(traceback.format_exception(info.value))
    assert application.rows() == []
    Browser(application).visit(lambda r: put(r.session, "userid", "7"))
    assert application.row().userid == 7


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_more_than_a_packet(engine: Engine) -> None:
    """Where the server would hang up the error names max_allowed_packet."""
    browser = Browser(make(engine))
    with engine.connect() as connection:
        packet = connection.execute(text("SELECT @@max_allowed_packet")).scalar_one()
    with pytest.raises(
        ValueError, match=f"max_allowed_packet of the server is {packet}"
    ):
        browser.visit(lambda r: put(r.session, "data", "x" * packet))
    browser.visit(lambda r: put(r.session, "data", "x" * 2**21))
    assert len(browser.application.row().data) > 2**21


@pytest.mark.parametrize(
    ("column_type", "dialect", "fits", "excess"),
    [
        (Integer(), postgresql, -(2**31), 2**31),
        (Integer(), mysql, 2**31 - 1, -(2**31) - 1),
        (Integer(), sqlite, 2**63 - 1, 2**63),
        (SmallInteger(), postgresql, 32767, 32768),
        (BigInteger(), postgresql, 2**63 - 1, 2**63),
        (Integer().with_variant(BigInteger(), "postgresql"), postgresql, 2**40, 2**63),
        (mysql.INTEGER(unsigned=True), mysql, 2**32 - 1, -1),
        (mysql.BIGINT(unsigned=True), mysql, 2**64 - 1, 2**64),
        (Integer(), postgresql, "17", "17a"),
        (String(5), postgresql, "12345", "123456"),
        (LargeBinary(5), postgresql, b"12345", b"123456"),
        (LargeBinary(), mysql, bytes(65535), bytes(65536)),
        (mysql.TINYBLOB(), mysql, bytes(255), bytes(256)),
        (mysql.MEDIUMBLOB(), mysql, bytes(2**20), bytes(2**24)),
        (LargeBinary(), postgresql, bytes(2**20), None),
        (String(), postgresql, "x" * 2**20, None),
        (Uuid(), postgresql, uuid.UUID(int=7), None),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)).rpartition(".")[2][:20],
)
def test_limits_of_types(
    column_type: Any, dialect: Any, fits: Any, excess: Any
) -> None:
    """Each type of a column has the limits that it has in the database."""
    columns = {"userid": mapped_column(column_type).column}
    limits = limits_of(columns, dialect.dialect())
    refuse_excess(limits, {"userid": fits})
    refuse_excess(limits, {"userid": None})
    if excess is not None:
        with pytest.raises(ValueError, match=r"its userid(, of type \w+,)? is "):
            refuse_excess(limits, {"userid": excess})
