"""Alembic: its own migrations of every model, and the migration from version 0.1.0."""

from __future__ import annotations

import io
import pickle
import re
import time
import uuid
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import time_machine
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import (
    DateTime,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Uuid,
    create_engine,
    event,
    func,
    insert,
    inspect,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    declarative_base,
    mapped_column,
    relationship,
)

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    CSRFMixin,
    EncryptedDataMixin,
    FullyFeaturedSession,
    IdleMixin,
    JSONDataMixin,
    RenewalMixin,
    UseridMixin,
    get_session_factory,
)
from pyramid_sqlalchemy_sessions.reseal import census_of, reseal
from tests.application import SECRET, Application, Browser
from tests.applications.starter import sample
from tests.histories import check_history

#: As the cookiecutter for Pyramid with SQLAlchemy makes it, but that the engine and the
#: metadata are those of the test.
ENV = """
from alembic import context

config = context.config
engine = config.attributes["engine"]
target_metadata = config.attributes["metadata"]


def run_migrations_online():
    connection = engine.connect()
    context.configure(
        connection=connection,
        target_metadata=target_metadata,
        **config.attributes["options"],
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.close()


run_migrations_online()
"""


class Migrations:
    """An Alembic environment in a directory of its own."""

    def __init__(self, directory: Path, engine: Engine, **options: Any):
        self.versions = directory / "alembic" / "versions"
        self._config = Config(str(directory / "alembic.ini"), stdout=io.StringIO())
        command.init(self._config, str(directory / "alembic"))
        (directory / "alembic" / "env.py").write_text(ENV)
        self._config.attributes.update(engine=engine, options=options)

    def aim(self, model: Any) -> None:
        """Take the tables of this model for what the database should have."""
        self._config.attributes["metadata"] = model.__table__.metadata

    def generate(self) -> str:
        """Write a migration to what the models are now, and return its text."""
        before = set(self.versions.glob("*.py"))
        command.revision(self._config, "next", autogenerate=True)
        (path,) = set(self.versions.glob("*.py")) - before
        return path.read_text()

    def add_sample(self, sample: str) -> None:
        """Write a migration as the documentation shows it."""
        script: Any = command.revision(self._config, "by hand")
        path = Path(script.path)
        lines = f"revision = {script.revision!r}\n"
        lines += f"down_revision = {script.down_revision!r}\n"
        path.write_text(sample + "\n\n" + lines)

    def upgrade(self) -> None:
        """Bring the database up to date."""
        command.upgrade(self._config, "head")

    def downgrade(self, revision: str = "base") -> None:
        """Bring the database back."""
        command.downgrade(self._config, revision)

    def check(self) -> None:
        """Raise CommandError if the models and the database differ."""
        command.check(self._config)


@pytest.fixture
def migrations(tmp_path: Path, engine: Engine) -> Migrations:
    """An Alembic environment for the database."""
    return Migrations(tmp_path, engine)


# Models, each with a metadata of its own.


def plain() -> Any:
    """Make a model without any feature."""

    class Model(BaseMixin, declarative_base()):  # type: ignore[misc]
        __tablename__ = "session"

    return Model


def full() -> Any:
    """Make a model with all features."""

    class Model(FullyFeaturedSession, declarative_base()):  # type: ignore[misc]
        __tablename__ = "session"

    return Model


def in_json() -> Any:
    """Make a model whose data is JSON."""

    class Model(  # type: ignore[misc]
        JSONDataMixin, UseridMixin, CSRFMixin, BaseMixin, declarative_base()
    ):
        __tablename__ = "session"

    return Model


