"""The session factory tells what it is, and does not notice other factories."""

from types import SimpleNamespace

import pytest
import zope.sqlalchemy
from pyramid import testing
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from sqlalchemy.orm import DeclarativeBase, sessionmaker
from zope.interface.verify import verifyObject

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    ClientAddressMixin,
    ConfigurationError,
    CookieCryptoErrorEvent,
    EncryptedDataMixin,
    IdleMixin,
    LastSeenMixin,
    RenewalMixin,
    create_session_model,
    get_session_factory,
    session_factory_from_settings,
)
from pyramid_sqlalchemy_sessions.settings import SETTINGS
from tests.application import (
    SECRET,
    Application,
    Browser,
    Full,
    Plain,
    explicit_manager,
    statements,
)

OURS = AESGCMSerializer(bytes(range(32)))
THEIRS = AESGCMSerializer(bytes(16))
OTHER_SECRET = "ZGVmZ2hpamtsbW5vcHFycw=="


class Models(DeclarativeBase):
    """The declarative base of the model below."""


class Another(BaseMixin, Models):
    """A session of another application."""

    __tablename__ = "another_session"


def as_is(value):
    """Stand in for ``config.maybe_dotted``, for values that are no names."""
    return value


@pytest.fixture
def make_browser(sqlite_engine):
    """Make browsers of applications that share a database."""

    def make(model=Plain, **kw):
        model.__table__.create(sqlite_engine, checkfirst=True)
        return Browser(Application(sqlite_engine, model, **kw))

    return make


def using(factory):
    """Return what configures an application to use a factory that was made by hand."""
    return lambda config: config.set_session_factory(factory)


class Timed(IdleMixin, AbsoluteMixin, BaseMixin, Models):
    """A session with two timeouts."""

    __tablename__ = "timed_out_session"


def test_timeout_that_is_off_is_told(caplog):
    """A mixin without its setting is in the log: the setting's name may be mistyped."""
    caplog.set_level("INFO", "pyramid_sqlalchemy_sessions")
    get_session_factory(OURS, Timed, idle_timeout=60)
    assert [record.getMessage() for record in caplog.records] == [
        "Timed has AbsoluteMixin, but the setting absolute_timeout is not set, so this"
        " timeout is off."
    ]


def test_provides_the_interface():
    """Pyramid and its add-ons recognise the factory."""
    factory = get_session_factory(OURS, Plain)
    assert verifyObject(ISessionFactory, factory)


def test_tells_its_model():
    """Add-ons find the model at the factory."""
    assert get_session_factory(OURS, Full).model_class is Full


def test_tells_the_name_of_its_cookie():
    """Add-ons find the cookie's name where Pyramid's own factories have it."""
    assert get_session_factory(OURS, Plain)._cookie_name == "session"
    assert get_session_factory(OURS, Plain, cookie_name="sid")._cookie_name == "sid"


def test_tells_its_settings():
    """The settings of the factory are typed, and have their defaults."""
    factory = get_session_factory(OURS, Plain, cookie_max_age="60")
    assert factory.settings.cookie_max_age == 60
    assert factory.settings.cookie_path == "/"
    assert factory.settings.cookie_secure is None
    assert factory.settings.dbsession_name == "dbsession"


def test_settings_cannot_be_changed():
    """What was checked at start-up stays as it was."""
    factory = get_session_factory(OURS, Plain)
    with pytest.raises(AttributeError):
        factory.settings.cookie_path = "/elsewhere"


def test_shows_no_secret():
    """Neither the factory nor its settings show the key to a log or debugger."""
    factory = session_factory_from_settings(
        {"session.secret_key": SECRET, "session.model_class": Plain}, as_is
    )
    for text in (repr(factory), repr(factory.settings), str(vars(factory))):
        assert SECRET not in text
        assert repr(bytes(range(32)))[2:-1] not in text


