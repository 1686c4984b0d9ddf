"""Ids of sessions and of users, however they are spelled, on each database."""

from __future__ import annotations

import enum
import json
import uuid

import pytest
from sqlalchemy import CHAR, Enum, Integer, String, TypeDecorator, Uuid, select, text
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.types import UserDefinedType

from pyramid_sqlalchemy_sessions import BaseMixin, SessionStore, UseridMixin
from pyramid_sqlalchemy_sessions.comparing import is_exactly
from pyramid_sqlalchemy_sessions.testing import DummySession
from tests.application import Application, Browser, Full
from tests.drivers import DRIVERS, open_engine, with_any_driver


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Named(UseridMixin, BaseMixin, Base):
    """A session whose user is a name."""

    __tablename__ = "named_session"
    userid = mapped_column(String(30))


class Drawn(UseridMixin, BaseMixin, Base):
    """A session whose user is a UUID."""

    __tablename__ = "drawn_session"
    userid = mapped_column(Uuid)


ALICE = uuid.UUID(int=7)


class Spelled(UseridMixin, BaseMixin, Base):
    """A session whose user is a UUID, which Python has as a text."""

    __tablename__ = "spelled_session"
    userid = mapped_column(Uuid(as_uuid=False))


class Role(UseridMixin, BaseMixin, Base):
    """A session whose user is one of a few."""

    __tablename__ = "role_session"
    userid = mapped_column(Enum("guest", "editor", name="role_of_session"))


class Rank(enum.Enum):
    """Whose names are shorter than its values."""

    A = "private"
    B = "general"


class Ranked(UseridMixin, BaseMixin, Base):
    """A session whose user is a member of an Enum."""

    __tablename__ = "ranked_session"
    userid = mapped_column(Enum(Rank))


class Letter(str, enum.Enum):
    """Members that are texts, longer than the column."""

    A = "alpha"


class Lettered(UseridMixin, BaseMixin, Base):
    """A session whose user is such a member."""

    __tablename__ = "lettered_session"
    userid = mapped_column(Enum(Letter, native_enum=False))


class GUID(TypeDecorator):
    """The recipe of SQLAlchemy's documentation, before there was Uuid."""

    impl = CHAR(32)
    cache_ok = True

    def load_dialect_impl(self, dialect):
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID())
        return dialect.type_descriptor(CHAR(32))

    def process_bind_param(self, value, dialect):
        if value is None or dialect.name == "postgresql":
            return value
        return (value if isinstance(value, uuid.UUID) else uuid.UUID(value)).hex

    def process_result_value(self, value, dialect):
        if value is None or isinstance(value, uuid.UUID):
            return value
        return uuid.UUID(value)


class Recipe(UseridMixin, BaseMixin, Base):
    """A session whose user is a UUID by that recipe."""

    __tablename__ = "recipe_session"
    userid = mapped_column(GUID)


class Alias(TypeDecorator):
    """A type that only has another name."""

    impl = Integer
    cache_ok = True


class Aliased(UseridMixin, BaseMixin, Base):
    """A session whose user is a number of that type."""

    __tablename__ = "aliased_session"
    userid = mapped_column(Alias)


class Lower(TypeDecorator):
    """A text in lower case."""

    impl = String(30)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return value if value is None else value.lower()


class Lowered(UseridMixin, BaseMixin, Base):
    """A session whose user is a name that has no case."""

    __tablename__ = "lowered_session"
    userid = mapped_column(Lower)


class Key:
    """What stands for a number in an application."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Key) and other.number == self.number

    __hash__ = None


class Keys(TypeDecorator):
    """A number that Python has as a Key, and that can only be read as an int."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return value if value is None else int(getattr(value, "number", value))

    def process_result_value(self, value, dialect):
        return value if value is None else Key(abs(value))


class Keyed(UseridMixin, BaseMixin, Base):
    """A session whose user is a Key."""

    __tablename__ = "keyed_session"
    userid = mapped_column(Keys)


