"""``request.session.settings``: what each session can have of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

import pytest
import time_machine
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    ConfigAbsoluteMixin,
    ConfigCookieMixin,
    ConfigIdleMixin,
    ConfigRenewalMixin,
    FullyFeaturedSession,
    IdleMixin,
    RenewalMixin,
    SettingsError,
)
from tests.application import Application, Browser, Failure, statements
from tests.stories.transactions import exception_view

OURS = AESGCMSerializer(bytes(range(32)))


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class Own(FullyFeaturedSession, Models):
    """A session with all settings of its own."""

    __tablename__ = "own_session"


class Fixed(IdleMixin, AbsoluteMixin, RenewalMixin, BaseMixin, Models):
    """A session with the timeouts of the application."""

    __tablename__ = "fixed_session"


class OwnCookie(
    ConfigCookieMixin, IdleMixin, AbsoluteMixin, RenewalMixin, BaseMixin, Models
):
    """A session with a cookie of its own."""

    __tablename__ = "own_cookie_session"


class OwnIdle(ConfigIdleMixin, AbsoluteMixin, RenewalMixin, BaseMixin, Models):
    """A session with an idle timeout of its own."""

    __tablename__ = "own_idle_session"


class OwnAbsolute(ConfigAbsoluteMixin, IdleMixin, RenewalMixin, BaseMixin, Models):
    """A session with an absolute timeout of its own."""

    __tablename__ = "own_absolute_session"


class OwnRenewal(ConfigRenewalMixin, IdleMixin, AbsoluteMixin, BaseMixin, Models):
    """A session with a renewal timeout of its own."""

    __tablename__ = "own_renewal_session"


#: Every setting, with the mixin that makes it the session's own, and a valid value.
SETTINGS = {
    "cookie_max_age": (OwnCookie, 500),
    "cookie_path": (OwnCookie, "/shop"),
    "cookie_domain": (OwnCookie, "example.com"),
    "cookie_secure": (OwnCookie, True),
    "cookie_httponly": (OwnCookie, False),
    "idle_timeout": (OwnIdle, 600),
    "absolute_timeout": (OwnAbsolute, 9000),
    "renewal_timeout": (OwnRenewal, 300),
    "renewal_try_every": (OwnRenewal, 20),
    "extension_delay": (OwnIdle, 40),
    "extension_chance": (OwnIdle, 90),
    "extension_deadline": (OwnIdle, 120),
}

#: The settings of the applications below, of which each value is another one.
GLOBAL = {
    "cookie_max_age": 7000,
    "cookie_path": "/",
    "cookie_domain": None,
    "cookie_secure": None,
    "cookie_httponly": True,
    "idle_timeout": 1000,
    "absolute_timeout": 8000,
    "renewal_timeout": 200,
    "renewal_try_every": 9,
    "extension_delay": 30,
    "extension_chance": 80,
    "extension_deadline": 50,
}

MODELS = [Own, Fixed, OwnCookie, OwnIdle, OwnAbsolute, OwnRenewal]

each_setting = pytest.mark.parametrize(
    ("name", "model", "value"),
    [(name, *rest) for name, rest in SETTINGS.items()],
    ids=SETTINGS,
)


def make_browser(engine, model=Own, **settings):
    """Return a browser of a new application."""
    model.__table__.create(engine, checkfirst=True)
    return Browser(Application(engine, model, **settings))


@pytest.fixture
def open_browser(sqlite_engine):
    """Make browsers of new applications on SQLite."""
    return lambda *args, **kw: make_browser(sqlite_engine, *args, **kw)


@pytest.fixture
def browser(open_browser):
    """Return a browser of an application with GLOBAL settings."""
    return open_browser(Own, **GLOBAL)


@pytest.fixture
def each_browser(engine):
    """Return one that has no timeouts by default, on each kind of database."""
    return make_browser(engine)


@pytest.fixture
def clock():
    """A clock that stands still until the test pushes it."""
    with time_machine.travel(int(time.time()), tick=False) as clock:
        yield clock


def keep(session, **settings):
    """Store a session with these settings of its own."""
    with session.settings as edited:
        for name, value in settings.items():
            setattr(edited, name, value)
    session["a"] = 1


def attributes(response):
    """Return the attributes of the only Set-Cookie header, without the date."""
    (header,) = response.headers.getall("Set-Cookie")
    found = header.split("; ")[1:]
    return sorted(each for each in found if not each.startswith("expires"))


def value_of(response):
    """Return the value of the only Set-Cookie header."""
    (header,) = response.headers.getall("Set-Cookie")
    return header.partition("=")[2].partition(";")[0]


# Reading.


@pytest.mark.parametrize("model", MODELS)
def test_settings_are_a_mapping(open_browser, model):
    """The settings are a mapping of all that can be changed at run time."""
    browser = open_browser(model, **GLOBAL)

    def question(session):
        settings = session.settings
        return (
            isinstance(settings, Mapping),
            dict(settings),
            len(settings),
            list(settings) == list(settings.keys()),
        )

    assert browser.ask(question) == (True, GLOBAL, len(GLOBAL), True)


@pytest.mark.parametrize("model", MODELS)
def test_settings_are_attributes(open_browser, model):
    """Each setting can be read as an attribute."""
    browser = open_browser(model, **GLOBAL)
    values = browser.ask(
        lambda session: {name: getattr(session.settings, name) for name in GLOBAL}
    )
    assert values == GLOBAL


@pytest.mark.parametrize("model", MODELS)
def test_settings_of_a_stored_session(open_browser, model):
    """They can be read as well when the session is stored."""
    browser = open_browser(model, **GLOBAL)
    browser.ask(lambda session: session.update(a=1))
    assert browser.ask(lambda session: (session.new, dict(session.settings))) == (
        False,
        GLOBAL,
    )


def test_settings_in_a_mapping_s_ways(browser):
    """Get, in and equality work as they do with any mapping."""

    def question(session):
        settings = session.settings
        return (
            settings.get("idle_timeout"),
            settings.get("nonsense", 5),
            "idle_timeout" in settings,
            "nonsense" in settings,
            settings == GLOBAL,
        )

    assert browser.ask(question) == (1000, 5, True, False, True)


NO_SETTINGS = [
    "nonsense",
    "cookie_samesite",
    "cookie_name",
    "renewal_grace",
    "dbsession_name",
    "secret_key",
    "absolute_expire",
    "",
]


@pytest.mark.parametrize("name", NO_SETTINGS)
def test_unknown_key(browser, name):
    """What is no setting of a session is a KeyError, to read or to set."""

    def question(session):
        settings = session.settings
        with pytest.raises(KeyError):
            settings[name]
        with pytest.raises(KeyError):
            settings[name] = 1
        settings.edit()
        with pytest.raises(KeyError):
            settings[name] = 1
        return True

    assert browser.ask(question)


@pytest.mark.parametrize("name", NO_SETTINGS)
def test_unknown_attribute(browser, name):
    """As an attribute it is an AttributeError."""

    def question(session):
        settings = session.settings
        with pytest.raises(AttributeError):
            getattr(settings, name)
        settings.edit()
        with pytest.raises(AttributeError):
            setattr(settings, name, 1)
        return hasattr(settings, name)

    assert not browser.ask(question)


def test_reading_settings_stores_nothing(browser):
    """Reading the settings of a new session asks the database for nothing."""
    with statements(browser.application.engine) as collected:
        browser.ask(lambda session: dict(session.settings))
    assert collected == []
    assert browser.application.rows() == []


def test_settings_cannot_be_deleted(browser):
    """A setting cannot be deleted, whether in edit mode or not."""

    def question(session):
        settings = session.settings
        for _ in range(2):
            with pytest.raises(TypeError):
                del settings["idle_timeout"]
            with pytest.raises(TypeError):
                del settings.idle_timeout
            settings.edit()
        settings.save()
        return settings.idle_timeout

    assert browser.ask(question) == 1000


# Changing.


@each_setting
@pytest.mark.parametrize("by", [setattr, lambda s, n, v: s.__setitem__(n, v)])
def test_setting_is_changed(open_browser, name, model, value, by):
    """A setting that was saved is that of the session from then on."""
    browser = open_browser(model, **GLOBAL)

    def change(session):
        session.settings.edit()
        by(session.settings, name, value)
        session.settings.save()
        session["a"] = 1
        return session.settings[name]

    assert browser.ask(change) == value
    # The cookie may be for another path, or wait for https.
    stored = browser.application.row()
    stored_value = getattr(stored, name, None)
    if name == "absolute_timeout":
        stored_value = stored.absolute_expire - stored.created
    assert stored_value == value
    renewal_id = getattr(stored, "renewal_id", None)
    cookie = OURS.dumps(stored.id.bytes + (renewal_id.bytes if renewal_id else b""))
    browser.reset()
    header = {"Cookie": f"session={cookie.decode('ascii')}"}
    settings = browser.ask(lambda session: dict(session.settings), headers=header)
    assert settings == {**GLOBAL, name: value}


@pytest.mark.parametrize("name", SETTINGS)
def test_none(open_browser, name):
    """None is possible where it is for the application."""
    browser = open_browser(Own, **{**GLOBAL, "extension_chance": 100})

    def question(session):
        with session.settings as settings:
            settings[name] = None
        return session.settings[name]

    if name in (
        "cookie_path",
        "cookie_httponly",
        "renewal_try_every",
        "extension_chance",
        "extension_deadline",
    ):
        with pytest.raises(ValueError, match=name):
            browser.ask(question)
    else:
        assert browser.ask(question) is None


def test_with_block_saves(browser):
    """A with block is edit mode, and saves in the end."""

    def change(session):
        with session.settings as settings:
            settings.idle_timeout = 600
            settings["absolute_timeout"] = 9000
        session["a"] = 1

    browser.ask(change)
    assert browser.application.row().idle_timeout == 600
    assert browser.ask(lambda session: session.settings.absolute_timeout) == 9000


def test_with_block_hands_out_the_settings(browser):
    """What a with block is called is the settings themselves."""

    def question(session):
        with session.settings as settings:
            return settings is session.settings

    assert browser.ask(question)


def test_with_block_discards_after_an_exception(browser):
    """A with block that fails changes nothing, and the exception goes on."""

    def question(session):
        with contextlib.suppress(Failure), session.settings as settings:
            settings.idle_timeout = 600
            raise Failure
        with pytest.raises(SettingsError):
            session.settings.idle_timeout = 5
        return session.settings.idle_timeout

    assert browser.ask(question) == 1000


def test_with_block_that_cannot_save(browser):
    """A bad value is raised by the block, which discards all changes then."""

    def question(session):
        with (  # noqa: PT012
            pytest.raises(ValueError, match="idle_timeout"),
            session.settings as settings,
        ):
            settings.cookie_max_age = 5
            settings.idle_timeout = 0
        with pytest.raises(SettingsError):
            session.settings.idle_timeout = 5
        return dict(session.settings)

    assert browser.ask(question) == GLOBAL


def test_discard(browser):
    """What is discarded has never been."""

    def change(session):
        session.settings.edit()
        session.settings.idle_timeout = 600
        session.settings.discard()
        session["a"] = 1
        return session.settings.idle_timeout

    assert browser.ask(change) == 1000
    assert browser.application.row().idle_timeout == 1000


@pytest.mark.parametrize("end", ["save", "discard"])
def test_edit_mode_ends(browser, end):
    """After save() and discard() changing needs edit() again."""

    def question(session):
        session.settings.edit()
        getattr(session.settings, end)()
        with pytest.raises(SettingsError):
            session.settings.idle_timeout = 600
        session.settings.edit()
        session.settings.idle_timeout = 700
        session.settings.save()
        return session.settings.idle_timeout

    assert browser.ask(question) == 700


@each_setting
def test_change_needs_edit_mode(open_browser, name, model, value):
    """Without edit() nothing can be changed."""
    browser = open_browser(model, **GLOBAL)

    def question(session):
        with pytest.raises(SettingsError, match="edit"):
            setattr(session.settings, name, value)
        with pytest.raises(SettingsError, match="edit"):
            session.settings[name] = value
        return dict(session.settings)

    assert browser.ask(question) == GLOBAL


def test_save_needs_edit_mode(browser):
    """There is nothing to save without edit()."""

    def question(session):
        with pytest.raises(SettingsError):
            session.settings.save()
        return True

    assert browser.ask(question)


def test_second_save_changes_more(browser):
    """Settings may be changed several times, and in several steps."""

    def change(session):
        keep(session, idle_timeout=600)
        keep(session, absolute_timeout=9000)
        keep(session, idle_timeout=700)
        return dict(session.settings)

    expected = {**GLOBAL, "idle_timeout": 700, "absolute_timeout": 9000}
    assert browser.ask(change) == expected
    assert browser.ask(lambda session: dict(session.settings)) == expected


def test_change_after_data(browser):
    """It does not matter whether data or settings come first."""

    def change(session):
        session["b"] = 1
        session.flash("message")
        keep(session, idle_timeout=600)

    browser.ask(change)
    assert browser.application.row().idle_timeout == 600
    assert browser.ask(dict) == {"b": 1, "a": 1}


def test_text_is_parsed(browser):
    """What is text in an ini file may be text here: it becomes what it stands for."""

    def change(session):
        keep(session, idle_timeout="600", cookie_httponly="false", renewal_timeout="")
        return dict(session.settings)

    expected = {
        **GLOBAL,
        "idle_timeout": 600,
        "cookie_httponly": False,
        "renewal_timeout": None,
    }
    assert browser.ask(change) == expected
    assert browser.ask(lambda session: dict(session.settings)) == expected


# Edits that are not saved.


def test_edits_are_read_back(browser):
    """What is edited can be read before it is saved, one way and the other."""

    def question(session):
        session.settings.edit()
        session.settings.idle_timeout = 600
        session.settings["absolute_timeout"] = 9000
        return (
            session.settings["idle_timeout"],
            session.settings.absolute_timeout,
            dict(session.settings)["idle_timeout"],
            session.settings.get("absolute_timeout"),
            session.settings.cookie_max_age,
        )

    assert browser.ask(question) == (600, 9000, 600, 9000, 7000)


def test_bad_edits_are_read_back(browser):
    """Whatever they are: only save() looks at them."""

    def question(session):
        session.settings.edit()
        session.settings.idle_timeout = "nonsense"
        return session.settings.idle_timeout

    assert browser.ask(question) == "nonsense"


def test_edits_that_are_not_saved_are_not_stored(browser):
    """A session is stored without edits that were never saved."""

    def change(session):
        session.settings.edit()
        session.settings.idle_timeout = 600
        session.settings.cookie_max_age = 5
        session["a"] = 1

    response = browser.visit(lambda request: change(request.session))
    assert "Max-Age=7000" in attributes(response)
    stored = browser.application.row()
    assert (stored.idle_timeout, stored.cookie_max_age) == (1000, 7000)
    assert stored.idle_expire >= stored.created + 1000


def test_bad_edits_that_are_not_saved_do_no_harm(browser):
    """Not even if they could not have been saved."""

    def change(session):
        session.settings.edit()
        session.settings.idle_timeout = "nonsense"
        session["a"] = 1

    browser.ask(change)
    assert browser.ask(lambda session: dict(session.settings)) == GLOBAL


def test_edits_that_were_saved_before_stay(browser):
    """Later edits that are not saved do not touch those that were."""

    def change(session):
        keep(session, idle_timeout=600)
        session.settings.edit()
        session.settings.idle_timeout = 5

    browser.ask(change)
    assert browser.application.row().idle_timeout == 600


def test_invalidate_discards_edits(browser):
    """invalidate() ends edit mode, and what was edited is gone."""

    def question(session):
        session.settings.edit()
        session.settings.idle_timeout = 600
        session.invalidate()
        with pytest.raises(SettingsError):
            session.settings.save()
        with pytest.raises(SettingsError):
            session.settings.idle_timeout = 5
        return session.settings.idle_timeout

    assert browser.ask(question) == 1000


def test_invalidate_takes_saved_settings_along(browser):
    """The session after an invalidated one begins with the application's settings."""

    def change(session):
        keep(session, idle_timeout=600)
        session.invalidate()
        session["b"] = 1
        return dict(session.settings)

    assert browser.ask(change) == GLOBAL
    assert browser.application.row().idle_timeout == 1000


