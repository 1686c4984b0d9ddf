"""The command pyramid_session_check says what is wrong, and what could be better."""

from __future__ import annotations

import pickle
import re
import time
import uuid
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest
import zope.sqlalchemy
from pyramid.authentication import (
    SessionAuthenticationHelper,
    SessionAuthenticationPolicy,
)
from pyramid.authorization import ACLAuthorizationPolicy
from pyramid.config import Configurator
from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from sqlalchemy import (
    Engine,
    Integer,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.pool import NullPool

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    ConfigIdleMixin,
    FullyFeaturedSession,
    IdleMixin,
    JSONDataMixin,
    UseridMixin,
    UserSessionAuthenticationHelper,
    UserSessionAuthenticationPolicy,
    check,
    old_rows,
    schema,
    session_factory_from_settings,
)
from pyramid_sqlalchemy_sessions.config import generate_secret_key
from tests.application import SECRET

DOCS = Path(__file__).resolve().parent.parent / "docs"

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_mariadb = pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
on_servers = pytest.mark.parametrize(
    "database_url", ["postgresql", "mariadb"], indirect=True
)


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Everything(FullyFeaturedSession, Base):
    """Sessions with every column of the library, and columns of the application."""

    __tablename__ = "check_everything"
    device = mapped_column(Integer, nullable=True)
    visits = mapped_column(Integer, default=0, nullable=False)


class AsJSON(IdleMixin, JSONDataMixin, BaseMixin, Base):
    """Sessions that are stored as JSON."""

    __tablename__ = "check_json"


class Demanding(BaseMixin, Base):
    """Sessions with a column that nobody fills."""

    __tablename__ = "check_demanding"
    tenant = mapped_column(Integer, nullable=False)


class OwnTimeout(ConfigIdleMixin, BaseMixin, Base):
    """Sessions that can have an idle timeout of their own."""

    __tablename__ = "check_own_timeout"


def application(global_config: dict[str, str], **settings: Any) -> Any:
    """Make the application of a configuration; ``without`` names what it lacks."""
    without = settings.get("without", "").split()
    options: dict[str, Any] = {"poolclass": NullPool}
    if "isolation_level" in settings:
        options["isolation_level"] = settings["isolation_level"]
    if "init_command" in settings:
        options["connect_args"] = {"init_command": settings["init_command"]}
    engine = create_engine(settings["sqlalchemy.url"], **options)
    if "begin" in settings:
        event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))

    def dbsession(request: Any) -> Session:
        dbsession = Session(engine)
        if "zope.sqlalchemy" not in without and "pyramid_tm" not in without:
            zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
        return dbsession

    if "explicit_manager" not in without:
        settings["tm.manager_hook"] = "pyramid_tm.explicit_manager"
    with Configurator(settings=settings) as config:
        if "pyramid_tm" not in without:
            config.include("pyramid_tm")
        if "pyramid_retry" in settings:
            config.include("pyramid_retry")
        if "catch_all" in settings:
            config.add_exception_view(lambda exc, r: Response("sorry"), Exception)
        if "retry" not in without:
            config.include("pyramid_sqlalchemy_sessions.retry")
        config.add_request_method(dbsession, reify=True)
        if "include" not in without:
            config.include("pyramid_sqlalchemy_sessions")
        elif "factory" not in without:
            config.set_session_factory(
                session_factory_from_settings(settings, config.maybe_dotted)
            )
        if "signed" in settings:
            config.set_session_factory(SignedCookieSessionFactory("secret"))
        if "policy" in settings:
            POLICIES[settings["policy"]](config)
        if "csrf" in settings:
            config.set_csrf_storage_policy(SessionCSRFStoragePolicy())
        return config.make_wsgi_app()


class Policy:
    """A security policy that holds a helper."""

    def __init__(self, helper: Any):
        self.helper = helper


class Rotating(SessionAuthenticationHelper):
    """A helper that knows better than Pyramid's."""

    def remember(self, request: Any, userid: Any, **kw: Any) -> Any:
        request.session.rotate()
        return super().remember(request, userid, **kw)


