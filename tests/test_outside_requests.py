"""The samples of sessions outside of a request, and of other devices."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest
from pyramid.scripting import prepare
from sqlalchemy import Integer
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import foreign, mapped_column, relationship, sessionmaker
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.application import SECRET, Application, Browser
from tests.stories.transactions import elsewhere
from tests.test_docs import load


@pytest.fixture
def samples():
    """The samples, imported."""
    return load("outside")


@pytest.fixture
def application(samples, engine):
    """An application with the model and the store of the samples."""
    samples.Base.metadata.create_all(engine)
    return Application(engine, samples.WebSession)


def log_in(userid: int):
    """Return a view that logs a user in."""
    return lambda request: setattr(request.session, "userid", userid)


def browsers(application, *users) -> list[Browser]:
    """Return browsers in which these users are logged in."""
    found = [Browser(application) for _ in users]
    for browser, user in zip(found, users, strict=True):
        browser.visit(log_in(user))
    return found


def users_of(browsers) -> list:
    """Return who is logged in."""
    return [browser.ask(lambda session: session.userid) for browser in browsers]


def test_devices(samples, application):
    """A user sees the own devices, and can log out each of them, and no others."""
    one, two, other = browsers(application, 7, 7, 8)
    two.visit(log_in(None), headers={"User-Agent": "Lynx"})
    two.visit(log_in(7), headers={"User-Agent": "Lynx"})
    shown = []
    one.visit(lambda request: shown.extend(samples.devices(request)))
    assert {each["name"]: each["is_this"] for each in shown} == {
        None: True,
        "Lynx": False,
    }
    application.view = samples.log_out_device
    (lynx,) = [each["id"] for each in shown if each["name"] == "Lynx"]
    other.post("/", {"id": str(lynx)}, status=404)
    assert users_of([one, two, other]) == [7, 7, 8]
    application.view = samples.log_out_device
    one.post("/", {"id": str(lynx)}, status=303)
    assert users_of([one, two, other]) == [7, None, 8]


def test_users_who_are_here(samples, application):
    """Each user counts once."""
    browser, *_ = browsers(application, 7, 7, 8)
    assert browser.visit(samples.users_who_are_here).text == "2"


def test_ban(samples, application):
    """A script ends the sessions of a user."""
    both = browsers(application, 7, 8)
    with prepare(registry=application.registry) as env:
        samples.ban(env, 7)
    assert users_of(both) == [None, 8]


SETTINGS = f"""
[app:main]
use = call:demo:main
session.secret_key = {SECRET}
session.model_class = docs_example_outside.WebSession
"""


@pytest.fixture
def production(tmp_path, monkeypatch):
    """A directory with the settings of the application."""
    path = tmp_path / "production.ini"
    path.write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return path


def test_worker(samples, application, production):
    """A worker puts something into a session, and into none that is not there.

    A request that does something else meanwhile isn't disturbed.
    """
    (browser,) = browsers(application, 7)
    browser.visit(lambda request: request.session.update(a=1))
    factory = samples.make_factory()
    make_dbsession = sessionmaker(application.engine)
    for key in (application.row().id, uuid.uuid4()):
        samples.finish_report(make_dbsession, factory, key, "/report.pdf")
    assert browser.ask(dict) == {"a": 1, "report": "/report.pdf"}

    def overtaken(request):
        request.session["a"] += 1
        key = request.session.id
        elsewhere(samples.finish_report, make_dbsession, factory, key, "/other.pdf")

    browser.visit(overtaken)
    assert browser.ask(dict) == {"a": 2, "report": "/other.pdf"}

    def in_the_way(request):
        assert request.session["report"] == "/other.pdf"
        request.session["a"] += 1
        key = request.session.id
        elsewhere(samples.finish_report, make_dbsession, factory, key, "/third.pdf")

    with pytest.raises(StaleDataError):
        browser.visit(in_the_way)
    assert browser.ask(dict) == {"a": 2, "report": "/third.pdf"}


def test_worker_with_a_joined_user(samples, engine, production):
    """The worker's lock is for the session's row, whatever the model loads with it.

    PostgreSQL refuses to lock what an outer join adds.
    """

    class User(samples.Base):
        __tablename__ = "users"
        id = mapped_column(Integer, primary_key=True)

    model = samples.WebSession
    model.user = relationship(
        User,
        primaryjoin=foreign(model.userid) == User.id,
        lazy="joined",
        viewonly=True,
    )
    samples.Base.metadata.create_all(engine)
    application = Application(engine, model)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(a=1))
    samples.finish_report(
        sessionmaker(engine),
        samples.make_factory(),
        application.row().id,
        "/report.pdf",
    )
    assert browser.ask(dict) == {"a": 1, "report": "/report.pdf"}


# The websocket.

ORIGIN = "https://example.com"


@pytest.fixture
def chat(samples, sqlite_engine, production):
    """A client of the websocket, beside a Pyramid application on the same database."""
    samples.Base.metadata.create_all(sqlite_engine)
    url = sqlite_engine.url.set(drivername="sqlite+aiosqlite")
    lines = f"chat.database = {url.render_as_string()}\nchat.origin = {ORIGIN}\n"
    production.write_text(production.read_text() + lines)
    module = load("websocket")
    module.create_async_engine = lambda url: create_async_engine(
        url, poolclass=NullPool
    )
    with TestClient(module.main()) as client:
        yield client


def connect(chat, browser, origin=ORIGIN):
    """Open the websocket with the cookie of a browser."""
    headers = {"origin": origin, "cookie": f"a=b; session={browser.cookie}"}
    return chat.websocket_connect("/chat", headers=headers)


def test_websocket(samples, chat, sqlite_engine):
    """Who is logged in by Pyramid can chat, until the session ends."""
    application = Application(sqlite_engine, samples.WebSession)
    alice, bob = browsers(application, 7, 8)
    with connect(chat, alice) as one, connect(chat, bob) as two:
        for _ in range(2):
            one.send_text("hello")
            assert one.receive_text() == "User 7 says hello"
            two.send_text("hi")
            assert two.receive_text() == "User 8 says hi"
        alice.visit(lambda request: request.session.invalidate())
        one.send_text("still here?")
        with pytest.raises(WebSocketDisconnect):
            one.receive_text()
        two.send_text("bye")
        assert two.receive_text() == "User 8 says bye"


@pytest.mark.parametrize("userid", [None, 9])
def test_websocket_of_another_user(samples, chat, sqlite_engine, userid):
    """A session that keeps its id while its user changes is cut off as well."""
    application = Application(sqlite_engine, samples.WebSession)
    (alice,) = browsers(application, 7)
    with connect(chat, alice) as websocket:
        alice.visit(lambda request: setattr(request.session, "userid", userid))
        assert len(application.rows()) == 1
        websocket.send_text("still here?")
        with pytest.raises(WebSocketDisconnect):
            websocket.receive_text()


def test_websocket_refuses(samples, chat, sqlite_engine):
    """Guests, forged cookies and other sites are refused."""
    application = Application(sqlite_engine, samples.WebSession)
    alice, bob = browsers(application, 7, 8)
    guest = Browser(application)
    guest.visit(lambda request: request.session.update(a=1))
    forged = SimpleNamespace(cookie=str(alice.cookie)[:-4] + "AAAA")
    nobody = SimpleNamespace(cookie="")
    bob.visit(lambda request: request.session.invalidate())
    for browser in (guest, forged, nobody, bob):
        with pytest.raises(WebSocketDisconnect), connect(chat, browser):
            pass
    with (
        pytest.raises(WebSocketDisconnect),
        connect(chat, alice, origin="https://evil.example"),
    ):
        pass
    with connect(chat, alice) as websocket:
        websocket.send_text("me")
        assert websocket.receive_text() == "User 7 says me"
