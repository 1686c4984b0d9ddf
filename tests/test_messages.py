"""The messages that the documentation quotes are those that the package gives."""

from __future__ import annotations

import re
from itertools import permutations

import plaster
import pytest
import transaction
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from sqlalchemy import Integer, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, mapped_column, sessionmaker
from sqlalchemy.orm.exc import StaleDataError
from webtest import TestApp

from pyramid_sqlalchemy_sessions import (
    ConfigurationError,
    CSRFMixin,
    FullyFeaturedSession,
    IdleMixin,
    JSONDataMixin,
    TransactionRequiredError,
    UseridMixin,
    generate_secret_key,
)
from tests.application import SECRET, Application, Browser, explicit_manager
from tests.applications.starter import PAGES, blocks
from tests.databases import KINDS
from tests.stories.transactions import elsewhere, exception_view, tween_above
from tests.test_docs import make_model

#: By the name of the message. Where a page repeats what another one quotes, the name
#: ends in "-again".
MESSAGES = {
    each.options["name"]: each.text
    for page in sorted(PAGES)
    for each in blocks(page)
    if each.language == "text" and "name" in each.options
}


def refusal(**settings) -> str:
    """Return what the include says of settings."""
    all_settings = {
        "session.secret_key": SECRET,
        "session.model_class": make_model(),
        **{f"session.{name}": value for name, value in settings.items()},
    }
    with pytest.raises(ConfigurationError) as caught:
        Configurator(settings=all_settings).include("pyramid_sqlalchemy_sessions")
    return str(caught.value)


def failure(error, engine, view, model=None, created=None, **kw) -> str:
    """Return what an error says that a view ends in."""
    model = model or make_model()
    (created or model).metadata.create_all(engine)
    with pytest.raises(error) as caught:
        Browser(Application(engine, model, **kw)).visit(view)
    return str(caught.value).splitlines()[0]


def change(request):
    """Change the session."""
    request.session["a"] = 1


def stale(engine, make_view, error, **kw) -> str:
    """Return what is said of a session that a browser has."""
    model = kw.pop("model", None) or make_model()
    model.metadata.create_all(engine)
    browser = Browser(Application(engine, model))
    browser.visit(change)
    later = Browser(Application(engine, kw.pop("new_model", model), **kw))
    later.set_cookie("session", str(browser.cookie))
    with pytest.raises(error) as caught:
        later.visit(make_view(browser))
    return str(caught.value)


def racing(browser):
    """Return a view that is overtaken by another request."""

    def view(request):
        request.session["a"] += 1
        elsewhere(browser.visit, lambda r: r.session.update(a=5))

    return view


def revoking(browser):
    """Return a view whose session another request ends."""

    def view(request):
        request.session["a"] += 1
        elsewhere(browser.visit, lambda r: r.session.invalidate())

    return view


class Logged:
    """What the library logs in a test."""

    def __init__(self, engine, caplog, directory):
        self.engine = engine
        self.caplog = caplog
        self.directory = directory

    def visit(self, view=change, environ=(), **kw) -> str:
        """Return the one message that is logged when a view is visited."""
        model = make_model()
        model.metadata.create_all(self.engine)
        self.caplog.clear()
        Browser(Application(self.engine, model, **kw), **dict(environ)).visit(view)
        (message,) = self.caplog.messages
        return message

    def raised(self) -> str:
        """Raise a redirect, in a view that the application's own view calls."""

        def login(request):
            change(request)
            raise HTTPSeeOther("/")

        said = self.visit(login).replace(
            "tests.application._call_view", "myproject.views.login"
        )
        return re.sub(r"tests/test_messages.py:\d+", "myproject/views.py:12", said)

    def fixture(self, doom: bool) -> str:
        """Visit with the fixture of the cookiecutter."""
        manager = explicit_manager(None)
        manager.begin()
        if doom:
            manager.doom()
        dbsession = sessionmaker(self.engine)()
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        environ = {
            "tm.active": True,
            "tm.manager": manager,
            "app.dbsession": dbsession,
        }
        try:
            return self.visit(environ=environ)
        finally:
            manager.abort()
            dbsession.close()

    def other_manager(self) -> str:
        """Register the dbsession without the transaction manager."""

        def make_dbsession(request, manager):
            dbsession = sessionmaker(self.engine)()
            zope.sqlalchemy.register(dbsession)
            return dbsession

        try:
            return self.visit(make_dbsession=make_dbsession)
        finally:
            transaction.abort()

    def late(self) -> str:
        """Come with a cookie that a login has just replaced."""
        self.caplog.set_level("INFO", "pyramid_sqlalchemy_sessions.settle")
        model = make_model(UseridMixin)
        model.metadata.create_all(self.engine)
        browser = Browser(Application(self.engine, model))
        browser.visit(change)
        overtaken = Browser(browser.application)
        overtaken.set_cookie("session", str(browser.cookie))
        browser.visit(lambda r: setattr(r.session, "userid", 1))
        self.caplog.clear()
        overtaken.visit(change)
        (message,) = self.caplog.messages
        return message

    def lost(self) -> str:
        """Change in an exception view what another request changes, too."""
        model = make_model()
        model.metadata.create_all(self.engine)
        rival = Browser(Application(self.engine, model))
        rival.visit(change)

        def apologize(request):
            request.session["a"] += 1
            elsewhere(rival.visit, lambda r: r.session.update(a=5))
            return "sorry"

        def fail(request):
            raise LookupError

        configure = exception_view(apologize, LookupError)
        browser = Browser(Application(self.engine, model, configure=configure))
        browser.set_cookie("session", str(rival.cookie))
        self.caplog.clear()
        browser.visit(fail, status=500)
        (message,) = self.caplog.messages
        return message

    def thread_local(self) -> str:
        """Change the session in a tween above pyramid_tm."""

        def tween(handler, request):
            change(request)
            return handler(request)

        return self.visit(
            lambda request: None, explicit=False, configure=tween_above(tween)
        )