class OfTheClass:
    """A security policy whose class holds a helper."""

    __slots__ = ()
    helper = SessionAuthenticationHelper()


def use_old_policy(config: Any) -> None:
    """Use what Pyramid 1 had."""
    config.set_authorization_policy(ACLAuthorizationPolicy())
    config.set_authentication_policy(SessionAuthenticationPolicy())


def use_our_old_policy(config: Any) -> None:
    """Use the library's authentication policy, as version 0.1.0 had it."""
    config.set_authorization_policy(ACLAuthorizationPolicy())
    config.set_authentication_policy(UserSessionAuthenticationPolicy())


def use_fresh(config: Any) -> None:
    """Add views with and without the option ``fresh``."""
    for name, options in (("a", {}), ("b", {"fresh": 60})):
        config.add_view(lambda request: Response(""), name=name, **options)


class OurHelper(UserSessionAuthenticationHelper):
    """The library's helper, with something to it."""


POLICIES: dict[str, Any] = {
    "Helper": lambda c: c.set_security_policy(Policy(SessionAuthenticationHelper())),
    "Itself": lambda c: c.set_security_policy(SessionAuthenticationHelper()),
    "Class": lambda c: c.set_security_policy(OfTheClass()),
    "Old": use_old_policy,
    "Ours": lambda c: c.set_security_policy(Policy(UserSessionAuthenticationHelper())),
    "Our own": lambda c: c.set_security_policy(Policy(OurHelper())),
    "Our old": use_our_old_policy,
    "Fresh": use_fresh,
    "Rotating": lambda c: c.set_security_policy(Policy(Rotating())),
}


class Report(NamedTuple):
    """What the command said: its exit status, and the findings of each level."""

    status: int
    ok: list[str]
    hint: list[str]
    error: list[str]
    stdout: str
    stderr: str


#: What a perfect application has set.
PERFECT = {
    "cookie_name": "__Host-session",
    "cookie_secure": "true",
    "idle_timeout": "600",
    "absolute_timeout": "6000",
    "renewal_timeout": "60",
}


@pytest.fixture
def run(database_url, tmp_path, capsys):
    """Run the command on an application; return what it reports."""

    def run(
        model: type = Everything,
        *arguments: str,
        app: dict[str, str] | None = None,
        prefix: str = "session.",
        **settings: str,
    ) -> Report:
        given = {"secret_key": SECRET, "model_class": f"{__name__}.{model.__name__}"}
        given |= PERFECT if model is Everything else {}
        lines = {
            f"{prefix}{name}": each for name, each in {**given, **settings}.items()
        }
        lines = {"sqlalchemy.url": database_url, **lines, **(app or {})}
        path = tmp_path / "test.ini"
        path.write_text(
            "\n".join(
                [
                    f"[app:main]\nuse = call:{__name__}:application",
                    *(f"{name} = {value}" for name, value in lines.items() if value),
                ]
            )
        )
        status = check.main([str(path), *arguments])
        out, err = capsys.readouterr()
        whole = out
        assert SECRET not in out + err
        out, _, numbers = out.rstrip().rpartition("\n")
        found = re.split(r"^(\w+) +(?=\w)", out, flags=re.MULTILINE)[1:]
        said: dict[str, list[str]] = {"ok": [], "hint": [], "error": []}
        for level, finding in zip(found[::2], found[1::2], strict=True):
            said[level].append(" ".join(finding.split()))
        if out:
            errors, hints = len(said["error"]), len(said["hint"])
            assert numbers == f"errors: {errors}, hints: {hints}"
        assert max(map(len, out.splitlines()), default=0) <= 88
        return Report(status, **said, stdout=whole, stderr=err)

    return run


@pytest.fixture
def engine(make_engine) -> Engine:
    """An engine on a database of every kind in turn, with the tables."""
    engine = make_engine()
    Base.metadata.create_all(engine)
    return engine


def alter(engine: Engine, *statements: str) -> None:
    """Change the tables by hand."""
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


# All is well.


