"""What the documentation says is true: its steps, its samples, its messages, its table.

A Python sample of the documentation is either in ``docs/examples``, from where pages
include it, or a step of ``getting-started.rst``, which
``tests/applications/test_getting_started.py`` follows to the letter.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import importlib.util
import json
import re
import sys
import time
import uuid
from configparser import ConfigParser
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock_time
from decimal import Decimal
from pkgutil import resolve_name
from types import FunctionType, ModuleType, SimpleNamespace

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.csrf import (
    LegacySessionCSRFStoragePolicy,
    SessionCSRFStoragePolicy,
    get_csrf_token,
)
from pyramid.httpexceptions import HTTPForbidden, HTTPNotFound, HTTPSeeOther
from pyramid.interfaces import ICSRFStoragePolicy, ISecurityPolicy
from pyramid.scripting import prepare
from pyramid.security import remember
from sqlalchemy import (
    Integer,
    event,
    func,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import (
    DeclarativeBase,
    Session,
    declarative_base,
    mapped_column,
    sessionmaker,
)

import pyramid_sqlalchemy_sessions
from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    ClientAddressMixin,
    FullyFeaturedSession,
    IdleMixin,
    LastSeenMixin,
    RenewalMixin,
    SessionCreatedEvent,
    SessionEvent,
    UserAgentMixin,
    UseridMixin,
    UserSessionAuthenticationHelper,
    create_session_model,
    generate_secret_key,
    later,
)
from pyramid_sqlalchemy_sessions.settings import SETTINGS
from tests.application import SECRET, Application, Browser, Full
from tests.applications.starter import DOCS, PAGES, blocks
from tests.stories.transactions import (
    all_of,
    elsewhere,
    exception_view,
)

# Samples.


def load(name: str) -> ModuleType:
    """Import an example."""
    spec = importlib.util.spec_from_file_location(
        f"docs_example_{name}", DOCS / "examples" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # declarative classes look for it there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", sorted(PAGES))
def test_samples_are_in_files(page):
    """Python that is not a step of "Getting started" is in a file that is tested."""
    inline = [each for each in blocks(page) if each.language == "python"]
    assert not inline or page == "getting-started"
    assert ">>>" not in PAGES[page]


def test_every_sample_is_on_a_page():
    """No sample is tested that nobody can read."""
    included = re.findall(r"literalinclude:: examples/(\S+)", "".join(PAGES.values()))
    assert {path.name for path in (DOCS / "examples").glob("*.*")} == set(included)


def start(engine, base):
    """Make the tables of a sample's models."""
    base.metadata.create_all(engine)


