"""The stores: sessions by their ids, in the caller's transaction.

Each test is run with SessionStore and with AsyncSessionStore, over every driver.
"""

from __future__ import annotations

import base64
import inspect
import os
import pickle
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import (
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Uuid,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, relationship

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    AsyncSessionStore,
    BaseMixin,
    ConfigAbsoluteMixin,
    ConfigIdleMixin,
    ConfigurationError,
    IdleMixin,
    JSONDataMixin,
    RenewalMixin,
    SessionStore,
    UseridMixin,
)
from pyramid_sqlalchemy_sessions.identifiers import new_id
from tests.application import Failure, statements
from tests.databases import REQUIRE, Database
from tests.stores import DRIVERS, Clock, Stores, make_factory


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Plain(JSONDataMixin, BaseMixin, Base):
    """Sessions without any feature, with JSON as data."""

    __tablename__ = "store_plain"


class Timed(IdleMixin, AbsoluteMixin, UseridMixin, BaseMixin, Base):
    """Sessions of users that can expire in two ways, with a column of the user's."""

    __tablename__ = "store_timed"

    user_agent = mapped_column(String(200))


class Own(ConfigIdleMixin, ConfigAbsoluteMixin, UseridMixin, BaseMixin, Base):
    """Sessions whose timeouts are their own."""

    __tablename__ = "store_own"


class Renewed(RenewalMixin, IdleMixin, BaseMixin, Base):
    """Sessions whose cookies are renewed."""

    __tablename__ = "store_renewed"


class Person(Base):
    """A user, who comes along with each session of theirs."""

    __tablename__ = "store_person"

    name = mapped_column(String(20), primary_key=True)


class Awkward(IdleMixin, UseridMixin, BaseMixin, Base):
    """Sessions that are declared in every unusual way."""

    __tablename__ = "store awkward"

    id = mapped_column("session", Uuid, primary_key=True)
    version = mapped_column("Version:1", Integer, key="w", nullable=False)
    data = mapped_column("key", LargeBinary, key="id", nullable=False)
    userid = mapped_column("user", ForeignKey(Person.name), key="who")
    own = mapped_column("_id", Integer, nullable=False, default=5)
    user = relationship(Person, lazy="joined")

    def __init__(self) -> None:
        raise NotImplementedError


#: A moment, in seconds since the epoch.
NOW = 2_000_000_000


@pytest.fixture(
    scope="module", params=[pytest.param(each, id=each[1]) for each in DRIVERS]
)
def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stores]:
    """Stores over every driver in turn, on a database of their own."""
    kind, driver = request.param
    database = Database(kind, tmp_path_factory.mktemp("stores"))
    if database.missing and os.environ.get(REQUIRE) == "1":
        pytest.fail(database.missing, pytrace=False)
    if database.missing:
        pytest.skip(database.missing)
    stores = Stores(database, driver)
    Base.metadata.create_all(stores.checks)
    yield stores
    stores.close()
    database.drop()


@pytest.fixture
def stores(driver: Stores) -> Iterator[Stores]:
    """Stores over every driver in turn, whose tables are empty for each test."""
    yield driver
    with driver.checks.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def clock() -> Clock:
    """The clock of the factories."""
    return Clock(NOW)


@pytest.fixture
def plain(clock: Clock) -> Any:
    """A factory of sessions without any feature."""
    return make_factory(Plain, clock)


@pytest.fixture
def timed(clock: Clock) -> Any:
    """A factory of sessions with both timeouts."""
    return make_factory(Timed, clock, idle_timeout=60, absolute_timeout=100)


def put(stores: Stores, model: Any, **values: Any) -> uuid.UUID:
    """Store a row by hand; return its id."""
    row = {"id": new_id(), "created": NOW, "version": 1, "flash": {}, **values}
    data = {"a": 1}
    row["data"] = data if model is Plain else pickle.dumps(data, 4)
    with stores.checks.begin() as connection:
        connection.execute(insert(model.__table__), [row])
    return row["id"]


def rows(stores: Stores, model: Any) -> list[Any]:
    """Return what the table holds, oldest first."""
    with Session(stores.checks) as dbsession:
        return list(dbsession.scalars(select(model).order_by(model.created)))


def row(stores: Stores, model: Any) -> Any:
    """Return the only row."""
    (row,) = rows(stores, model)
    return row