def test_all_is_well(run, engine):
    """A perfect application gets neither errors nor hints, and stays as it was."""
    report = run()
    assert (report.status, report.hint, report.error) == (0, [], [])
    assert "table check_everything has the 31 columns of the model" in report.ok
    assert "cookie __Host-session, Secure" in report.ok
    assert "timeouts idle_timeout is 600 seconds" in report.ok
    assert "CSRF tokens are kept by LegacySessionCSRFStoragePolicy" in report.ok
    assert report.ok[0].startswith("settings Everything, with ConfigRenewalMixin, ")
    kind = {"postgresql": "postgresql", "sqlite": "sqlite", "mysql": "mariadb"}
    assert any(f"database {kind[engine.dialect.name]} " in each for each in report.ok)
    with Session(engine) as dbsession:
        assert dbsession.query(Everything).all() == []


def test_json(run, engine):
    """Columns of the type JSON are what they should be."""
    report = run(AsJSON, idle_timeout="60")
    assert (report.status, report.error) == (0, [])
    assert [each for each in report.hint if each.startswith("table")] == []


def test_console_script():
    """The command is installed."""
    (script,) = entry_points(group="console_scripts", name="pyramid_session_check")
    assert script.load() is check.main


def test_wrong_usage(capsys):
    """A call without a configuration exits with 2."""
    with pytest.raises(SystemExit) as exit:
        check.main([])
    assert exit.value.code == 2
    assert "CONFIG_URI" in capsys.readouterr().err


# Settings.


@on_sqlite
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("idle_timout", "5", "did you mean session.idle_timeout?"),
        ("cookie_secure", "yess", "session.cookie_secure must be true, false or auto"),
        ("cookie_domain", "http://shop.example", "session.cookie_domain must be"),
        ("model_class", "nowhere.Session", "cannot be imported"),
        ("secret_key", "short", "session.secret_key must be"),
    ],
)
def test_application_that_does_not_start(run, name, value, said):
    """A setting that keeps the application from starting is an error, in one line."""
    report = run(**{name: value})
    assert report.status == 1
    assert said in report.stderr
    assert len(report.stderr.splitlines()) == 1


@on_sqlite
@pytest.mark.parametrize(
    "name", ["sesion.idle_timeout", "session_idle_timeout", "sessions.idle_timeout"]
)
def test_mistyped_prefix(run, engine, name):
    """A setting that nobody reads because its prefix is mistyped is pointed out."""
    report = run(app={name: "60"})
    assert report.hint == [
        f"settings {name} isn't read: did you mean session.idle_timeout?"
    ]
    assert report.status == 0


@on_sqlite
def test_settings_of_others(run, engine):
    """What belongs to other libraries, or to a second factory, is left alone."""
    app = {
        "redis.sessions.idle_timeout": "60",
        "session2.model_class": f"{__name__}.AsJSON",
        "session2.idle_timeout": "60",
    }
    assert run(app=app).hint == []


@on_sqlite
def test_sessions_of_others(run, engine):
    """Settings are of no use if the application has another factory, or none."""
    report = run(app={"signed": "1"})
    assert report.hint == [
        "settings request.session is made by pyramid.session: the application has"
        " called config.set_session_factory()"
    ]
    report = run(app={"without": "include factory", "csrf": "1"})
    assert report.error == [
        "settings request.session has no factory: call"
        ' config.include("pyramid_sqlalchemy_sessions")'
    ]
    assert report.status == 1


@on_sqlite
@pytest.mark.filterwarnings("ignore:Authentication and authorization policies")
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_logins(run, engine, policy):
    """Logins by which no cookie is replaced are found, wherever they can be."""
    report = run(app={"policy": policy})
    assert (report.status, report.error) == (0, [])
    if policy not in ("Helper", "Itself", "Class", "Old"):
        assert report.hint == []
    else:
        (found,) = report.hint
        kind = "Policy" if policy == "Old" else "Helper"
        assert found.startswith(f"logins Pyramid's SessionAuthentication{kind} does")
        assert "UserSessionAuthenticationHelper" in found