def test_invalidate_of_a_stored_session_takes_its_settings_along(browser):
    """The same holds for settings that are stored."""

    def begin_anew(session):
        session.invalidate()
        session["b"] = 1
        return dict(session.settings)

    browser.ask(lambda session: keep(session, idle_timeout=600))
    assert browser.ask(begin_anew) == GLOBAL
    assert browser.application.row().idle_timeout == 1000


def test_settings_after_invalidate(browser):
    """The session after an invalidated one is new, and can have its own settings."""

    def begin_anew(session):
        session.invalidate()
        keep(session, idle_timeout=700)

    browser.ask(lambda session: keep(session, idle_timeout=600))
    browser.ask(begin_anew)
    assert browser.application.row().idle_timeout == 700


@pytest.mark.parametrize("second", ["save", "set", "exit"])
def test_edits_end_with_the_transaction(browser, second):
    """What was edited in the transaction before isn't saved in this one."""

    def view(request):
        settings = request.session.settings
        settings.__enter__()
        settings.idle_timeout = 600
        request.session["a"] = 1
        request.tm.commit()
        request.tm.begin()
        assert not request.session.new
        with contextlib.suppress(SettingsError):
            if second == "set":
                settings.idle_timeout = 700
                settings.save()
            elif second == "save":
                settings.save()
            else:
                settings.__exit__(None, None, None)
        request.session["b"] = 2
        return settings.idle_timeout

    assert browser.visit(view).text == "1000"
    stored = browser.application.row()
    assert stored.idle_timeout == 1000