def ids(stores: Stores, model: Any) -> set[uuid.UUID]:
    """Return the ids of the rows."""
    return {each.id for each in rows(stores, model)}


def cookie(*ids: uuid.UUID) -> str:
    """Return the value of a cookie that carries these ids."""
    return AESGCMSerializer(bytes(16)).dumps(b"".join(i.bytes for i in ids)).decode()


# One session.


@pytest.mark.parametrize("model", [Plain, Timed, Own, Renewed])
def test_create_and_get(stores, clock, model):
    """What was stored under an id is found there, in another transaction, too."""
    factory = make_factory(model, clock)
    data = {"text": "ü", "nested": {"numbers": [1, 2.5, None, True]}}
    with stores.begin(factory) as store:
        id = store.create(data)
        assert isinstance(id, uuid.UUID)
        assert store.get(id) == data
    with stores.begin(factory) as store:
        assert store.get(id) == data
    assert (row(stores, model).created, row(stores, model).version) == (NOW, 1)
    assert row(stores, model).flash == {}


def test_create_begins_like_a_request(stores, clock, timed):
    """A new session has its expiry and its renewal id; an empty one is stored, too."""
    with stores.begin(timed) as store:
        store.create({})
    assert row(stores, Timed).idle_expire == NOW + 60
    renewed = make_factory(Renewed, clock, renewal_timeout=50)
    with stores.begin(renewed) as store:
        store.create({"a": 1})
    assert row(stores, Renewed).renewal_id is not None
    assert row(stores, Renewed).renewed == NOW


def test_ids_are_drawn(stores, plain):
    """No two sessions have the same id."""
    with stores.begin(plain) as store:
        assert len({store.create({}) for _ in range(5)}) == 5


def test_get_returns_a_copy(stores, plain):
    """What is done to the dict stays with whoever got it."""
    with stores.begin(plain) as store:
        id = store.create({"list": []})
        store.get(id)["list"].append(1)
        assert store.get(id) == {"list": []}
    assert row(stores, Plain).data == {"list": []}


def test_nothing_there(stores, plain):
    """An unknown id is no session: nothing to get, to set or to delete."""
    with stores.begin(plain) as store:
        id = uuid.uuid4()
        assert store.get(id) is None
        assert store.delete(id) is False
        with pytest.raises(KeyError, match="there is no session with this id"):
            store.set(id, {"a": 1})
    assert rows(stores, Plain) == []


def test_set(stores, plain):
    """The dict is replaced, of this session alone, and its version raised."""
    with stores.begin(plain) as store:
        id, other = store.create({"a": 1, "b": 2}), store.create({"c": 3})
    with stores.begin(plain) as store:
        store.set(id, {"b": [3]})
        assert store.get(id) == {"b": [3]}
        assert store.get(other) == {"c": 3}
    by_id = {each.id: each for each in rows(stores, Plain)}
    assert (by_id[id].data, by_id[id].version) == ({"b": [3]}, 2)
    assert (by_id[other].data, by_id[other].version) == ({"c": 3}, 1)


def test_set_lets_the_idle_timeout_begin_anew(stores, clock, timed):
    """It is a use of the session, and a clock that jumps back shortens nothing."""
    with stores.begin(timed) as store:
        id = store.create({})
    for seconds, expire in ((30, NOW + 90), (-20, NOW + 90)):
        clock.now = NOW + seconds
        with stores.begin(timed) as store:
            store.set(id, {})
        assert row(stores, Timed).idle_expire == expire


@pytest.mark.parametrize(("timeout", "expire"), [(10, NOW + 15), (None, None)])
def test_set_with_a_timeout_of_its_own(stores, clock, timeout, expire):
    """A session's own idle timeout counts, and none is none."""
    factory = make_factory(Own, clock, idle_timeout=60)
    idle_expire = None if timeout is None else NOW + timeout
    id = put(stores, Own, idle_timeout=timeout, idle_expire=idle_expire)
    clock.now += 5
    with stores.begin(factory) as store:
        store.set(id, {})
    assert row(stores, Own).idle_expire == expire