class TestFeatures:
    """The samples of using-the-session.rst and logging-in.rst."""

    @pytest.fixture
    def samples(self, sqlite_engine):
        samples = load("features")
        start(sqlite_engine, samples.Base)
        self.alice = uuid.uuid4()
        with Session(sqlite_engine) as dbsession:
            dbsession.add(samples.User(id=self.alice, name="Alice"))
            dbsession.commit()
        return samples

    @pytest.fixture
    def browser(self, samples, sqlite_engine):
        return Browser(Application(sqlite_engine, samples.Session))

    @staticmethod
    def site(samples, engine, model, **settings):
        """Return an application that has the views among the samples."""

        def configure(config):
            use_helper(config)
            for name in ("payments", "password", "expires"):
                config.add_route(name, f"/{name}")
            config.scan(samples)

        return Application(engine, model, configure=configure, **settings)

    def test_cart(self, samples, browser):
        """A nested change is stored, and the message is there once."""
        for _ in range(2):
            browser.application.view = samples.add_to_cart
            browser.post("/", {"product": "lamp"}, status=303)
        assert browser.ask(dict) == {"cart": {"lamp": 2}}
        shown = browser.visit(samples.show_messages)
        assert shown.content_type == "text/plain"
        assert shown.text.splitlines() == ["lamp is in your cart."] * 2
        assert browser.visit(samples.show_messages).text == ""

    def test_user(self, samples, browser):
        """The user comes with the session; own columns can be edited."""
        assert browser.visit(samples.greet).text == "Hello, stranger"
        browser.visit(lambda r: setattr(r.session, "userid", self.alice))
        assert browser.visit(samples.greet).text == "Hello, Alice"
        assert browser.application.row().last_page == "/"

    def test_traces(self, samples, sqlite_engine):
        """The session tells when, with what and from where it was used."""
        browser = Browser(
            Application(sqlite_engine, samples.TracedSession), REMOTE_ADDR="192.0.2.7"
        )
        view = lambda r: setattr(r.session, "userid", 1)  # noqa: E731
        browser.visit(view, headers={"User-Agent": "netscape"})
        row = browser.application.row()
        assert (row.user_agent, row.client_address) == ("netscape", "192.0.2.0/24")
        assert row.last_seen == row.created

    def test_models_made_by_a_function(self, samples, sqlite_engine):
        """They are models as any other."""
        models = samples.make_model(samples.Base), samples.map_visit(samples.Base)
        start(sqlite_engine, samples.Base)
        assert [each.__name__ for each in models] == ["AdminSession", "Visit"]
        for model in models:
            browser = Browser(Application(sqlite_engine, model))
            browser.visit(lambda r: setattr(r.session, "userid", 1))
            assert browser.ask(lambda session: session.userid) == 1

    def test_step_up(self, samples, sqlite_engine):
        """Who logged in a while ago is asked for the password again."""

        browser = Browser(self.site(samples, sqlite_engine, samples.Session))
        browser.visit(lambda r: remember(r, self.alice))
        assert browser.get("/payments").text == "Your payments"
        with later(601):
            asked = browser.get("/payments", status=303)
            assert asked.location.endswith("/password?next=%2Fpayments")
            browser.visit(lambda r: remember(r, self.alice))
            browser.get("/payments", status=200)

    def test_polling(self, samples, sqlite_engine):
        """What asks when the session ends does not keep it alive."""
        application = self.site(
            samples, sqlite_engine, samples.RememberingSession, idle_timeout=100
        )
        browser = Browser(application)
        browser.visit(lambda r: r.session.update(a=1))
        end = application.row().idle_expire
        with later(90):
            assert browser.get("/expires").json == end
        with later(102):
            assert browser.get("/expires").json is None

    def test_late(self, samples, browser, caplog):
        """A request that a login has overtaken stores nothing, and says so."""
        browser.visit(lambda r: r.session.update(a=1))
        overtaken = Browser(browser.application)
        overtaken.set_cookie("session", str(browser.cookie))
        browser.visit(lambda r: setattr(r.session, "userid", self.alice))
        seen = []

        def view(request):
            seen.append((dict(request.session), request.session.is_late))
            request.session["b"] = 2

        assert "Set-Cookie" not in overtaken.visit(view).headers
        assert seen == [({}, True)]
        assert browser.ask(dict) == {"a": 1}
        overtaken.visit(lambda r: r.session.invalidate())
        assert browser.ask(lambda session: session.userid) is None

    def test_log_out_elsewhere(self, samples, browser):
        """The other sessions of the user end, this one stays."""
        other = Browser(browser.application)
        for each in (browser, other):
            each.visit(lambda r: setattr(r.session, "userid", self.alice))
        browser.visit(samples.log_out_elsewhere)
        assert browser.ask(lambda session: session.userid) == self.alice
        assert other.ask(lambda session: session.userid) is None

    @pytest.mark.parametrize("remember_me", [False, True])
    def test_log_in(self, samples, sqlite_engine, remember_me):
        """Who wants to be remembered has a cookie and a timeout that last."""
        application = Application(
            sqlite_engine,
            samples.RememberingSession,
            idle_timeout=600,
            absolute_timeout=6000,
            configure=use_helper,
        )
        browser = Browser(application)
        browser.visit(lambda r: r.session.update(cart=["lamp"]))
        user = SimpleNamespace(id=self.alice)
        response = browser.visit(lambda r: samples.log_in(r, user, remember_me))
        row = application.row()
        assert row.userid == self.alice
        assert row.idle_timeout == (samples.MONTH if remember_me else 600)
        assert ("Max-Age" in response.headers["Set-Cookie"]) == remember_me
        absolute = 3 * samples.MONTH if remember_me else 6000
        assert row.absolute_expire - row.created in range(absolute, absolute + 5)
        assert browser.ask(dict) == {"cart": ["lamp"]}

    def test_json(self, samples, sqlite_engine):
        """What JSON lacks comes back equal; keys are strings; errors name the key."""
        browser = Browser(Application(sqlite_engine, samples.JSONSession))
        stored = {name: kind for name, (kind, _) in tagged().items()}
        browser.visit(lambda r: r.session.update(stored))
        found = browser.ask(dict)
        assert found == stored
        assert [*map(type, found.values())] == [*map(type, stored.values())]
        data = browser.application.row().data
        assert data == {name: tag for name, (_, tag) in tagged().items()}
        with pytest.raises(TypeError, match="not 1"):
            browser.visit(lambda r: r.session.update({1: 2}))
        with pytest.raises(TypeError, match="'c'"):
            browser.visit(lambda r: r.session.update(c={1}))