def related() -> Any:
    """Make a model with foreign keys in both directions, indexes and own columns."""

    class Base(DeclarativeBase):
        metadata = MetaData(
            naming_convention={
                "ix": "ix_%(column_0_label)s",
                "uq": "uq_%(table_name)s_%(column_0_name)s",
                "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
                "pk": "pk_%(table_name)s",
            }
        )

    class User(Base):
        __tablename__ = "user"
        id = mapped_column(Uuid, primary_key=True)
        name = mapped_column(String(20), nullable=False)

    class Model(FullyFeaturedSession, Base):
        __tablename__ = "session"
        userid = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
        note = mapped_column(String(20), nullable=False, default="-", index=True)
        seen = mapped_column(DateTime, nullable=False, server_default=func.now())
        user = relationship(User, lazy="joined")
        __table_args__ = (Index("ix_session_created", "created"),)

    class Note(Base):
        __tablename__ = "note"
        id = mapped_column(Integer, primary_key=True)
        session_id = mapped_column(
            ForeignKey("session.id", onupdate="CASCADE", ondelete="CASCADE"),
            nullable=False,
        )

    return Model


def encrypted() -> Any:
    """Make a model whose pickles are encrypted."""

    class Model(  # type: ignore[misc]
        EncryptedDataMixin, UseridMixin, CSRFMixin, BaseMixin, declarative_base()
    ):
        __tablename__ = "session"

    return Model


def encrypted_json() -> Any:
    """Make a model whose JSON is encrypted."""

    class Model(  # type: ignore[misc]
        EncryptedDataMixin,
        JSONDataMixin,
        UseridMixin,
        CSRFMixin,
        BaseMixin,
        declarative_base(),
    ):
        __tablename__ = "session"

    return Model


MODELS = [plain, full, in_json, related, encrypted, encrypted_json]


def use(engine: Engine, model: Any) -> None:
    """Play a whole history on the migrated tables."""
    application = Application(engine, model)
    tables = model.__table__.metadata.tables
    if "user" in tables:
        alice, bob = uuid.uuid4(), uuid.uuid4()
        with engine.begin() as connection:
            for key in (alice, bob):
                connection.execute(insert(tables["user"]).values(id=key, name="x"))
        check_history(application, alice, bob)
        with engine.begin() as connection:
            connection.execute(tables["user"].delete())
    else:
        check_history(application)


@pytest.mark.parametrize("make_model", MODELS, ids=lambda each: each.__name__)
def test_generated_migration(
    make_model: Callable[[], Any], migrations: Migrations, engine: Engine
) -> None:
    """What Alembic generates runs unedited, up, down and up again, and is complete."""
    model = make_model()
    migrations.aim(model)
    with pytest.raises(CommandError):
        migrations.check()
    migrations.generate()
    migrations.upgrade()
    migrations.check()
    use(engine, model)
    migrations.downgrade()
    assert inspect(engine).get_table_names() == ["alembic_version"]
    migrations.upgrade()
    migrations.check()
    use(engine, model)


@pytest.mark.parametrize("make_model", MODELS, ids=lambda each: each.__name__)
def test_created_tables(
    make_model: Callable[[], Any], migrations: Migrations, engine: Engine
) -> None:
    """The tables of ``create_all`` are the same: Alembic's check finds nothing."""
    model = make_model()
    model.__table__.metadata.create_all(engine)
    migrations.aim(model)
    migrations.check()


def test_defaults_of_the_server(tmp_path: Path, engine: Engine) -> None:
    """The check finds nothing either when it compares the server's defaults."""
    model = full()
    migrations = Migrations(tmp_path, engine, compare_server_default=True)
    migrations.aim(model)
    migrations.generate()
    migrations.upgrade()
    migrations.check()


def test_batches(tmp_path: Path, engine: Engine) -> None:
    """The same goes for Alembic's batch mode, which applications on SQLite use."""
    migrations = Migrations(tmp_path, engine, render_as_batch=True)
    for make_model in (plain, full):
        migrations.aim(make_model())
        migrations.generate()
        migrations.upgrade()
        migrations.check()
    migrations.downgrade()
    assert inspect(engine).get_table_names() == ["alembic_version"]