@pytest.mark.parametrize("seconds", [0, 1])
def test_expired(stores, clock, seconds):
    """After its last second a session is not there any more, and nothing revives it."""
    timed = make_factory(Timed, clock, idle_timeout=60, absolute_timeout=100)
    own = make_factory(Own, clock)
    chance = {"extension_chance": 100, "extension_deadline": 1}
    given = [
        (timed, {"idle_expire": NOW}),
        (timed, {"idle_expire": NOW + 50, "created": NOW - 100}),
        (own, {"idle_expire": NOW, "idle_timeout": 10, **chance}),
        (own, {"absolute_expire": NOW, "created": NOW - 9, **chance}),
    ]
    clock.now += seconds
    for factory, values in given:
        model = factory.model_class
        id = put(stores, model, **values, userid=7)
        with stores.begin(factory) as store:
            assert (store.get(id) is None) == bool(seconds)
            assert (store.open(cookie(id)) is None) == bool(seconds)
            assert (store.of_user(7) == []) == bool(seconds)
            if seconds:
                with pytest.raises(KeyError):
                    store.set(id, {})
            else:
                store.set(id, {"b": 2})
        version = {each.id: each.version for each in rows(stores, model)}[id]
        assert version == (1 if seconds else 2)
        with stores.begin(factory) as store:
            store.delete(id)


def test_delete(stores, plain):
    """A session that was ended is not there; the others are."""
    with stores.begin(plain) as store:
        id, other = store.create({}), store.create({})
        assert store.delete(id) is True
        assert store.get(id) is None
        assert store.delete(id) is False
    assert ids(stores, Plain) == {other}


REFUSED = r"cannot be stored|keys of a session"


def test_what_cannot_be_stored(stores, plain):
    """It is refused, and what was there stays."""
    with stores.begin(plain) as store:
        id = store.create({"a": 1})
        for bad in ({"a": object()}, {1: 2}, {"a": float("nan")}):
            with pytest.raises(TypeError, match=REFUSED):
                store.create(bad)
            with pytest.raises(TypeError, match=REFUSED):
                store.set(id, bad)
    assert row(stores, Plain).data == {"a": 1}


class Small(BaseMixin, Base):
    """Sessions that hold next to nothing."""

    __tablename__ = "store_small"

    data = mapped_column(LargeBinary(50), nullable=False)


def test_what_is_too_large(stores, clock):
    """It is refused before a database could refuse it, or cut it off."""
    factory = make_factory(Small, clock)
    with stores.begin(factory) as store:
        id = store.create({"a": "x"})
        with pytest.raises(ValueError, match="length of its data is"):
            store.create({"a": "x" * 50})
        with pytest.raises(ValueError, match="length of its data is"):
            store.set(id, {"a": "x" * 50})
        assert store.get(id) == {"a": "x"}


def test_a_row_from_before_the_timeout(stores, timed):
    """It has no expiry, and is alive; a change of its data gives it one."""
    id = put(stores, Timed, idle_expire=None)
    with stores.begin(timed) as store:
        assert store.get(id) == store.open(cookie(id)).data == {"a": 1}
        assert store.delete_expired() == 0
    (row,) = rows(stores, Timed)
    assert row.idle_expire is None
    with stores.begin(timed) as store:
        store.set(id, {"a": 2})
    (row,) = rows(stores, Timed)
    assert row.idle_expire > NOW


# Cookies.


def test_open(stores, clock, timed):
    """A cookie is turned into what its session holds."""
    id = put(stores, Timed, userid=7, idle_expire=NOW)
    value = cookie(id)
    with stores.begin(timed) as store:
        for each in (value, value.encode()):
            opened = store.open(each)
            assert (opened.id, opened.created, opened.userid) == (id, NOW, 7)
            assert opened.data == {"a": 1}
    assert repr(opened) == f"StoredSession(created={NOW}, userid=7)"


def test_open_without_a_user(stores, plain):
    """A model without users has none."""
    with stores.begin(plain) as store:
        opened = store.open(cookie(store.create({})))
    assert opened.userid is None


def test_open_changes_nothing(stores, clock):
    """Opening neither extends nor renews, however due it is."""
    factory = make_factory(Renewed, clock, idle_timeout=100, renewal_timeout=10)
    with stores.begin(factory) as store:
        id = store.create({})
    before = row(stores, Renewed)
    clock.now += 50
    with stores.begin(factory) as store, statements(stores.engine) as made:
        assert store.open(cookie(id, before.renewal_id)) is not None
    assert len(made) == 1
    assert made[0].startswith("SELECT")
    after = row(stores, Renewed)
    for column in Renewed.__table__.columns:
        assert getattr(before, column.name) == getattr(after, column.name)