def tagged() -> dict[str, tuple[object, object]]:
    """Return, for each line of the table of tags, a value and what stands for it."""
    examples = {
        "datetime": datetime(2026, 11, 27, 9, 30, tzinfo=timezone.utc),
        "date": date(2026, 11, 27),
        "time": clock_time(9, 30),
        "timedelta": timedelta(days=1, hours=1),
        "decimal": Decimal("9.95"),
        "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
        "bytes": b"\0\1\2",
        "tuple": (1, 2),
        "int": 2**64,
        "float": 1.5e16,
        "items": {1: "one", 2: "two"},
        "dict": {"$price": 5},
    }
    rows = table("using-the-session", "$datetime")
    tags = [json.loads(re.findall("``(.*?)``", shown)[0]) for _, shown in rows]
    assert [next(iter(tag)) for tag in tags] == [f"${name}" for name in examples]
    return {
        name: (value, tag)
        for (name, value), tag in zip(examples.items(), tags, strict=True)
    }


class Policy(UserSessionAuthenticationHelper):
    """A security policy, as far as the samples need one."""

    def permits(self, request, context, permission):
        return False

    identity = UserSessionAuthenticationHelper.authenticated_userid


def use_helper(config):
    """Let ``remember`` work."""
    config.registry.registerUtility(Policy(), ISecurityPolicy)


class TestFactories:
    """The samples of settings.rst."""

    @pytest.mark.parametrize("by_hand", [False, True])
    def test_factory(self, by_hand, sqlite_engine):
        """A factory that was made by hand makes sessions, and forms work."""
        samples = load("factories")

        class Base(DeclarativeBase):
            pass

        class Model(IdleMixin, BaseMixin, Base):
            __tablename__ = "session"

        start(sqlite_engine, Base)

        def configure(config):
            if by_hand:
                samples.by_hand(config, [bytes(16), bytes(32)], Model)
                return
            config.add_settings(
                {
                    "websession.secret_key": SECRET,
                    "websession.model_class": Model,
                    "websession.idle_timeout": "1200",
                }
            )
            samples.with_prefix(config)
            assert str(config.get_settings()["websession.secret_key"]) == "(hidden)"

        browser = Browser(Application(sqlite_engine, Model, configure=configure))
        browser.visit(get_csrf_token)
        assert set(browser.ask(dict)) == {"_csrft_"}
        assert browser.ask(lambda session: session.settings.idle_timeout) == 1200


