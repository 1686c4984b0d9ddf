"""How users may declare their session models, and what they may put into them."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable
from importlib.metadata import version
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    DateTime,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    event,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    DeclarativeBaseNoMeta,
    Mapped,
    MappedAsDataclass,
    Session,
    as_declarative,
    declarative_base,
    declared_attr,
    mapped_column,
    registry,
    relationship,
    validates,
)
from zope.sqlalchemy import register

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    ClientAddressMixin,
    ConfigAbsoluteMixin,
    ConfigCookieMixin,
    ConfigIdleMixin,
    ConfigRenewalMixin,
    ConfigurationError,
    CSRFMixin,
    FullyFeaturedSession,
    IdleMixin,
    JSONDataMixin,
    LastSeenMixin,
    RenewalMixin,
    UserAgentMixin,
    UseridMixin,
    create_session_model,
    get_session_factory,
    register_session_model,
)
from tests.application import Application, Browser, Full, Plain, statements
from tests.histories import check_history

NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Spelling = Callable[[], type]
SPELLINGS: list[Spelling] = []


def spelling(function: Spelling) -> Spelling:
    """Add a way to declare a model to those that are tested."""
    SPELLINGS.append(function)
    return function


def create_tables(engine: Engine, model: type) -> None:
    """Make the tables of the model and of what belongs to it."""
    model.__table__.metadata.create_all(engine)


def serve(engine: Engine, model: type, **kw: Any) -> Application:
    """Make the tables of the model and an application with it."""
    create_tables(engine, model)
    return Application(engine, model, **kw)


def make_factory(model: Any) -> Any:
    """Make a session factory for the model."""
    return get_session_factory(AESGCMSerializer(bytes(32)), model)


# Ways to declare a model.


@spelling
def with_declarative_base() -> type:
    base: Any = declarative_base()

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        note = mapped_column(String(10))

    return Model


@spelling
def with_old_columns() -> type:
    from sqlalchemy import Column

    base: Any = declarative_base()

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        note = Column(String(10), nullable=False, default="-")

    return Model


@spelling
def with_as_declarative() -> type:
    @as_declarative()
    class Base:
        @declared_attr.directive
        def __tablename__(cls) -> str:
            return cls.__name__.lower()

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        pass

    return Model


@spelling
def with_declarative_base_class() -> type:
    class Base(DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        note: Mapped[str | None] = mapped_column(String(10))
        visits: Mapped[int] = mapped_column(default=0)

    return Model


@spelling
def with_base_without_metaclass() -> type:
    class Base(DeclarativeBaseNoMeta):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"

    return Model


@spelling
def with_async_attrs() -> type:
    class Base(AsyncAttrs, DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"

    return Model


@spelling
def with_naming_convention() -> type:
    class Base(DeclarativeBase):
        metadata = MetaData(naming_convention=NAMING_CONVENTION)

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        note: Mapped[str | None] = mapped_column(String(10), index=True, unique=True)

    return Model


@spelling
def with_type_annotation_map() -> type:
    class Base(DeclarativeBase):
        type_annotation_map = {str: String(30), int: String(5), bytes: Text, dict: Text}

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        note: Mapped[str | None]

    return Model


@spelling
def with_base_that_has_an_id() -> type:
    class Base(DeclarativeBase):
        id: Mapped[int] = mapped_column(primary_key=True)

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"

    return Model


@spelling
def with_base_first() -> type:
    class Base(DeclarativeBase):
        pass

    class Model(Base, BaseMixin, CSRFMixin, UseridMixin):
        __tablename__ = "session"

    return Model


@spelling
def with_mixins_on_the_base() -> type:
    class Base(BaseMixin, CSRFMixin, UseridMixin, DeclarativeBase):
        pass

    class Model(Base):
        __tablename__ = "session"

    return Model


@spelling
def with_abstract_parent() -> type:
    class Base(DeclarativeBase):
        pass

    class Parent(BaseMixin, CSRFMixin, Base):
        __abstract__ = True
        note: Mapped[str | None] = mapped_column(String(10))

    class Model(UseridMixin, Parent):
        __tablename__ = "session"

    return Model


@spelling
def with_mixin_of_mixins() -> type:
    class Base(DeclarativeBase):
        pass

    class Everything(UseridMixin, CSRFMixin, BaseMixin):
        note: Mapped[str | None] = mapped_column(String(10))

        @declared_attr.directive
        def __tablename__(cls) -> str:
            return cls.__name__.lower()

    class Model(Everything, Base):
        pass

    return Model


@spelling
def with_generated_base() -> type:
    base: Any = registry().generate_base()

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"

    return Model


@spelling
def with_registry_mapped() -> type:
    @registry().mapped
    class Model(UseridMixin, CSRFMixin, BaseMixin):
        __tablename__ = "session"
        note: Mapped[str | None] = mapped_column(String(10))

    return Model


@spelling
def with_map_declaratively() -> type:
    class Model(UseridMixin, CSRFMixin, BaseMixin):
        __tablename__ = "session"

    registry().map_declaratively(Model)
    return Model


@spelling
def with_create_session_model() -> type:
    return create_session_model(declarative_base(), UseridMixin, CSRFMixin)


@spelling
def with_create_session_model_and_own_columns() -> type:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Notes:
        note = mapped_column(String(10))

    return create_session_model(Base, Notes, CSRFMixin, UseridMixin, BaseMixin)


@spelling
def with_register_session_model() -> type:
    class Model(UseridMixin, CSRFMixin, BaseMixin):
        __tablename__ = "session"
        note = mapped_column(String(10))

    assert register_session_model(registry(), Model) is Model
    return Model


@spelling
def with_register_session_model_and_a_base() -> type:
    class Base(DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin):
        __tablename__ = "session"

    register_session_model(Base, Model)
    assert Model.__table__ is Base.metadata.tables["session"]
    return Model


@spelling
def with_mapped_as_dataclass_decorator() -> type:
    @registry().mapped_as_dataclass
    class Model(UseridMixin, CSRFMixin, BaseMixin):
        __tablename__ = "session"
        label: Mapped[str | None] = mapped_column(String(10))
        note: Mapped[str] = mapped_column(String(10), default="-")

    return Model


@spelling
def with_dataclass_base() -> type:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"

    return Model


@spelling
def with_dataclass_base_second() -> type:
    class Base(DeclarativeBase, MappedAsDataclass):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"

    return Model


@spelling
def with_dataclass_model() -> type:
    class Base(DeclarativeBase):
        pass

    class Model(MappedAsDataclass, UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        label: Mapped[str | None] = mapped_column(String(10))

    return Model


@spelling
def with_dataclass_model_and_its_mixins_first() -> type:
    class Base(DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, MappedAsDataclass, Base):
        __tablename__ = "session"
        label: Mapped[str | None] = mapped_column(String(10))

    return Model


@spelling
def with_dataclass_options() -> type:
    class Base(MappedAsDataclass, DeclarativeBase, kw_only=True, eq=False, repr=False):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base, init=False):
        __tablename__ = "session"
        note: Mapped[str] = mapped_column(String(10), default="-")
        label: Mapped[str | None] = mapped_column(String(10))

    return Model


@spelling
def with_dataclass_fields() -> type:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "user"
        id: Mapped[int] = mapped_column(init=False, primary_key=True)

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        label: Mapped[str | None] = mapped_column(String(10))
        secret: Mapped[str | None] = mapped_column(String(10), repr=False)
        note: Mapped[str] = mapped_column(String(10), default="-")
        visits: Mapped[int] = mapped_column(init=False, insert_default=7)
        seen: Mapped[datetime.datetime] = mapped_column(
            init=False, server_default=func.now()
        )
        user: Mapped[User | None] = relationship(
            primaryjoin="foreign(Model.userid) == User.id",
            default=None,
            viewonly=True,
        )

    Base.registry.configure()
    return Model


@spelling
def with_dataclass_userid() -> type:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        userid: Mapped[int | None] = mapped_column(index=True, default=None)

    return Model


@pytest.mark.parametrize("make_model", SPELLINGS, ids=lambda each: each.__name__)
def test_spelling(make_model: Spelling, sqlite_engine: Engine) -> None:
    """However SQLAlchemy lets one declare it, a model serves a whole history."""
    check_history(serve(sqlite_engine, make_model()))


@pytest.mark.parametrize("model", [Plain, Full])
def test_history(model: type, engine: Engine) -> None:
    """The models of the documentation serve a whole history on every database."""
    check_history(serve(engine, model))


@pytest.mark.parametrize("make_model", [with_dataclass_fields, with_registry_mapped])
def test_dataclass_history(make_model: Spelling, engine: Engine) -> None:
    """So do dataclasses and decorated classes."""
    check_history(serve(engine, make_model()))


@pytest.mark.parametrize("model", [Plain, Full])
def test_history_under_retry(model: type, engine: Engine) -> None:
    """Second attempts of requests, which lock the row, do the same as first ones."""
    check_history(serve(engine, model), **{"retry.attempt": 1})


BASES = list(permutations([JSONDataMixin, BaseMixin, UseridMixin, CSRFMixin]))


@pytest.mark.parametrize(
    "bases",
    BASES,
    ids=lambda bases: "-".join(base.__name__.replace("Mixin", "") for base in bases),
)
def test_order_of_bases(bases: tuple[type, ...]) -> None:
    """The order of the mixins does not matter, not even for the form of the data."""
    base: Any = declarative_base()
    model = type("Model", (*bases, base), {"__tablename__": "session"})
    assert make_factory(model).model_class is model
    assert type(model.__table__.c.data.type) is JSON


@pytest.mark.parametrize("first", [True, False])
def test_json_history(first: bool, engine: Engine) -> None:
    """A model whose data is JSON serves a whole history, whichever mixin is first."""
    base: Any = declarative_base()
    mixins = (JSONDataMixin, BaseMixin) if first else (BaseMixin, JSONDataMixin)
    model = type(
        "Model", (*mixins, UseridMixin, CSRFMixin, base), {"__tablename__": "session"}
    )
    check_history(serve(engine, model))


class FullBase(DeclarativeBase):
    """The base of a model with all features."""


class FullDataclassBase(MappedAsDataclass, DeclarativeBase):
    """The same, of dataclasses."""


class FullModel(FullyFeaturedSession, FullBase):
    """A session with all features."""

    __tablename__ = "session"


class FullJSONModel(JSONDataMixin, FullyFeaturedSession, FullBase):
    """The same, in JSON."""

    __tablename__ = "json_session"


class FullDataclass(FullyFeaturedSession, FullDataclassBase):
    """The same, a dataclass with a field of its own."""

    __tablename__ = "session"
    note: Mapped[str] = mapped_column(String(10), default="-")


@registry().mapped
class FullDecorated(FullyFeaturedSession):
    """The same, decorated."""

    __tablename__ = "session"


@pytest.mark.parametrize(
    "model", [FullModel, FullJSONModel, FullDataclass, FullDecorated]
)
@pytest.mark.parametrize("on", [False, True])
def test_full_history(model: type, on: bool, engine: Engine) -> None:
    """A model with all features serves a whole history, used or not."""
    settings: dict[str, int] = {}
    if on:
        settings = {
            "idle_timeout": 600,
            "extension_delay": 5,
            "absolute_timeout": 6000,
            "renewal_timeout": 60,
            "cookie_max_age": 10**6,
        }
    application = serve(engine, model, **settings)
    check_history(application)
    check_history(application, **{"retry.attempt": 1})


def test_two_models(sqlite_engine: Engine) -> None:
    """Two models of one base, one JSON and one not, do not notice each other."""

    class Base(DeclarativeBase):
        pass

    class One(BaseMixin, Base):
        __tablename__ = "one"

    class Two(JSONDataMixin, UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "two"

    check_history(serve(sqlite_engine, One))
    check_history(serve(sqlite_engine, Two))
    assert type(One.__table__.c.data.type) is not type(Two.__table__.c.data.type)


# The names and types of the columns.

UUID = ("UUID", "UUID", "CHAR(32)")
BIGINT = ("BIGINT", "BIGINT", "BIGINT")
INTEGER = ("INTEGER", "INTEGER", "INTEGER")
DOCUMENT = ("JSON", "LONGTEXT", "JSON")

#: What each mixin adds, as PostgreSQL, MariaDB and SQLite call it.
COLUMNS: dict[type, dict[str, tuple[str, ...]]] = {
    BaseMixin: {
        "id": UUID,
        "created": BIGINT,
        "data": ("BYTEA", "LONGBLOB", "BLOB"),
        "flash": DOCUMENT,
        "version": INTEGER,
        "renewal_id": UUID,
        "rotated": BIGINT,
        "rotated_from": UUID,
        "sent": BIGINT,
    },
    JSONDataMixin: {"data": DOCUMENT},
    UseridMixin: {"userid": INTEGER, "authenticated": BIGINT},
    CSRFMixin: {"csrf_token": ("BYTEA", "BLOB", "BLOB")},
    IdleMixin: {"idle_expire": BIGINT},
    AbsoluteMixin: {},
    RenewalMixin: {
        "renewal_next": UUID,
        "renewal_previous": UUID,
        "renewed": BIGINT,
        "renewal_tried": BIGINT,
    },
    LastSeenMixin: {"last_seen": BIGINT},
    UserAgentMixin: {"user_agent": ("VARCHAR(200)",) * 3},
    ClientAddressMixin: {"client_address": ("VARCHAR(43)",) * 3},
}


@pytest.mark.parametrize("mixin", COLUMNS, ids=lambda mixin: mixin.__name__)
def test_columns(mixin: type, engine: Engine) -> None:
    """The columns of every mixin have the names and types of the wire format."""
    bases = (mixin,) if mixin is BaseMixin else (mixin, BaseMixin)
    model = type("Model", (*bases, declarative_base()), {"__tablename__": "session"})
    create_tables(engine, model)
    place = ["postgresql", "mysql", "sqlite"].index(engine.dialect.name)
    columns = {**COLUMNS[BaseMixin], **COLUMNS[mixin]}
    found = {each["name"]: each for each in inspect(engine).get_columns("session")}
    assert set(found) == set(columns)
    for name, types in columns.items():
        # MariaDB tells the width of integers, and the collation of texts.
        kind = found[name]["type"].compile(engine.dialect)
        kind = re.sub(r"INT(EGER)?\(\d+\)", r"INT\1", kind).split(" ")[0]
        expected = {types[place]}
        if types is UUID:
            # SQLAlchemy makes CHAR(32) of it where it takes MariaDB for MySQL.
            expected.add("CHAR(32)")
        assert kind in expected, name
    assert inspect(engine).get_pk_constraint("session")["constrained_columns"] == ["id"]


@pytest.mark.parametrize(
    ("mixin", "names"),
    [
        (
            ConfigCookieMixin,
            "cookie_max_age cookie_path cookie_domain cookie_secure cookie_httponly",
        ),
        (
            ConfigIdleMixin,
            "idle_expire idle_timeout extension_delay extension_chance"
            " extension_deadline",
        ),
        (ConfigAbsoluteMixin, "absolute_expire"),
        (
            ConfigRenewalMixin,
            "renewal_next renewal_previous renewed renewal_tried renewal_timeout"
            " renewal_try_every",
        ),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_columns_of_settings(mixin: type, names: str) -> None:
    """The columns of the Config mixins are called like the settings."""
    model: Any = type(
        "Model", (mixin, BaseMixin, declarative_base()), {"__tablename__": "session"}
    )
    columns = model.__table__.columns
    assert set(columns.keys()) - set(COLUMNS[BaseMixin]) == set(names.split())


@pytest.mark.parametrize("name", ["id", "created", "data", "flash", "version"])
def test_not_null(name: str, sqlite_engine: Engine) -> None:
    """The columns that every session has are NOT NULL."""
    create_tables(sqlite_engine, Plain)
    (column,) = [
        each
        for each in inspect(sqlite_engine).get_columns("plain_session")
        if each["name"] == name
    ]
    assert not column["nullable"]


# What a model may have of its own.


def test_schema(engine: Engine, tmp_path: Any) -> None:
    """The table may be in a schema of its own."""
    with other_schema(engine, tmp_path) as schema:

        class Base(DeclarativeBase):
            metadata = MetaData(schema=schema)

        class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
            __tablename__ = "session"

        application = serve(engine, Model)
        assert inspect(engine).get_table_names(schema=schema) == ["session"]
        check_history(application)
        check_history(application, **{"retry.attempt": 1})


def test_schema_translate_map(engine: Engine, tmp_path: Any) -> None:
    """An application with a schema per tenant may translate the name of the schema."""
    with other_schema(engine, tmp_path) as schema:

        class Base(DeclarativeBase):
            metadata = MetaData(schema="tenant")

        class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
            __tablename__ = "session"

        tenant = engine.execution_options(schema_translate_map={"tenant": schema})
        check_history(serve(tenant, Model))


class other_schema:
    """A context with a second schema beside that of the engine."""

    def __init__(self, engine: Engine, directory: Any):
        self.engine = engine
        self.directory = directory

    def __enter__(self) -> str:
        engine = self.engine
        if engine.dialect.name == "sqlite":
            path = self.directory / "other.sqlite"
            attach = f"ATTACH DATABASE '{path}' AS other"
            event.listen(
                engine, "connect", lambda connection, _: connection.execute(attach)
            )
            self.name = "other"
            return self.name
        where = (
            "current_schema()" if engine.dialect.name == "postgresql" else "database()"
        )
        with engine.begin() as connection:
            self.name = f"{connection.scalar(text(f'SELECT {where}'))}_other"
            connection.execute(text(f"CREATE SCHEMA {self.name}"))
        return self.name

    def __exit__(self, *error: object) -> None:
        if self.engine.dialect.name != "sqlite":
            cascade = "CASCADE" if self.engine.dialect.name == "postgresql" else ""
            with self.engine.begin() as connection:
                connection.execute(text(f"DROP SCHEMA {self.name} {cascade}"))


def test_table_args_and_indexes(engine: Engine) -> None:
    """A model may have indexes, constraints and options of its table."""

    class Base(DeclarativeBase):
        metadata = MetaData(naming_convention=NAMING_CONVENTION)

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        note = mapped_column(String(10), index=True)

        @declared_attr.directive
        def __table_args__(cls) -> Any:
            return (
                Index("ix_by_user", cls.userid, cls.created.desc()),
                UniqueConstraint("userid", "note"),
                {"mysql_engine": "InnoDB", "comment": "sessions"},
            )

    check_history(serve(engine, Model))
    names = {index["name"] for index in inspect(engine).get_indexes("session")}
    assert {"ix_by_user", "ix_session_note"} <= names


def test_own_defaults(engine: Engine) -> None:
    """Own columns that are NOT NULL get their default, of Python or of the server."""
    base: Any = declarative_base()

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        scalar = mapped_column(String(10), nullable=False, default="scalar")
        drawn = mapped_column(Uuid, nullable=False, default=uuid.uuid4)
        same = mapped_column(
            Integer,
            nullable=False,
            default=lambda context: context.get_current_parameters()["version"],
        )
        served = mapped_column(String(10), nullable=False, server_default="served")
        seen = mapped_column(DateTime, nullable=False, server_default=func.now())
        empty = mapped_column(String(10))

    application = serve(engine, Model)
    Browser(application).visit(lambda r: r.session.update(a=1))
    row = application.row()
    assert (row.scalar, row.same, row.served, row.empty) == (
        "scalar",
        1,
        "served",
        None,
    )
    assert isinstance(row.drawn, uuid.UUID)
    assert isinstance(row.seen, datetime.datetime)
    application.clear()
    check_history(application)


def test_dataclass_defaults(engine: Engine) -> None:
    """The defaults of a dataclass's fields are those of its columns."""
    application = serve(engine, with_dataclass_fields())
    Browser(application).visit(lambda r: r.session.update(a=1))
    row = application.row()
    assert (row.label, row.note, row.visits) == (None, "-", 7)
    assert row.seen is not None