def my_model() -> type:
    """Make a class that is no session."""

    class Base(DeclarativeBase):
        pass

    names = {
        "__tablename__": "models",
        "__module__": "myproject.models.mymodel",
        "id": mapped_column(Integer, primary_key=True),
    }
    return type("MyModel", (Base,), names)


def too_late(engine) -> str:
    """Change the session in a finished callback."""
    caught = []

    def callback(request):
        try:
            change(request)
        except TransactionRequiredError as error:
            caught.append(str(error))

    model = make_model()
    model.metadata.create_all(engine)
    browser = Browser(Application(engine, model))
    browser.visit(lambda request: request.add_finished_callback(callback))
    return caught[0]


def checkout(request):
    """Keep what cannot be kept."""
    request.session["on_success"] = lambda: None


class Product:
    """What is no JSON value."""


def too_big(engine) -> str:
    """Store what is larger than MariaDB's server takes, whatever that is."""
    with engine.connect() as connection:
        packet = connection.scalar(text("SELECT @@max_allowed_packet"))
    view = lambda r: r.session.update(a=bytes(packet))  # noqa: E731
    said = failure(ValueError, engine, view)
    length = int(re.search(r"\d+", said)[0])
    assert length > packet
    return said.replace(str(length), "20000000").replace(str(packet), "16777216")


def percent(path) -> str:
    """Read an ini file whose key has a percent sign."""
    path.write_text("[app:main]\nuse = egg:myproject\nsession.secret_key = se%cret\n")
    with pytest.raises(Exception, match="must be followed") as caught:
        plaster.get_settings(str(path), "app:main")
    return str(caught.value).removeprefix(f"Error in file {path}: ")


def without_include() -> str:
    """Use the session of an application that has none."""
    config = Configurator()
    config.add_route("counter", "/")
    config.add_view(change, route_name="counter")
    with pytest.raises(AttributeError) as caught:
        TestApp(config.make_wsgi_app()).get("/")
    return str(caught.value)


def refused_form(engine, **environ) -> str:
    """Post a form without a token, and return the end of the answer."""
    model = make_model(CSRFMixin)
    model.metadata.create_all(engine)
    configure = lambda c: c.set_default_csrf_options(require_csrf=True)  # noqa: E731
    browser = Browser(Application(engine, model, configure=configure))
    answer = browser.post("/", status=400, extra_environ=environ).text
    return answer.strip().splitlines()[-1]


def locked(engine) -> str:
    """Write while another transaction does."""
    model = make_model()
    model.metadata.create_all(engine)
    impatient = create_engine(engine.url, connect_args={"timeout": 0})
    browser = Browser(Application(impatient, model))
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError) as caught:
            browser.visit(change)
        connection.exec_driver_sql("ROLLBACK")
    impatient.dispose()
    return str(caught.value).splitlines()[0]