GOOD = cookie(uuid.UUID(int=5), uuid.UUID(int=6))
HOSTILE = [
    None,
    "",
    "x",
    b"\xff\xfe",
    "\ud800",
    "ü" * 50,
    "A" * 10_000_000,
    GOOD[:-2],
    GOOD + "=",
    GOOD.replace("=", ""),
    ("B" if GOOD[0] == "A" else "A") + GOOD[1:],
    base64.urlsafe_b64encode(os.urandom(48)).decode(),
    AESGCMSerializer(bytes(16)).dumps(bytes(15)).decode(),
    AESGCMSerializer(bytes(16)).dumps(bytes(48)).decode(),
    AESGCMSerializer(bytes(range(16))).dumps(bytes(16)).decode(),
    5,
    ["a"],
]


def test_hostile_cookies(stores, plain):
    """What is no cookie of ours is no session, no error, and no statement."""
    with stores.begin(plain) as store, statements(stores.engine) as made:
        for value in HOSTILE:
            assert store.open(value) is None, value
    assert made == []


def test_open_what_has_ended(stores, plain):
    """An authentic cookie of a session that is gone is no session."""
    with stores.begin(plain) as store:
        value = cookie(store.create({}))
        store.delete_all()
        assert store.open(value) is None


def test_open_with_renewal(stores, clock):
    """The renewal ids that a request accepts are valid; a violation ends nothing."""
    factory = make_factory(Renewed, clock, renewal_timeout=50, renewal_grace=10)
    given = {f"renewal_{name}": new_id() for name in ("id", "next", "previous")}
    id = put(stores, Renewed, **given, renewed=NOW, renewal_tried=NOW)
    for carried, seconds, is_valid in (
        ([id, given["renewal_id"]], 0, True),
        ([id, given["renewal_next"]], 0, True),
        ([id, given["renewal_previous"]], 10, True),
        ([id, given["renewal_previous"]], 11, False),
        ([id, new_id()], 0, False),
        ([id], 0, False),
    ):
        clock.now = NOW + seconds
        with stores.begin(factory) as store:
            assert (store.open(cookie(*carried)) is not None) == is_valid
    assert ids(stores, Renewed) == {id}


def test_unusual_model(stores, clock):
    """Names, keys, defaults and relationships of the user's do no harm."""
    factory = make_factory(Awkward, clock, idle_timeout=60)
    with stores.begin(factory) as store:
        id, other = store.create({"a": 1}), store.create({})
    with stores.checks.begin() as connection:
        connection.execute(insert(Person), [{"name": "alice"}])
        connection.execute(update(Awkward.__table__).values(who="alice"))
    clock.now += 5
    with stores.begin(factory) as store:
        store.set(id, {"b": 2})
        opened = store.open(cookie(id))
        assert (opened.data, opened.userid) == ({"b": 2}, "alice")
        found = store.of_user("alice")
        assert {each.id: each.version for each in found} == {id: 2, other: 1}
        assert {(each.user.name, each.own) for each in found} == {("alice", 5)}
    clock.now += 60
    with stores.begin(factory) as store:
        assert store.get(other) is None
        assert store.delete_expired() == 1
        assert store.revoke_user("alice", keep=other) == 1
    assert rows(stores, Awkward) == []


# The sessions of a user.


@pytest.fixture
def users(stores: Stores) -> dict[str, uuid.UUID]:
    """Sessions of two users and of a guest, and an expired one."""
    later = NOW + 60
    return {
        "old": put(stores, Timed, userid=7, idle_expire=later, created=NOW - 30),
        "new": put(stores, Timed, userid=7, idle_expire=later, user_agent="Lynx"),
        "expired": put(stores, Timed, userid=7, idle_expire=NOW - 1),
        "other": put(stores, Timed, userid=8, idle_expire=later),
        "guest": put(stores, Timed, userid=None, idle_expire=later),
    }


def test_of_user(stores, timed, users):
    """A user has those sessions that are alive, the newest first, with all columns."""
    with stores.begin(timed) as store:
        found = store.of_user(7)
        assert [each.id for each in found] == [users["new"], users["old"]]
        assert [type(each) for each in found] == [Timed, Timed]
        assert found[0].user_agent == "Lynx"
        assert store.of_user(9) == []