OTHER_DRIVERS = {
    "mariadb": ("mysql+pymysql:", "mariadb+pymysql:", "pymysql"),
    "postgresql": ("postgresql+psycopg2:", "postgresql+psycopg:", "psycopg"),
}


@pytest.mark.parametrize("database_url", OTHER_DRIVERS, indirect=True)
@pytest.mark.parametrize("make_model", [full, in_json], ids=lambda each: each.__name__)
def test_other_drivers(
    make_model: Callable[[], Any], database_url: str, tmp_path: Path
) -> None:
    """It is the same for MariaDB under its own name, and for psycopg 3."""
    (usual, other, module) = next(
        each for each in OTHER_DRIVERS.values() if database_url.startswith(each[0])
    )
    pytest.importorskip(module)
    engine = create_engine(database_url.replace(usual, other))
    try:
        migrations = Migrations(tmp_path, engine)
        model = make_model()
        migrations.aim(model)
        migrations.generate()
        migrations.upgrade()
        migrations.check()
        use(engine, model)
        migrations.downgrade()
    finally:
        engine.dispose()


def log_in(request: Any) -> None:
    """Log in a user whose id is in the session."""
    request.session.userid = request.session["a"]


@pytest.fixture
def live(migrations: Migrations, engine: Engine) -> str:
    """The cookie of a session in a migrated table that has no features yet."""
    migrations.aim(plain())
    migrations.generate()
    migrations.upgrade()
    browser = Browser(Application(engine, plain()))
    browser.visit(lambda r: r.session.update(a=1))
    return str(browser.cookie)


def test_adding_features(live: str, migrations: Migrations, engine: Engine) -> None:
    """Features may be added later: the columns are added, and sessions live on."""
    model = type(
        "Model",
        (
            RenewalMixin,
            IdleMixin,
            AbsoluteMixin,
            CSRFMixin,
            UseridMixin,
            BaseMixin,
            declarative_base(),
        ),
        {"__tablename__": "session"},
    )
    migrations.aim(model)
    migrations.generate()
    migrations.upgrade()
    migrations.check()
    browser = Browser(Application(engine, model, absolute_timeout=1000))
    browser.set_cookie("session", live)
    browser.visit(log_in)
    assert browser.visit(lambda r: r.session.userid).text == "1"

    migrations.downgrade("-1")
    migrated = Browser(Application(engine, plain()))
    migrated.set_cookie("session", str(browser.cookie))
    assert migrated.visit(lambda r: r.session["a"]).text == "1"


@pytest.mark.parametrize("fills", [False, True])
def test_adding_settings(
    fills: bool, live: str, migrations: Migrations, engine: Engine
) -> None:
    """With runtime settings, live sessions have the application's, or some are set."""
    model = full()
    migrations.aim(model)
    migrations.generate()
    migrations.upgrade()
    migrations.check()
    if fills:
        execute(engine, sample("fill_settings.sql"))
    browser = Browser(Application(engine, model, renewal_try_every=7, cookie_path="/a"))
    browser.set_cookie("session", live)
    browser.visit(log_in, "/a/b")
    assert browser.visit(lambda r: r.session.userid, "/a/b").text == "1"
    settings = browser.ask(lambda session: dict(session.settings), url="/a/b")
    assert settings["idle_timeout"] is None
    assert settings["renewal_try_every"] == (5 if fills else 7)
    assert settings["cookie_path"] == ("/" if fills else "/a")
    assert settings["extension_chance"] == 100


def test_adding_json(migrations: Migrations, engine: Engine) -> None:
    """A model of each kind, pickle and JSON, may live in one database."""

    class Base(DeclarativeBase):
        pass

    class One(FullyFeaturedSession, Base):
        __tablename__ = "one"

    class Two(JSONDataMixin, BaseMixin, Base):
        __tablename__ = "two"

    migrations.aim(One)
    migrations.generate()
    migrations.upgrade()
    migrations.check()
    use(engine, One)
    use(engine, Two)


