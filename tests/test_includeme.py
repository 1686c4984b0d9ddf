"""The include sets up an application's sessions, and a CSRF policy that works."""

from importlib.metadata import version

import pytest
import transaction
import zope.sqlalchemy
from pyramid.authorization import Allow
from pyramid.config import Configurator
from pyramid.csrf import (
    CookieCSRFStoragePolicy,
    LegacySessionCSRFStoragePolicy,
    SessionCSRFStoragePolicy,
    get_csrf_token,
    new_csrf_token,
)
from pyramid.exceptions import BadCSRFToken
from pyramid.interfaces import ICSRFStoragePolicy, ISessionFactory
from pyramid.response import Response
from sqlalchemy.orm import Session
from webtest import TestApp

from pyramid_sqlalchemy_sessions import ConfigurationError
from tests.application import (
    SECRET,
    Application,
    Browser,
    Full,
    Plain,
    explicit_manager,
    statements,
)


def make_settings(model=Plain, **session_settings):
    """Return the settings of an application."""
    return {
        "tm.manager_hook": explicit_manager,
        "session.secret_key": SECRET,
        "session.model_class": model,
        **{f"session.{name}": value for name, value in session_settings.items()},
    }


# The factory.


def test_sets_the_session_factory():
    """After the include the application has a session factory of its settings."""
    config = Configurator(settings=make_settings(Full, cookie_name="sid"))
    config.include("pyramid_sqlalchemy_sessions")
    config.commit()
    factory = config.registry.getUtility(ISessionFactory)
    assert factory.model_class is Full
    assert factory._cookie_name == "sid"


def test_session_store(engine):
    """A request has a store of the sessions that request.session is one of."""
    Full.__table__.create(engine)

    def other_name(config):
        config.add_request_method(lambda r: r.dbsession, "db", property=True)

    application = Application(engine, configure=other_name, dbsession_name="db")
    browser = Browser(application)

    def view(request):
        request.session["a"] = 1
        assert request.session_store is request.session_store
        key = request.session_store.create({"b": 2})
        return request.session_store.get(key)

    assert browser.visit(view).text == "{'b': 2}"
    assert len(application.rows()) == 2


def test_store_of_another_factory(sqlite_engine):
    """The store says so if request.session is none of ours."""

    def configure(config):
        config.set_session_factory(lambda request: {})

    browser = Browser(Application(sqlite_engine, configure=configure))
    with pytest.raises(ConfigurationError, match="must be a session factory of"):
        browser.visit(lambda request: request.session_store)


def test_model_class_may_be_a_dotted_name():
    """An ini file names the model."""
    settings = make_settings("tests.application.Plain")
    config = Configurator(settings=settings)
    config.include("pyramid_sqlalchemy_sessions")
    config.commit()
    factory = config.registry.getUtility(ISessionFactory)
    assert factory.model_class.__tablename__ == "plain_session"


def test_may_be_included_twice():
    """An add-on may include the library as well as the application does."""
    config = Configurator(settings=make_settings())
    config.include("pyramid_sqlalchemy_sessions")
    config.include(lambda config: config.include("pyramid_sqlalchemy_sessions"))
    config.commit()
    assert config.registry.getUtility(ISessionFactory).model_class is Plain


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"session.idle_timout": "5"}, r"session\.idle_timout"),
        ({"session.cookie_httponly": "ture"}, "cookie_httponly"),
        ({"session.secret_key": None}, r"session\.secret_key"),
        ({"session.model_class": None}, r"session\.model_class"),
        ({"session.model_class": "no.such.module"}, r"no\.such\.module"),
    ],
)
def test_refuses_mistakes(settings, named):
    """An unknown, bad or missing setting is a ConfigurationError at the include."""
    config = Configurator(settings={**make_settings(), **settings})
    with pytest.raises(ConfigurationError, match=named):
        config.include("pyramid_sqlalchemy_sessions")


def test_settings_of_others_are_theirs():
    """Only names with the prefix are looked at."""
    config = Configurator(
        settings={**make_settings(), "sessions.x": 1, "my.session.y": 2}
    )
    config.include("pyramid_sqlalchemy_sessions")
    config.commit()
    assert config.registry.queryUtility(ISessionFactory) is not None


# tm.annotate_user.


@pytest.mark.parametrize("tm_first", [True, False])
def test_users_are_not_annotated(tm_first):
    """Annotation would load the session in every request, so it is switched off."""
    config = Configurator(settings=make_settings())
    names = ["pyramid_tm", "pyramid_sqlalchemy_sessions"]
    for name in names if tm_first else reversed(names):
        config.include(name)
    config.commit()
    assert config.registry.settings["tm.annotate_user"] is False


@pytest.mark.parametrize("given", [True, False, "true", "no", ""])
def test_annotation_that_was_chosen_stays(given):
    """What the application says about annotation stands."""
    config = Configurator(settings={**make_settings(), "tm.annotate_user": given})
    config.include("pyramid_sqlalchemy_sessions")
    config.commit()
    assert config.registry.settings["tm.annotate_user"] is given