# Errors.


@each_setting
def test_model_without_the_config_mixin(open_browser, name, model, value):
    """A setting that is not the session's own is an error that names the mixin."""
    mixin = f"Config{model.__name__.removeprefix('Own')}Mixin"
    others = [each for each in MODELS if each not in (Own, model)]
    for other in others:
        browser = open_browser(other, **GLOBAL)

        def question(session):
            session.settings.edit()
            with pytest.raises(SettingsError, match=mixin):
                setattr(session.settings, name, value)
            with pytest.raises(SettingsError, match=mixin):
                session.settings[name] = value
            session.settings.save()
            return dict(session.settings)

        assert browser.ask(question) == GLOBAL


BAD = [
    ("cookie_max_age", 0),
    ("cookie_max_age", 100_000_001),
    ("cookie_max_age", True),
    ("cookie_max_age", 1.5),
    ("cookie_path", ""),
    ("cookie_path", "shop"),
    ("cookie_path", "/\r\nSet-Cookie: a=b"),
    ("cookie_path", "/; Domain=evil.example"),
    ("cookie_path", "/" + 255 * "a"),
    ("cookie_domain", "a b"),
    ("cookie_domain", "a;b"),
    ("cookie_domain", "http://example.com"),
    ("cookie_domain", "localhost:6543"),
    ("cookie_domain", "127.0.0.1"),
    ("cookie_domain", "::1"),
    ("cookie_domain", 256 * "a"),
    ("cookie_secure", "perhaps"),
    ("cookie_secure", 1),
    ("cookie_httponly", None),
    ("cookie_httponly", "ture"),
    ("idle_timeout", 0),
    ("idle_timeout", -1),
    ("idle_timeout", "soon"),
    ("idle_timeout", 100_000_001),
    ("idle_timeout", [5]),
    ("absolute_timeout", 0),
    ("absolute_timeout", 100_000_001),
    ("renewal_timeout", 0),
    ("renewal_timeout", object()),
    ("renewal_try_every", 0),
    ("renewal_try_every", 32768),
    ("extension_delay", 0),
    ("extension_delay", 32768),
    ("extension_chance", 0),
    ("extension_chance", 101),
    ("extension_deadline", 0),
    ("extension_deadline", 32768),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_value(browser, name, value):
    """A bad value is a ValueError when it is saved, and not before."""

    def question(session):
        session.settings.edit()
        session.settings[name] = value
        with pytest.raises(ValueError, match=name):
            session.settings.save()
        session.settings.discard()
        return dict(session.settings)

    assert browser.ask(question) == GLOBAL


def test_bad_value_can_be_corrected(browser):
    """After a ValueError edit mode goes on, with all that was edited."""

    def question(session):
        settings = session.settings
        settings.edit()
        settings.cookie_max_age = 500
        settings.idle_timeout = 0
        with pytest.raises(ValueError, match="idle_timeout"):
            settings.save()
        settings.idle_timeout = 600
        settings.save()
        return settings.cookie_max_age, settings.idle_timeout

    assert browser.ask(question) == (500, 600)


def test_bad_value_that_was_refused_is_not_effective(browser):
    """What save() refused is neither stored nor effective."""

    def change(session):
        session.settings.edit()
        session.settings.cookie_max_age = 500
        session.settings.idle_timeout = 0
        with pytest.raises(ValueError, match="idle_timeout"):
            session.settings.save()
        session["a"] = 1

    response = browser.visit(lambda request: change(request.session))
    assert "Max-Age=7000" in attributes(response)
    assert browser.application.row().idle_timeout == 1000


COMBINATIONS = [
    # The model, the settings of the application, and of the session.
    (Own, {}, {"idle_timeout": 500, "absolute_timeout": 500}),
    (Own, {}, {"idle_timeout": 500, "absolute_timeout": 499}),
    (Own, {}, {"idle_timeout": 500, "extension_delay": 500}),
    (
        Own,
        {},
        {"idle_timeout": 500, "extension_chance": 50, "extension_deadline": 500},
    ),
    (
        Own,
        {},
        {"extension_chance": 50, "extension_deadline": 60, "extension_delay": 60},
    ),
    (Own, {"absolute_timeout": 500}, {"idle_timeout": 500}),
    (Own, {"idle_timeout": 500}, {"absolute_timeout": 500}),
    (OwnIdle, {"absolute_timeout": 500}, {"idle_timeout": 500}),
    (OwnAbsolute, {"idle_timeout": 500}, {"absolute_timeout": 500}),
    (
        OwnIdle,
        {"idle_timeout": 900, "extension_delay": 500},
        {"idle_timeout": 500},
    ),
    (
        OwnIdle,
        {"idle_timeout": 900, "extension_deadline": 500},
        {"idle_timeout": 500, "extension_chance": 50},
    ),
    (OwnIdle, {}, {"extension_chance": 99, "extension_delay": 1}),
    (
        OwnCookie,
        {"cookie_samesite": "None", "cookie_secure": "true"},
        {"cookie_secure": False},
    ),
    (
        OwnCookie,
        {"cookie_samesite": "None", "cookie_secure": "true"},
        {"cookie_secure": None},
    ),
    (
        OwnCookie,
        {"cookie_name": "__Secure-session", "cookie_secure": "true"},
        {"cookie_secure": False},
    ),
    (
        OwnCookie,
        {"cookie_name": "__Host-session", "cookie_secure": "true"},
        {"cookie_path": "/shop"},
    ),
    (
        OwnCookie,
        {"cookie_name": "__Host-session", "cookie_secure": "true"},
        {"cookie_domain": "example.com"},
    ),
]


@pytest.mark.parametrize(("model", "global_settings", "own"), COMBINATIONS)
def test_bad_combination(open_browser, model, global_settings, own):
    """Settings that contradict each other, or the application's, are a ValueError."""
    browser = open_browser(model, **global_settings)

    def question(session):
        before = dict(session.settings)
        session.settings.edit()
        for name, value in own.items():
            session.settings[name] = value
        with pytest.raises(ValueError, match=next(iter(own)).partition("_")[0]):
            session.settings.save()
        session.settings.discard()
        return dict(session.settings) == before

    assert browser.ask(question)


GOOD_COMBINATIONS = [
    (Own, {"absolute_timeout": 500}, {"idle_timeout": 600, "absolute_timeout": 700}),
    (Own, {"absolute_timeout": 500}, {"idle_timeout": 600, "absolute_timeout": None}),
    (Own, {"idle_timeout": 500}, {"idle_timeout": None, "absolute_timeout": 50}),
    (
        Own,
        {"idle_timeout": 500, "extension_delay": 400},
        {"idle_timeout": 50, "extension_delay": None},
    ),
    (OwnIdle, {"absolute_timeout": 500}, {"idle_timeout": 499}),
    (OwnAbsolute, {"idle_timeout": 500}, {"absolute_timeout": 501}),
    (
        OwnCookie,
        {"cookie_name": "__Host-session", "cookie_secure": "true"},
        {"cookie_max_age": 500, "cookie_httponly": False},
    ),
]


@pytest.mark.parametrize(("model", "global_settings", "own"), GOOD_COMBINATIONS)
def test_good_combination(open_browser, model, global_settings, own):
    """It is the whole that counts, in whatever order it is edited."""
    browser = open_browser(model, **global_settings)

    def question(session):
        keep(session, **own)
        return {name: session.settings[name] for name in own}

    assert browser.ask(question) == own
    assert len(browser.application.rows()) == 1


# What is stored, and when not.


def test_settings_alone_are_not_stored(browser):
    """A new session that has nothing but settings is not stored, and has no cookie."""

    def change(request):
        with request.session.settings as settings:
            settings.idle_timeout = 600

    response = browser.visit(change)
    assert response.headers.getall("Set-Cookie") == []
    assert browser.application.rows() == []


def test_settings_of_a_failed_request(browser):
    """A request that fails stores no settings."""
    browser.fail(lambda request: keep(request.session, idle_timeout=600))
    assert browser.application.rows() == []
    browser.ask(lambda session: session.update(a=1))
    assert browser.application.row().idle_timeout == 1000


def test_settings_of_two_sessions_do_not_mix(browser):
    """The settings of one session are not those of another one."""
    other = Browser(browser.application)
    browser.ask(lambda session: keep(session, idle_timeout=600))
    other.ask(lambda session: keep(session, idle_timeout=700))
    assert browser.ask(lambda session: session.settings.idle_timeout) == 600
    assert other.ask(lambda session: session.settings.idle_timeout) == 700
    assert Browser(browser.application).ask(
        lambda session: session.settings.idle_timeout
    ) == (1000)


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.rotate(),
        lambda session: session.clear(),
        lambda session: setattr(session, "userid", 5),
        lambda session: session.update(b=2),
    ],
    ids=["rotate", "clear", "log in", "write"],
)
def test_settings_stay(browser, act):
    """Whatever happens to a session, its settings stay."""
    browser.ask(lambda session: keep(session, idle_timeout=600, cookie_max_age=500))
    browser.ask(act)
    assert browser.ask(lambda session: dict(session.settings)) == {
        **GLOBAL,
        "idle_timeout": 600,
        "cookie_max_age": 500,
    }


