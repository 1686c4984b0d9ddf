"""A SessionStore beside requests, and in the middle of one that uses its session."""

from __future__ import annotations

import base64
import uuid

import pytest
import transaction
import zope.sqlalchemy
from pyramid.interfaces import ISessionFactory
from sqlalchemy import Integer, String, inspect, select, text, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.orm.exc import StaleDataError

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    BaseMixin,
    IdleMixin,
    InconsistentDataError,
    SessionStore,
)
from tests.application import SECRET, Application, Browser, Full, Plain, statements
from tests.stories.transactions import elsewhere, exception_view, set_cookies


class Base(DeclarativeBase):
    """The declarative base of what is not a session here."""


class Person(Base):
    """Somebody with a password."""

    __tablename__ = "store_person"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)
    password = mapped_column(String(50))


class Idle(IdleMixin, BaseMixin, Base):
    """Sessions that end when they are not used."""

    __tablename__ = "store_idle"


@pytest.fixture
def engine(engine):
    """An engine with the tables of this file, too."""
    Base.metadata.create_all(engine)
    return engine


def factory_of(application):
    """Return the session factory, as code outside of requests gets it."""
    return application.registry.queryUtility(ISessionFactory)


def store_of(request):
    """Return a store over the dbsession of the request."""
    factory = request.registry.queryUtility(ISessionFactory)
    return SessionStore(request.dbsession, factory)


def log_in(request):
    """Log user 7 in."""
    request.session.userid = 7
    request.session["a"] = 1


def browsers(engine, number: int, **kw) -> list[Browser]:
    """Return browsers of user 7, all of one application."""
    application = Application(engine, **kw)
    found = [Browser(application) for _ in range(number)]
    for each in found:
        each.visit(log_in)
    return found


def id_of(browser) -> uuid.UUID:
    """Return the id that the browser's cookie carries."""
    serializer = AESGCMSerializer(base64.b64decode(SECRET))
    return uuid.UUID(bytes=serializer.loads(browser.cookie)[:16])


# Beside requests.


def test_a_revoked_session_is_anonymous(engine):
    """Whoever comes with the cookie of a session that was ended is nobody."""
    one, two = browsers(engine, 2)
    with Session(engine) as dbsession, dbsession.begin():
        store = SessionStore(dbsession, factory_of(one.application))
        assert store.revoke_user(7, keep=id_of(one)) == 1
    assert one.ask(lambda session: session.userid) == 7
    assert two.ask(lambda session: (session.userid, dict(session))) == (None, {})


def test_set_is_seen_by_the_next_request(engine):
    """What a worker has stored is there, and the user is as before."""
    (browser,) = browsers(engine, 1)
    with Session(engine) as dbsession, dbsession.begin():
        store = SessionStore(dbsession, factory_of(browser.application))
        store.set(id_of(browser), {"b": 2})
    seen = browser.ask(lambda session: (session.userid, dict(session)))
    assert seen == (7, {"b": 2})


def test_open_the_cookie_of_a_browser(engine):
    """The value of the cookie is all that it takes."""
    (browser,) = browsers(engine, 1)
    with Session(engine) as dbsession:
        store = SessionStore(dbsession, factory_of(browser.application))
        opened = store.open(browser.cookie)
    assert (opened.id, opened.userid, opened.data) == (id_of(browser), 7, {"a": 1})


@pytest.mark.parametrize("name", ["set", "delete", "revoke_user", "delete_all"])
def test_a_request_in_flight_overwrites_nothing(engine, name):
    """A request that has loaded the session before that is refused if it writes."""
    (browser,) = browsers(engine, 1)
    key, factory = id_of(browser), factory_of(browser.application)

    def work():
        with Session(engine) as dbsession, dbsession.begin():
            store = SessionStore(dbsession, factory)
            {
                "set": lambda: store.set(key, {"b": 2}),
                "delete": lambda: store.delete(key),
                "revoke_user": lambda: store.revoke_user(7),
                "delete_all": store.delete_all,
            }[name]()

    def view(request):
        assert request.session["a"] == 1
        elsewhere(work)
        request.session["a"] = 2

    with pytest.raises(StaleDataError):
        browser.visit(view)
    expected = {"b": 2} if name == "set" else {}
    assert browser.ask(dict) == expected


# A limit.


def limit(most, keep=True):
    """Return a view that logs user 7 in, and ends the oldest sessions."""

    def view(request):
        log_in(request)
        kept = request.session if keep else None
        return request.session_store.limit_user(7, most, keep=kept)

    return view


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("is_new", [True, False])
def test_limit_counts_the_session_of_the_request(engine, keep, is_new):
    """A login in this very request takes a place, and never ends itself."""
    one, two = browsers(engine, 2)
    three = Browser(one.application)
    if not is_new:
        three.visit(lambda request: request.session.update(b=2))
    assert three.visit(limit(2, keep)).text == "1"
    assert three.ask(lambda session: session.userid) == 7
    assert len([row for row in one.application.rows() if row.userid == 7]) == 2
    assert three.visit(limit(2, keep)).text == "0"
    assert three.visit(limit(1, keep)).text == "1"
    assert [each.ask(lambda s: s.userid) for each in (one, two, three)] == [
        None,
        None,
        7,
    ]


