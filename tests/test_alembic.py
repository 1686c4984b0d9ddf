"""Alembic: its own migrations of every model, and the migration from version 0.1.0."""

from __future__ import annotations

import io
import pickle
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    declarative_base,
    mapped_column,
    relationship,
)

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    BaseMixin,
    CSRFMixin,
    FullyFeaturedSession,
    IdleMixin,
    InconsistentDataError,
    JSONDataMixin,
    RenewalMixin,
    UseridMixin,
)
from tests.application import Application, Browser
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

    def add(self, upgrade: str, downgrade: str) -> None:
        """Write a migration by hand."""
        script: Any = command.revision(self._config, "by hand")
        path = Path(script.path)
        upgrade = textwrap.indent(upgrade.strip(), "    ").lstrip()
        downgrade = textwrap.indent(downgrade.strip(), "    ").lstrip()
        head, _, rest = path.read_text().partition("    pass\n")
        path.write_text(
            f"{head}    {upgrade}\n" + rest.replace("    pass\n", f"    {downgrade}\n")
        )

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


MODELS = [plain, full, in_json, related]


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


#: What has to follow when Config mixins are added to a table with live sessions: the
#: settings that are now theirs. The other new columns may be NULL.
FILL_SETTINGS = """
UPDATE session SET cookie_path = '/', cookie_httponly = TRUE;
UPDATE session SET extension_chance = 100, extension_deadline = 1;
UPDATE session SET renewal_try_every = 5
"""


def test_adding_settings(live: str, migrations: Migrations, engine: Engine) -> None:
    """With runtime settings, live sessions have to be given theirs."""
    model = full()
    migrations.aim(model)
    migrations.generate()
    migrations.upgrade()
    migrations.check()
    browser = Browser(Application(engine, model))
    browser.set_cookie("session", live)
    with pytest.raises(InconsistentDataError, match="renewal_try_every"):
        browser.visit(log_in)
    execute(engine, FILL_SETTINGS)
    browser.visit(log_in)
    assert browser.visit(lambda r: r.session.userid).text == "1"
    assert browser.visit(lambda r: r.session.settings["idle_timeout"]).text == ""


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


# From version 0.1.0, which ran on PostgreSQL.

OLD_TABLE = """
CREATE TABLE session (
    id UUID NOT NULL PRIMARY KEY,
    created INTEGER NOT NULL,
    data BYTEA NOT NULL,
    flash JSON NOT NULL,
    userid INTEGER,
    csrf_token BYTEA
)
"""

OLD_FULL_TABLE = """
CREATE TABLE session (
    id UUID NOT NULL PRIMARY KEY,
    created INTEGER NOT NULL,
    data BYTEA NOT NULL,
    flash JSON NOT NULL,
    userid INTEGER,
    csrf_token BYTEA,
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
)
"""

#: What every table of version 0.1.0 needs, as Alembic operations ...
UPGRADE = """
op.add_column(
    "session",
    sa.Column("version", sa.Integer(), server_default="1", nullable=False),
)
op.alter_column("session", "version", server_default=None)
op.alter_column("session", "created", type_=sa.BigInteger())
op.add_column("session", sa.Column("rotated", sa.BigInteger(), nullable=True))
op.add_column("session", sa.Column("rotated_from", sa.Uuid(), nullable=True))
op.add_column("session", sa.Column("sent", sa.BigInteger(), nullable=True))
# UseridMixin
op.add_column("session", sa.Column("authenticated", sa.BigInteger(), nullable=True))
"""

UPGRADE_WITHOUT_RENEWAL = """
# Without RenewalMixin
op.add_column("session", sa.Column("renewal_id", sa.Uuid(), nullable=True))
"""

DOWNGRADE = """
op.drop_column("session", "authenticated")
op.drop_column("session", "sent")
op.drop_column("session", "rotated_from")
op.drop_column("session", "rotated")
op.alter_column("session", "created", type_=sa.Integer())
op.drop_column("session", "version")
"""

DOWNGRADE_WITHOUT_RENEWAL = """
op.drop_column("session", "renewal_id")
"""

#: ... and as SQL.
UPGRADE_SQL = """
ALTER TABLE session
    ADD COLUMN version INTEGER DEFAULT 1 NOT NULL,
    ADD COLUMN rotated BIGINT,
    ADD COLUMN rotated_from UUID,
    ADD COLUMN sent BIGINT,
    ALTER COLUMN created TYPE BIGINT;
ALTER TABLE session ALTER COLUMN version DROP DEFAULT;
"""

UPGRADE_USERID_SQL = """
-- UseridMixin
ALTER TABLE session
    ADD COLUMN authenticated BIGINT;
"""

UPGRADE_WITHOUT_RENEWAL_SQL = """
-- Without RenewalMixin
ALTER TABLE session
    ADD COLUMN renewal_id UUID;
"""

