"""What attackers can do and can't, as the page on security tells it."""

from __future__ import annotations

import json
import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.interfaces import ISessionFactory
from sqlalchemy import Engine, text, update
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    CookieCryptoErrorEvent,
    IdleMixin,
    InconsistentDataError,
    InvalidCookieErrorEvent,
    JSONDataMixin,
    RenewalMixin,
    RenewalViolationEvent,
    SessionStore,
    UseridMixin,
    UserSessionAuthenticationHelper,
)
from pyramid_sqlalchemy_sessions.testing import later
from tests.application import Application, Browser

OURS, OTHERS = AESGCMSerializer(bytes(range(32))), AESGCMSerializer(bytes(32))
ALARMS = (InvalidCookieErrorEvent, CookieCryptoErrorEvent, RenewalViolationEvent)
HELPER = UserSessionAuthenticationHelper()


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class Attacked(IdleMixin, AbsoluteMixin, RenewalMixin, UseridMixin, BaseMixin, Models):
    """A session with all that stands in the way of a thief."""

    __tablename__ = "attacked_session"


class AttackedJSON(JSONDataMixin, UseridMixin, BaseMixin, Models):
    """A session that is stored as JSON."""

    __tablename__ = "attacked_json_session"


class AttackedElsewhere(UseridMixin, BaseMixin, Models):
    """A session of another application."""

    __tablename__ = "attacked_elsewhere_session"


@pytest.fixture
def alarms() -> list[Any]:
    """The events of cookies that weren't as they should be."""
    return []


@pytest.fixture
def start(engine: Engine, alarms: list[Any]) -> Any:
    """Start an application whose user has logged in, and return the browser."""

    Models.metadata.create_all(engine)

    def configure(config: Any) -> None:
        for each in ALARMS:
            config.add_subscriber(alarms.append, each)

    def start(model: type = Attacked, **settings: Any) -> Browser:
        application = Application(engine, model, configure=configure, **settings)
        browser = Browser(application)
        browser.visit(lambda request: HELPER.remember(request, 7))
        return browser

    return start


def thief_of(browser: Browser, cookie: str | None = None) -> Browser:
    """Return another browser with a copy of the cookie."""
    thief = Browser(browser.application)
    thief.set_cookie("session", str(cookie or browser.cookie))
    return thief


def user(browser: Browser) -> Any:
    """Return who is logged in."""
    return browser.ask(lambda session: session.userid)


# A copied cookie.


def test_copied_cookie(start: Any) -> None:
    """It is the session: it reads, writes, and is no device of its own."""
    browser = start()
    thief = thief_of(browser)
    assert user(thief) == 7
    thief.visit(lambda request: request.session.update(a=1))
    assert browser.ask(dict) == {"a": 1}
    assert user(browser) == 7

    def devices(request: Any) -> int:
        factory = request.registry.getUtility(ISessionFactory)
        return len(SessionStore(request.dbsession, factory).of_user(7))

    assert browser.visit(devices).text == "1"


def test_copy_dies_at_logout(start: Any) -> None:
    """Whoever logs out ends all copies."""
    browser = start()
    thief = thief_of(browser)
    browser.visit(HELPER.forget)
    assert user(thief) is None


def test_copy_keeps_an_idle_session_alive(start: Any) -> None:
    """A thief who polls is activity; only the absolute timeout takes no notice."""
    browser = start(idle_timeout=600, absolute_timeout=3600)
    thief = thief_of(browser)
    for seconds in range(500, 3500, 500):
        with later(seconds):
            assert user(thief) == 7
    with later(3590):
        assert user(thief) == 7
    with later(3700):
        assert user(thief) is None


@pytest.mark.parametrize("renewal_timeout", [None, 600])
def test_copy_dies_when_the_password_is_given_again(
    start: Any, alarms: list[Any], renewal_timeout: int | None
) -> None:
    """The user goes on with another cookie; the copy is late, then of no use."""
    browser = start(renewal_timeout=renewal_timeout)
    thief = thief_of(browser)
    browser.visit(lambda request: HELPER.remember(request, 7))
    assert user(thief) is None
    with later(61):
        assert user(thief) is None
        assert user(browser) == 7
    assert alarms == []


def test_copy_is_as_fresh_as_the_login(start: Any) -> None:
    """Step-up stops a thief as soon as the login isn't fresh any more."""
    thief = thief_of(start())
    assert thief.ask(lambda session: session.is_fresh(300))
    with later(301):
        assert not thief.ask(lambda session: session.is_fresh(300))