class TestTransactions:
    """The samples and the table of transactions.rst."""

    samples = load("transactions")

    @pytest.fixture
    def models(self, sqlite_engine):
        class Base(DeclarativeBase):
            pass

        class Model(UseridMixin, BaseMixin, Base):
            __tablename__ = "session"

        class Thing(Base):
            __tablename__ = "thing"
            name = mapped_column(Integer, primary_key=True)

        start(sqlite_engine, Base)
        return SimpleNamespace(Model=Model, Thing=Thing)

    @pytest.mark.parametrize(
        ("sample", "userid"), [("login_that_is_lost", None), ("login", 1)]
    )
    def test_login(self, models, sqlite_engine, caplog, sample, userid):
        """A raised redirect loses the login, and is logged. A returned one does not."""
        browser = Browser(Application(sqlite_engine, models.Model))
        response = browser.visit(getattr(self.samples, sample))
        assert response.status_int == 303
        assert browser.ask(lambda session: session.userid) == userid
        assert len(caplog.messages) == (userid is None)

    def test_preview(self, models, sqlite_engine, caplog):
        """What is doomed is not stored, and nothing is logged."""
        browser = Browser(Application(sqlite_engine, models.Model))
        browser.visit(self.samples.preview)
        assert browser.application.rows() == []
        assert caplog.messages == []

    def test_forbidden(self, models, sqlite_engine):
        """The message of a forbidden view arrives."""
        configure = exception_view(self.samples.forbidden, HTTPForbidden)
        browser = Browser(Application(sqlite_engine, models.Model, configure=configure))

        def view(request):
            request.session["view"] = 1
            raise HTTPForbidden

        browser.visit(view)
        assert browser.ask(dict) == {}
        assert browser.ask(lambda session: session.pop_flash()) == ["Please log in."]

    def test_savepoint(self, models, sqlite_engine):
        """What was told the session since the savepoint goes with it."""
        load("sqlite").let_savepoints_work(sqlite_engine)
        browser = Browser(Application(sqlite_engine, models.Model))

        def add(request):
            thing = models.Thing(name=1)
            return self.samples.add_with_savepoint(request, thing)

        browser.visit(add)
        assert browser.ask(lambda session: session.pop_flash()) == ["1 was added."]
        browser.visit(add)
        messages = browser.ask(lambda session: session.pop_flash())
        assert messages == ["There is a 1 already."]
        assert browser.ask(dict) == {"attempts": 2}

    def test_subrequest(self, models, sqlite_engine):
        """A subrequest with the same cookie and transaction adds to the session."""
        browser = Browser(Application(sqlite_engine, models.Model))
        browser.visit(lambda r: r.session.update(list=[0]))

        def view(request):
            if request.path == "/other":
                request.session["list"].append(2)
                return None
            request.session["list"].append(1)
            self.samples.ask_another_view(request)
            return request.session["list"]

        assert browser.visit(view).text == "[0, 1, 2]"
        assert browser.ask(dict) == {"list": [0, 1, 2]}

    def test_script(self, models, sqlite_engine):
        """A script stores its session in a transaction that it begins."""
        application = Application(sqlite_engine, models.Model)
        with prepare(registry=application.registry) as env:
            self.samples.script(env)
        assert len(application.rows()) == 1

    VETO = {"tm.commit_veto": "pyramid_tm.default_commit_veto"}

    @pytest.mark.parametrize("veto", [False, True])
    def test_table(self, models, sqlite_engine, veto):
        """The table tells what is stored."""
        rows = table("transactions", "not stored")
        settings = dict(self.VETO) if veto else {}
        application = Application(sqlite_engine, models.Model, settings=settings)
        stored = []
        for _, does in self.WAYS:
            browser = Browser(application)

            def view(request, does=does):
                request.session["a"] = 1
                return does(request)

            with contextlib.suppress(IntegrityError):
                browser.visit(view, status="*")
            stored.append(browser.ask(dict) == {"a": 1})
        assert [row[0].split(",")[0].split(":")[0] for row in rows] == [
            words for words, _ in self.WAYS
        ]
        said = [row[2 if veto else 1].strip("*").split(",")[0] for row in rows]
        assert stored == [word == "stored" for word in said]

    def refused(request):
        """Insert what the database refuses."""
        request.dbsession.execute(text("INSERT INTO thing VALUES (1)"))
        request.dbsession.execute(text("INSERT INTO thing VALUES (1)"))

    WAYS = [
        ("returns a response with status 200 or 303", lambda r: HTTPSeeOther("/")),
        ("returns a response with status 400 or 500", lambda r: HTTPNotFound()),
        ("raises a redirect", lambda r: throw(HTTPSeeOther("/"))),
        ("raises ``HTTPNotFound``", lambda r: throw(HTTPNotFound())),
        ("calls ``request.tm.doom()``", lambda r: r.tm.doom()),
        ("does something that the database refuses at the commit", refused),
    ]


def throw(error):
    """Raise an error."""
    raise error