@pytest.fixture
def engine(engine):
    Full.__table__.create(engine)
    return engine


def logged_in(engine, model, *users) -> Application:
    """Log users in, each in a browser of their own."""
    model.__table__.create(engine, checkfirst=True)
    application = Application(engine, model)
    for user in users:
        Browser(application).visit(
            lambda r, user=user: setattr(r.session, "userid", user)
        )
    return application


def store_of(application, dbsession) -> SessionStore:
    from pyramid.interfaces import ISessionFactory

    factory = application.registry.getUtility(ISessionFactory)
    return SessionStore(dbsession, factory)


#: What the column holds, other spellings of it, and what is refused.
USERS = {
    Full: (7, ["7"], ["7abc", "07", " 7", "", "x", 7.0, True, b"7", uuid.UUID(int=7)]),
    Drawn: (ALICE, [str(ALICE), ALICE.hex], ["x", 7, "7", b"x" * 16]),
    Named: ("alice", [], [7, 0, b"alice", True, ALICE]),
    Spelled: (str(ALICE), [ALICE, ALICE.hex, f"{{{ALICE}}}"], ["x", 7, "7", b"x" * 16]),
    Role: ("editor", [], ["Editor", "owner", "editor ", "", 1, Rank.A]),
    Ranked: (Rank.B, [], ["B", "general", 1, Letter.A]),
    Lettered: (Letter.A, [], ["A", "beta", 1, Rank.A]),
    Recipe: (ALICE, [str(ALICE), ALICE.hex], ["x", "7"]),
    Aliased: (7, ["7"], ["7abc", "x", 7.0, True]),
    Lowered: ("alice", ["Alice", "ALICE"], [7, object()]),
    Keyed: (Key(7), ["7"], ["x", object()]),
}


#: What the columns can't hold, on some database at least.
TOO_LARGE = {
    Full: (2**31, -(2**31) - 1, 2**63, 2**64, -(2**200), "9" * 19),
    Named: ("a" * 31, "a" * 100_000, "\ud800", "alice\0", "alice\ud800"),
}


@pytest.mark.parametrize("model", TOO_LARGE, ids=lambda model: model.__name__)
@pytest.mark.parametrize(
    ("database_url", "driver"),
    [pytest.param(known.kind, driver, id=driver) for driver, known in DRIVERS.items()],
    indirect=["database_url"],
)
def test_a_user_whom_the_column_cannot_hold(database_url, driver, model):
    """Has no sessions, whatever the driver makes of such a value."""

    @with_any_driver
    def work(engine):
        application = logged_in(engine, model, USERS[model][0])
        with Session(engine) as dbsession:
            store = store_of(application, dbsession)
            for user in TOO_LARGE[model]:
                assert store.of_user(user) == []
                assert store.revoke_user(user) == 0
                assert store.limit_user(user, 1) == 0
        assert application.row().userid == USERS[model][0]

    work(engine=open_engine(database_url, driver))


class Foreign(UseridMixin, BaseMixin, Base):
    """A session whose user is a name, in a character set that lacks most characters."""

    __tablename__ = "foreign_session"
    userid = mapped_column(
        String(30).with_variant(mysql.VARCHAR(30, charset="latin1"), "mysql")
    )


class Padded(UseridMixin, BaseMixin, Base):
    """A session whose user is a name of five characters."""

    __tablename__ = "padded_session"
    userid = mapped_column(CHAR(5))


class Tiny(UseridMixin, BaseMixin, Base):
    """A session whose user is a small number."""

    __tablename__ = "tiny_session"
    userid = mapped_column(Integer().with_variant(mysql.MEDIUMINT(), "mysql"))