def test_patient_thief(start: Any, alarms: list[Any]) -> None:
    """A candidate that waits for the user to have it as well raises no alarm."""
    browser = start(renewal_timeout=600)
    thief = thief_of(browser)
    for renewal in range(1, 4):
        with later(610 * renewal):
            held_back = thief_of(browser)
            assert user(held_back) == 7
        with later(610 * renewal + 6):
            assert user(browser) == 7
            assert user(browser) == 7
        with later(610 * renewal + 90):
            assert OURS.loads(held_back.cookie) == OURS.loads(browser.cookie)
            assert user(held_back) == 7
            assert user(browser) == 7
    assert alarms == []
    with later(2000):
        assert user(thief) is None
        assert user(browser) is None
    assert len(alarms) == 1


def test_pyramids_own_helper_keeps_the_cookie(start: Any) -> None:
    """It writes into the dict, so that nothing is replaced, and nothing noted."""
    browser = start(AttackedElsewhere)
    browser.visit(HELPER.forget)
    browser.visit(lambda request: request.session.update(a=1))
    before = browser.cookie
    browser.visit(lambda request: SessionAuthenticationHelper().remember(request, 7))
    assert browser.cookie == before
    assert user(browser) is None


# The table and the key.


def test_table_without_the_key(start: Any) -> None:
    """Ids make no cookie, as they are or sealed with a key that is made up."""
    browser = start(renewal_timeout=600)
    row = browser.application.row()
    ids = row.id.bytes + row.renewal_id.bytes
    for cookie in (str(row.id), row.id.hex, OTHERS.dumps(ids).decode()):
        assert user(thief_of(browser, cookie)) is None
    assert user(browser) == 7


def test_table_and_key(start: Any) -> None:
    """Together they are all sessions."""
    browser = start(renewal_timeout=600)
    row = browser.application.row()
    cookie = OURS.dumps(row.id.bytes + row.renewal_id.bytes).decode()
    assert user(thief_of(browser, cookie)) == 7


def test_key_without_the_table(start: Any) -> None:
    """Ids have to be guessed."""
    browser = start()
    for _ in range(100):
        cookie = OURS.dumps(uuid.uuid4().bytes).decode()
        assert user(thief_of(browser, cookie)) is None


def test_writer_of_the_table_chooses_the_user(start: Any, engine: Engine) -> None:
    """A column is a column."""
    browser = start()
    with engine.begin() as connection:
        connection.execute(update(Attacked).values(userid=1))
    assert user(browser) == 1


class _Planted:
    """What creates a file when it's unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("model", [Attacked, AttackedJSON])
def test_planted_pickle(start: Any, engine: Engine, tmp_path: Path, model: Any) -> None:
    """A pickle runs code. With JSON it is an error."""
    browser, path = start(model), tmp_path / "was here"
    planted: Any = pickle.dumps({"a": _Planted(path)})
    if model is AttackedJSON:  # A server refuses what isn't JSON.
        planted = json.dumps(planted.decode("latin-1"))
    plant = text(f"UPDATE {model.__tablename__} SET data = :data")
    with engine.begin() as connection:
        connection.execute(plant, {"data": planted})
    if model is AttackedJSON:
        with pytest.raises(InconsistentDataError):
            browser.ask(dict)
    else:
        browser.ask(dict)
    assert path.exists() == (model is Attacked)


# Proxies and neighbours.


@pytest.mark.parametrize("secure", ["auto", "true"])
def test_forwarded_header_is_not_believed(start: Any, secure: str) -> None:
    """The library looks at the scheme that the WSGI server found, or is told."""
    application = start(cookie_secure=secure).application
    browser = Browser(application)
    response = browser.visit(
        lambda request: request.session.update(a=1),
        headers={"X-Forwarded-Proto": "https"},
    )
    assert ("secure" in response.headers["Set-Cookie"].lower()) == (secure == "true")


def test_two_applications_with_one_key(start: Any, alarms: list[Any]) -> None:
    """The cookie of one is authentic in the other, which has no such session."""
    one, other = start(), start(AttackedElsewhere)
    response = thief_of(other, one.cookie).visit(lambda request: request.session.userid)
    assert (response.text, response.headers.get("Set-Cookie")) == ("", None)
    assert alarms == []


def test_two_applications_with_one_key_and_one_table(start: Any) -> None:
    """There a user of one is the user of the other who has the same id."""
    one, other = start(), start()
    assert user(thief_of(other, one.cookie)) == 7
