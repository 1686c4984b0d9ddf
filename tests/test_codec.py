"""The session's dict as JSON: every value comes back equal, with every JSON library."""

from __future__ import annotations

import enum
import json
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    InconsistentDataError,
    JSONDataMixin,
)
from pyramid_sqlalchemy_sessions.codec import DEEPEST, JSON_CODEC
from tests.application import Application, Browser, statements
from tests.conftest import MakeEngine


class Base(DeclarativeBase):
    """The base of the model below."""


class InJSON(JSONDataMixin, BaseMixin, Base):
    """A session whose dict is JSON."""

    __tablename__ = "in_json"


def orjson_text(value: Any) -> str:
    """Write JSON with another library."""
    return orjson.dumps(value).decode()


#: The JSON libraries that an engine may have, and what they need of a text.
LIBRARIES: dict[str, dict[str, Any]] = {
    "json": {},
    "Decimal": {"json_deserializer": partial(json.loads, parse_float=Decimal)},
    "Decimal only": {
        "json_deserializer": partial(json.loads, parse_float=Decimal, parse_int=Decimal)
    },
    "orjson": {"json_serializer": orjson_text, "json_deserializer": orjson.loads},
    "sorted": {"json_serializer": partial(json.dumps, sort_keys=True)},
}

LOOKALIKES: list[Any] = [
    {"$decimal": "9.95"},
    {"$date": "never"},
    {"$dict": {}},
    {"$dict": {"$dict": {"$uuid": 1}}},
    {"$tuple": [1]},
    {"$items": []},
    {"$int": None},
    {"$": 1},
    {"$unknown": {"$datetime": datetime(2026, 11, 27)}},
    {"$a": 1, "$b": 2},
    {"a": {"$bytes": b""}},
    [{"$bytes": "%"}],
]

#: What comes back, and what it is stored as.
STORED: list[tuple[Any, Any]] = [
    (datetime(2026, 11, 27, 8, 30), {"$datetime": "2026-11-27T08:30:00"}),
    (
        datetime(2026, 11, 27, 8, 30, 0, 5, timezone.utc),
        {"$datetime": "2026-11-27T08:30:00.000005+00:00"},
    ),
    (date(2026, 11, 27), {"$date": "2026-11-27"}),
    (time(8, 30), {"$time": "08:30:00"}),
    (timedelta(1, 2, 3), {"$timedelta": [1, 2, 3]}),
    (timedelta(seconds=-1), {"$timedelta": [-1, 86399, 0]}),
    (Decimal("9.950"), {"$decimal": "9.950"}),
    (UUID(int=7), {"$uuid": "00000000-0000-0000-0000-000000000007"}),
    (b"\0\xff", {"$bytes": "AP8="}),
    ((1, (2,)), {"$tuple": [1, {"$tuple": [2]}]}),
    (2**63, {"$int": "9223372036854775808"}),
    (3.5041693667185596e16, {"$float": "3.5041693667185596e+16"}),
    (-1e16, {"$float": "-1e+16"}),
    ({1: 2}, {"$items": [[1, 2]]}),
    ({(1, 2): 3, "a": 4}, {"$items": [[{"$tuple": [1, 2]}, 3], ["a", 4]]}),
    ({"$a": 1}, {"$dict": {"$a": 1}}),
]