def test_settings_that_the_application_changes_later(open_browser):
    """A session keeps its settings, also those that were the application's."""
    first = open_browser(Own, **GLOBAL)
    use = open_browser(Own)
    cookie = value_of(first.visit(lambda r: keep(r.session, idle_timeout=600)))
    header = {"Cookie": f"session={cookie}"}
    settings = use.ask(lambda session: dict(session.settings), headers=header)
    assert settings == {**GLOBAL, "idle_timeout": 600}


def test_settings_in_an_exception_view(open_browser):
    """An exception view can make a session with settings of its own, too."""
    browser = open_browser(
        configure=exception_view(lambda request: keep(request.session, idle_timeout=60))
    )
    browser.visit(lambda request: fail(request), status=500)
    assert browser.application.row().idle_timeout == 60
    assert browser.ask(lambda session: session.settings.idle_timeout) == 60


def test_settings_of_the_failed_view_are_not_the_exception_view_s(open_browser):
    """What the view that failed had saved is gone."""

    def view(request):
        keep(request.session, idle_timeout=500)
        raise Failure

    browser = open_browser(
        configure=exception_view(lambda request: request.session.update(b=1))
    )
    browser.visit(view, status=500)
    assert browser.application.row().idle_timeout is None
    assert browser.ask(dict) == {"b": 1}