def test_limit_before_the_login(engine):
    """The session to keep takes a place, although its user is still to log in."""
    one, _ = browsers(engine, 2)
    three = Browser(one.application)

    def view(request):
        ended = request.session_store.limit_user(7, 2, keep=request.session)
        log_in(request)
        return ended

    assert three.visit(view).text == "1"
    assert len(one.application.rows()) == 2
    assert three.ask(lambda session: session.userid) == 7


def test_limit_ends_the_session_of_the_request(engine):
    """Another one can be kept: then this request's session may be what ends."""
    one, two = browsers(engine, 2)
    key = id_of(two)

    def view(request):
        assert request.session.userid == 7
        ended = request.session_store.limit_user(7, 1, keep=key)
        return ended, request.session.userid, request.session.new

    assert one.visit(view).text == "(1, None, True)"
    assert [row.id for row in one.application.rows()] == [key]


def test_limit_counts_nothing_that_will_not_be_there(engine):
    """Sessions that this transaction ends, or has expired, don't count."""
    one, two = browsers(engine, 2)

    def view(request):
        assert request.session.userid == 7
        request.session.invalidate()
        return request.session_store.limit_user(7, 1)

    assert one.visit(view).text == "0"
    assert two.ask(lambda session: session.userid) == 7


def test_limit_is_rolled_back(engine):
    """If the request fails, nobody was logged out."""
    one, two = browsers(engine, 2)
    Browser(one.application).fail(limit(1))
    assert [each.ask(lambda s: s.userid) for each in (one, two)] == [7, 7]


# With zope.sqlalchemy.

CHANGES = {
    "create": lambda store, key: store.create({"b": 2}),
    "set": lambda store, key: store.set(key, {"b": 2}),
    "delete": lambda store, key: store.delete(key),
    "delete_all": lambda store, key: store.delete_all(),
    "revoke_user": lambda store, key: store.revoke_user(7),
}


def state(application):
    """Return what is stored."""
    return sorted((row.id, row.version) for row in application.rows())


@pytest.mark.parametrize(
    ("name", "scoped"), [*((name, False) for name in sorted(CHANGES)), ("set", True)]
)
def test_is_committed_by_the_transaction(engine, name, scoped):
    """zope.sqlalchemy is told that there is something to commit."""
    (browser,) = browsers(engine, 1)
    application = browser.application
    before = state(application)
    manager = transaction.TransactionManager(explicit=True)
    make_dbsession = sessionmaker(engine)
    dbsession = scoped_session(make_dbsession) if scoped else make_dbsession()
    zope.sqlalchemy.register(dbsession, transaction_manager=manager)
    for commit in (False, True):
        manager.begin()
        store = SessionStore(dbsession, factory_of(application))
        CHANGES[name](store, id_of(browser))
        manager.commit() if commit else manager.abort()
        assert (state(application) != before) == commit


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_is_committed_by_the_request(engine, name):
    """A view that does not use its session may use a store."""
    (browser,) = browsers(engine, 1)
    before = state(browser.application)
    key = id_of(browser)
    visitor = Browser(browser.application)
    visitor.fail(lambda request: CHANGES[name](store_of(request), key))
    assert state(browser.application) == before
    visitor.visit(lambda request: CHANGES[name](store_of(request), key))
    assert state(browser.application) != before


def test_delete_expired_is_committed(engine):
    """zope.sqlalchemy is told of what the collector deletes on a connection."""
    application = Application(engine, Idle, idle_timeout=10)
    browser = Browser(application)
    with Session(engine) as dbsession, dbsession.begin():
        store = SessionStore(dbsession, factory_of(application))
        over = [store.create({}) for _ in range(3)][:2]
        dbsession.execute(update(Idle).where(Idle.id.in_(over)).values(idle_expire=5))
    browser.fail(lambda request: store_of(request).delete_expired())
    assert len(application.rows()) == 3
    browser.visit(lambda request: store_of(request).delete_expired())
    assert len(application.rows()) == 1


# "Log out my other devices."


def change_password(request):
    """Change the password of user 7, and log out the other devices."""
    request.dbsession.get(Person, 7).password = "new"
    return store_of(request).revoke_user(7, keep=request.session)