@pytest.mark.parametrize(
    ("keep", "number", "left"),
    [
        (None, 3, {"other", "guest"}),
        ("new", 2, {"new", "other", "guest"}),
        ("other", 3, {"other", "guest"}),
    ],
)
def test_revoke_user(stores, timed, users, keep, number, left):
    """All sessions of a user end but the one to keep, and nobody else's."""
    with stores.begin(timed) as store:
        kept = None if keep is None else users[keep]
        assert store.revoke_user(7, keep=kept) == number
        assert [each.id for each in store.of_user(7)] == (
            [kept] if keep == "new" else []
        )
    assert ids(stores, Timed) == {users[name] for name in left}


@pytest.mark.parametrize(
    ("most", "keep", "left"),
    [
        (3, None, {"old", "again", "new"}),
        (2, None, {"again", "new"}),
        (1, None, {"again"}),
        (2, "old", {"old", "again"}),
        (1, "old", {"old"}),
        (3, "other", {"again", "new"}),
        (9, "other", {"old", "again", "new"}),
    ],
)
def test_limit_user(stores, timed, users, most, keep, left):
    """The oldest sessions of a user end: by their logins, or else by themselves."""
    ahead = NOW + 60
    users["again"] = put(
        stores,
        Timed,
        userid=7,
        idle_expire=ahead,
        created=NOW - 50,
        authenticated=NOW + 1,
    )
    kept = None if keep is None else users[keep]
    with stores.begin(timed) as store:
        assert store.limit_user("7", most, keep=kept) == 3 - len(left)
        assert store.limit_user(None, 1) == 0
        assert store.limit_user(9, 1) == 0
    others = {"expired", "other", "guest"}
    assert ids(stores, Timed) == {users[name] for name in left | others}


@pytest.mark.parametrize(
    ("most", "error"),
    [(0, ValueError), (-1, ValueError), (True, TypeError), ("3", TypeError)],
)
def test_limit_is_a_number(stores, timed, users, most, error):
    """Nobody is logged out everywhere by a wrong limit, which is named."""
    with stores.begin(timed) as store, pytest.raises(error, match=r"most .*(0|-1|int)"):
        store.limit_user(7, most)
    assert ids(stores, Timed) == set(users.values())


def test_nobody_has_sessions(stores, timed, users):
    """None is nobody: guests do not lose their sessions to each other."""
    with stores.begin(timed) as store, statements(stores.engine) as made:
        assert store.of_user(None) == []
        assert store.revoke_user(None) == 0
    assert made == []
    assert ids(stores, Timed) == set(users.values())


# All sessions.


def test_delete_all(stores, timed, users):
    """All end, whosever they are."""
    with stores.begin(timed) as store:
        assert store.delete_all() == 5
        assert store.delete_all() == 0
    assert rows(stores, Timed) == []


@pytest.mark.parametrize(("limit", "number"), [(None, 5), (3, 3), (0, 0), (9, 5)])
def test_delete_expired(stores, timed, limit, number):
    """What has expired is deleted, up to the limit; what is alive stays."""
    for _ in range(5):
        put(stores, Timed, idle_expire=NOW - 1)
    alive = put(stores, Timed, idle_expire=NOW)
    with stores.begin(timed) as store:
        assert store.delete_expired(limit) == number
    assert len(rows(stores, Timed)) == 6 - number
    assert alive in ids(stores, Timed)


def test_a_limit_is_a_number_of_sessions(stores, timed):
    """A negative one would mean something else to each database."""
    put(stores, Timed, idle_expire=NOW - 1)
    with stores.begin(timed) as store:
        with pytest.raises(ValueError, match="must not be negative, but is -1"):
            store.delete_expired(limit=-1)
        assert store.get(row(stores, Timed).id) is None
    assert len(rows(stores, Timed)) == 1