# From version 0.1.0 and from development versions, by what the documentation shows.

#: What both tables are made of, in the words of PostgreSQL.
OLD_COLUMNS = """
    id UUID NOT NULL PRIMARY KEY,
    created INTEGER NOT NULL,
    data BYTEA NOT NULL,
    flash JSON NOT NULL,
    userid INTEGER,
    csrf_token BYTEA
"""

OLD_FEATURES = """,
    cookie_max_age INTEGER,
    cookie_path VARCHAR(255),
    cookie_domain VARCHAR(255),
    cookie_secure BOOLEAN,
    cookie_httponly BOOLEAN,
    idle_timeout INTEGER,
    idle_expire INTEGER,
    extension_delay SMALLINT,
    extension_chance SMALLINT,
    extension_deadline SMALLINT,
    absolute_expire INTEGER,
    renewal_id UUID,
    renewal_next UUID,
    renewal_timeout INTEGER,
    renewal_try_every SMALLINT,
    renewed INTEGER,
    renewal_tried INTEGER
"""

#: Cookies of version 0.1.0: a session id, and one with a renewal id, under bytes 0..31.
OLD_COOKIE = "ZGVmZ2hpamtsbW5vcHFyc_mUla6MUzkbxLOpLmScIDMQeomaKNnpF2Iof1qTAjqy"
OLD_RENEWAL_COOKIE = (
    "ZGVmZ2hpamtsbW5vcHFyc5EGp3oWeBq_Ilvkkuw6iWYQeomaKNnpF2Iof1qTAjqygqiCG0AyPtQlYfaN"
    "fRLhLw=="
)
OLD_ID = uuid.UUID(bytes=bytes(range(200, 216)))
OLD_RENEWAL_ID = uuid.UUID(bytes=bytes(range(216, 232)))


def old() -> Any:
    """Make the model that goes with OLD_COLUMNS."""

    class Model(UseridMixin, CSRFMixin, BaseMixin, declarative_base()):  # type: ignore[misc]
        __tablename__ = "session"

    return Model


def execute(engine: Engine, script: str, **parameters: Any) -> None:
    """Execute SQL statements."""
    with engine.begin() as connection:
        for statement in filter(None, map(str.strip, script.split(";"))):
            connection.execute(text(statement), parameters)


def in_words_of(engine: Engine, sql: str) -> str:
    """Return SQL with the type that ids have there, instead of UUID."""
    with engine.connect():  # the version of the server decides
        return re.sub(r"\bUUID\b", Uuid().compile(dialect=engine.dialect), sql)


def create_old_table(engine: Engine, features: str = "") -> None:
    """Make a table as version 0.1.0 had it."""
    script = f"CREATE TABLE session ({OLD_COLUMNS}{features})"
    if engine.dialect.name != "postgresql":
        script = script.replace("UUID", "CHAR(32)").replace("BYTEA", "BLOB")
    execute(engine, script)


def create_table_of_development(engine: Engine, model: Any) -> None:
    """Make a table as the development version had it in which ``version`` was new."""
    model.metadata.create_all(engine)
    names = ["rotated", "rotated_from", "sent"]
    if issubclass(model, UseridMixin):
        names.append("authenticated")
    if not issubclass(model, RenewalMixin):
        names.append("renewal_id")
    with engine.begin() as connection:
        for name in names:
            connection.execute(text(f"ALTER TABLE session DROP COLUMN {name}"))


def insert_old_row(engine: Engine, **values: Any) -> None:
    """Insert a row as version 0.1.0 wrote it."""
    row = {
        "id": OLD_ID,
        "created": int(time.time()) - 60,
        "data": pickle.dumps(MutableDict({"cart": ["book"]}), 4),
        "flash": '{"": ["hello"]}',
        "userid": 7,
        "csrf_token": bytes(range(20)),
        **values,
    }
    if engine.dialect.name != "postgresql":
        for name, value in row.items():
            row[name] = value.hex if isinstance(value, uuid.UUID) else value
    names = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    execute(engine, f"INSERT INTO session ({names}) VALUES ({places})", **row)