@pytest.mark.parametrize("fails", [False, True], ids=["commit", "rollback"])
def test_a_new_password_logs_out_other_devices(engine, fails):
    """The password and the other sessions change together, or not at all."""
    one, two, three = browsers(engine, 3)
    with Session(engine) as dbsession, dbsession.begin():
        dbsession.add(Person(id=7, password="old"))
    (one.fail if fails else one.visit)(change_password)
    with Session(engine) as dbsession:
        password = dbsession.scalar(select(Person.password))
    assert password == ("old" if fails else "new")
    other = 7 if fails else None
    users = [each.ask(lambda session: session.userid) for each in (one, two, three)]
    assert users == [7, other, other]


def test_keep_takes_one_statement(engine):
    """Logging out other devices is one DELETE."""
    one, _ = browsers(engine, 2)

    def view(request):
        assert request.session.userid == 7
        with statements(engine) as made:
            assert store_of(request).revoke_user(7, keep=request.session) == 1
        assert len(made) == 1

    one.visit(view)
    assert [row.id for row in one.application.rows()] == [id_of(one)]


def test_keep_a_session_that_is_new(engine):
    """Who logs in here is logged out everywhere else, and logged in here."""
    one, _ = browsers(engine, 2)
    new = Browser(one.application)

    def view(request):
        request.session.userid = 7
        assert store_of(request).revoke_user(7, keep=request.session) == 2

    new.visit(view)
    assert new.ask(lambda session: session.userid) == 7
    assert [row.id for row in one.application.rows()] == [id_of(new)]


def test_keep_a_session_that_logs_in(engine):
    """A guest's session that becomes the user's stays."""
    one, guest = browsers(engine, 2)
    guest.visit(lambda request: setattr(request.session, "userid", None))

    def view(request):
        request.session.userid = 7
        assert store_of(request).revoke_user(7, keep=request.session) == 1

    guest.visit(view)
    assert guest.ask(lambda session: (session.userid, session["a"])) == (7, 1)
    assert [row.id for row in one.application.rows()] == [id_of(guest)]


def test_keep_in_an_exception_view(engine):
    """There the session is known, too; what the store does is rolled back."""
    application = Application(
        engine,
        configure=exception_view(
            lambda request: store_of(request).revoke_user(7, keep=request.session),
            ZeroDivisionError,
        ),
    )
    one, two = Browser(application), Browser(application)
    for each in (one, two):
        each.visit(log_in)
    application.view = lambda request: 1 / 0
    response = one.get("/", status=500)
    assert response.text == "1"
    assert len(application.rows()) == 2


def test_keep_a_session_of_another_model(engine):
    """It is told that it is none of these sessions."""
    (one,) = browsers(engine, 1)
    other = Browser(Application(engine, Plain))

    def view(request):
        store = SessionStore(request.dbsession, factory_of(one.application))
        with pytest.raises(ValueError, match=r"is a Plain, .* has sessions of Full"):
            store.revoke_user(7, keep=request.session)

    other.visit(view)
    assert len(one.application.rows()) == 1


# In a request that uses its session.


def test_own_session_ends(engine):
    """Without keep, the session of the request ends as well, and its cookie."""
    one, _ = browsers(engine, 2)

    def view(request):
        request.session["a"] = 5
        assert store_of(request).revoke_user(7) == 2
        assert (request.session.userid, dict(request.session)) == (None, {})

    response = one.visit(view)
    assert len(set_cookies(response)) == 1
    assert one.cookie is None
    assert one.application.rows() == []


def test_own_session_begins_anew(engine):
    """After that the session can be used: somebody who has forgotten a password."""
    one, _ = browsers(engine, 2)

    def view(request):
        assert request.session["a"] == 1
        store_of(request).revoke_user(7)
        request.session.userid = 7

    one.visit(view)
    assert one.ask(lambda session: (session.userid, dict(session))) == (7, {})
    assert [row.id for row in one.application.rows()] == [id_of(one)]


@pytest.mark.parametrize("name", ["delete", "delete_all"])
def test_own_session_is_deleted(engine, name):
    """Deleting one's own session is invalidate(), and no conflict."""
    (browser,) = browsers(engine, 1)
    key = id_of(browser)

    def view(request):
        request.session["a"] = 5
        store = store_of(request)
        assert (store.delete(key) if name == "delete" else store.delete_all()) == 1
        assert store.get(key) is None
        assert store.delete(key) is False
        assert store.of_user(7) == []
        with pytest.raises(KeyError):
            store.set(key, {})

    browser.visit(view)
    assert browser.cookie is None
    assert browser.application.rows() == []


def test_both_see_the_same_values(engine):
    """The store sees what the session has, and the session what the store sets."""
    (browser,) = browsers(engine, 1)
    key = id_of(browser)

    def view(request):
        store = store_of(request)
        request.session["list"] = [1]
        copy = store.get(key)
        assert copy == {"a": 1, "list": [1]}
        copy["list"].append(2)
        assert store.open(browser.cookie).data == {"a": 1, "list": [1]}
        store.set(key, {"b": 2})
        assert dict(request.session) == {"b": 2}
        request.session["c"] = 3

    browser.visit(view)
    row = browser.application.row()
    assert browser.ask(dict) == {"b": 2, "c": 3}
    assert (row.version, row.userid) == (2, 7)