def test_is_made_of_settings_with_another_prefix():
    """Settings of another prefix make another factory."""
    settings = {
        "session.secret_key": "not ours",
        "shop.secret_key": SECRET,
        "shop.model_class": Full,
        "shop.cookie_name": "shop",
        "shop.something_else": "not ours",
    }
    factory = session_factory_from_settings(settings, as_is, prefix="shop.")
    assert factory.model_class is Full
    assert factory._cookie_name == "shop"


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        (Plain, {"cookie_pth": "/"}, "cookie_pth"),
        (Plain, {"cookie_path": "no slash"}, "cookie_path"),
        (object, {}, "BaseMixin"),
        (None, {}, "model_class"),
        (Plain, {"cookie_domain": "http://example.com"}, "cookie_domain"),
        (Plain, {"cookie_partitioned": True}, "cookie_secure=True"),
        (BaseMixin, {}, "mapped"),
    ],
)
def test_mistake_is_found_at_start_up(model, settings, named):
    """A bad setting or model is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match=named):
        get_session_factory(OURS, model, **settings)


@pytest.mark.parametrize(
    ("serializer", "given"),
    [
        ("x", "not str"),
        (SECRET, "not str"),
        (bytes(range(32)), "not bytes"),
        (None, "not NoneType"),
        (AESGCMSerializer, "not a class"),
        (SimpleNamespace(dumps=bytes), "not SimpleNamespace"),
        (SimpleNamespace(loads=bytes), "not SimpleNamespace"),
        (SimpleNamespace(dumps=bytes, loads=None), "not SimpleNamespace"),
    ],
)
def test_serializer_that_is_none(serializer, given):
    """What can't seal and open is refused at start-up, unseen: it may be a key."""
    with pytest.raises(ConfigurationError, match="serializer must be") as caught:
        get_session_factory(serializer, Plain)
    assert str(caught.value).endswith(given)


#: Which settings belong to which mixin, with values that do and don't do anything.
BELONGS = [
    ("IdleMixin", "idle_timeout", [60, None, "None", ""]),
    ("IdleMixin", "extension_delay", [5, None, ""]),
    ("IdleMixin", "extension_chance", [50, 100]),
    ("IdleMixin", "extension_deadline", [5, 1, "1"]),
    ("AbsoluteMixin", "absolute_timeout", [60, None, "none"]),
    ("RenewalMixin", "renewal_timeout", [60, None]),
    ("RenewalMixin", "renewal_try_every", [9, 5, "5"]),
    ("LastSeenMixin", "last_seen_delay", [9, 300]),
    ("ClientAddressMixin", "client_address_prefix4", [16, 24]),
    ("ClientAddressMixin", "client_address_prefix6", [64, 48]),
    ("EncryptedDataMixin", "encrypted_accept_plain", [True, False]),
]


@pytest.mark.parametrize(
    ("mixin", "name", "value"),
    [(mixin, name, value) for mixin, name, values in BELONGS for value in values],
)
def test_setting_of_a_mixin_that_is_missing(mixin, name, value):
    """A setting that is given for a missing mixin is an error, whatever its value."""
    settings = {"session.secret_key": SECRET, "session.model_class": Plain}
    with pytest.raises(ConfigurationError) as by_hand:
        get_session_factory(OURS, Plain, **{name: value})
    with pytest.raises(ConfigurationError) as by_settings:
        session_factory_from_settings({**settings, f"session.{name}": value}, as_is)
    for caught, said in ((by_hand, f"{name}="), (by_settings, f"session.{name} = ")):
        assert str(caught.value).startswith(said)
        assert f"Plain lacks {mixin}" in str(caught.value)


def test_every_setting_of_a_mixin_is_tested():
    """Those above are all; the others are for every model."""
    assert {(mixin, name) for mixin, name, _ in BELONGS} == {
        (each.mixin, each.name) for each in SETTINGS if each.mixin is not None
    }
    factory = get_session_factory(
        OURS,
        Plain,
        **{each.name: each.default for each in SETTINGS if each.mixin is None},
    )
    assert factory.settings.renewal_grace == 60


class Everything(
    LastSeenMixin,
    ClientAddressMixin,
    RenewalMixin,
    IdleMixin,
    AbsoluteMixin,
    EncryptedDataMixin,
    BaseMixin,
):
    """What a model needs to have all settings."""


def test_setting_of_a_mixin_that_is_there():
    """With the mixin, each value is accepted."""
    model = create_session_model(Models, Everything, table_name="everything_session")
    for _, name, values in BELONGS:
        for value in values:
            given = {name: value, "data_keys": SECRET}
            assert get_session_factory(OURS, model, **given)


def test_errors_speak_like_the_ini_file():
    """They have the names and the spelling of the settings that the factory is of."""
    settings = {
        "shop.secret_key": SECRET,
        "shop.model_class": Plain,
        "shop.cookie_name": "__Host-shop",
    }
    with pytest.raises(ConfigurationError) as caught:
        session_factory_from_settings(settings, as_is, prefix="shop.")
    assert "shop.cookie_secure = true" in str(caught.value)
    settings["shop.model_class"] = Models
    settings["shop.cookie_secure"] = "true"
    with pytest.raises(ConfigurationError, match=r"^shop\.model_class must be"):
        session_factory_from_settings(settings, as_is, prefix="shop.")