#: How to get each message that a page quotes, with an engine and a log.
SAID = {
    "error-no-key": lambda e, log: refusal(secret_key=""),
    "error-bad-key": lambda e, log: refusal(secret_key=f"{SECRET} ; random"),
    "error-percent": lambda e, log: percent(log.directory / "development.ini"),
    "error-no-table": lambda e, log: failure(
        OperationalError, e, change, created=my_model()
    ),
    "error-no-column": lambda e, log: stale(
        e,
        lambda browser: lambda r: dict(r.session),
        OperationalError,
        new_model=make_model(IdleMixin),
    ).splitlines()[0],
    "warning-raised": lambda e, log: log.raised(),
    "error-too-late": lambda e, log: too_late(e),
    "error-conflict": lambda e, log: stale(e, racing, StaleDataError),
    "error-lost": lambda e, log: log.lost(),
    "warning-doomed-in-tests": lambda e, log: log.fixture(doom=True),
    "warning-open": lambda e, log: log.fixture(doom=False),
    "error-bad-value": lambda e, log: refusal(idle_timeout="1200 ; twenty minutes"),
    "error-no-include": lambda e, log: without_include(),
    "error-no-table-postgresql": lambda e, log: failure(
        ProgrammingError, e, change, created=my_model()
    ),
    "error-no-table-mariadb": lambda e, log: failure(
        ProgrammingError, e, change, created=my_model()
    ).replace(e.url.database, "myproject"),
    # The words are those of Python, which has changed them.
    "error-no-pickle": lambda e, log: failure(TypeError, e, checkout).replace(
        "Can't get local", "Can't pickle local"
    ),
    "error-no-json": lambda e, log: failure(
        TypeError,
        e,
        lambda r: r.session.update(tags={"new"}),
        make_model(JSONDataMixin),
    ),
    "error-flash": lambda e, log: failure(
        TypeError, e, lambda r: r.session.flash(Product())
    ),
    "error-too-big-mariadb": lambda e, log: too_big(e),
    "error-csrf-token": lambda e, log: refused_form(e),
    "error-csrf-origin": lambda e, log: refused_form(
        e, **{"wsgi.url_scheme": "https", "HTTP_HOST": "example.com"}
    ),
    "error-locked": lambda e, log: locked(e),
}

#: Messages that no page quotes, because they say what to do: how to get each, and the
#: names, values and remedies that are in it.
UNQUOTED = {
    "late": (
        lambda e, log: log.late(),
        ("isn't stored", "sets no cookie", "during a login"),
    ),
    "no mixin": (
        lambda e, log: refusal(idle_timeout="1200"),
        ("session.idle_timeout = 1200", "IdleMixin", "leave the setting out"),
    ),
    "no model": (
        lambda e, log: refusal(model_class="demo.Sesion"),
        ("session.model_class", "'demo.Sesion'", "import the class in its __init__.py"),
    ),
    "not a model": (
        lambda e, log: refusal(model_class=my_model()),
        ("session.model_class", "mymodel.MyModel", "BaseMixin among its bases"),
    ),
    "combination": (
        lambda e, log: refusal(
            model_class=make_model(base=FullyFeaturedSession),
            idle_timeout="3600",
            absolute_timeout="1800",
        ),
        ("session.idle_timeout (3600)", "less", "session.absolute_timeout (1800)"),
    ),
    "host prefix": (
        lambda e, log: refusal(cookie_name="__Host-session"),
        ("session.cookie_name", "__Host-", "session.cookie_secure = true", "auto"),
    ),
    "no userid": (
        lambda e, log: failure(NotImplementedError, e, lambda r: r.session.userid),
        ("Session", "UseridMixin", "bases of the class", "columns to the table"),
    ),
    "no dbsession": (
        lambda e, log: failure(ConfigurationError, e, change, dbsession_name="db"),
        ("request.db,", "dbsession_name", "pyramid_tm"),
    ),
    "no pyramid_tm": (
        lambda e, log: log.visit(pyramid_tm=False),
        ("in a transaction of their own", "config.include('pyramid_tm')"),
    ),
    "other manager": (
        lambda e, log: log.other_manager(),
        ("isn't stored", "register(dbsession, transaction_manager=request.tm)"),
    ),
    "wrong userid": (
        lambda e, log: failure(
            TypeError,
            e,
            lambda r: setattr(r.session, "userid", "alice"),
            make_model(UseridMixin),
        ),
        ("an int", "not str", "column 'userid' with another type"),
    ),
}


@pytest.mark.parametrize("name", UNQUOTED)
def test_message_that_says_what_to_do(name, sqlite_engine, caplog, tmp_path):
    """It names what is wrong, and the remedy."""
    say, parts = UNQUOTED[name]
    said = say(sqlite_engine, Logged(sqlite_engine, caplog, tmp_path))
    assert [part for part in parts if part not in said] == []


def database_of(name: str) -> str:
    """Return the database that gives a message."""
    kind = name.rpartition("-")[2]
    return kind if kind in KINDS else "sqlite"


def test_every_message_is_tested():
    """No page quotes a message that is not checked here."""
    assert {name.removesuffix("-again") for name in MESSAGES} == set(SAID)