@on_sqlite
@pytest.mark.filterwarnings("ignore:Authentication and authorization policies")
@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("Ours", "UserSessionAuthenticationHelper"),
        ("Our own", "OurHelper"),
        ("Our old", "UserSessionAuthenticationPolicy"),
        ("Fresh", "the view option fresh"),
    ],
)
def test_logins_without_users(run, engine, policy, said):
    """What needs the session's user is of no use if the model has none."""
    (found,) = run(AsJSON, app={"policy": policy}).error
    assert found.startswith(f"logins {said}: ")
    assert "AsJSON lacks UseridMixin" in found
    assert run(app={"policy": policy}).error == []


@on_sqlite
def test_prefix(run, engine):
    """Settings may have another prefix."""
    without = {"without": "include factory", "csrf": "1"}
    report = run(Everything, "--prefix", "web.", app=without, prefix="web.")
    assert (report.status, report.hint, report.error) == (0, [], [])
    report = run(app=without, prefix="web.")
    assert report.status == 1
    assert "--prefix" in report.stderr


@on_sqlite
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cookie_secure": "auto"}, "set cookie_secure = true"),
        ({"cookie_secure": "false"}, "also sent without https"),
        ({"cookie_secure": "true"}, "starts with __Host- would"),
        ({"cookie_secure": "true", "cookie_path": "/a"}, "starts with __Secure- would"),
        ({"cookie_httponly": "false"}, "scripts can read it"),
        ({"cookie_samesite": " "}, "each browser uses its own default"),
        (
            {"cookie_partitioned": "true", "cookie_secure": "true"},
            "only with cookie_samesite = None",
        ),
    ],
)
def test_cookie(run, engine, settings, said):
    """A cookie that could be safer gets a hint."""
    report = run(**{"cookie_name": "sid", **settings})
    assert report.status == 0
    assert any(said in each for each in report.hint)


@on_sqlite
def test_timeouts(run, engine):
    """Timeouts that are off although the model has the mixin are pointed out."""
    report = run(AsJSON)
    assert "timeouts the model has IdleMixin, but idle_timeout isn't set" in report.hint
    assert (
        "timeouts sessions never expire: their rows stay, and users stay logged in"
        in (report.hint)
    )
    report = run(OwnTimeout)
    assert "timeouts idle_timeout is up to each session" in report.ok
    assert [each for each in report.hint if each.startswith("timeouts")] == []


# Pyramid.


@on_sqlite
def test_csrf(run, engine):
    """A policy that asks the session for what it does not have is an error."""
    without = {"without": "include"}
    (said,) = run(AsJSON, app=without).error
    assert "the model lacks CSRFMixin" in said
    assert run(AsJSON, app={**without, "csrf": "1"}).error == []
    assert run(AsJSON).error == []


@on_sqlite
@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("pyramid_tm", "transactions of their own"),
        ("explicit_manager", "tm.manager_hook = pyramid_tm.explicit_manager"),
        ("retry", 'config.include("pyramid_sqlalchemy_sessions.retry")'),
    ],
)
def test_hosts(run, engine, without, said):
    """What sessions profit from in Pyramid, and is not there, is a hint."""
    report = run(app={"without": without})
    (hint,) = report.hint
    assert said in hint
    assert report.status == 0


@on_sqlite
def test_explicit_tweens(run, engine):
    """Tweens that the configuration lists are those that count."""
    tweens = "pyramid.tweens.excview_tween_factory"
    report = run(app={"pyramid.tweens": tweens, "without": "retry"})
    assert [each.split()[0] for each in report.hint] == ["pyramid_tm", "retries"]


def test_dbsession_that_is_not_joined(run, engine):
    """A dbsession that zope.sqlalchemy does not know is an error."""
    report = run(app={"without": "zope.sqlalchemy"})
    (said,) = report.error
    assert said.startswith("dbsession hasn't joined the request's transaction")
    assert report.status == 1


# The database.


@on_sqlite
def test_unreachable_database(run, tmp_path):
    """A database that cannot be reached is an error, and its password is not told."""
    url = "postgresql+psycopg2://somebody:hunter2@127.0.0.1:1/nowhere"
    report = run(app={"sqlalchemy.url": url})
    (said,) = report.error
    assert said.startswith("database OperationalError: ")
    assert "hunter2" not in str(report)
    assert report.status == 1