def test_errors_speak_like_python():
    """A factory made by hand has arguments, and Python's values."""
    with pytest.raises(ConfigurationError) as caught:
        get_session_factory(OURS, Plain, cookie_name="__Host-shop")
    assert "cookie_secure=True" in str(caught.value)
    assert "session." not in str(caught.value)


# Pyramid's DummyRequest.


@pytest.fixture
def ask_dummy(sqlite_engine):
    """Use the sessions of a factory with requests that are imitations."""
    Full.__table__.create(sqlite_engine)
    factory = get_session_factory(AESGCMSerializer(SECRET), Full)

    def ask(question, cookie=None, **given):
        manager = explicit_manager(None)
        dbsession = sessionmaker(sqlite_engine)()
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        environ = {"tm.active": True, "tm.manager": manager}
        if cookie is not None:
            environ["HTTP_COOKIE"] = f"session={cookie}"
        request = testing.DummyRequest(
            environ=environ, tm=manager, dbsession=dbsession, **given
        )
        with manager:
            answer = question(factory(request))
        request._process_response_callbacks(request.response)
        return answer, request.response.headers.get("Set-Cookie", "")

    with testing.testConfig():
        yield ask


def test_dummy_request(ask_dummy):
    """Its lack of a scheme keeps no cookie from being read, sent and deleted."""
    _, header = ask_dummy(lambda session: session.update(a=1))
    cookie = header.removeprefix("session=").partition(";")[0]
    assert ask_dummy(dict, cookie) == ({"a": 1}, "")
    assert ask_dummy(dict, cookies={"session": cookie}) == ({"a": 1}, "")
    assert ask_dummy(dict, cookies={"another": cookie})[0] == {}
    assert ask_dummy(dict, cookies={"session": "nonsense"})[0] == {}
    _, header = ask_dummy(lambda session: session.invalidate(), cookie)
    assert "Max-Age=0" in header
    assert ask_dummy(dict, "nonsense")[0] == {}


def test_dummy_request_without_anything():
    """A session that is new and only read needs neither environ nor scheme."""
    with testing.testConfig():
        assert dict(get_session_factory(OURS, Full)(testing.DummyRequest())) == {}


def test_making_a_session_touches_nothing():
    """A session of a request that has nothing is made without looking at it."""
    factory = get_session_factory(OURS, Plain)
    request = Request({})
    factory(request)
    assert request.environ == {}
    assert request.response_callbacks is None or not request.response_callbacks


def test_missing_dbsession(make_browser):
    """If the request has no dbsession, the error says which one and which setting."""
    browser = make_browser(dbsession_name="db")
    with pytest.raises(ConfigurationError, match=r"request\.db\b.*dbsession_name"):
        browser.ask(lambda session: session.update(a=1))


def test_dbsession_of_another_name(make_browser):
    """The dbsession may have another name."""

    def configure(config):
        config.add_request_method(lambda request: request.dbsession, "db", reify=True)

    browser = make_browser(dbsession_name="db", configure=configure)
    browser.ask(lambda session: session.update(a=1))
    assert browser.ask(dict) == {"a": 1}


def test_factory_made_by_hand(make_browser):
    """A factory made by hand takes the place of the one that the include made."""
    factory = get_session_factory(THEIRS, Plain, cookie_name="mine")
    browser = make_browser(configure=using(factory))
    browser.ask(lambda session: session.update(a=1))
    assert set(browser.cookies) == {"mine"}
    assert browser.ask(dict) == {"a": 1}


# Several factories.


def test_applications_with_different_models(make_browser):
    """Two applications with a model each do not mix their sessions."""
    plain = make_browser(Plain)
    full = make_browser(Full, secret_key=OTHER_SECRET, cookie_name="full")
    another = make_browser(Another)
    plain.ask(lambda session: session.update(name="plain"))
    full.ask(lambda session: (session.update(name="full"), session.get_csrf_token()))
    another.ask(lambda session: session.update(name="another"))
    for browser, name in ((plain, "plain"), (full, "full"), (another, "another")):
        assert browser.ask(dict) == {"name": name}
        assert len(browser.application.rows()) == 1
    with pytest.raises(NotImplementedError):
        plain.ask(lambda session: session.userid)


def test_applications_with_different_settings_of_one_model(make_browser):
    """Two applications with one model have settings of their own."""
    first = make_browser(cookie_path="/", cookie_httponly="false", cookie_max_age=5)
    second = make_browser(cookie_name="sid", cookie_samesite="Strict")

    def write(request):
        request.session["a"] = 1

    header = first.visit(write).headers["Set-Cookie"]
    assert "Max-Age=5" in header
    assert "HttpOnly" not in header
    assert "SameSite=Lax" in header
    header = second.visit(write).headers["Set-Cookie"]
    assert header.startswith("sid=")
    assert "Max-Age" not in header
    assert "HttpOnly" in header
    assert "SameSite=Strict" in header