def features_of_old_row() -> dict[str, Any]:
    """Return what the row has in the columns of the other mixins."""
    now = int(time.time())
    return {
        "renewal_id": OLD_RENEWAL_ID,
        "renewed": now - 30,
        "renewal_timeout": 60,
        "renewal_try_every": 5,
        "idle_expire": now + 300,
        "idle_timeout": 600,
        "extension_chance": 100,
        "extension_deadline": 1,
        "absolute_expire": now + 3000,
        "cookie_path": "/",
        "cookie_secure": False,
        "cookie_httponly": True,
    }


def by_id(application: Application, key: uuid.UUID) -> Any:
    """Return the row with this id."""
    (row,) = (each for each in application.rows() if each.id == key)
    return row


def check_old_session(browser: Browser) -> None:
    """Check that the session of the old row lives on, its login and logout included."""
    application, cookie = browser.application, str(browser.cookie).strip('"')

    def view(request: Any) -> str:
        session = request.session
        assert not session.new
        assert session.created <= time.time() - 60
        assert session.userid == 7
        assert session.authenticated is None
        assert session.get_csrf_token() == "AAECAwQFBgcICQoLDA0ODxAREhM="
        assert session.pop_flash() == ["hello"]
        session["cart"].append("pen")
        return ""

    browser.visit(view)
    assert browser.visit(lambda r: r.session["cart"]).text == "['book', 'pen']"
    assert browser.visit(lambda r: r.session.pop_flash()).text == "[]"
    assert str(browser.cookie).strip('"') == cookie
    row = by_id(application, OLD_ID)
    assert row.version == 2
    assert row.rotated is row.rotated_from is row.authenticated is None

    late = Browser(application)
    late.set_cookie("session", cookie)
    browser.visit(lambda r: r.session.authenticate(7))
    now = by_id(application, OLD_ID)
    assert now.rotated_from == row.renewal_id != now.renewal_id
    assert now.rotated == now.authenticated >= row.created + 60
    assert browser.cookie not in (None, cookie)
    assert browser.visit(lambda r: r.session["cart"]).text == "['book', 'pen']"
    assert late.ask(lambda session: (session.is_late, dict(session))) == (True, {})


def part_of(script: str, model: Any) -> str:
    """Return those lines of a sample that the model needs, as the page says it."""
    names = {each.__name__ for each in model.__mro__}
    lines, is_meant = [], True
    for line in script.splitlines():
        heading = re.match(r"\s*(?:#|--) (Without )?(\w+Mixin)$", line)
        if heading is not None:
            without, name = heading.groups()
            is_meant = (name in names) != bool(without)
        elif is_meant:
            lines.append(line)
    return "\n".join(lines)


def migrate(
    by: str, samples: list[str], model: Any, migrations: Migrations, engine: Engine
) -> None:
    """Migrate by samples of the documentation, and check that nothing is missing."""
    migrations.aim(model)
    for name in samples:
        if by == "alembic":
            migrations.add_sample(part_of(sample(f"{name}.py"), model))
        else:
            if name == "upgrade":
                kind = engine.dialect.name.replace("mysql", "mariadb")
                name = f"upgrade_{kind}"
            script = part_of(sample(f"{name}.sql"), model)
            execute(engine, in_words_of(engine, script))
    if by == "alembic":
        migrations.upgrade()
    if by == "alembic" or "upgrade" not in samples or engine.dialect.name != "sqlite":
        migrations.check()  # in SQLite's SQL integers keep the names of their types


both_ways = pytest.mark.parametrize("by", ["alembic", "sql"])