class Tiniest(UseridMixin, BaseMixin, Base):
    """A session whose user is a smaller number."""

    __tablename__ = "tiniest_session"
    userid = mapped_column(Integer().with_variant(mysql.TINYINT(), "mysql"))


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("model", "user", "other"),
    [
        (Foreign, "alic\u00e9", "alic\U0001f600"),
        (Foreign, "alic\u00e9", "\u4e2d\u6587"),
        (Padded, "alice", "alic "),
        (Tiny, 7, 2**23),
        (Tiniest, 7, 2**7),
    ],
)
def test_what_mariadb_would_change(engine, model, user, other):
    """It's of no user, and can't be logged in as somebody else."""
    application = logged_in(engine, model, user)
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        assert len(store.of_user(user)) == 1
        assert store.of_user(other) == []
        assert store.revoke_user(other) == 0
        assert store.limit_user(other, 1) == 0
    with pytest.raises((ValueError, DBAPIError)):
        Browser(application).visit(lambda r: setattr(r.session, "userid", other))
    assert application.row().userid == user


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_other_errors_of_a_comparison(engine):
    """They're not taken for a user who isn't there."""
    application = logged_in(engine, Named)
    Named.__table__.drop(engine)
    with Session(engine) as dbsession, pytest.raises(DBAPIError, match="exist"):
        store_of(application, dbsession).of_user("alic\u00e9")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_user_in_citext(engine):
    """A type that has no case doesn't make two users one."""
    application = logged_in(engine, Named, "alice", "Alice")
    # The extension belongs to the whole database: it's never committed.
    with Session(engine) as dbsession:
        try:
            dbsession.execute(text("CREATE EXTENSION IF NOT EXISTS citext"))
        except DBAPIError:
            pytest.skip("this PostgreSQL has no citext")
        schema = dbsession.scalar(
            text(
                "SELECT extnamespace::regnamespace FROM pg_extension"
                " WHERE extname = 'citext'"
            )
        )
        dbsession.execute(
            text(f"ALTER TABLE named_session ALTER userid TYPE {schema}.citext")
        )
        store = store_of(application, dbsession)
        assert [each.userid for each in store.of_user("alice")] == ["alice"]
        assert store.revoke_user("ALICE") == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_user_is_found_by_the_index(engine):
    """That the comparison is exact doesn't keep PostgreSQL from the index."""
    application = logged_in(engine, Named, "alice")
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX by_user ON named_session (userid)"))
    with Session(engine) as dbsession:
        dbsession.execute(text("SET enable_seqscan = off"))
        condition = store_of(application, dbsession)._is_users("alice")
        query = str(
            select(Named.id)
            .where(condition)
            .compile(engine, compile_kwargs={"literal_binds": True})
        )
        plan = dbsession.scalars(text(f"EXPLAIN {query}")).all()
    assert "by_user" in plan[0]


@pytest.mark.parametrize("model", USERS, ids=lambda model: model.__name__)
def test_a_user(engine, model):
    """What stands for the user's id is converted, and anything else refused at once."""
    user, spellings, wrong = USERS[model]
    application = logged_in(engine, model, user)
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        for spelling in (user, *spellings):
            assert [row.userid for row in store.of_user(spelling)] == [user]
        for each in wrong:
            with pytest.raises(TypeError, match="userid"):
                store.of_user(each)
            with pytest.raises(TypeError, match="userid"):
                store.revoke_user(each)
        assert len(store.of_user(user)) == 1
        assert store.revoke_user((*spellings, user)[0]) == 1
        dbsession.commit()
    assert application.rows() == []


@pytest.mark.parametrize("model", USERS, ids=lambda model: model.__name__)
def test_the_user_of_a_session(engine, model):
    """Assigning another spelling is no change, and what is refused changes nothing."""
    user, spellings, wrong = USERS[model]
    application = logged_in(engine, model)
    browser = Browser(application)
    browser.visit(lambda request: setattr(request.session, "userid", user))
    cookie = browser.cookie
    for spelling in (user, *spellings):
        browser.visit(lambda r, value=spelling: setattr(r.session, "userid", value))
        assert browser.cookie == cookie
    for each in wrong:

        def view(request, value=each):
            with pytest.raises(TypeError, match="userid"):
                request.session.userid = value

        browser.visit(view)
    assert browser.ask(lambda session: session.userid) == user