def test_own_onupdate(sqlite_engine: Engine) -> None:
    """A column that SQLAlchemy changes at every UPDATE is changed when a session is."""
    base: Any = declarative_base()

    class Model(BaseMixin, base):
        __tablename__ = "session"
        state = mapped_column(String(10), default="made", onupdate="changed")

    application = serve(sqlite_engine, Model)
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(a=1))
    assert application.row().state == "made"
    browser.visit(lambda r: r.session.update(a=2))
    assert application.row().state == "changed"


def test_missing_default(engine: Engine) -> None:
    """Without a default, an own column that is NOT NULL fails the commit."""
    base: Any = declarative_base()

    class Model(BaseMixin, base):
        __tablename__ = "session"
        note = mapped_column(Uuid, nullable=False)

    application = serve(engine, Model)
    browser = Browser(application)
    with pytest.raises(DBAPIError, match="note"):
        browser.visit(lambda r: r.session.update(a=1))
    assert browser.cookie is None


def test_nothing_of_the_users_runs(sqlite_engine: Engine) -> None:
    """Neither ``__init__`` nor validators nor mapper events see the library's rows."""
    base: Any = declarative_base()
    called: list[str] = []

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        note = mapped_column(String(10))

        def __init__(self, compulsory: str) -> None:
            called.append("init")

        @validates("data", "flash", "userid", "created", "id")
        def validate(self, name: str, value: Any) -> Any:
            called.append(f"validate {name}")
            return value

    for name in (
        "before_insert",
        "after_insert",
        "before_update",
        "after_update",
        "before_delete",
        "after_delete",
    ):
        event.listen(Model, name, lambda *args, name=name: called.append(name))
    event.listen(Model, "init", lambda *args: called.append("init event"))
    event.listen(
        Session, "before_flush", flushed := lambda *args: called.append("flush")
    )
    try:
        application = serve(sqlite_engine, Model)
        check_history(application)
    finally:
        event.remove(Session, "before_flush", flushed)
    assert called == []