class SessionPolicy:
    """A security policy that asks the session for the user."""

    def identity(self, request):
        return self.authenticated_userid(request)

    def authenticated_userid(self, request):
        return request.session.userid

    def permits(self, request, context, permission):
        return Allow

    def remember(self, request, userid, **kw):
        return []

    def forget(self, request, **kw):
        return []


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, []), ({"tm.annotate_user": "true"}, ["SELECT"])]
)
def test_unused_session_is_not_loaded_for_annotation(sqlite_engine, settings, expected):
    """A request that does not use the session runs no SQL, unless annotation is on."""
    Full.__table__.create(sqlite_engine)
    browser = Browser(
        Application(
            sqlite_engine,
            settings=settings,
            configure=lambda config: config.set_security_policy(SessionPolicy()),
        )
    )
    browser.visit(lambda request: setattr(request.session, "userid", 5))
    with statements(sqlite_engine) as collected:
        browser.visit(lambda request: None)
    assert [each.split()[0] for each in collected] == expected


# CSRF.

POLICIES = {
    "default": None,
    "legacy": LegacySessionCSRFStoragePolicy,
    "session": SessionCSRFStoragePolicy,
    "cookie": CookieCSRFStoragePolicy,
}

TIMES = ["before", "after", "after commit", "in an include", "autocommit"]


def show_form(request):
    """Show the form, which has the token."""
    return Response(get_csrf_token(request))


def take_form(request):
    """Take the form, whose token has been checked."""
    request.session["posted"] = request.session.get("posted", 0) + 1
    return Response("taken")


def log_in(request):
    """Take the login form."""
    request.session.userid = 5
    return Response(get_csrf_token(request))


def make_application(engine, model, policy, time="after", configure=None):
    """Return an application whose every POST request needs a CSRF token."""

    def dbsession(request):
        session = Session(engine)
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    def set_policy(config):
        if POLICIES[policy] is not None:
            config.set_csrf_storage_policy(POLICIES[policy]())

    model.__table__.create(engine, checkfirst=True)
    config = Configurator(
        settings=make_settings(model), autocommit=time == "autocommit"
    )
    if time == "before":
        set_policy(config)
    config.include("pyramid_tm")
    config.add_request_method(dbsession, "dbsession", reify=True)
    config.include("pyramid_sqlalchemy_sessions")
    if time == "after commit":
        config.commit()
    if time == "in an include":
        config.include(set_policy)
    elif time != "before":
        set_policy(config)
    config.set_default_csrf_options(require_csrf=True)
    config.add_route("form", "/form")
    config.add_route("login", "/login")
    config.add_view(show_form, route_name="form", request_method="GET")
    config.add_view(take_form, route_name="form", request_method="POST")
    config.add_view(log_in, route_name="login", request_method="POST")
    if configure is not None:
        configure(config)
    return config.make_wsgi_app()


@pytest.fixture(params=[Plain, Full], ids=["without the mixin", "with the mixin"])
def model(request):
    """Return a model without and one with CSRFMixin."""
    return request.param


@pytest.fixture(params=POLICIES)
def policy(request):
    """Return the name of each CSRF storage policy."""
    return request.param


@pytest.mark.parametrize("time", TIMES)
def test_form_with_its_token_is_taken(sqlite_engine, model, policy, time):
    """A form works with any policy, chosen at any time, and any model."""
    browser = TestApp(make_application(sqlite_engine, model, policy, time))
    token = browser.get("/form").text
    assert browser.get("/form").text == token
    assert browser.post("/form", {"csrf_token": token}).text == "taken"
    assert browser.post("/form", {"csrf_token": token}).text == "taken"


def test_form_is_taken_on_each_database(engine, model, policy):
    """A form works on any database."""
    browser = TestApp(make_application(engine, model, policy))
    token = browser.get("/form").text
    assert browser.post("/form", {"csrf_token": token}).text == "taken"


def test_token_in_a_header(sqlite_engine, model, policy):
    """A script sends the token in a header."""
    browser = TestApp(make_application(sqlite_engine, model, policy))
    headers = {"X-CSRF-Token": browser.get("/form").text}
    assert browser.post("/form", headers=headers).text == "taken"


BAD_TOKENS = {
    "none": {},
    "empty": {"csrf_token": ""},
    "wrong": {"csrf_token": "wrong"},
    "not ASCII": {"csrf_token": "é😀\0"},
    "alike": {"csrf_token": "A" * 28},
    "huge": {"csrf_token": "A" * 5000},
}


# Pyramid 2.0's own policies fail on what Latin-1 does not have.
if version("pyramid").startswith("2.0"):
    BAD_TOKENS["not ASCII"] = {"csrf_token": "éÿ\0"}


@pytest.mark.parametrize("form", BAD_TOKENS.values(), ids=BAD_TOKENS)
@pytest.mark.parametrize("known", [True, False], ids=["known", "stranger"])
def test_form_with_a_bad_token_is_refused(sqlite_engine, model, policy, form, known):
    """Any other token is a bad request, never an error of the server."""
    browser = TestApp(make_application(sqlite_engine, model, policy))
    if known:
        browser.get("/form")
    browser.post("/form", form, status=400)
    with Session(sqlite_engine) as dbsession:
        assert dbsession.query(model).count() == (known and policy != "cookie")