def fail(request):
    """Fail without using the session."""
    raise Failure


@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_settings_and_savepoints(open_browser, used):
    """Rolling back to a savepoint takes back settings that were saved after it."""
    browser = open_browser(Own, idle_timeout=1000)

    def view(request):
        if used:
            request.session["b"] = 1
        nested = request.dbsession.begin_nested()
        keep(request.session, idle_timeout=600)
        nested.rollback()
        request.session["c"] = 1
        return request.session.settings.idle_timeout

    assert browser.visit(view).text == "1000"
    assert browser.application.row().idle_timeout == 1000


def test_settings_alone_and_savepoints(open_browser):
    """Also where nothing but the settings was changed."""
    browser = open_browser(Own, idle_timeout=1000)

    def view(request):
        nested = request.dbsession.begin_nested()
        with request.session.settings as settings:
            settings.idle_timeout = 600
        nested.rollback()
        request.session["c"] = 1
        return request.session.settings.idle_timeout

    assert browser.visit(view).text == "1000"


# What they do.


def is_alive(browser):
    """Tell whether the session is not a new one."""
    return not browser.ask(lambda session: session.new)


@pytest.mark.parametrize("default", [None, 30, 1000])
def test_idle_timeout(engine, clock, default):
    """A session ends by its own idle timeout, whatever that of the application."""
    browser = make_browser(engine, idle_timeout=default)
    browser.ask(lambda session: keep(session, idle_timeout=100))
    clock.shift(100)
    assert is_alive(browser)
    clock.shift(100)
    assert is_alive(browser)
    clock.shift(101)
    assert not is_alive(browser)
    assert browser.application.rows() == []