# Overridden columns.


def make_user_models(key: Any) -> tuple[Any, Any]:
    """Make a model of users whose keys have the given type, and one of sessions."""

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "user"
        id = mapped_column(key, primary_key=True)
        name = mapped_column(String(20))

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        userid = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
        note = mapped_column(String(20))
        user = relationship(User, lazy="joined")

    return Model, User


def enforce_foreign_keys(engine: Engine) -> None:
    """Make SQLite check foreign keys, as other databases do."""
    if engine.dialect.name == "sqlite":
        event.listen(
            engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"),
        )


KEYS = {
    "uuid": (Uuid(), uuid.UUID(int=1), uuid.UUID(int=2)),
    "string": (String(36), "alice", "bob"),
    "integer": (Integer(), 1, 2),
}


@pytest.mark.parametrize("key", KEYS)
def test_userid_with_foreign_key(key: str, engine: Engine) -> None:
    """The user's id may be of any type, with a foreign key to the users."""
    enforce_foreign_keys(engine)
    kind, alice, bob = KEYS[key]
    model, user = make_user_models(kind)
    application = serve(engine, model)
    with Session(engine) as dbsession:
        dbsession.add_all([user(id=alice, name="Alice"), user(id=bob, name="Bob")])
        dbsession.commit()
    check_history(application, alice, bob)
    check_history(application, alice, bob, **{"retry.attempt": 1})


