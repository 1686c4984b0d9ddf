"""Ids of sessions and of users, however they are spelled, on each database."""

from __future__ import annotations

import json
import uuid

import pytest
from sqlalchemy import String, Uuid
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from pyramid_sqlalchemy_sessions import BaseMixin, SessionStore, UseridMixin
from tests.application import Application, Browser, Full
from tests.application import Base as SessionBase
from tests.drivers import DRIVERS, open_engine, with_any_driver


class Base(DeclarativeBase):
    """The declarative base of the models below."""


class Named(UseridMixin, BaseMixin, Base):
    """A session whose user is a name."""

    __tablename__ = "named_session"
    userid = mapped_column(String(30))


class Drawn(UseridMixin, BaseMixin, Base):
    """A session whose user is a UUID."""

    __tablename__ = "drawn_session"
    userid = mapped_column(Uuid)


ALICE = uuid.UUID(int=7)


@pytest.fixture
def engine(engine):
    Base.metadata.create_all(engine)
    Full.metadata.create_all(engine, [Full.__table__])
    return engine


def logged_in(engine, model, *users) -> Application:
    """Log users in, each in a browser of their own."""
    application = Application(engine, model)
    for user in users:
        Browser(application).visit(
            lambda r, user=user: setattr(r.session, "userid", user)
        )
    return application


def store_of(application, dbsession) -> SessionStore:
    from pyramid.interfaces import ISessionFactory

    factory = application.registry.getUtility(ISessionFactory)
    return SessionStore(dbsession, factory)


#: What the column holds, other spellings of it, and what is refused.
USERS = {
    Full: (7, ["7"], ["7abc", "07", " 7", "", "x", 7.0, True, b"7", uuid.UUID(int=7)]),
    Drawn: (ALICE, [str(ALICE), ALICE.hex], ["x", 7, "7", b"x" * 16]),
    Named: ("alice", [], [7, 0, b"alice", True, ALICE]),
}


#: What the columns can't hold, on some database at least.
TOO_LARGE = {
    Full: (2**31, -(2**31) - 1, 2**63, 2**64, -(2**200), "9" * 19),
    Named: ("a" * 31, "a" * 100_000),
}


@pytest.mark.parametrize("model", TOO_LARGE, ids=lambda model: model.__name__)
@pytest.mark.parametrize(
    ("database_url", "driver"),
    [pytest.param(known.kind, driver, id=driver) for driver, known in DRIVERS.items()],
    indirect=["database_url"],
)
def test_a_user_whom_the_column_cannot_hold(database_url, driver, model):
    """Has no sessions, whatever the driver makes of such a value."""

    @with_any_driver
    def work(engine):
        for each in (Base.metadata, SessionBase.metadata):
            each.create_all(engine)
        application = logged_in(engine, model, USERS[model][0])
        with Session(engine) as dbsession:
            store = store_of(application, dbsession)
            for user in TOO_LARGE[model]:
                assert store.of_user(user) == []
                assert store.revoke_user(user) == 0
                assert store.limit_user(user, 1) == 0
        assert application.row().userid == USERS[model][0]

    work(engine=open_engine(database_url, driver))


@pytest.mark.parametrize("model", USERS, ids=lambda model: model.__name__)
def test_a_user(engine, model):
    """What stands for the user's id is converted, and anything else refused at once."""
    user, spellings, wrong = USERS[model]
    application = logged_in(engine, model, user)
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        for spelling in (user, *spellings):
            assert [row.userid for row in store.of_user(spelling)] == [user]
        for each in wrong:
            with pytest.raises(TypeError, match="userid"):
                store.of_user(each)
            with pytest.raises(TypeError, match="userid"):
                store.revoke_user(each)
        assert len(store.of_user(user)) == 1
        assert store.revoke_user((*spellings, user)[0]) == 1
        dbsession.commit()
    assert application.rows() == []


@pytest.mark.parametrize("model", USERS, ids=lambda model: model.__name__)
def test_the_user_of_a_session(engine, model):
    """Assigning another spelling is no change, and what is refused changes nothing."""
    user, spellings, wrong = USERS[model]
    application = Application(engine, model)
    browser = Browser(application)
    browser.visit(lambda request: setattr(request.session, "userid", user))
    cookie = browser.cookie
    for spelling in (user, *spellings):
        browser.visit(lambda r, value=spelling: setattr(r.session, "userid", value))
        assert browser.cookie == cookie
    for each in wrong:

        def view(request, value=each):
            with pytest.raises(TypeError, match="userid"):
                request.session.userid = value

        browser.visit(view)
    assert browser.ask(lambda session: session.userid) == user


@pytest.mark.parametrize("model", USERS, ids=lambda model: model.__name__)
@pytest.mark.parametrize("keeps", [False, True], ids=["all", "others"])
def test_own_session_in_a_request(engine, model, keeps):
    """A request's own session is the user's, however the user's id is spelled."""
    user, spellings, _ = USERS[model]
    application = logged_in(engine, model, user)
    browser = Browser(application)

    def view(request):
        request.session.userid = user
        store = store_of(application, request.dbsession)
        spelling = (*spellings, user)[0]
        keep = request.session if keeps else None
        return store.revoke_user(spelling, keep=keep)

    browser.visit(lambda request: setattr(request.session, "userid", user))
    assert browser.visit(view).text == ("1" if keeps else "2")
    assert len(application.rows()) == keeps


@pytest.mark.parametrize(
    "other", ["Alice", "al\u00efce", "alice ", "ALICE", "0", "alice\u0301"]
)
def test_names_are_compared_exactly(engine, other):
    """Whatever the column's collation, one user's sessions are that user's alone."""
    application = logged_in(engine, Named, "alice", other)
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        assert [row.userid for row in store.of_user("alice")] == ["alice"]
        assert [row.userid for row in store.of_user(other)] == [other]
        assert store.revoke_user("alice") == 1
        dbsession.commit()
    assert [row.userid for row in application.rows()] == [other]


def test_ids_that_went_through_json(engine):
    """A worker may get a session's id as text, and a user's, too."""
    application = logged_in(engine, Full, 7)
    key = application.row().id
    job = json.loads(json.dumps({"session": str(key), "user": "7"}))
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        assert store.get(job["session"]) == {}
        store.set(job["session"], {"a": 1})
        assert store.get(key) == {"a": 1}
        assert store.revoke_user(job["user"], keep=job["session"]) == 0
        assert store.delete(job["session"])
        assert store.get(key) is None


@pytest.mark.parametrize(
    "wrong",
    ["x", "", None, 7, b"x" * 16, "0" * 33, object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_id_names_no_session(engine, wrong):
    """It's never sent to the database, whose transaction goes on."""
    application = logged_in(engine, Full, 7)
    with Session(engine) as dbsession:
        store = store_of(application, dbsession)
        assert store.get(wrong) is None
        assert store.delete(wrong) is False
        with pytest.raises(KeyError):
            store.set(wrong, {})
        if wrong is not None:
            with pytest.raises(TypeError, match="keep"):
                store.revoke_user(7, keep=wrong)
        assert len(store.of_user(7)) == 1