@pytest.mark.parametrize("model", USERS, ids=lambda model: model.__name__)
@pytest.mark.parametrize("keeps", [False, True], ids=["all", "others"])
def test_own_session_in_a_request(engine, model, keeps):
    """A request's own session is the user's, however the user's id is spelled."""
    user, spellings, _ = USERS[model]
    application = logged_in(engine, model, user)
    browser = Browser(application)

    def view(request):
        request.session.userid = user
        store = store_of(application, request.dbsession)
        spelling = (*spellings, user)[0]
        keep = request.session if keeps else None
        return store.revoke_user(spelling, keep=keep)

    browser.visit(lambda request: setattr(request.session, "userid", user))
    assert browser.visit(view).text == ("1" if keeps else "2")
    assert len(application.rows()) == keeps


@pytest.mark.parametrize(
    "other", ["Alice", "al\u00efce", "alice ", "ALICE", "0", "alice\u0301"]
)
def test_names_are_compared_exactly(engine, other):
    """Whatever the column's collation, one user's sessions are that user's alone."""
    application = logged_in(engine, Named, "alice", other)
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        assert [row.userid for row in store.of_user("alice")] == ["alice"]
        assert [row.userid for row in store.of_user(other)] == [other]
        assert store.revoke_user("alice") == 1
        dbsession.commit()
    assert [row.userid for row in application.rows()] == [other]


def test_ids_that_went_through_json(engine):
    """A worker may get a session's id as text, and a user's, too."""
    application = logged_in(engine, Full, 7)
    key = application.row().id
    job = json.loads(json.dumps({"session": str(key), "user": "7"}))
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        assert store.get(job["session"]) == {}
        store.set(job["session"], {"a": 1})
        assert store.get(key) == {"a": 1}
        assert store.revoke_user(job["user"], keep=job["session"]) == 0
        assert store.delete(job["session"])
        assert store.get(key) is None


@pytest.mark.parametrize(
    "wrong",
    ["x", "", None, 7, b"x" * 16, "0" * 33, object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_id_names_no_session(engine, wrong):
    """It's never sent to the database, whose transaction goes on."""
    application = logged_in(engine, Full, 7)
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        assert store.get(wrong) is None
        assert store.delete(wrong) is False
        with pytest.raises(KeyError):
            store.set(wrong, {})
        if wrong is not None:
            with pytest.raises(TypeError, match="keep"):
                store.revoke_user(7, keep=wrong)
        assert len(store.of_user(7)) == 1


def test_type_that_reads_only_what_the_driver_returns():
    """A text that it can't read is passed on as it is."""

    class Numbers(TypeDecorator):
        """A number that's sent as a text."""

        impl = Integer
        cache_ok = True

        def process_bind_param(self, value, dialect):
            return value if value is None else str(value)

        def process_result_value(self, value, dialect):
            return value if value is None else abs(value)

    body = {"__tablename__": "numbered_session", "userid": mapped_column(Numbers)}
    model = type("Numbered", (UseridMixin, BaseMixin, Base), body)
    for user in ("7", 7):
        assert DummySession(model_class=model, userid=user).userid == user


def test_type_that_says_nothing_of_python():
    """Whatever it's given is passed on."""

    class Address(UserDefinedType):
        """A type that SQLAlchemy doesn't know."""

        cache_ok = True

    body = {"__tablename__": "address_session", "userid": mapped_column(Address)}
    model = type("Addressed", (UseridMixin, BaseMixin, Base), body)
    user = object()
    assert DummySession(model_class=model, userid=user).userid is user


def test_other_databases_compare_as_they_do():
    """How to be exact isn't known of them."""
    assert str(is_exactly(Named.__table__.c.userid, "alice", "oracle")) == "true"