VALUES: list[Any] = [
    *(value for value, _ in STORED),
    *LOOKALIKES,
    datetime(2026, 7, 1, 8, 30, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime.min,
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    date.min,
    time(23, 59, 59, 999999, timezone(timedelta(hours=5, minutes=45))),
    timedelta.min,
    timedelta.max,
    Decimal("1E+400"),
    Decimal("-0.0"),
    Decimal("Infinity"),
    Decimal("0." + "123456789" * 10),
    UUID(int=2**128 - 1),
    bytes(range(256)),
    (),
    {},
    {(): {}, None: (), True: [], 1.5: "x", b"": b"", "$a": "$a"},
    {date.min: {UUID(int=1): {Decimal(1): timedelta(1)}}},
    [((b"",), [{"$x": (Decimal("1.10"),)}])],
    2**63 - 1,
    -(2**63),
    -(2**63) - 1,
    10**400,
    1e-300,
    1.7976931348623157e308,
    0.1,
    1.0,
    -0.0,
    "é😀\0\u2028",
    {"é😀": "", "": None},
]


def shape(value: Any) -> Any:
    """Return the value with the types of all that is in it: 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(each)) for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [shape(each) for each in value]
    if isinstance(value, (Decimal, float)):
        return type(value), str(value)
    if isinstance(value, (datetime, time)):
        return type(value), value, value.utcoffset()
    return type(value), value


def through(value: Any, dumps: Any = json.dumps, loads: Any = json.loads) -> Any:
    """Return what comes back from a column whose engine has this library."""
    return JSON_CODEC.loads(loads(dumps(JSON_CODEC.dumps({"a": value}))))["a"]


@pytest.mark.parametrize(("value", "expected"), STORED, ids=repr)
def test_tags(value: Any, expected: Any) -> None:
    """Each type has the tag that the documentation gives."""
    assert JSON_CODEC.dumps({"a": value}) == {"a": expected}
    assert shape(JSON_CODEC.loads({"a": expected})) == shape({"a": value})


@pytest.mark.parametrize("library", LIBRARIES)
def test_all_values(library: str, make_engine: MakeEngine) -> None:
    """They come back equal, and of the same type, from every database and library."""
    engine = make_engine(**LIBRARIES[library])
    Base.metadata.create_all(engine)
    application = Application(engine, InJSON)
    browser = Browser(application)
    values = {str(number): value for number, value in enumerate(VALUES)}
    browser.visit(lambda r: r.session.update(values))
    found = browser.ask(dict)
    for number, value in values.items():
        assert shape(found[number]) == sorted_shape(value, library), value
    # What was only read is not taken for changed.
    version = application.row().version
    browser.ask(lambda session: [session[key] for key in values])
    assert application.row().version == version


def sorted_shape(value: Any, library: str) -> Any:
    """Return the shape; a library may sort keys that are texts."""
    if library == "sorted" and isinstance(value, dict):
        if all(type(key) is str for key in value):
            value = {key: value[key] for key in sorted(value)}
        return dict, [
            (shape(key), sorted_shape(each, library)) for key, each in value.items()
        ]
    return shape(value)


@pytest.mark.parametrize("library", LIBRARIES)
def test_changes_in_place(library: str, open_browser: Any) -> None:
    """A change deep inside a tagged value is found, whatever the library."""
    browser = open_browser(library)
    browser.visit(lambda r: r.session.update(a={1: (2, [Decimal("1.0")])}, b=1.5))

    def view(request: Any) -> None:
        request.session["a"][1][1].append(Decimal("2.0"))

    browser.visit(view)
    expected = {1: (2, [Decimal("1.0"), Decimal("2.0")])}
    assert shape(browser.ask(lambda s: s["a"])) == shape(expected)
    with statements(browser.application.engine) as executed:
        browser.ask(lambda session: (session["a"], session["b"]))
    assert [each.split()[0] for each in executed] == ["SELECT"]


@pytest.fixture
def open_browser(sqlite_url: str) -> Iterator[Callable[[str], Browser]]:
    """Return a function that opens a browser of an application with a library."""
    engines: list[Engine] = []

    def open_it(library: str) -> Browser:
        engines.append(create_engine(sqlite_url, **LIBRARIES[library]))
        Base.metadata.create_all(engines[-1])
        return Browser(Application(engines[-1], InJSON))

    yield open_it
    for engine in engines:
        engine.dispose()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(timezone.utc))
    | st.timedeltas()
)
TAGS = st.sampled_from(
    [
        "$date",
        "$datetime",
        "$time",
        "$timedelta",
        "$decimal",
        "$uuid",
        "$bytes",
        "$tuple",
        "$int",
        "$float",
        "$items",
        "$dict",
        "$",
    ]
)
NESTED = st.recursive(
    SCALARS,
    lambda each: (
        st.lists(each, max_size=4)
        | st.lists(each, max_size=4).map(tuple)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])), each, max_size=4
        )
        | st.dictionaries(SCALARS, each, max_size=4)
        | st.dictionaries(TAGS, each, max_size=2)
    ),
    max_leaves=20,
)


@given(NESTED)
@example(3.5041693667185596e16)
def test_any_value(value: Any) -> None:
    """Whatever is made of these types comes back equal, and is stored alike again."""
    for dumps, loads in (
        (json.dumps, json.loads),
        (json.dumps, partial(json.loads, parse_float=Decimal)),
        (orjson.dumps, orjson.loads),
    ):
        back = through(value, dumps, loads)
        assert shape(back) == shape(value)
        assert JSON_CODEC.form(back) == JSON_CODEC.form(value)


@given(NESTED, NESTED)
def test_form(one: Any, other: Any) -> None:
    """The forms of two values are equal if they are the same to the session."""
    assert (JSON_CODEC.form(one) == JSON_CODEC.form(other)) == (
        shape(one) == shape(other)
    )


# Subclasses.


class Colour(str, enum.Enum):
    """Members that are texts."""

    RED = "red"


class Size(enum.IntEnum):
    """Members that are numbers."""

    LARGE = 3


class Ratio(float):
    """A number that shows itself in another way."""

    def __repr__(self) -> str:
        return "a ratio"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Size.LARGE, 3),
        (Ratio(0.5), 0.5),
        (OrderedDict(b=Decimal(1), a=(1,)), {"b": Decimal(1), "a": (1,)}),
        (defaultdict(list, {1: [b"x"]}), {1: [b"x"]}),
        (Counter({(1, 2): 3}), {(1, 2): 3}),
        (OrderedDict({"$date": "never"}), {"$date": "never"}),
        (type("List", (list,), {})([date.min]), [date.min]),
        ({Colour.RED: Size.LARGE}, {"red": 3}),
    ],
    ids=str,
)
def test_subclasses(value: Any, expected: Any) -> None:
    """They come back as what they are to JSON, with all that is in them."""
    assert shape(through(value)) == shape(expected)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [-math.inf],
        {1, 2},
        object(),
        bytearray(b"x"),
        namedtuple("Point", "x")(1),
        type("Day", (date,), {})(2026, 11, 27),
        enum.Enum("Other", "A"),
        "\ud800",
        {"\ud800": 1},
        {1: {2: "\udfff"}},
    ],
    ids=lambda value: ascii(value).partition(" at ")[0],
)
def test_no_json(value: Any) -> None:
    """What would not come back is a TypeError that names the key."""
    with pytest.raises(TypeError, match="'culprit'"):
        JSON_CODEC.dumps({"innocent": 1, "culprit": value})


# Depth.

WRAPPERS: list[Callable[[Any], Any]] = [
    lambda value: [value],
    lambda value: {"a": value},
    lambda value: (value,),
    lambda value: {1: value},
    lambda value: {"$a": value},
]


def depth_of(value: Any) -> int:
    """Tell how many levels JSON has."""
    levels = 0
    while isinstance(value, (list, dict)):
        held = value.values() if isinstance(value, dict) else value
        deeper = [each for each in held if isinstance(each, (list, dict))]
        value = deeper[0] if deeper else None
        levels += 1
    return levels


@pytest.mark.parametrize(
    "wrap", WRAPPERS, ids=["list", "dict", "tuple", "items", "escaped"]
)
def test_depth(wrap: Callable[[Any], Any]) -> None:
    """What is nested too deep for a JSON library is refused before it sees it."""
    value: Any = 1
    while depth_of(JSON_CODEC.dumps({"a": wrap(value)})) <= DEEPEST:
        value = wrap(value)
        assert through(value, orjson.dumps, orjson.loads) == value
    for _ in range(3):  # that's how many levels the longest tag takes
        value = wrap(value)
    with pytest.raises(TypeError, match=f"'a'.*{DEEPEST} levels"):
        JSON_CODEC.dumps({"a": value})


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_depth_on_mariadb(engine: Engine) -> None:
    """What its JSON can't hold is refused with a clear error, before it's sent."""
    Base.metadata.create_all(engine)
    browser = Browser(Application(engine, InJSON))
    value: Any = 1
    for _ in range(29):
        value = [value]
    browser.visit(lambda r: (r.session.update(a=[value]), r.session.flash(value)))
    assert browser.ask(lambda s: (s["a"], s.peek_flash())) == ([value], [value])
    for change in (
        lambda r: r.session.update(a=[[value]]),
        lambda r: r.session.flash([value]),
        lambda r: r.session.flash((value,)),
    ):
        with pytest.raises(ValueError, match="31"):
            browser.visit(change)
    assert browser.ask(lambda s: (s["a"], s.peek_flash())) == ([value], [value])


@pytest.mark.parametrize("library", LIBRARIES)
def test_messages(library: str, make_engine: MakeEngine) -> None:
    """Flash messages keep their numbers, too, whatever the library."""
    engine = make_engine(**LIBRARIES[library])
    Base.metadata.create_all(engine)
    browser = Browser(Application(engine, InJSON))
    messages = [7, 7.0, -0.5, 1e16, 1e300, True, {"n": 5, "total": 9.95}, [[-1, 0.1]]]
    for message in messages:
        browser.visit(lambda r, message=message: r.session.flash(message))
    browser.visit(lambda r: r.session.flash(7, allow_duplicate=False))
    assert shape(browser.ask(lambda s: s.pop_flash())) == shape(messages)
    assert browser.ask(lambda s: s.pop_flash()) == []


def test_endless() -> None:
    """So is a value that contains itself."""
    circle: list[Any] = []
    circle.append((circle,))
    with pytest.raises(TypeError, match=r"'a'.*200"):
        JSON_CODEC.dumps({"a": circle})


# What others wrote.


@pytest.mark.parametrize(
    "raw",
    [
        {"$date": "yesterday"},
        {"$decimal": "many"},
        {"$int": "1.5"},
        {"$bytes": "%%%"},
        {"$bytes": None},
        {"$tuple": 5},
        {"$dict": []},
        {"$items": [1]},
        {"$items": [[[], 1]]},
        {"$timedelta": [10**12, 0, 0]},
        {"$uuid": {}},
    ],
    ids=str,
)
def test_bad_tags(raw: Any) -> None:
    """A tag that holds nonsense is an error that names the column, not the value."""
    with pytest.raises(InconsistentDataError, match="'data'") as caught:
        JSON_CODEC.loads({"a": [raw]})
    assert "yesterday" not in str(caught.value)


def test_unknown_tag() -> None:
    """What looks like a tag, and is none, is what it is: other programs write, too."""
    raw = {"a": {"$unknown": [1, {"$uuid": str(UUID(int=1))}]}, "$date": "today"}
    assert JSON_CODEC.loads(raw) == {
        "a": {"$unknown": [1, UUID(int=1)]},
        "$date": "today",
    }


def test_tag_as_a_key_of_the_session(sqlite_engine: Engine) -> None:
    """The session's own keys may look like anything."""
    Base.metadata.create_all(sqlite_engine)
    browser = Browser(Application(sqlite_engine, InJSON))
    browser.visit(lambda r: r.session.update({"$date": "today"}))
    assert browser.ask(dict) == {"$date": "today"}
    with sqlite_engine.connect() as connection:
        stored = connection.scalar(text("SELECT data FROM in_json"))
    assert json.loads(stored) == {"$date": "today"}