def test_token_of_somebody_else_is_refused(sqlite_engine, model, policy):
    """Each browser has a token of its own."""
    application = make_application(sqlite_engine, model, policy)
    ours, theirs = TestApp(application), TestApp(application)
    token = theirs.get("/form").text
    assert ours.get("/form").text != token
    ours.post("/form", {"csrf_token": token}, status=400)


def test_new_token_replaces_the_old_one(sqlite_engine, model, policy):
    """Pyramid's new_csrf_token works with any policy."""

    def configure(config):
        config.add_route("new", "/new")
        config.add_view(
            lambda request: Response(new_csrf_token(request)), route_name="new"
        )

    application = make_application(sqlite_engine, model, policy, configure=configure)
    browser = TestApp(application)
    old = browser.get("/form").text
    new = browser.get("/new").text
    assert new != old
    browser.post("/form", {"csrf_token": old}, status=400)
    assert browser.post("/form", {"csrf_token": new}).text == "taken"


def test_token_that_an_exception_view_shows(sqlite_engine, model, policy):
    """A form in an error page can be sent, although the request failed."""

    def configure(config):
        config.add_exception_view(
            lambda request: Response(get_csrf_token(request), status=400), BadCSRFToken
        )

    application = make_application(sqlite_engine, model, policy, configure=configure)
    browser = TestApp(application)
    token = browser.post("/form", {"csrf_token": "bad"}, status=400).text
    assert browser.post("/form", {"csrf_token": token}).text == "taken"


@pytest.mark.parametrize("policy", ["default", "legacy"], indirect=True)
def test_login_changes_the_token(sqlite_engine, policy):
    """Who knew the token from before the login does not know the one after it."""
    browser = TestApp(make_application(sqlite_engine, Full, policy))
    old = browser.get("/form").text
    new = browser.post("/login", {"csrf_token": old}).text
    assert new != old
    browser.post("/form", {"csrf_token": old}, status=400)
    assert browser.post("/form", {"csrf_token": new}).text == "taken"


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("default", SessionCSRFStoragePolicy),
        ("legacy", SessionCSRFStoragePolicy),
        ("session", SessionCSRFStoragePolicy),
        ("cookie", CookieCSRFStoragePolicy),
    ],
)
def test_policy_without_the_mixin(sqlite_engine, policy, expected, time):
    """Without the mixin the policy that needs it is replaced, and no other."""
    registry = make_application(sqlite_engine, Plain, policy, time).registry
    assert type(registry.getUtility(ICSRFStoragePolicy)) is expected


@pytest.mark.parametrize("time", TIMES)
def test_policy_with_the_mixin_stays(sqlite_engine, policy, time):
    """With the mixin every policy stays as the application chose it."""
    registry = make_application(sqlite_engine, Full, policy, time).registry
    expected = POLICIES[policy] or LegacySessionCSRFStoragePolicy
    assert type(registry.getUtility(ICSRFStoragePolicy)) is expected


def test_policy_that_is_derived_from_pyramids_stays(sqlite_engine):
    """A policy of the application's own is not replaced."""

    class Own(LegacySessionCSRFStoragePolicy):
        """A policy that keeps the token elsewhere."""

    registry = make_application(
        sqlite_engine,
        Plain,
        "default",
        configure=lambda config: config.set_csrf_storage_policy(Own()),
    ).registry
    assert type(registry.getUtility(ICSRFStoragePolicy)) is Own


def test_key_of_the_policy_stays(sqlite_engine):
    """A session policy with a key of the application's own keeps it."""
    registry = make_application(
        sqlite_engine,
        Plain,
        "default",
        configure=lambda config: config.set_csrf_storage_policy(
            SessionCSRFStoragePolicy(key="own")
        ),
    ).registry
    assert registry.getUtility(ICSRFStoragePolicy).key == "own"


def test_applications_keep_their_policies_apart(sqlite_engine):
    """One application's model does not change another one's policy."""
    plain = make_application(sqlite_engine, Plain, "default").registry
    full = make_application(sqlite_engine, Full, "default").registry
    kinds = [type(each.getUtility(ICSRFStoragePolicy)) for each in (plain, full)]
    assert kinds == [SessionCSRFStoragePolicy, LegacySessionCSRFStoragePolicy]


# Without an explicit transaction manager.


def test_thread_local_transaction_manager(sqlite_engine):
    """pyramid_tm's default manager, which is that of the thread, does as well."""
    Full.__table__.create(sqlite_engine)
    browser = Browser(Application(sqlite_engine, explicit=False))
    browser.ask(lambda session: session.update(a=1))
    assert browser.ask(dict) == {"a": 1}
    browser.fail(lambda request: request.session.update(a=2))
    assert browser.ask(dict) == {"a": 1}
    transaction.abort()