@on_servers
@pytest.mark.parametrize(
    ("level", "later"),
    [
        ("READ COMMITTED", {}),
        ("REPEATABLE READ", {"postgresql"}),
        ("SERIALIZABLE", {"postgresql", "mysql"}),
    ],
)
def test_isolation(run, engine, level, later):
    """The isolation level is named, and what it means for the sessions."""
    report = run(app={"isolation_level": level})
    (said,) = [each for each in report.ok if each.startswith("isolation")]
    assert said.startswith(f"isolation {level}: no update is lost")
    assert ("after the commit" in said) is (engine.dialect.name in later)


@on_sqlite
def test_isolation_of_sqlite(run, engine):
    """SQLite's transactions may begin before they read."""
    assert "stored with the request" in str(run().ok)
    assert "after the commit" in str(run(app={"begin": "1"}).ok)


@on_servers
def test_autocommit(run, engine):
    """An engine that commits by itself is an error."""
    (said, *_) = run(app={"isolation_level": "AUTOCOMMIT"}).error
    assert said.startswith("isolation AUTOCOMMIT: nothing can be rolled back")


@on_mariadb
def test_mariadb(run, engine, database_url, monkeypatch):
    """Of MariaDB one is told the packet, the character set, and what is refused."""
    report = run(app={"init_command": "SET innodb_snapshot_isolation = ON"})
    assert "innodb_snapshot_isolation is on" in str(report.ok)
    assert "extensions and renewals are stored after the commit" in str(report.ok)
    assert re.search(r"max_allowed_packet is [\d,]+ bytes", str(report.ok))
    monkeypatch.setattr(schema, "SMALL_PACKET", 1 << 40)
    report = run(app={"sqlalchemy.url": f"{database_url}?charset=latin1"})
    packet, charset = report.hint
    assert "max_allowed_packet" in packet
    assert "the character set latin1" in charset


# The table.


def test_missing_table(run, make_engine):
    """A table that is not there is an error, and is not made."""
    report = run()
    assert report.error == [
        "table check_everything doesn't exist: migrate, or create it"
    ]
    assert report.status == 1
    assert inspect(make_engine()).get_table_names() == []


def test_missing_columns(run, engine):
    """A column that is not there is an error."""
    alter(
        engine,
        "ALTER TABLE check_everything DROP COLUMN renewal_previous",
        "ALTER TABLE check_everything DROP COLUMN device",
    )
    assert sorted(run().error) == [
        "table the column device is missing: migrate",
        "table the column renewal_previous is missing: migrate",
    ]


@on_sqlite
def test_columns_that_nobody_fills(run, engine):
    """A column that new sessions cannot be stored without is an error."""
    alter(
        engine,
        "ALTER TABLE check_demanding ADD COLUMN filled INTEGER NOT NULL DEFAULT 5",
        "ALTER TABLE check_demanding ADD COLUMN computed INTEGER AS (5)",
        "ALTER TABLE check_demanding ADD COLUMN free INTEGER",
        "ALTER TABLE check_json RENAME TO old",
        "CREATE TABLE check_json (legacy INTEGER NOT NULL, id CHAR(32) PRIMARY KEY NOT"
        " NULL, created BIGINT NOT NULL, version INTEGER NOT NULL, data JSON NOT NULL,"
        " flash JSON NOT NULL, renewal_id CHAR(32), rotated BIGINT, rotated_from"
        " CHAR(32), sent BIGINT, idle_expire BIGINT)",
    )
    (tenant,) = run(Demanding).error
    assert tenant.startswith("table the column tenant needs a default, or must be")
    (legacy,) = run(AsJSON).error
    assert legacy.startswith(
        "table the column legacy, which is not in the model, needs"
    )


@on_postgresql
def test_types_and_nullability(run, engine):
    """A column of another type is a hint; one that refuses NULL may be an error."""
    alter(
        engine,
        "ALTER TABLE check_everything ALTER created TYPE INTEGER",
        "ALTER TABLE check_everything ALTER flash DROP NOT NULL",
        "ALTER TABLE check_everything ALTER userid SET NOT NULL",
    )
    report = run()
    assert report.hint == [
        "table the column created is INTEGER; it should be BIGINT",
        "table the column flash is nullable, but needn't be",
    ]
    assert report.error == ["table the column userid must be nullable, but isn't"]