def test_retrying(sqlite_engine):
    """With a catch-all exception view, too, a conflict is tried again."""
    Full.__table__.create(sqlite_engine)
    include = load("retrying").includeme
    catch_all = exception_view(lambda request: "sorry", Exception)
    shop = Browser(Application(sqlite_engine, configure=all_of(include, catch_all)))
    shop.visit(lambda request: request.session.update(n=1))

    def view(request):
        request.session["n"] += 1
        if not request.environ["retry.attempt"]:
            rival = Browser(Application(sqlite_engine))
            rival.set_cookie("session", shop.cookie)
            elsewhere(rival.visit, lambda request: request.session.changed())

    shop.visit(view)
    assert shop.ask(dict) == {"n": 2}


class TestTables:
    """The samples of table.rst."""

    samples = load("tables")

    def test_own_columns(self, sqlite_engine):
        """New sessions have the defaults."""
        start(sqlite_engine, self.samples.Base)
        model = self.samples.OwnColumnsSession
        browser = Browser(Application(sqlite_engine, model))
        browser.visit(lambda r: r.session.update(a=1))
        row = browser.application.row()
        assert (row.country, row.theme) == (None, "light")
        assert row.seen is not None

    def test_foreign_key(self, sqlite_engine):
        """What refers to a session stays with it, and ends with it."""

        @event.listens_for(sqlite_engine, "connect")
        def connect(connection, record):
            connection.execute("PRAGMA foreign_keys=ON")

        start(sqlite_engine, self.samples.Base)
        browser = Browser(Application(sqlite_engine, self.samples.Session))
        browser.visit(lambda r: r.session.update(a=1))
        upload = self.samples.Upload.__table__
        upload_file = self.samples.upload

        other = Browser(browser.application)
        for each in (browser, other):  # a session that is stored, and a new one
            each.visit(upload_file)
        browser.visit(lambda r: setattr(r.session, "userid", 1))
        with sqlite_engine.connect() as connection:
            keys = set(connection.scalars(select(upload.c.session_id)))
        assert keys == {row.id for row in browser.application.rows()}
        other.visit(lambda r: r.session.invalidate())
        browser.visit(lambda r: r.session.invalidate())
        with sqlite_engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(upload)) == 0

    def test_index(self, sqlite_engine):
        """The index is made with the table."""
        start(sqlite_engine, self.samples.Base)
        (index,) = inspect(sqlite_engine).get_indexes("session")
        assert index["column_names"] == ["userid"]

    def test_columns(self):
        """The table of columns is that of the mixins."""
        described = {
            name: (kind, mixin.strip("`"))
            for names, kind, mixin, _ in csv_table("table", "column-table")
            for name in re.findall(r"\w+", names)
        }
        traces = (LastSeenMixin, UserAgentMixin, ClientAddressMixin)
        expected = {}
        for mixin in (*FullyFeaturedSession.__mro__[1:], *traces):
            for name, value in vars(mixin).items():
                column = getattr(value, "column", None)
                if column is not None:
                    kind = type(column.type).__name__
                    expected[name] = (kind, mixin.__name__)
        expected["data"] = ("LargeBinary", "BaseMixin")
        expected["flash"] = ("JSON", "BaseMixin")
        assert described == expected

    def test_switching_on(self, sqlite_engine):
        """Sessions from before the timeout can be given one, or begin it with a use."""
        model = make_model(IdleMixin)
        browser = Browser(Application(sqlite_engine, model))
        model.metadata.create_all(sqlite_engine)
        browser.visit(lambda r: r.session.update(a=1))
        with sqlite_engine.begin() as connection:
            context = MigrationContext.configure(connection)
            with Operations.context(context):
                load("switch_on").upgrade()
        expire = browser.application.row().idle_expire
        assert 1195 <= expire - time.time() <= 1201
        later = Browser(Application(sqlite_engine, model, idle_timeout=1200))
        later.set_cookie("session", str(browser.cookie))
        assert later.ask(dict) == {"a": 1}

    def test_switching_renewal_on(self, sqlite_engine):
        """A session from before the renewal timeout is of no use, but stays."""
        model = make_model(RenewalMixin)
        model.metadata.create_all(sqlite_engine)
        browser = Browser(Application(sqlite_engine, model))
        browser.visit(lambda r: r.session.update(a=1))
        later = Browser(Application(sqlite_engine, model, renewal_timeout=60))
        later.set_cookie("session", str(browser.cookie))
        assert later.ask(lambda session: session.new)
        assert len(browser.application.rows()) == 1