def test_no_idle_timeout(each_browser, clock):
    """A session without an idle timeout lives on where others do not."""
    browser = each_browser
    default = make_browser(browser.application.engine, idle_timeout=100)
    default.ask(lambda session: keep(session, idle_timeout=None))
    clock.shift(1_000_000)
    assert is_alive(default)
    assert browser.application.row().idle_expire is None


@pytest.mark.parametrize("default", [None, 30, 1000])
def test_absolute_timeout(engine, clock, default):
    """A session ends by its own absolute timeout, whatever the application's."""
    browser = make_browser(engine, absolute_timeout=default)
    browser.ask(lambda session: keep(session, absolute_timeout=100))
    for _ in range(2):
        clock.shift(50)
        assert is_alive(browser)
    clock.shift(1)
    assert not is_alive(browser)
    assert browser.application.rows() == []


def test_no_absolute_timeout(engine, clock):
    """A session without an absolute timeout lives on where others do not."""
    browser = make_browser(engine, absolute_timeout=100)
    browser.ask(lambda session: keep(session, absolute_timeout=None))
    clock.shift(1_000_000)
    assert is_alive(browser)


@pytest.mark.parametrize("default", [None, 30, 1000])
def test_renewal_timeout(engine, clock, default):
    """A session is renewed by its own renewal timeout."""
    browser = make_browser(engine, renewal_timeout=default)
    browser.ask(lambda session: keep(session, renewal_timeout=100))
    cookie = browser.cookie
    assert len(OURS.loads(cookie)) == 32
    clock.shift(100)
    assert is_alive(browser)
    assert browser.cookie == cookie
    clock.shift(1)
    assert is_alive(browser)
    assert browser.cookie != cookie
    assert is_alive(browser)
    assert browser.application.row().renewal_next is None