@on_mariadb
def test_types_of_mariadb(run, engine):
    """The types of 0.1.0 are noticed, and a table without transactions is an error."""
    alter(
        engine,
        "ALTER TABLE check_everything MODIFY data BLOB NOT NULL",
        "ALTER TABLE check_everything ENGINE = MyISAM",
    )
    report = run()
    assert report.hint == ["table the column data is BLOB; it should be LONGBLOB"]
    assert report.error == ["table MyISAM has no transactions: use InnoDB"]


@on_postgresql
def test_no_primary_key(run, engine):
    """A table without a primary key is an error."""
    alter(engine, "ALTER TABLE check_json DROP CONSTRAINT check_json_pkey")
    (said,) = run(AsJSON, idle_timeout="60").error
    assert said.startswith("table check_json has no primary key")


@on_sqlite
def test_several_keys(run, engine):
    """A key ring is as secret as a key."""
    other = generate_secret_key()
    report = run(secret_key=f"{other} {SECRET}")
    assert report.status == 0
    assert other not in str(report)


class WebSession(UseridMixin, IdleMixin, BaseMixin, Base):
    """The model of the documentation."""

    __tablename__ = "check_sample"


@on_sqlite
def test_sample_of_the_documentation(run, engine):
    """The documentation shows what the command prints."""
    alter(engine, "ALTER TABLE check_sample DROP COLUMN userid")
    page = DOCS.joinpath("commands.rst").read_text("utf-8")
    sample = page.partition(":name: check-sample\n\n")[2].partition("\n\n")[0]
    shown = dedent(sample)
    assert without_versions(run(WebSession).stdout) == without_versions(shown)


def without_versions(report: str) -> list[str]:
    """Return the lines of a report, without the version of the database."""
    return re.sub(r"sqlite [\d.]+", "sqlite", report).splitlines()


# Old rows.


def insert_old(engine: Engine, model: type, **columns: Any) -> None:
    """Insert a row from before a setting or a column."""
    values = {"data": pickle.dumps({}, 4), "flash": {}, "created": 1, "version": 1}
    row = {"id": uuid.uuid4(), **values, **columns}
    with engine.begin() as connection:
        connection.execute(insert(model).values(row))


def mend(engine: Engine, report: Report) -> None:
    """Run the statements that the command has printed."""
    found = re.findall(r"^ +((?:UPDATE|DELETE) [^;]+);", report.stdout, re.MULTILINE)
    with engine.begin() as connection:
        for statement in found:
            connection.execute(text(statement))


def rows_in(report: Report) -> list[str]:
    """Return what was said of rows, of any level."""
    return [e for e in report.hint + report.error if e.startswith("rows")]


def test_rows_from_before_the_idle_timeout(run, engine):
    """They are counted, and the statement that is printed gives them one."""
    insert_old(engine, AsJSON, data={})
    insert_old(engine, AsJSON, data={}, idle_expire=5)
    report = run(AsJSON, idle_timeout="60")
    (said,) = rows_in(report)
    assert said.startswith("rows in 1 of the 2 rows, idle_expire is NULL: the idle")
    assert report.status == 0
    mend(engine, report)
    assert rows_in(run(AsJSON, idle_timeout="60")) == []
    with Session(engine) as dbsession:
        expires = sorted(row.idle_expire for row in dbsession.query(AsJSON))
    assert expires[0] == 5
    assert abs(expires[1] - time.time() - 60) < 10
    assert rows_in(run(AsJSON)) == []