def make_model(*mixins: type, base: type = BaseMixin) -> type:
    """Make a model that is called Session, with a metadata of its own."""

    class Base(DeclarativeBase):
        pass

    return type("Session", (*mixins, base, Base), {"__tablename__": "session"})


def table(page: str, first: str) -> list[list[str]]:
    """Return the rows of the table in which these words are, without its head.

    It's a list-table, or a csv-table with semicolons.
    """
    for match in re.finditer(
        r"^\.\. (list|csv)-table::.*\n((?:   .*\n|\n)+)", PAGES[page], re.MULTILINE
    ):
        kind, text = match.groups()
        if first in text and kind == "csv":
            lines = text.partition("\n\n")[2].splitlines()
            return [re.split(r"; +", line.strip()) for line in lines[1:] if line]
        if first in text:
            rows = re.split(r"^   \* - ", text, flags=re.MULTILINE)[1:]
            return [
                [" ".join(cell.split()) for cell in re.split(r"\n     -(?=\s)", row)]
                for row in rows[1:]
            ]
    raise AssertionError(f"{page} has no table with {first}")


def csv_table(page: str, name: str) -> list[list[str]]:
    """Return the rows of the csv-table of this name, without its head."""
    rows = PAGES[page].partition(f":name: {name}\n")[2].split("\n\n")[1]
    return list(csv.reader(rows.splitlines(keepends=True), skipinitialspace=True))


# Commands.


@pytest.mark.parametrize("command", ["check", "gc", "secret"])
def test_options_of_commands(command, capsys):
    """The options that pages give a command are those that it has."""
    main = resolve_name(f"pyramid_sqlalchemy_sessions.{command}").main
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    calls = re.findall(
        rf"pyramid_session_{command}\b([^`\n]*)", "\n".join(PAGES.values())
    )
    shown = set(re.findall(r"--[a-z-]+", " ".join(calls)))
    assert shown
    assert shown <= known


# Security.


def test_log_in_without_csrf_mixin(sqlite_engine):
    """The token does not survive a login, also if it is kept in the dict."""
    model = make_model(UseridMixin)
    model.metadata.create_all(sqlite_engine)
    application = Application(sqlite_engine, model, configure=use_helper)
    browser = Browser(application)

    def token():
        return browser.visit(get_csrf_token).text

    before = token()
    browser.visit(lambda r: r.session.update(a=1))
    browser.visit(lambda r: remember(r, 1))
    assert token() != before
    assert browser.ask(dict)["a"] == 1


def test_alarm(sqlite_engine, caplog):
    """The subscriber is told of a cookie that two browsers used."""
    model = make_model(UseridMixin, RenewalMixin)
    model.metadata.create_all(sqlite_engine)
    application = Application(
        sqlite_engine,
        model,
        configure=load("security").includeme,
        renewal_timeout=60,
    )
    browser = Browser(application, REMOTE_ADDR="192.0.2.1")
    browser.visit(lambda r: setattr(r.session, "userid", 7))
    with sqlite_engine.begin() as connection:
        connection.execute(update(model).values(renewal_id=uuid.uuid4()))
    assert browser.ask(lambda session: session.userid) is None
    (message,) = caplog.messages
    assert message == "A cookie of user 7 was used twice, from 192.0.2.1"
    assert application.rows() == []


# Settings.


def entries() -> list[tuple[str, str, dict[str, str]]]:
    """Return name, meaning and fields of the entries on the page of settings."""
    found = []
    for name, content in re.findall(
        r"^\.\. confval:: (\w+)\n\n((?:   .*\n|\n)+)", PAGES["settings"], re.MULTILINE
    ):
        meaning, fields = content.split("\n\n")[:2]
        pairs = re.findall(r"^   :([\w ]+): (.*(?:\n      .*)*)", fields, re.MULTILINE)
        found.append((name, meaning, {k: " ".join(v.split()) for k, v in pairs}))
    return found