DOWNGRADE_SQL = """
ALTER TABLE session
    DROP COLUMN version,
    DROP COLUMN rotated,
    DROP COLUMN rotated_from,
    DROP COLUMN sent,
    DROP COLUMN authenticated,
    ALTER COLUMN created TYPE INTEGER;
"""

DOWNGRADE_WITHOUT_RENEWAL_SQL = """
ALTER TABLE session
    DROP COLUMN renewal_id;
"""

#: What one with all features needs besides: the lines of the mixins that it has.
UPGRADE_FEATURES = """
# IdleMixin
op.alter_column("session", "idle_expire", type_=sa.BigInteger())
# ConfigIdleMixin
op.alter_column("session", "extension_delay", type_=sa.Integer())
op.alter_column("session", "extension_chance", type_=sa.Integer())
op.alter_column("session", "extension_deadline", type_=sa.Integer())
# ConfigAbsoluteMixin
op.alter_column("session", "absolute_expire", type_=sa.BigInteger())
# RenewalMixin
op.add_column("session", sa.Column("renewal_previous", sa.Uuid(), nullable=True))
op.alter_column("session", "renewed", type_=sa.BigInteger())
op.alter_column("session", "renewal_tried", type_=sa.BigInteger())
# ConfigRenewalMixin
op.alter_column("session", "renewal_try_every", type_=sa.Integer())
"""

DOWNGRADE_FEATURES = """
# ConfigRenewalMixin
op.alter_column("session", "renewal_try_every", type_=sa.SmallInteger())
# RenewalMixin
op.alter_column("session", "renewal_tried", type_=sa.Integer())
op.alter_column("session", "renewed", type_=sa.Integer())
op.drop_column("session", "renewal_previous")
# ConfigAbsoluteMixin
op.alter_column("session", "absolute_expire", type_=sa.Integer())
# ConfigIdleMixin
op.alter_column("session", "extension_deadline", type_=sa.SmallInteger())
op.alter_column("session", "extension_chance", type_=sa.SmallInteger())
op.alter_column("session", "extension_delay", type_=sa.SmallInteger())
# IdleMixin
op.alter_column("session", "idle_expire", type_=sa.Integer())
"""

UPGRADE_FEATURES_SQL = """
-- IdleMixin
ALTER TABLE session
    ALTER COLUMN idle_expire TYPE BIGINT;
-- ConfigIdleMixin
ALTER TABLE session
    ALTER COLUMN extension_delay TYPE INTEGER,
    ALTER COLUMN extension_chance TYPE INTEGER,
    ALTER COLUMN extension_deadline TYPE INTEGER;
-- ConfigAbsoluteMixin
ALTER TABLE session
    ALTER COLUMN absolute_expire TYPE BIGINT;
-- RenewalMixin
ALTER TABLE session
    ADD COLUMN renewal_previous UUID,
    ALTER COLUMN renewed TYPE BIGINT,
    ALTER COLUMN renewal_tried TYPE BIGINT;
-- ConfigRenewalMixin
ALTER TABLE session
    ALTER COLUMN renewal_try_every TYPE INTEGER;
"""

DOWNGRADE_FEATURES_SQL = """
-- ConfigRenewalMixin
ALTER TABLE session
    ALTER COLUMN renewal_try_every TYPE SMALLINT;
-- RenewalMixin
ALTER TABLE session
    DROP COLUMN renewal_previous,
    ALTER COLUMN renewed TYPE INTEGER,
    ALTER COLUMN renewal_tried TYPE INTEGER;
-- ConfigAbsoluteMixin
ALTER TABLE session
    ALTER COLUMN absolute_expire TYPE INTEGER;
-- ConfigIdleMixin
ALTER TABLE session
    ALTER COLUMN extension_delay TYPE SMALLINT,
    ALTER COLUMN extension_chance TYPE SMALLINT,
    ALTER COLUMN extension_deadline TYPE SMALLINT;
-- IdleMixin
ALTER TABLE session
    ALTER COLUMN idle_expire TYPE INTEGER;
"""

#: Cookies of version 0.1.0: a session id, and one with a renewal id, under bytes 0..31.
OLD_COOKIE = "ZGVmZ2hpamtsbW5vcHFyc_mUla6MUzkbxLOpLmScIDMQeomaKNnpF2Iof1qTAjqy"
OLD_RENEWAL_COOKIE = (
    "ZGVmZ2hpamtsbW5vcHFyc5EGp3oWeBq_Ilvkkuw6iWYQeomaKNnpF2Iof1qTAjqygqiCG0AyPtQlYfaN"
    "fRLhLw=="
)
OLD_ID = uuid.UUID(bytes=bytes(range(200, 216)))
OLD_RENEWAL_ID = uuid.UUID(bytes=bytes(range(216, 232)))