def test_rows_from_before_config_mixins(run, engine):
    """They have the application's settings, or get the present ones for good."""
    insert_old(engine, Everything)
    insert_old(engine, Everything, idle_timeout=7, renewal_timeout=7)
    report = run(cookie_name="sid", cookie_path="/a%%20'b", renewal_timeout="60")
    said = rows_in(report)
    names = {each.split(" is NULL")[0].split()[-1] for each in said}
    settings = {"cookie_path", "cookie_httponly", "renewal_try_every"}
    settings |= {"extension_chance", "extension_deadline"}
    assert names == {*settings, "idle_expire", "renewal_id"}
    mend(engine, report)
    assert rows_in(run()) == []
    with Session(engine) as dbsession:
        row = dbsession.query(Everything).one()
        assert (row.cookie_path, row.cookie_httponly) == ("/a%20'b", True)
        assert (row.extension_chance, row.renewal_try_every) == (100, 5)
        assert row.idle_expire is None


@on_servers
def test_rows_that_cannot_be_read(run, engine):
    """A NULL that no session has is an error; without data there is only deletion."""
    types = {"version": "INTEGER", "created": "BIGINT", "flash": "JSON"}
    types["data"] = "BYTEA" if engine.dialect.name == "postgresql" else "LONGBLOB"
    for name, kind in types.items():
        modify = {
            "postgresql": f"ALTER {name} DROP NOT NULL",
            "mysql": f"MODIFY {name} {kind} NULL",
        }[engine.dialect.name]
        alter(engine, f"ALTER TABLE check_own_timeout {modify}")
    settings = {"cookie_path": "/"}
    given = {"extension_chance": 1, "extension_deadline": 1}
    for name in types:
        insert_old(engine, OwnTimeout, **given)
        alter(
            engine,
            f"UPDATE check_own_timeout SET {name} = NULL WHERE version IS NOT NULL"
            " AND created IS NOT NULL AND flash IS NOT NULL",
        )
    report = run(OwnTimeout, **settings)
    assert len(report.error) == 4
    assert report.status == 1
    mend(engine, report)
    report = run(OwnTimeout, **settings)
    assert (rows_in(report), report.status) == ([], 0)
    with Session(engine) as dbsession:
        assert {row.version for row in dbsession.query(OwnTimeout)} == {1}
        assert {str(row.flash) for row in dbsession.query(OwnTimeout)} == {"{}"}
        assert dbsession.query(OwnTimeout).count() == 3


def test_first_rows(run, engine, monkeypatch):
    """Of a large table so many rows are looked at, in one statement."""
    monkeypatch.setattr(old_rows, "ENOUGH", 3)
    for _ in range(5):
        insert_old(engine, AsJSON, data={})
    (said,) = rows_in(run(AsJSON, idle_timeout="60"))
    assert said.startswith("rows in 3 of the first 3 rows, idle_expire")


# Retries without the include.


@pytest.mark.parametrize("catch_all", [True, False])
def test_pyramid_retry_alone(run, engine, catch_all):
    """What it misses depends on the database, and on a catch-all exception view."""
    app = {"without": "retry", "pyramid_retry": "1"}
    (said,) = run(app={**app, **({"catch_all": "1"} if catch_all else {})}).hint
    assert ("conflicts raised at the commit" in said) is catch_all
    missed = {
        "postgresql": "lock timeouts, lost connections",
        "sqlite": "database is locked",
        "mysql": "lock timeouts, changed records (innodb_snapshot_isolation),"
        " transactions that a cluster refuses, lost connections",
    }[engine.dialect.name]
    assert f"{missed}: config.include(" in said


def test_pyramid_retry_alone_with_another_driver(run, engine, database_url):
    """With drivers that zope.sqlalchemy does not know it is more."""
    driver = {"postgresql": "pg8000", "mysql": "mysqldb"}.get(engine.dialect.name)
    if driver is None:
        pytest.skip("SQLite has one driver")
    pytest.importorskip({"mysqldb": "MySQLdb"}.get(driver, driver))
    url = make_url(database_url)
    drivername = f"{engine.dialect.name}+{driver}"
    url = url.set(drivername=drivername).difference_update_query(["options"])
    app = {"without": "retry", "pyramid_retry": "1"}
    app["sqlalchemy.url"] = url.render_as_string(hide_password=False)
    said = " ".join(run(app=app).hint)
    assert "doesn't try these again" in said
    assert "deadlocks, lock timeouts" in said