@pytest.mark.parametrize("key", KEYS)
def test_signing_up(key: str, engine: Engine) -> None:
    """Who signs up is logged in by the same request, though nobody flushed the user."""
    enforce_foreign_keys(engine)
    kind, alice, _ = KEYS[key]
    model, user = make_user_models(kind)
    application = serve(engine, model)
    browser = Browser(application)

    def sign_up(request: Any) -> None:
        request.session.userid = alice
        request.dbsession.add(user(id=alice, name="Alice"))

    browser.visit(sign_up)
    assert application.row().userid == alice
    assert browser.visit(lambda r: r.session.instance.user.name).text == "Alice"


def test_unknown_user(engine: Engine) -> None:
    """A user whom the foreign key refuses is not logged in, and there is no cookie."""
    enforce_foreign_keys(engine)
    model, _ = make_user_models(Uuid())
    application = serve(engine, model)
    browser = Browser(application)
    with pytest.raises(IntegrityError):
        browser.visit(lambda r: setattr(r.session, "userid", uuid.uuid4()))
    assert browser.cookie is None
    assert application.rows() == []


def test_annotated_userid(engine: Engine) -> None:
    """The user's id may be declared anew with an annotation."""

    class Base(DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        userid: Mapped[uuid.UUID | None] = mapped_column()

    check_history(serve(engine, Model), uuid.uuid4(), uuid.uuid4())


def test_userid_under_another_name(engine: Engine) -> None:
    """The column of the user's id may have another name in the database."""
    base: Any = declarative_base()

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        userid = mapped_column("user_id", Integer)

    application = serve(engine, Model)
    columns = {each["name"] for each in inspect(engine).get_columns("session")}
    assert "user_id" in columns
    assert "userid" not in columns
    check_history(application)


def test_all_columns_under_other_names(engine: Engine) -> None:
    """So may all of them, also names that need quotes."""
    base: Any = declarative_base()

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        id = mapped_column("session", Uuid, primary_key=True)
        created = mapped_column("since when", Integer, nullable=False)
        renewal_id = mapped_column("renewal id", Uuid)
        rotated = mapped_column("from", Integer)
        rotated_from = mapped_column("where", Uuid)
        sent = mapped_column("select", Integer)
        authenticated = mapped_column("%s", Integer)
        version = mapped_column("Version:1", Integer, nullable=False)
        data = mapped_column("key", LargeBinary, nullable=False)
        flash = mapped_column("order", JSON, nullable=False)
        userid = mapped_column("user", Integer)
        csrf_token = mapped_column("table", LargeBinary)

    check_history(serve(engine, Model))


@pytest.mark.parametrize("name", ["_id", "_version"])
def test_names_of_parameters(name: str, sqlite_engine: Engine) -> None:
    """A column may be named like anything that the library uses in its statements."""
    base: Any = declarative_base()
    body = {"__tablename__": "session", "own": mapped_column(name, Integer)}
    check_history(serve(sqlite_engine, type("Model", (BaseMixin, base), body)))
    body = {
        "__tablename__": "other",
        "version": mapped_column(name, Integer, nullable=False),
    }
    check_history(serve(sqlite_engine, type("Other", (BaseMixin, base), body)))


def test_columns_with_other_keys(sqlite_engine: Engine) -> None:
    """A column may have another key in its table than the attribute has."""
    base: Any = declarative_base()

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        userid = mapped_column(Integer, key="who")
        version = mapped_column("v", Integer, key="w", nullable=False)

    check_history(serve(sqlite_engine, Model))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_data_as_jsonb(engine: Engine) -> None:
    """The data may be PostgreSQL's JSONB."""
    base: Any = declarative_base()

    class Model(JSONDataMixin, UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        data = mapped_column(postgresql.JSONB, nullable=False)
        flash = mapped_column(postgresql.JSONB, nullable=False)

    application = serve(engine, Model)
    check_history(application)
    Browser(application).visit(lambda r: r.session.update(cart=["book"]))
    with Session(engine) as dbsession:
        query = select(Model.userid).where(Model.data.contains({"cart": ["book"]}))
        assert dbsession.scalars(query).all() == [None]


def test_data_as_json_variant(engine: Engine) -> None:
    """The data may be of the type JSON, here JSONB, there not, with the mixin."""
    base: Any = declarative_base()

    class Model(JSONDataMixin, UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        data = mapped_column(
            JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False
        )

    check_history(serve(engine, Model))


def test_data_as_mutable_json(sqlite_engine: Engine) -> None:
    """SQLAlchemy's own tracking of changes does no harm."""

    class Base(DeclarativeBase):
        pass

    class Model(JSONDataMixin, UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        data = mapped_column(MutableDict.as_mutable(JSON), nullable=False)
        flash = mapped_column(MutableDict.as_mutable(JSON), nullable=False)
        other_id = mapped_column(Uuid, ForeignKey("session.id"))
        other = relationship("Model", remote_side="Model.id", lazy="joined")

    check_history(serve(sqlite_engine, Model))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("data", JSON()),
        ("data", postgresql.JSONB()),
        ("data", MutableDict.as_mutable(JSON())),
        ("id", Integer()),
        ("id", String(36)),
    ],
    ids=str,
)
def test_nonsense(name: str, kind: Any) -> None:
    """A column that cannot hold what the library stores is refused at start-up.

    Of ``data`` only JSON without the mixin is known to be a mistake.
    """
    body = {
        "__tablename__": "session",
        name: mapped_column(kind, nullable=False, primary_key=name == "id"),
    }
    model = type("Model", (BaseMixin, declarative_base()), body)
    with pytest.raises(ConfigurationError, match=f"'{name}'") as info:
        make_factory(model)
    assert " Model " in str(info.value)
    if name == "data":
        assert "JSONDataMixin" in str(info.value)


@pytest.mark.parametrize(
    ("name", "kind", "mixins"),
    [
        ("data", Integer(), ()),
        ("data", LargeBinary(), (JSONDataMixin,)),
        ("data", Text(), (JSONDataMixin,)),
        ("flash", LargeBinary(), ()),
        ("flash", Text(), ()),
    ],
    ids=str,
)
def test_nonsense_that_only_a_write_shows(
    name: str, kind: Any, mixins: tuple[type, ...], engine: Engine
) -> None:
    """Any other type may be fit for it. If it is not, nothing is stored, or quoted."""
    is_old = engine.driver == "pymysql" and version("pymysql") in ("1.1", "1.1.0")
    if is_old and isinstance(kind, Text):
        pytest.skip("PyMySQL before 1.1.1 writes dicts into the statement")
    body = {"__tablename__": "session", name: mapped_column(kind, nullable=False)}
    model = type("Model", (*mixins, BaseMixin, declarative_base()), body)
    application = serve(engine, model)
    browser = Browser(application)

    def view(request: Any) -> None:
        request.session["a"] = "confidential"
        request.session.flash("confidential")

    with pytest.raises((ValueError, TypeError, SQLAlchemyError)) as info:
        browser.visit(view)
    assert "confidential" not in str(info.value)
    assert browser.cookie is None
    assert application.rows() == []


def test_base_with_another_id_first() -> None:
    """A base whose integer id hides that of BaseMixin is refused at start-up."""

    class Base(DeclarativeBase):
        id: Mapped[int] = mapped_column(primary_key=True)

    class Model(Base, BaseMixin):
        __tablename__ = "session"

    with pytest.raises(ConfigurationError, match=r"'id' of the model .*Model"):
        make_factory(Model)


# Functions that make a model.


@pytest.mark.parametrize(
    ("table_name", "name"),
    [("session", "Session"), ("admin_session", "AdminSession"), ("a b-c.d", "ABCD")],
)
def test_created_models_are_named_after_their_tables(
    table_name: str, name: str
) -> None:
    """So that messages tell them apart."""
    base: Any = declarative_base()
    model = create_session_model(base, IdleMixin, table_name=table_name)
    assert (model.__name__, model.__module__) == (name, base.__module__)
    assert list(base.metadata.tables) == [table_name]
    assert "idle_expire" in model.__table__.columns


def test_created_models_of_one_base() -> None:
    """A base may have several, and several bases may have the same."""
    for _ in range(2):
        base: Any = declarative_base()
        for table_name in ("session", "other"):
            make_factory(create_session_model(base, table_name=table_name))
        assert set(base.metadata.tables) == {"session", "other"}


@pytest.mark.parametrize(
    "base",
    [None, object, Plain, registry()],
    ids=["None", "object", "model", "registry"],
)
def test_created_models_need_a_base(base: Any) -> None:
    """What is no declarative base is refused, and shown."""
    with pytest.raises(ConfigurationError, match="base must be a declarative base"):
        create_session_model(base)


def test_what_cannot_be_registered() -> None:
    """What is missing is named."""

    class NoMixin:
        __tablename__ = "session"

    class NoTable(BaseMixin):
        pass

    some: Any = registry()
    for base, model, message in (
        (some, NoMixin, "NoMixin must have BaseMixin among its bases"),
        (some, None, "None must have BaseMixin"),
        (some, NoTable, "NoTable must have a __tablename__"),
        (some, Plain, "Plain is already mapped"),
        (object, NoTable, "base must be a declarative base or a registry"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            register_session_model(base, model)


# What is not a model.


def make_unmapped() -> type:
    class Model(BaseMixin):
        __tablename__ = "session"

    return Model


def make_without_mixin() -> type:
    class Base(DeclarativeBase):
        pass

    class Model(Base):
        __tablename__ = "session"
        id = mapped_column(Uuid, primary_key=True)

    return Model


def make_abstract() -> type:
    class Base(DeclarativeBase):
        pass

    class Model(BaseMixin, Base):
        __abstract__ = True

    return Model


def make_removed() -> type:
    class Model(BaseMixin):
        __tablename__ = "session"
        data = None

    return registry().mapped(Model)


def make_joined_inheritance() -> type:
    class Base(DeclarativeBase):
        pass

    class Parent(BaseMixin, Base):
        __tablename__ = "parent"

    class Model(Parent):
        __tablename__ = "session"
        id = mapped_column(ForeignKey("parent.id"), primary_key=True)

    return Model


@pytest.mark.parametrize(
    "make_model",
    [
        make_unmapped,
        make_without_mixin,
        make_abstract,
        make_removed,
        make_joined_inheritance,
    ],
    ids=lambda each: each.__name__,
)
def test_no_model(make_model: Spelling) -> None:
    """What is not mapped, or has not its own columns, is refused by its name."""
    with pytest.raises(ConfigurationError, match=r"model_class.*Model"):
        make_factory(make_model())


@pytest.mark.parametrize("given", [BaseMixin, object, dict, None, 1, "Model"])
def test_no_class(given: Any) -> None:
    """Neither is a mixin a model, nor what is no class."""
    with pytest.raises(ConfigurationError, match="model_class"):
        make_factory(given)


def test_unmapped_in_an_application(sqlite_engine: Engine) -> None:
    """An application with an unmapped model does not start."""
    with pytest.raises(ConfigurationError, match="not mapped"):
        Application(sqlite_engine, make_unmapped())


def test_late_definitions(sqlite_engine: Engine) -> None:
    """The factory may be made before the classes that the relationships name."""

    class Base(DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        userid = mapped_column(ForeignKey("user.id"))
        user = relationship("User", lazy="joined")

    application = Application(sqlite_engine, Model)

    class User(Base):
        __tablename__ = "user"
        id = mapped_column(Integer, primary_key=True)

    create_tables(sqlite_engine, Model)
    check_history(application)


# The instance.


def eager_models() -> tuple[Any, Any, Any]:
    """Make sessions with a user and the user's roles, all loaded by joins."""

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "user"
        id = mapped_column(Integer, primary_key=True)
        name = mapped_column(String(20))
        roles = relationship("Role", lazy="joined", order_by="Role.name")

    class Role(Base):
        __tablename__ = "role"
        id = mapped_column(Integer, primary_key=True)
        userid = mapped_column(ForeignKey("user.id"))
        name = mapped_column(String(20))

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        userid = mapped_column(ForeignKey("user.id"))
        note = mapped_column(String(20))
        user = relationship(User, lazy="joined")
        roles = relationship(
            Role,
            lazy="joined",
            viewonly=True,
            primaryjoin="Model.userid == foreign(Role.userid)",
        )

    return Model, User, Role


@pytest.fixture
def eager(engine: Engine) -> Application:
    """An application with eager sessions and Alice, who has three roles."""
    model, user, role = eager_models()
    application = serve(engine, model)
    with Session(engine) as dbsession:
        roles = [role(name=name) for name in "abc"]
        dbsession.add(user(id=1, name="Alice", roles=roles))
        dbsession.commit()
    return application


@pytest.fixture
def alice(eager: Application) -> Browser:
    """A browser in which Alice is logged in."""
    browser = Browser(eager)
    browser.visit(lambda r: setattr(r.session, "userid", 1))
    return browser


def names_of_roles(request: Any) -> str:
    """Return what comes with the session: the user's name, and the roles."""
    instance = request.session.instance
    user = instance.user
    assert len(instance.roles) == len(user.roles)
    return user.name + "".join(role.name for role in user.roles)


def test_eager_history(eager: Application, engine: Engine) -> None:
    """A model that is loaded with its user and roles serves a whole history."""
    with Session(engine) as dbsession:
        user = eager.model.user.property.entity.class_
        dbsession.add(user(id=2, name="Bob"))
        dbsession.commit()
    check_history(eager)
    check_history(eager, **{"retry.attempt": 1})


def test_eager_one_statement(alice: Browser, engine: Engine) -> None:
    """A user and a user's many roles arrive in the statement that loads the session."""
    with statements(engine) as executed:
        assert alice.visit(names_of_roles).text == "Aliceabc"
    assert len(executed) == 1, executed


def test_eager_one_statement_after_reading(alice: Browser, engine: Engine) -> None:
    """So they do when the session is read before the instance is asked for."""

    def view(request: Any) -> str:
        assert request.session.userid == 1
        assert "x" not in request.session
        return names_of_roles(request)

    with statements(engine) as executed:
        assert alice.visit(view).text == "Aliceabc"
    assert len(executed) == 1, executed


def test_eager_write(alice: Browser, engine: Engine) -> None:
    """A request that writes as well takes that statement and an UPDATE."""

    def view(request: Any) -> str:
        request.session["a"] = 1
        return names_of_roles(request)

    with statements(engine) as executed:
        assert alice.visit(view).text == "Aliceabc"
    assert [each.split()[0] for each in executed] == ["SELECT", "UPDATE"]


def test_eager_after_expunge(alice: Browser) -> None:
    """Both work when the application takes all objects out of its dbsession."""

    def view(request: Any) -> str:
        request.session["a"] = 1
        instance = request.session.instance
        request.dbsession.expunge_all()
        assert instance.user.name == "Alice"
        request.session["b"] = 2
        return names_of_roles(request)

    assert alice.visit(view).text == "Aliceabc"
    assert alice.visit(lambda r: dict(r.session)).text == "{'a': 1, 'b': 2}"


def test_eager_after_expire(alice: Browser) -> None:
    """Both work when the application expires all objects."""

    def view(request: Any) -> str:
        request.session["a"] = 1
        assert request.session.instance is not None
        request.dbsession.expire_all()
        request.session["b"] = 2
        return names_of_roles(request)

    assert alice.visit(view).text == "Aliceabc"
    assert alice.visit(lambda r: dict(r.session)).text == "{'a': 1, 'b': 2}"


def test_eager_second_transaction(eager: Application, alice: Browser) -> None:
    """A second transaction of a request sees what the first one stored.

    Even if the application keeps the instance, and the dbsession keeps its objects.
    """

    def make_dbsession(request: Any, manager: Any) -> Session:
        dbsession = Session(eager.engine, expire_on_commit=False)
        register(dbsession, transaction_manager=manager, keep_session=True)
        request.add_finished_callback(lambda request: dbsession.close())
        return dbsession

    application = Application(eager.engine, eager.model, make_dbsession=make_dbsession)
    browser = Browser(application)
    browser.set_cookie("session", str(alice.cookie))

    def view(request: Any) -> str:
        instance = request.session.instance
        request.session["a"] = 1
        request.tm.commit()
        request.tm.begin()
        assert dict(request.session) == {"a": 1}
        request.session["b"] = 2
        assert instance is not None
        return names_of_roles(request)

    assert browser.visit(view).text == "Aliceabc"
    assert browser.visit(lambda r: dict(r.session)).text == "{'a': 1, 'b': 2}"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_eager_over_a_known_instance(eager: Application, alice: Browser) -> None:
    """The session is what the database says now, not what an object was a while ago."""
    other = Browser(eager)
    other.set_cookie("session", str(alice.cookie))

    def view(request: Any) -> None:
        sessions = request.dbsession.scalars(select(eager.model)).unique().all()
        other.visit(lambda r: r.session.update(b=2))
        assert len(sessions) == 1
        request.session["a"] = 1

    alice.visit(view)
    assert alice.visit(lambda r: sorted(r.session)).text == "['a', 'b']"


def test_new_session_has_no_instance(eager: Application) -> None:
    """A new session has no instance."""
    assert Browser(eager).visit(lambda r: repr(r.session.instance)).text == "None"


@pytest.fixture(params=["eager", "lazy"])
def noted(request: pytest.FixtureRequest, engine: Engine) -> Application:
    """An application whose sessions have a note, loaded eagerly and not."""
    if request.param == "eager":
        return request.getfixturevalue("eager")
    base: Any = declarative_base()

    class Model(UseridMixin, CSRFMixin, BaseMixin, base):
        __tablename__ = "session"
        note = mapped_column(String(20))

    return serve(engine, Model)


def take_note(request: Any) -> None:
    """Edit the own column of the model."""
    request.session.instance.note = "edited"


def test_editing_own_columns(noted: Application) -> None:
    """The model's own columns are edited on the instance, and flushed as any other."""
    browser = Browser(noted)
    browser.visit(lambda r: r.session.update(a=1))
    browser.visit(take_note)
    assert noted.row().note == "edited"
    assert browser.visit(lambda r: r.session.instance.note).text == "edited"


def test_editing_with_other_changes(noted: Application) -> None:
    """They may be edited in a request that changes the session, too."""
    browser = Browser(noted)
    browser.visit(lambda r: r.session.update(a=1))

    def view(request: Any) -> None:
        take_note(request)
        request.session["b"] = 2
        request.session.rotate()

    browser.visit(view)
    assert noted.row().note == "edited"
    assert browser.visit(lambda r: dict(r.session)).text == "{'a': 1, 'b': 2}"


def test_editing_before_first_use(noted: Application) -> None:
    """An edit that is not flushed yet survives the loading of the session."""
    browser = Browser(noted)
    browser.visit(lambda r: r.session.update(a=1))

    def view(request: Any) -> None:
        (instance,) = request.dbsession.scalars(select(noted.model)).unique()
        instance.note = "edited"
        request.session["b"] = 2
        assert request.session.instance is instance
        assert instance.note == "edited"

    browser.visit(view)
    assert noted.row().note == "edited"


def test_editing_and_ending(noted: Application) -> None:
    """A session whose instance was edited can be invalidated."""
    browser = Browser(noted)
    browser.visit(lambda r: r.session.update(a=1))

    def view(request: Any) -> None:
        take_note(request)
        request.session.invalidate()
        request.session.flash("goodbye")

    browser.visit(view)
    assert noted.row().note is None
    assert browser.visit(lambda r: r.session.pop_flash()).text == "['goodbye']"


def test_failed_edit(noted: Application) -> None:
    """An edit in a request that fails is not stored."""
    browser = Browser(noted)
    browser.visit(lambda r: r.session.update(a=1))
    browser.fail(take_note)
    assert noted.row().note is None


# What refers to a session.


@pytest.fixture
def referred(engine: Engine) -> tuple[Application, Any]:
    """An application whose model has notes, and the model of the notes."""
    enforce_foreign_keys(engine)

    class Base(DeclarativeBase):
        pass

    class Model(UseridMixin, CSRFMixin, BaseMixin, Base):
        __tablename__ = "session"
        notes = relationship(
            "Note", back_populates="session", passive_deletes=True, passive_updates=True
        )

    class Note(Base):
        __tablename__ = "note"
        id = mapped_column(Integer, primary_key=True)
        session_id = mapped_column(ForeignKey("session.id", ondelete="CASCADE"))
        session = relationship(Model, back_populates="notes")

    application = serve(engine, Model)
    return application, Note


def test_rotate_under_foreign_key(referred: tuple[Application, Any]) -> None:
    """Rows that refer to the session stay as they are, and so does its id."""
    application, note = referred
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(a=1))
    old = application.row().id
    browser.visit(lambda r: r.dbsession.add(note(session=r.session.instance)))
    browser.visit(lambda r: r.session.rotate())
    with Session(application.engine) as dbsession:
        (found,) = dbsession.scalars(select(note))
        assert found.session_id == application.row().id == old
    assert browser.visit(lambda r: len(r.session.instance.notes)).text == "1"


def test_rotate_after_adding(referred: tuple[Application, Any]) -> None:
    """So do rows that the same request adds before it logs in."""
    application, note = referred
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(a=1))

    def view(request: Any) -> None:
        request.dbsession.add(note(session=request.session.instance))
        request.session.userid = 1

    browser.visit(view)
    assert browser.visit(lambda r: len(r.session.instance.notes)).text == "1"


def test_invalidate_under_foreign_key(referred: tuple[Application, Any]) -> None:
    """Rows that refer to the session go with it: ON DELETE CASCADE."""
    application, note = referred
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(a=1))
    browser.visit(lambda r: r.dbsession.add(note(session=r.session.instance)))
    browser.visit(lambda r: r.session.invalidate())
    with Session(application.engine) as dbsession:
        assert dbsession.scalars(select(note)).all() == []
    assert application.rows() == []