@both_ways
def test_table_of_0_1_0(by: str, migrations: Migrations, engine: Engine) -> None:
    """The documented migration brings a table of version 0.1.0 up to date."""
    create_old_table(engine)
    insert_old_row(engine)
    model = old()
    migrate(by, ["upgrade", "new_columns"], model, migrations, engine)
    application = Application(engine, model)
    browser = Browser(application)
    browser.set_cookie("session", OLD_COOKIE)
    check_old_session(browser)
    application.clear()
    check_history(application)
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(large="x" * 100_000))
    assert browser.ask(lambda session: len(session["large"])) == 100_000


@both_ways
def test_full_table_of_0_1_0(by: str, migrations: Migrations, engine: Engine) -> None:
    """So it does one with all features, whose sessions keep their timeouts."""
    create_old_table(engine, OLD_FEATURES)
    row = features_of_old_row()
    insert_old_row(engine, **row)
    model = full()
    migrate(by, ["upgrade", "new_columns"], model, migrations, engine)
    check_full(Application(engine, model, **TIMEOUTS), row)


TIMEOUTS = {"idle_timeout": 600, "absolute_timeout": 6000, "renewal_timeout": 60}


def check_full(application: Application, values: dict[str, Any]) -> None:
    """Check that the session of an old row with all features lives on."""
    browser = Browser(application)
    browser.set_cookie("session", OLD_RENEWAL_COOKIE)
    check_old_session(browser)
    row = application.row()
    assert row.idle_expire >= values["idle_expire"] + 300
    assert row.absolute_expire == values["absolute_expire"]
    assert row.rotated_from == OLD_RENEWAL_ID
    with time_machine.travel(time.time() + 70):  # it's renewed
        renewal_id = row.renewal_id
        browser.visit(lambda r: r.session["cart"])
        assert browser.visit(lambda r: r.session["cart"]).text == "['book', 'pen']"
        assert application.row().renewal_previous == renewal_id
    application.clear()
    check_history(application)


@both_ways
@pytest.mark.parametrize("data", ["pickle", "JSON"])
def test_table_of_development(
    data: str, by: str, migrations: Migrations, engine: Engine
) -> None:
    """A table of a development version needs no more than its new columns."""
    model = in_json() if data == "JSON" else old()
    create_table_of_development(engine, model)
    values = {"data": '{"cart": ["book"]}'} if data == "JSON" else {}
    insert_old_row(engine, version=1, **values)
    migrate(by, ["new_columns"], model, migrations, engine)
    application = Application(engine, model)
    browser = Browser(application)
    browser.set_cookie("session", OLD_COOKIE)
    check_old_session(browser)
    application.clear()
    check_history(application)


@both_ways
def test_full_table_of_development(
    by: str, migrations: Migrations, engine: Engine
) -> None:
    """So does one with all features."""
    model = full()
    create_table_of_development(engine, model)
    row = features_of_old_row()
    insert_old_row(engine, version=1, **row)
    migrate(by, ["new_columns"], model, migrations, engine)
    check_full(Application(engine, model, **TIMEOUTS), row)