def test_no_renewal_timeout(engine, clock):
    """A session without renewal has a cookie without a renewal id."""
    browser = make_browser(engine, renewal_timeout=100)
    browser.ask(lambda session: keep(session, renewal_timeout=None))
    cookie = browser.cookie
    assert len(OURS.loads(cookie)) == 16
    clock.shift(101)
    assert is_alive(browser)
    assert browser.cookie == cookie


def test_renewal_try_every(each_browser, clock):
    """A candidate goes out again after the time that the session has for that."""
    browser = each_browser
    response = browser.visit(
        lambda r: keep(r.session, renewal_timeout=100, renewal_try_every=50)
    )
    browser.reset()
    header = {"Cookie": f"session={value_of(response)}"}

    def answers():
        response = browser.visit(lambda r: r.session.get("a"), headers=header)
        browser.reset()
        return len(response.headers.getall("Set-Cookie"))

    clock.shift(101)
    assert answers() == 1
    clock.shift(50)
    assert answers() == 0
    clock.shift(1)
    assert answers() == 1


def test_extension_delay(each_browser, clock):
    """A session has its own delay before a read extends it."""
    browser = each_browser
    browser.ask(lambda session: keep(session, idle_timeout=100, extension_delay=50))
    expire = browser.application.row().idle_expire
    clock.shift(50)
    assert is_alive(browser)
    assert browser.application.row().idle_expire == expire
    clock.shift(1)
    assert is_alive(browser)
    assert browser.application.row().idle_expire == expire + 51