@pytest.mark.parametrize(
    ("name", "database_url"),
    [pytest.param(name, database_of(name), id=name) for name in sorted(MESSAGES)],
    indirect=["database_url"],
)
def test_message(name, engine, caplog, tmp_path):
    """The package says what the page says that it says."""
    say = SAID[name.removesuffix("-again")]
    said = say(engine, Logged(engine, caplog, tmp_path))
    assert said.split() == MESSAGES[name].split()


# What no page quotes.


def test_revoked(sqlite_engine):
    """An error says that the session has ended, since trying again won't help."""
    said = stale(sqlite_engine, revoking, StaleDataError)
    assert "has been revoked" in said
    assert "tried again" not in said


def test_thread_local_manager(sqlite_engine, caplog, tmp_path):
    """The log warns of changes outside of pyramid_tm, and names the remedy."""
    said = Logged(sqlite_engine, caplog, tmp_path).thread_local()
    assert "tm.manager_hook = pyramid_tm.explicit_manager" in said


# What nobody complains about.


def test_order_of_the_includes(sqlite_engine):
    """The include may stand before or behind that of pyramid_tm and of the retries."""
    model = make_model()
    model.metadata.create_all(sqlite_engine)
    name = "pyramid_sqlalchemy_sessions"
    for order in permutations([name, f"{name}.retry", "pyramid_tm"]):
        settings = {
            "session.secret_key": SECRET,
            "session.model_class": model,
            "tm.manager_hook": explicit_manager,
        }
        with Configurator(settings=settings) as config:
            for each in order:
                config.include(each)
            config.registry["engine"] = sqlite_engine
            config.add_request_method(joined, "dbsession", reify=True)
            config.add_route("counter", "/")
            config.add_view(counter, route_name="counter")
        browser = TestApp(config.make_wsgi_app())
        assert [browser.get("/").text for _ in range(2)] == ["1", "2"]


def test_no_request_tm(sqlite_engine):
    """A dbsession that needs pyramid_tm is missed in the words of a missing one."""
    model = make_model()
    model.metadata.create_all(sqlite_engine)
    make = lambda request, manager: request.no_such_thing  # noqa: E731
    application = Application(sqlite_engine, model, make_dbsession=make)
    with pytest.raises(ConfigurationError, match=r"request\.dbsession.*no request\.tm"):
        Browser(application).visit(change)


def joined(request):
    """Return a dbsession that is in the transaction of the request."""
    dbsession = sessionmaker(request.registry["engine"])()
    zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
    return dbsession


def counter(request):
    """Count the visits."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return Response(str(request.session["visits"]))


class TestStranger:
    """Why a visitor may be a stranger again, without a word in the log."""

    @pytest.fixture
    def model(self, sqlite_engine):
        model = make_model(UseridMixin, CSRFMixin)
        model.metadata.create_all(sqlite_engine)
        return model

    def numbers(self, browser, *urls):
        return [browser.visit(counter, url).text for url in urls]

    def test_another_factory(self, sqlite_engine, model):
        """What the application sets by itself wins over the include."""

        def configure(config):
            config.set_session_factory(SignedCookieSessionFactory("secret"))

        application = Application(sqlite_engine, model, configure=configure)
        assert self.numbers(Browser(application), "/", "/") == ["1", "2"]
        assert application.rows() == []

    def test_secure_cookie(self, sqlite_engine, model):
        """A browser keeps back a Secure cookie where there is no https."""
        application = Application(sqlite_engine, model, cookie_secure=True)
        for scheme, numbers in (("http", ["1", "1"]), ("https", ["1", "2"])):
            urls = [f"{scheme}://shop.example/"] * 2
            assert self.numbers(Browser(application), *urls) == numbers

    def test_another_project(self, sqlite_engine, model):
        """A project with another key and the same name of the cookie replaces it."""
        project = Application(sqlite_engine, model)
        rivals = {
            name: Application(
                sqlite_engine,
                model,
                cookie_name=name,
                settings={"session.secret_key": generate_secret_key()},
            )
            for name in ("session", "other")
        }
        browser = Browser(project)
        for name, numbers in (("other", ["1", "2"]), ("session", ["3", "1"])):
            seen = []
            for wsgi in (project.wsgi, rivals[name].wsgi, project.wsgi):
                browser.app = wsgi
                project.view = rivals[name].view = counter
                seen.append(browser.get("/").text)
            assert [seen[0], seen[2]] == numbers

    def test_form_from_before_the_login(self, sqlite_engine, model):
        """The login draws another token."""
        browser = Browser(Application(sqlite_engine, model))
        before = browser.visit(get_csrf_token).text
        browser.visit(lambda r: setattr(r.session, "userid", 1))
        assert browser.visit(get_csrf_token).text != before