@pytest.mark.parametrize("make_model", MODELS, ids=lambda each: each.__name__)
def test_generated_migration_of_development(
    make_model: Callable[[], Any], migrations: Migrations, engine: Engine
) -> None:
    """What Alembic generates for such a table does it, too, and back."""
    model = make_model()
    create_table_of_development(engine, model)
    before = [each["name"] for each in inspect(engine).get_columns("session")]
    migrations.aim(model)
    migrations.generate()
    migrations.upgrade()
    migrations.check()
    use(engine, model)
    migrations.downgrade()
    after = [each["name"] for each in inspect(engine).get_columns("session")]
    assert after == before


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@both_ways
def test_development_under_the_name_of_mariadb(
    by: str, database_url: str, tmp_path: Path
) -> None:
    """It's the same under the other name of the dialect."""
    engine = create_engine(database_url.replace("mysql+", "mariadb+"))
    try:
        model = old()
        create_table_of_development(engine, model)
        insert_old_row(engine, version=1)
        migrations = Migrations(tmp_path, engine)
        migrate(by, ["new_columns"], model, migrations, engine)
        browser = Browser(Application(engine, model))
        browser.set_cookie("session", OLD_COOKIE)
        check_old_session(browser)
    finally:
        engine.dispose()


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@both_ways
def test_from_sqlalchemy_2_0_to_2_1(
    by: str, migrations: Migrations, engine: Engine
) -> None:
    """On MariaDB ids have to be converted; the documented statements do it."""
    with engine.connect():
        if Uuid().compile(dialect=engine.dialect) != "UUID":
            pytest.skip("this SQLAlchemy has ids as they were")
    model = full()
    model.metadata.create_all(engine)
    script = part_of(sample("mariadb_uuid.sql"), model)
    execute(engine, script.replace("UUID", "CHAR(32)"))
    row = features_of_old_row()
    insert_old_row(engine, version=1, **row)
    migrations.aim(model)
    if by == "alembic":
        migrations.generate()
        migrations.upgrade()
    else:
        execute(engine, script)
    migrations.check()
    check_full(Application(engine, model, **TIMEOUTS), row)


@pytest.mark.parametrize("is_of_development", [False, True])
def test_without_the_migration(is_of_development: bool, engine: Engine) -> None:
    """Without the migration nothing is lost: reading fails, and so does writing."""
    if is_of_development:
        create_table_of_development(engine, old())
        insert_old_row(engine, version=1)
    else:
        create_old_table(engine)
        insert_old_row(engine)
    browser = Browser(Application(engine, old()))
    browser.set_cookie("session", OLD_COOKIE)
    missing = "renewal_id" if is_of_development else "version"
    with pytest.raises(DBAPIError, match=missing):
        browser.visit(lambda r: r.session["cart"])
    with pytest.raises(DBAPIError):
        Browser(browser.application).visit(lambda r: r.session.update(a=1))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM session")) == 1


# From pickles to JSON.


def test_pickles_to_json(migrations: Migrations, engine: Engine) -> None:
    """The documented migration keeps each session, whoever is logged in in it."""
    before, after = old(), in_json()
    migrations.aim(before)
    migrations.generate()
    migrations.upgrade()
    application = Application(engine, before)
    alice, bob, guest = (Browser(application) for _ in range(3))
    values = {"date": date(2026, 11, 27), "amounts": {1: (Decimal("9.95"), b"\0")}}

    def fill(request: Any) -> None:
        request.session.update(values)
        request.session.flash("hello")
        request.session.userid = 1

    alice.visit(fill)
    bob.visit(lambda r: setattr(r.session, "userid", 2))
    guest.visit(lambda r: r.session.update(cart=["book"]))
    token = alice.ask(lambda session: session.get_csrf_token())
    insert_old_row(engine, version=1)
    ids = {row.id for row in application.rows()}

    migrations.aim(after)
    migrations.add_sample(sample("to_json.py"))
    migrations.upgrade()
    migrations.check()
    application = Application(engine, after)
    assert {row.id for row in application.rows()} == ids
    browsers = []
    for browser in (alice, bob, guest):
        browsers.append(Browser(application))
        browsers[-1].set_cookie("session", str(browser.cookie))
    alice, bob, guest = browsers
    assert alice.ask(dict) == values
    assert alice.ask(lambda s: (s.userid, s.pop_flash())) == (1, ["hello"])
    assert alice.ask(lambda session: session.get_csrf_token()) == token
    assert bob.ask(lambda session: (session.userid, dict(session))) == (2, {})
    guest.visit(lambda r: r.session["cart"].append("pen"))
    assert guest.ask(dict) == {"cart": ["book", "pen"]}
    of_0_1_0 = Browser(application)
    of_0_1_0.set_cookie("session", OLD_COOKIE)
    check_old_session(of_0_1_0)
    application.clear()
    check_history(application)