def test_session_shared_by_two_applications(make_browser):
    """Two applications with the same model and secret share their sessions."""
    first, second = make_browser(), make_browser(cookie_max_age=5)
    first.ask(lambda session: session.update(a=1))
    second.set_cookie("session", first.cookie)
    assert second.ask(dict) == {"a": 1}


def test_cookie_of_another_application(make_browser):
    """A cookie of an application with another secret is not authentic."""
    events = []
    first = make_browser()
    second = make_browser(
        secret_key=OTHER_SECRET,
        configure=lambda config: config.add_subscriber(
            events.append, CookieCryptoErrorEvent
        ),
    )
    first.ask(lambda session: session.update(a=1))
    second.set_cookie("session", first.cookie)
    assert second.ask(dict) == {}
    assert len(events) == 1


@pytest.mark.parametrize(
    ("own", "is_apart"),
    [
        ([{}, {}], False),
        ([{"cookie_name": "shop"}, {"cookie_name": "admin"}], True),
        ([{"cookie_path": "/shop"}, {"cookie_path": "/admin"}], True),
    ],
    ids=["the same", "names", "paths"],
)
def test_applications_on_one_host(make_browser, own, is_apart):
    """With different keys, they delete each other's cookies of one name and path."""
    settings, other = own
    browser = make_browser(**settings)
    rival = make_browser(secret_key=OTHER_SECRET, **other).application
    shop = browser.application
    numbers = []

    def count(request):
        request.session["n"] = request.session.get("n", 0) + 1
        numbers.append(request.session["n"])

    for _ in range(3):
        for application, url in ((shop, "/shop/"), (rival, "/admin/")):
            browser.app, browser.application = application.wsgi, application
            browser.visit(count, url)
    assert numbers == ([1, 1, 2, 2, 3, 3] if is_apart else [1] * 6)


def test_change_of_the_secret_by_a_key_ring(make_browser):
    """With the old key behind the new one, the cookies of before are still good."""
    old = make_browser()
    old.ask(lambda session: session.update(a=1))
    both = make_browser(secret_key=f"{OTHER_SECRET} {SECRET}")
    both.set_cookie("session", old.cookie)
    assert both.ask(dict) == {"a": 1}
    fresh = Browser(both.application)
    fresh.ask(lambda session: session.update(a=2))
    new = make_browser(secret_key=OTHER_SECRET)
    new.set_cookie("session", fresh.cookie)
    assert new.ask(dict) == {"a": 2}


def test_two_sessions_in_one_request(make_browser):
    """One request may use two sessions, each with a row and a cookie."""
    Another.__table__.create(make_browser().application.engine)
    factory = get_session_factory(THEIRS, Another, cookie_name="another")
    browser = make_browser()

    def view(request):
        request.session["a"] = request.session.get("a", 0) + 1
        another = factory(request)
        another["b"] = another.get("b", 0) + 2
        answers.append((dict(request.session), dict(another)))

    answers = []
    browser.visit(view)
    assert set(browser.cookies) == {"session", "another"}
    browser.visit(view)
    assert answers == [({"a": 1}, {"b": 2}), ({"a": 2}, {"b": 4})]


def test_two_sessions_on_one_row(make_browser):
    """A second session object of one request shares the values of the first."""
    factory = get_session_factory(OURS, Plain)
    browser = make_browser()
    browser.ask(lambda session: session.update(a=1))

    def view(request):
        request.session["b"] = 2
        second = factory(request)
        assert dict(second) == {"a": 1, "b": 2}
        second["c"] = 3
        assert request.session["c"] == 3
        request.session["d"] = 4

    with statements(browser.application.engine) as collected:
        browser.visit(view)
    assert [each.split()[0] for each in collected] == ["SELECT", "UPDATE"]
    assert browser.ask(dict) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_cookie_for_frames_that_is_not_partitioned(caplog):
    """One warning at start-up where a cookie is kept back in frames."""
    secure = {"cookie_samesite": "None", "cookie_secure": "true"}
    get_session_factory(OURS, Plain, **secure)
    (record,) = caplog.records
    assert "cookie_partitioned" in record.getMessage()
    caplog.clear()
    get_session_factory(OURS, Plain, cookie_partitioned="true", **secure)
    get_session_factory(OURS, Plain)
    assert caplog.records == []