def test_names_of_settings():
    """Each setting has one entry, and there is none for anything else."""
    names = ["secret_key", "model_class", *(each.name for each in SETTINGS)]
    assert sorted(name for name, _, _ in entries()) == sorted(names)
    for name, meaning, fields in entries():
        assert meaning.strip().endswith("."), name
        optional = {"Needs", "Own value", "Example"}
        assert {"Default", "Valid"} == set(fields) - optional, name


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: each.name)
def test_settings(setting):
    """The entry has the default, the range with its unit, and the mixins."""
    (fields,) = [fields for name, _, fields in entries() if name == setting.name]
    assert setting.parse(fields["Default"].strip("`")) == setting.default
    assert fields.get("Needs", "").strip("`") == (setting.mixin or "")
    assert fields.get("Own value", "").strip("`") == (setting.runtime or "")
    valid = fields["Valid"].split(". ")[0]  # what follows is about other settings
    numbers = re.findall(r"\d+", setting.valid)
    assert re.findall(r"\d+", valid) == numbers
    assert valid.endswith("or None") == setting.valid.endswith("or None")
    for unit in re.findall(r"whole number \((\w+)\)", setting.valid):
        assert f"{numbers[-1]} {unit}" in valid
    if not numbers:
        assert valid == setting.valid
    if "Example" in fields:
        setting.parse(fields["Example"].split("``")[1])


INI = [
    each for page in sorted(PAGES) for each in blocks(page) if each.language == "ini"
]


@pytest.mark.parametrize("block", INI, ids=lambda each: each.page)
def test_ini(block):
    """Settings that a page shows are accepted."""
    parser = ConfigParser()
    head = "" if block.text.startswith("[") else "[app:main]\n"
    key = re.sub(r"paste the key here|\(.*\)", generate_secret_key(), block.text)
    parser.read_string(head + key)
    settings = {
        name: value
        for name, value in parser["app:main"].items()
        if name.startswith("session.")
    }
    settings.setdefault("session.secret_key", generate_secret_key())
    settings["session.model_class"] = make_model(base=FullyFeaturedSession)
    Configurator(settings=settings).include("pyramid_sqlalchemy_sessions")


def test_csrf_policies():
    """The include replaces Pyramid's default, and only without CSRFMixin."""
    for base, expected in (
        (BaseMixin, SessionCSRFStoragePolicy),
        (FullyFeaturedSession, LegacySessionCSRFStoragePolicy),
    ):
        settings = {
            "session.secret_key": SECRET,
            "session.model_class": make_model(base=base),
        }
        config = Configurator(settings=settings)
        config.include("pyramid_sqlalchemy_sessions")
        config.commit()
        policy = config.registry.getUtility(ICSRFStoragePolicy)
        assert type(policy) is expected


def api() -> dict[str, object]:
    """Return what is on the page, by the names that it has there."""
    named = re.findall(r"^\.\. auto\w+:: ([\w.]+)", PAGES["api"], re.MULTILINE)
    prefix = "pyramid_sqlalchemy_sessions."
    return {
        name.removeprefix(prefix): resolve_name(prefix + name.removeprefix(prefix))
        for name in named
    }


def test_api():
    """Every public name is on the page, and nothing else of the package is public."""
    assert sorted(name for name in api() if "." not in name) == sorted(
        pyramid_sqlalchemy_sessions.__all__
    )


def test_api_of_the_session():
    """The page names every public attribute of a session that a dict doesn't have."""
    (_, _, rest) = PAGES["api"].partition(".. autoclass:: Session()\n   :members: ")
    named = rest.partition("\n\n")[0].replace(",", " ").split()
    session = pyramid_sqlalchemy_sessions.Session
    public = {name for name in dir(session) if name[0] != "_"} - set(dir(dict))
    assert set(named) == public