def test_nothing_expires_without_a_timeout(stores, plain):
    """Where there is no timeout, nothing is deleted."""
    with stores.begin(plain) as store:
        id = store.create({})
        assert store.delete_expired() == 0
    assert ids(stores, Plain) == {id}


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Plain, {}),
        (Timed, {}),
        (Timed, {"idle_timeout": 10}),
        (Timed, {"absolute_timeout": 40}),
        (Timed, {"idle_timeout": 10, "absolute_timeout": 40}),
        (Own, {}),
        (Own, {"idle_timeout": 10, "absolute_timeout": 40}),
    ],
)
def test_the_sql_for_expired(stores, clock, model, settings):
    """It is true for what has expired, and its negation for all that is alive."""
    factory = make_factory(model, clock, **settings)
    over, ahead = NOW - 1, NOW + 1
    given: list[dict[str, Any]] = [{}, {"created": NOW - 41}]
    if model is Timed:
        given += [{"idle_expire": over}, {"idle_expire": ahead}]
    if model is Own:
        given += [
            {"idle_expire": over, "idle_timeout": 5},
            {"idle_expire": ahead, "idle_timeout": 5},
            {"idle_expire": over},
            {"absolute_expire": over},
            {"absolute_expire": ahead},
            {"absolute_expire": over, "idle_expire": ahead, "idle_timeout": 5},
        ]
    for values in given:
        empty = {"userid": None} if model is not Plain else {}
        put(stores, model, **empty, **values)
    expected = {
        each.id
        for each in rows(stores, model)
        if (model is Own and each.absolute_expire == over)
        or (model is Own and each.idle_timeout == 5 and each.idle_expire == over)
        or (
            model is Timed
            and (
                ("idle_timeout" in settings and each.idle_expire == over)
                or ("absolute_timeout" in settings and each.created == NOW - 41)
            )
        )
    }
    with stores.begin(factory) as store, Session(stores.checks) as dbsession:
        expired = set(dbsession.scalars(select(model.id).where(store.expired)))
        alive = set(dbsession.scalars(select(model.id).where(~store.expired)))
    assert expired == expected
    assert alive == ids(stores, model) - expected


# The transaction.

CALLS = {
    "create": lambda store, id: store.create({"a": 2}),
    "set": lambda store, id: store.set(id, {"a": 2}),
    "delete": lambda store, id: store.delete(id),
    "delete_all": lambda store, id: store.delete_all(),
    "delete_expired": lambda store, id: store.delete_expired(),
    "revoke_user": lambda store, id: store.revoke_user(7),
    "limit_user": lambda store, id: store.limit_user(7, 1),
}
READS = {
    "get": lambda store, id: store.get(id),
    "open": lambda store, id: store.open(cookie(id)),
    "of_user": lambda store, id: store.of_user(7),
}


def test_one_statement(stores, timed, users):
    """Each call is one statement, but for two, which say so."""
    for name in sorted({*CALLS, *READS} - {"delete_expired", "limit_user"}):
        with stores.begin(timed) as store:
            with statements(stores.engine) as made:
                {**CALLS, **READS}[name](store, users["new"])
            assert len(made) == 1, name
            users["new"] = store.create({})


def test_nothing_is_committed(stores, timed, users):
    """A rollback takes back whatever was done."""

    def state():
        return sorted((each.id, each.version) for each in rows(stores, Timed))

    before = state()
    for call in CALLS.values():
        with suppress(Failure), stores.begin(timed) as store:
            call(store, users["new"])
            raise Failure
        assert state() == before


# Mistakes.


def test_without_users(stores, plain):
    """Where sessions have no users, asking for them names the mixin."""
    with stores.begin(plain) as store:
        limit = lambda userid: store.limit_user(userid, 3)  # noqa: E731
        for ask in (store.of_user, store.revoke_user, limit):
            with pytest.raises(
                ConfigurationError, match="Plain lacks UseridMixin: add"
            ):
                ask(7)


def test_keep_is_no_session(stores, timed):
    """Something else to keep is a mistake, and nothing is ended."""
    wrong = pytest.raises(TypeError, match="or an id, not str")
    with stores.begin(timed) as store, wrong:
        store.revoke_user(7, keep="new")


def test_wrong_arguments():
    """A dbsession of the other kind, and a factory that is none, are told apart."""
    factory = make_factory(Plain, Clock(NOW))
    plain, asynchronous = Session(), AsyncSession()
    with pytest.raises(TypeError, match="for an AsyncSession, use Async"):
        SessionStore(asynchronous, factory)
    with pytest.raises(TypeError, match="for a Session, use SessionStore"):
        AsyncSessionStore(plain, factory)
    for make in (
        lambda: SessionStore(plain, None),
        lambda: AsyncSessionStore(asynchronous, None),
    ):
        with pytest.raises(
            ConfigurationError, match=r"get_session_factory\(\) makes it"
        ):
            make()


def test_the_same_methods():
    """Both stores can do the same, with the same arguments."""
    for name, method in vars(SessionStore).items():
        if not name.startswith("_"):
            other = vars(AsyncSessionStore)[name]
            assert inspect.iscoroutinefunction(other) == inspect.isfunction(method)
            if inspect.isfunction(method):
                assert inspect.signature(other) == inspect.signature(method)