def test_set_before_the_session_is_used(engine):
    """The session loads what the store has written."""
    (browser,) = browsers(engine, 1)

    def view(request):
        store_of(request).set(id_of(browser), {"b": 2})
        request.session["c"] = 3

    browser.visit(view)
    assert browser.ask(dict) == {"b": 2, "c": 3}


def test_set_what_it_is_already(engine):
    """Setting the same again is a write all the same, which others have to notice."""
    (browser,) = browsers(engine, 1)

    def view(request):
        assert request.session["a"] == 1
        store_of(request).set(id_of(browser), {"a": 1})

    browser.visit(view)
    assert browser.application.row().version == 2


def test_set_takes_a_copy(engine):
    """What is set is what it was then, and what cannot be stored is refused at once."""
    (browser,) = browsers(engine, 1)
    key = id_of(browser)

    def view(request):
        assert request.session["a"] == 1
        data = {"list": [1]}
        store_of(request).set(key, data)
        data["list"].append(2)
        with pytest.raises(TypeError, match="cannot be stored"):
            store_of(request).set(key, {"b": lambda: None})

    browser.visit(view)
    assert browser.ask(dict) == {"list": [1]}


def test_the_user_is_the_one_of_the_request(engine):
    """Who logs in or out in a request has or has not the session in its store."""
    one, two = browsers(engine, 2)

    def log_out(request):
        request.session.userid = None
        found = store_of(request).of_user(7)
        assert [each.id for each in found] == [id_of(two)]
        assert store_of(request).revoke_user(7) == 1

    one.visit(log_out)
    assert one.ask(dict) == {"a": 1}

    def log_in_again(request):
        request.session.userid = 7
        (found,) = store_of(request).of_user(7)
        assert found.id == id_of(one)

    one.visit(log_in_again)
    assert len(one.application.rows()) == 1


@pytest.mark.parametrize("name", ["set", "revoke_user"])
def test_a_savepoint_takes_it_back(engine, name):
    """Rolled back to a savepoint, the session is what it was there."""
    one, two = browsers(engine, 2)

    def view(request):
        request.session["b"] = 2
        savepoint = request.dbsession.begin_nested()
        CHANGES[name](store_of(request), id_of(one))
        savepoint.rollback()

    one.visit(view)
    assert one.ask(dict) == {"a": 1, "b": 2}
    assert two.ask(lambda session: session.userid) == 7


def test_two_models_in_one_transaction(engine):
    """A store ends the sessions of its own model, and leaves those of another one."""
    (one,) = browsers(engine, 1)
    other = Browser(Application(engine, Plain))
    other.visit(lambda request: request.session.update(a=1))

    def view(request):
        request.session["a"] = 2
        store = SessionStore(request.dbsession, factory_of(one.application))
        assert store.delete_all() == 1

    other.visit(view)
    assert one.application.rows() == []
    assert other.ask(dict) == {"a": 2}


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("column", ["flash", "id"])
def test_a_row_that_holds_garbage(engine, column):
    """It is a clear error that quotes nothing, and the user's sessions can be ended."""
    one, _ = browsers(engine, 2)
    factory = factory_of(one.application)
    with Session(engine) as dbsession, dbsession.begin():
        id = str(id_of(one).hex)
        spoil = f"UPDATE full_session SET {column} = 'garbage' WHERE id = '{id}'"
        dbsession.execute(text(spoil))
        store = SessionStore(dbsession, factory)
        with pytest.raises(InconsistentDataError, match="with revoke_user") as caught:
            store.of_user(7)
        assert "garbage" not in str(caught.value)
        assert store.revoke_user(7) == 2


def test_a_userid_that_is_none_of_the_columns_type(engine):
    """It's refused before anything is sent, and the transaction goes on."""
    (one,) = browsers(engine, 1)
    with Session(engine) as dbsession:
        store = SessionStore(dbsession, factory_of(one.application))
        for wrong in ("nobody", "7abc", " 7", b"7", 7.0, True):
            with pytest.raises(TypeError, match="userid"):
                store.of_user(wrong)
            with pytest.raises(TypeError, match="userid"):
                store.revoke_user(wrong)
        assert len(store.of_user("7")) == len(store.of_user(7)) == 1


def test_objects_of_the_model(engine):
    """What of_user returns is what session.instance is."""
    (browser,) = browsers(engine, 1)

    def view(request):
        (found,) = store_of(request).of_user(7)
        assert found is request.session.instance
        assert inspect(found).mapper.class_ is Full

    browser.visit(view)