@pytest.mark.parametrize(
    "module",
    [
        "authn",
        "debugtoolbar",
        "events",
        "exceptions",
        "retry",
        "serializer",
        "session",
        "store",
        "testing",
    ],
)
def test_api_of_a_module(module):
    """What a module publishes is on the page, too."""
    public = resolve_name(f"pyramid_sqlalchemy_sessions.{module}")
    found = list(api().values())
    assert [n for n in public.__all__ if getattr(public, n) not in found] == []


def test_api_is_described():
    """Each name of the page, and each method of a class, has a docstring."""
    silent = []
    for name, value in api().items():
        members = vars(value) if isinstance(value, type) else {}
        ours = {
            f"{name}.{each}": member
            for each, member in members.items()
            if each[0] != "_" and isinstance(member, (FunctionType, property))
        }
        silent += [n for n, v in {name: value, **ours}.items() if not v.__doc__]
    # Their class says what they do, since a protocol has nothing to run.
    assert silent == ["Serializer.dumps", "Serializer.loads"]


@pytest.mark.parametrize(
    "title", ["Switching a timeout on", "Adding a mixin", "Testing your application"]
)
def test_titles_that_messages_name(title):
    """Messages of the package refer to these titles."""
    assert any(f"\n{title}\n" in f"\n{page}" for page in PAGES.values())


# security.rst


def test_login_by_pyramids_helper(sqlite_engine):
    """The cookie is not replaced by Pyramid's helper, but by the sample."""
    Full.__table__.create(sqlite_engine)

    def configure(config):
        config.set_security_policy(SessionAuthenticationHelper())

    browser = Browser(Application(sqlite_engine, configure=configure))
    browser.visit(lambda request: request.session.update(a=1))
    before = browser.cookie
    browser.visit(lambda request: remember(request, 7))
    assert browser.cookie == before
    log_in = load("security").log_in
    browser.visit(lambda request: log_in(request, 7))
    assert browser.cookie != before
    assert browser.visit(lambda r: r.authenticated_userid).text == "7"
    thief = Browser(browser.application)
    thief.set_cookie("session", before)
    assert thief.visit(lambda r: r.authenticated_userid).text == ""


# Events.


def test_audit_log(sqlite_engine, caplog):
    """The sample of the events writes a log, and its fingerprints fit together."""
    caplog.set_level("INFO", "audit")
    Full.__table__.create(sqlite_engine)
    application = Application(sqlite_engine, configure=load("audit").includeme)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(a=1))
    browser.visit(lambda request: setattr(request.session, "userid", 7))
    created, rotated = caplog.messages
    name = created.split()[1]
    assert created == f"session {name} of user None: SessionCreatedEvent (data)"
    assert rotated == f"session {name} of user 7: SessionRotatedEvent (login)"


def test_collections(sqlite_engine, caplog):
    """The sample counts what the collector deletes."""
    caplog.set_level("INFO", "audit")
    config = load("audit").tell_of_collections
    model = create_session_model(declarative_base(), IdleMixin)
    start(sqlite_engine, model)
    application = Application(sqlite_engine, model, configure=config, idle_timeout=9)
    Browser(application).visit(lambda request: request.session.update(a=1))
    with later(10):
        Browser(application).visit(lambda r: r.session_store.delete_expired())
    assert caplog.messages == ["1 sessions expired: idle"]


def test_audit_table(sqlite_engine):
    """The sample that stores an event finds its own transaction free."""
    Full.__table__.create(sqlite_engine)
    audit = load("audit")
    audit.Base.metadata.create_all(sqlite_engine)
    make_session = sessionmaker(sqlite_engine)

    def configure(config):
        config.registry["dbsession_factory"] = make_session
        config.add_subscriber(audit.keep, SessionCreatedEvent)

    browser = Browser(Application(sqlite_engine, configure=configure))
    browser.visit(lambda request: setattr(request.session, "userid", 7))
    with make_session() as dbsession:
        assert dbsession.query(audit.Login).one().userid == 7


def test_table_of_events():
    """The table of events names every event, and every cause that its class does."""
    rows = table("api", "SessionCreatedEvent")
    told = {(name.strip("`"), cause.strip("`")) for name, cause, _ in rows}
    assert told == {
        (kind.__name__, cause)
        for kind in SessionEvent.__subclasses__()
        for cause in re.findall('"([a-z ]+)"', kind.__doc__)
    }