def test_extension_chance_and_deadline(open_browser, clock):
    """And its own chance and deadline."""
    browser = open_browser(idle_timeout=1000)
    browser.ask(
        lambda session: keep(
            session, idle_timeout=100, extension_chance=1, extension_deadline=50
        )
    )
    expire = browser.application.row().idle_expire
    clock.shift(51)
    assert is_alive(browser)
    assert browser.application.row().idle_expire == expire + 51


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, ["HttpOnly", "Path=/", "SameSite=Lax"]),
        ({"cookie_max_age": 500}, ["HttpOnly", "Max-Age=500", "Path=/"]),
        ({"cookie_path": "/shop"}, ["HttpOnly", "Path=/shop"]),
        ({"cookie_domain": "example.com"}, ["Domain=example.com", "HttpOnly"]),
        ({"cookie_secure": True}, ["HttpOnly", "Path=/", "SameSite=Lax", "secure"]),
        ({"cookie_httponly": False}, ["Path=/", "SameSite=Lax"]),
    ],
    ids=str,
)
def test_cookie_on_the_wire(open_browser, own, expected):
    """The cookie has the attributes of the session from the beginning to the end."""
    browser = open_browser(OwnCookie)
    response = browser.visit(lambda request: keep(request.session, **own))
    present = attributes(response)
    assert set(expected) <= set(present)
    assert ("HttpOnly" in present) == ("HttpOnly" in expected)
    assert ("secure" in present) == ("secure" in expected)
    browser.reset()
    header = {"Cookie": f"session={value_of(response)}"}
    response = browser.visit(lambda r: r.session.invalidate(), headers=header)
    assert value_of(response) == ""
    without_age = {each for each in present if not each.startswith("Max-Age")}
    assert without_age <= set(attributes(response))


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_secure_auto(open_browser, scheme, secure):
    """None is auto: decided at each sending, whatever the application has."""
    browser = open_browser(OwnCookie, cookie_secure="true")
    response = browser.visit(
        lambda request: keep(request.session, cookie_secure=None),
        extra_environ={"wsgi.url_scheme": scheme},
    )
    assert ("secure" in attributes(response)) == secure


@pytest.mark.parametrize("own", [{"cookie_max_age": 500}, {"cookie_max_age": None}])
def test_remember_me(open_browser, clock, own):
    """The cookie of a session with an age is sent again after a tenth of that."""
    browser = open_browser(idle_timeout=1000, cookie_max_age=None)
    browser.ask(lambda session: keep(session, **own))
    clock.shift(49)
    response = browser.visit(lambda request: request.session.get("a"))
    assert response.headers.getall("Set-Cookie") == []
    clock.shift(1)
    response = browser.visit(lambda request: request.session.get("a"))
    has_age = own["cookie_max_age"] is not None
    assert bool(response.headers.getall("Set-Cookie")) == has_age
    if has_age:
        assert "Max-Age=500" in attributes(response)


def test_settings_of_an_expired_session(open_browser, clock):
    """The session after an expired one begins with the application's settings."""
    browser = open_browser(idle_timeout=1000)
    browser.ask(lambda session: keep(session, idle_timeout=100))
    clock.shift(101)
    assert browser.ask(lambda session: session.settings.idle_timeout) == 1000
    browser.ask(lambda session: keep(session, idle_timeout=50))
    assert browser.application.row().idle_timeout == 50