postgresql_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def old() -> Any:
    """Make the model that goes with OLD_TABLE."""

    class Model(UseridMixin, CSRFMixin, BaseMixin, declarative_base()):  # type: ignore[misc]
        __tablename__ = "session"

    return Model


def execute(engine: Engine, script: str, **parameters: Any) -> None:
    """Execute SQL statements."""
    with engine.begin() as connection:
        for statement in filter(None, map(str.strip, script.split(";"))):
            connection.execute(text(statement), parameters)


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
    names = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    execute(engine, f"INSERT INTO session ({names}) VALUES ({places})", **row)


def check_old_session(browser: Browser) -> None:
    """Check that the session of the old row lives on."""

    def view(request: Any) -> str:
        session = request.session
        assert not session.new
        assert session.created <= time.time() - 60
        assert session.userid == 7
        assert session.get_csrf_token() == "AAECAwQFBgcICQoLDA0ODxAREhM="
        assert session.pop_flash() == ["hello"]
        session["cart"].append("pen")
        return ""

    browser.visit(view)
    assert browser.visit(lambda r: r.session["cart"]).text == "['book', 'pen']"
    assert browser.visit(lambda r: r.session.pop_flash()).text == "[]"
    assert browser.application.row().version == 2


@postgresql_only
@pytest.mark.parametrize("by", ["alembic", "sql"])
def test_table_of_0_1_0(by: str, migrations: Migrations, engine: Engine) -> None:
    """The documented migration brings a table of version 0.1.0 up to date, and back."""
    execute(engine, OLD_TABLE)
    insert_old_row(engine)
    before = inspect(engine).get_columns("session")
    model = old()
    migrations.aim(model)
    if by == "alembic":
        migrations.add(
            UPGRADE + UPGRADE_WITHOUT_RENEWAL, DOWNGRADE_WITHOUT_RENEWAL + DOWNGRADE
        )
        migrations.upgrade()
    else:
        execute(engine, UPGRADE_SQL + UPGRADE_USERID_SQL + UPGRADE_WITHOUT_RENEWAL_SQL)
    migrations.check()
    application = Application(engine, model)
    browser = Browser(application)
    browser.set_cookie("session", OLD_COOKIE)
    check_old_session(browser)
    application.clear()
    check_history(application)
    insert_old_row(engine, version=1)
    if by == "alembic":
        migrations.downgrade()
    else:
        execute(engine, DOWNGRADE_WITHOUT_RENEWAL_SQL + DOWNGRADE_SQL)
    assert list(map(str, inspect(engine).get_columns("session"))) == list(
        map(str, before)
    )


@postgresql_only
@pytest.mark.parametrize("by", ["alembic", "sql"])
def test_full_table_of_0_1_0(by: str, migrations: Migrations, engine: Engine) -> None:
    """So it does one with all features, whose sessions keep their timeouts."""
    execute(engine, OLD_FULL_TABLE)
    now = int(time.time())
    insert_old_row(
        engine,
        renewal_id=OLD_RENEWAL_ID,
        renewed=now - 30,
        renewal_timeout=60,
        renewal_try_every=5,
        idle_expire=now + 300,
        idle_timeout=600,
        extension_chance=100,
        extension_deadline=1,
        absolute_expire=now + 3000,
        cookie_path="/",
        cookie_secure=False,
        cookie_httponly=True,
    )
    before = inspect(engine).get_columns("session")
    model = full()
    migrations.aim(model)
    if by == "alembic":
        migrations.add(UPGRADE + UPGRADE_FEATURES, DOWNGRADE_FEATURES + DOWNGRADE)
        migrations.upgrade()
    else:
        execute(engine, UPGRADE_SQL + UPGRADE_USERID_SQL + UPGRADE_FEATURES_SQL)
    migrations.check()
    application = Application(
        engine, model, idle_timeout=600, absolute_timeout=6000, renewal_timeout=60
    )
    browser = Browser(application)
    browser.set_cookie("session", OLD_RENEWAL_COOKIE)
    check_old_session(browser)
    row = application.row()
    assert row.idle_expire >= now + 600
    assert row.absolute_expire == now + 3000
    assert row.renewal_id == OLD_RENEWAL_ID
    application.clear()
    check_history(application)
    if by == "alembic":
        migrations.downgrade()
    else:
        execute(engine, DOWNGRADE_FEATURES_SQL + DOWNGRADE_SQL)
    assert list(map(str, inspect(engine).get_columns("session"))) == list(
        map(str, before)
    )


@postgresql_only
def test_without_the_migration(engine: Engine) -> None:
    """Without the migration nothing is lost: reading fails, and so does writing."""
    execute(engine, OLD_TABLE)
    insert_old_row(engine)
    browser = Browser(Application(engine, old()))
    browser.set_cookie("session", OLD_COOKIE)
    with pytest.raises(Exception, match="version"):
        browser.visit(lambda r: r.session["cart"])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM session")) == 1


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