def test_what_json_cannot_hold(migrations: Migrations, engine: Engine) -> None:
    """A value that isn't for JSON stops that migration, and is still there."""
    model = old()
    migrations.aim(model)
    migrations.generate()
    migrations.upgrade()
    browser = Browser(Application(engine, model))
    browser.visit(lambda r: r.session.update(innocent=1, culprit={1, 2}))
    migrations.add_sample(sample("to_json.py"))
    with pytest.raises(TypeError, match="'culprit'"):
        migrations.upgrade()
    assert browser.ask(dict) == {"innocent": 1, "culprit": {1, 2}}


# Encryption.


@pytest.mark.parametrize(
    ("make_before", "make_after"),
    [(old, encrypted), (in_json, encrypted_json)],
    ids=["pickle", "JSON"],
)
@both_ways
def test_encryption_and_back(
    by: str,
    make_before: Callable[[], Any],
    make_after: Callable[[], Any],
    migrations: Migrations,
    engine: Engine,
) -> None:
    """The documented migration keeps each session, and so does the way back."""
    before, after = make_before(), make_after()
    migrations.aim(before)
    migrations.generate()
    migrations.upgrade()
    alice = Browser(Application(engine, before))
    alice.visit(lambda r: r.session.update(cart=["b\u00fccher"]))
    alice.visit(lambda r: r.session.flash("gr\u00fc\u00dfe \U0001f600"))
    cookie = str(alice.cookie)

    def check(model: Any, number: int, **settings: Any) -> None:
        browser = Browser(Application(engine, model, **settings))
        browser.set_cookie("session", cookie)
        seen = browser.ask(lambda s: (s["cart"][0], s.peek_flash()))
        assert seen == ("b\u00fccher", ["gr\u00fc\u00dfe \U0001f600"])
        browser.visit(lambda r: r.session["cart"].append(number))
        assert browser.ask(lambda s: s["cart"][-1]) == number

    columns = ["flash", "data"] if make_before is in_json else ["flash"]
    migrations.aim(after)
    if by == "alembic":
        text = sample("encrypt.py").replace('["flash"]  #', f"{columns}  #")
        migrations.add_sample(text)
        migrations.upgrade()
    else:
        for column in columns:
            script = sample(
                f"encrypt_{engine.dialect.name}.sql".replace("mysql", "mariadb")
            )
            execute(engine, script.replace("flash", column))
    migrations.check()
    check(after, 1, encrypted_accept_plain=True)
    settings = {"data_keys": SECRET, "encrypted_accept_plain": True}
    config = get_session_factory(AESGCMSerializer(SECRET), after, **settings).config
    assert sum(reseal(engine, config)) == 1
    check(after, 2)
    assert census_of(engine, config).stale == 0
    if by == "alembic":
        assert sum(reseal(engine, config, plain=True)) == 1
        migrations.aim(before)
        migrations.downgrade("-1")
        check(before, 3)
        assert_same_types(migrations, before)


def assert_same_types(migrations: Migrations, model: Any) -> None:
    """Check that nothing is left to migrate but what was taken back."""
    (path,) = [
        p for p in migrations.versions.glob("*.py") if "COLUMNS" in p.read_text()
    ]
    path.unlink()
    migrations.check()


def test_foreign_keys_are_kept(migrations: Migrations, engine: Engine) -> None:
    """On a migrated table, what refers to a session stays with it when it rotates."""
    if engine.dialect.name == "sqlite":
        event.listen(
            engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"),
        )
    model = related()
    migrations.aim(model)
    migrations.generate()
    migrations.upgrade()
    application = Application(engine, model)
    browser = Browser(application)
    browser.visit(lambda r: r.session.update(a=1))
    note = model.__table__.metadata.tables["note"]
    with engine.begin() as connection:
        connection.execute(insert(note).values(session_id=application.row().id))
    browser.visit(lambda r: r.session.rotate())
    with engine.connect() as connection:
        found = connection.scalar(note.select().with_only_columns(note.c.session_id))
    assert found == application.row().id
