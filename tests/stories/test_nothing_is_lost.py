"""A change is stored, or it raises, or the log tells that it's lost."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyramid.response import Response
from sqlalchemy import ForeignKey, Integer, Uuid, create_engine, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, relationship

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    SessionRotatedEvent,
    TransactionRequiredError,
    UseridMixin,
)
from tests.application import Application, Browser, Failure, Full, statements
from tests.features.timed import sent, twin
from tests.stories.transactions import (
    all_of,
    elsewhere,
    exception_view,
    logged,
    plain_dbsession,
    set_cookies,
    tween_above,
)


class Base(DeclarativeBase):
    """The declarative base of what is not a session here."""


class Shopper(UseridMixin, BaseMixin, Base):
    """A session to which carts belong."""

    __tablename__ = "shopper_session"
    note = mapped_column(Integer, nullable=True)
    carts = relationship("Cart", cascade="all, delete-orphan", passive_deletes=True)


class Cart(Base):
    """A cart of a session."""

    __tablename__ = "shopper_cart"
    id = mapped_column(Integer, primary_key=True)
    session_id = mapped_column(
        Uuid, ForeignKey(Shopper.id, ondelete="CASCADE"), nullable=False
    )


class Owner(Base):
    """A user."""

    __tablename__ = "shopper_owner"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)


class Owned(UseridMixin, BaseMixin, Base):
    """A session that refers to its user."""

    __tablename__ = "shopper_owned_session"
    userid = mapped_column(Integer, ForeignKey(Owner.id, ondelete="CASCADE"))


def begin(request):
    request.session.update(
        n=1, list=[0], dict={"a": [1]}, set={1}, bytes=bytearray(b"a"), tuple=([1],)
    )
    request.session.flash("hello")


def visitor(engine, **kw) -> Browser:
    browser = Browser(Application(engine, **kw))
    browser.visit(begin)
    return browser


#: Every way of changing a session.
CHANGES = {
    "set": lambda s: s.__setitem__("w", 1),
    "after a look": lambda s: (s["list"], s.__setitem__("w", 1)),
    "after all": lambda s: (dict(s), s.__setitem__("w", 1)),
    "delete": lambda s: s.__delitem__("n"),
    "pop": lambda s: s.pop("n"),
    "popitem": lambda s: s.popitem(),
    "clear": lambda s: s.clear(),
    "update": lambda s: s.update(w=1),
    "or": lambda s: s.__ior__({"w": 1}),
    "setdefault": lambda s: s.setdefault("w", 1),
    "append": lambda s: s["list"].append(1),
    "item": lambda s: s["list"].__setitem__(0, 1),
    "add in place": lambda s: s["list"].__iadd__([1]),
    "sort": lambda s: s["list"].sort(),
    "nested": lambda s: s["dict"]["a"].append(2),
    "nested item": lambda s: s["dict"].update(b=1),
    "set item": lambda s: s["set"].add(2),
    "in a tuple": lambda s: s["tuple"][0].append(2),
    "bytearray": lambda s: s["bytes"].extend(b"b"),
    "values": lambda s: [v.append(1) for v in s.values() if isinstance(v, list)],
    "get": lambda s: s.get("list").append(1),
    "a copy": lambda s: dict(s)["list"].append(1),
    "setdefault in place": lambda s: s.setdefault("list", []).append(1),
    "flash": lambda s: s.flash("w"),
    "pop_flash": lambda s: s.pop_flash(),
    "token": lambda s: s.new_csrf_token(),
    "user": lambda s: setattr(s, "userid", 5),
    "authenticate": lambda s: s.authenticate(5),
    "rotate": lambda s: s.rotate(),
    "changed": lambda s: s.changed(),
    "invalidate": lambda s: s.invalidate(),
    "persist": lambda s: s.persist(),
}


def in_a_finished_callback(change, caught):
    def view(request):
        request.add_finished_callback(
            lambda request: attempt(change, request.session, caught)
        )

    return view


def in_the_body(change, caught):
    def view(request):
        def body():
            yield b"body"
            attempt(change, request.session, caught)

        return Response(app_iter=body())

    return view


def attempt(change, session, caught):
    try:
        change(session)
    except (TransactionRequiredError, AttributeError) as error:
        # bytes, which a bytearray is read as, have no methods that change them.
        caught.append(error)


@pytest.mark.parametrize("used", [False, True], ids=["first use", "used"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", [in_a_finished_callback, in_the_body])
@pytest.mark.parametrize("how", ["explicit", "thread-local", "without"])
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_too_late(engine, change, place, used, how, caplog):
    """When the response is made every change raises, or is logged as lost."""
    kw = {
        "explicit": {},
        "thread-local": {"explicit": False},
        "without": {"pyramid_tm": False, "make_dbsession": plain_dbsession(engine)},
    }[how]
    browser = visitor(engine, **kw)
    caplog.clear()
    caught: list = []
    view = place(CHANGES[change], caught)

    def using(request):
        request.session.get("n")
        return view(request)

    before = vars(browser.application.row())
    browser.visit(using if used else view)
    after = vars(browser.application.row())
    assert {**before, "_sa_instance_state": 0} == {**after, "_sa_instance_state": 0}
    assert caught or logged(caplog, "ERROR")


class Thing:
    """What can be changed, and isn't built in."""

    def __init__(self):
        self.items = []


def test_an_object_that_is_read_too_late(engine, caplog):
    """Changes of it can't be seen, so the log says that they would be lost."""
    browser = visitor(engine)
    browser.visit(lambda request: request.session.update(thing=Thing()))

    def view(request):
        request.add_finished_callback(
            lambda request: request.session["thing"].items.append(1)
        )

    browser.visit(view)
    assert any("Thing" in each for each in logged(caplog, "WARNING"))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_without_pyramid_tm_there_is_a_warning(engine, change, caplog):
    """Whatever changes the session first, the application is told what's missing."""
    browser = Browser(
        Application(engine, pyramid_tm=False, make_dbsession=plain_dbsession(engine))
    )
    with Session(engine) as dbsession:
        _, cookie = stored(engine, dbsession)
    browser.set_cookie("session", cookie)
    caught: list = []
    browser.visit(lambda request: attempt(CHANGES[change], request.session, caught))
    if change == "persist":
        assert caught
    elif change != "sort":  # which changes nothing here
        (message,) = logged(caplog, "WARNING")
        assert "pyramid_tm" in message


def stored(engine, dbsession):
    """Store a session by a request with pyramid_tm; return its id and cookie."""
    browser = visitor(engine)
    return browser.application.row().id, browser.cookie


# A failed view without pyramid_tm.


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("reads", [False, True], ids=["writes", "reads"])
def test_a_failed_view_without_pyramid_tm(engine, reads):
    """What it changed is gone, also in place, whatever the exception view does."""

    def answer(request):
        assert dict(request.session)["list"] == [0]
        if not reads:
            request.session["answer"] = 1

    browser = visitor(
        engine,
        pyramid_tm=False,
        make_dbsession=plain_dbsession(engine),
        configure=exception_view(answer),
    )

    def view(request):
        request.session["n"] = 100
        request.session["list"].append(1)
        request.session.flash("view")
        raise Failure

    browser.visit(view, status=500)
    found = browser.ask(dict)
    assert (found["n"], found["list"]) == (1, [0])
    assert ("answer" in found) == (not reads)
    assert browser.ask(lambda session: session.peek_flash()) == ["hello"]


# Under contention.


@pytest.mark.parametrize("mode", ["WAL with BEGIN", "default"])
def test_flash_in_exception_views_under_contention(tmp_path, mode, caplog):
    """Many forbidden views that flash at once are all stored, and none fails."""
    engine = create_engine(f"sqlite:///{tmp_path / 'contended.sqlite'}")
    if mode != "default":

        @event.listens_for(engine, "connect")
        def connected(connection, record):
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode = WAL")

        @event.listens_for(engine, "begin")
        def begun(connection):
            connection.exec_driver_sql("BEGIN")

    Full.__table__.create(engine)

    def answer(request):
        request.session.flash(request.environ["n"])

    browser = visitor(engine, configure=exception_view(answer))

    def view(request):
        assert request.session["n"] == 1
        raise Failure

    def visit(thread):
        mine = twin(browser)
        for number in range(10):
            mine.get("/", status=500, extra_environ={"n": f"{thread}-{number}"})

    browser.application.view = view
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(visit, range(4)))
    messages = browser.ask(lambda session: session.pop_flash())
    lost = sum("lost" in each for each in logged(caplog, "ERROR"))
    assert len(messages) + lost == 41
    assert len(set(messages)) == len(messages)
    assert lost == 0
    engine.dispose()


def test_what_cannot_be_merged_is_logged(engine, caplog):
    """An increment in an exception view that another request was faster with."""

    def count(request):
        request.session["n"] += 1

    browser = visitor(engine, configure=exception_view(count))

    def view(request):
        assert request.session["n"] == 1
        elsewhere(lambda: twin(browser).visit(count))
        raise Failure

    browser.visit(view, status=500)
    assert browser.ask(lambda session: session["n"]) == 2
    assert any("lost" in each for each in logged(caplog, "ERROR"))


# Savepoints and rollbacks.


def savepoint_of(kind):
    if kind == "dbsession":
        return lambda request: request.dbsession.begin_nested()
    return lambda request: request.tm.savepoint()


@pytest.mark.parametrize("kind", ["dbsession", "tm"])
@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
def test_an_end_and_a_savepoint(engine, kind, stored):
    """An end that was rolled back is none, and the next one is one."""
    if kind == "tm" and engine.dialect.name == "sqlite":
        pytest.skip("zope.sqlalchemy has no savepoints on SQLite")
    browser = visitor(engine) if stored else Browser(Application(engine))

    def view(request):
        session = request.session
        session.get("a")
        request.dbsession.connection()
        point = savepoint_of(kind)(request)
        session.invalidate()
        session["ghost"] = 1
        point.rollback()
        assert "ghost" not in session
        assert session.new == (not stored)
        session.invalidate()
        session["kept"] = 2

    browser.visit(view)
    assert browser.ask(dict) == {"kept": 2}
    assert len(browser.application.rows()) == 1


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
def test_a_rollback_before_any_sql(engine, stored):
    """The application's rollback takes back what was written, SQL or not."""
    browser = visitor(engine) if stored else Browser(Application(engine))

    def view(request):
        request.session["n"] = 5
        request.dbsession.rollback()

    response = browser.visit(view)
    assert set_cookies(response) == []
    assert browser.ask(lambda session: session.get("n")) == (1 if stored else None)


def test_persisted_and_rolled_back(engine):
    """A new session that was written inside a savepoint is new again after it."""
    browser = Browser(Application(engine))

    def view(request):
        request.dbsession.connection()
        point = request.dbsession.begin_nested()
        request.session["a"] = 1
        request.session.persist()
        assert not request.session.new
        point.rollback()
        assert request.session.new

    response = browser.visit(view)
    assert set_cookies(response) == []
    assert browser.application.rows() == []


# The instance, and rows that refer to the session.


@pytest.fixture
def shop(engine):
    Base.metadata.create_all(engine)
    return engine


def test_the_instance_is_one_object(shop):
    """It's the same for the whole transaction, and loaded once."""
    browser = visitor(shop, model=Shopper)

    def view(request):
        instance = request.session.instance
        gc.collect()
        with statements(shop) as executed:
            assert request.session.instance is instance
            assert request.session.instance is instance
        assert executed == []
        request.session.instance.carts.append(Cart())
        request.session.instance.note = 7

    with statements(shop) as executed:
        browser.visit(view)
    assert sum(each.startswith("SELECT") for each in executed) <= 3
    with Session(shop) as dbsession:
        assert dbsession.query(Cart).count() == 1
    assert browser.application.row().note == 7


@pytest.mark.parametrize(
    "name", ["userid", "version", "flash", "renewal_id", "created"]
)
def test_the_library_s_columns_are_for_reading(shop, name):
    """A change of them on the instance is refused at the flush."""
    browser = visitor(shop, model=Shopper)

    def view(request):
        instance = request.session.instance
        value = {"flash": {}, "renewal_id": instance.id}.get(name, 7)
        setattr(instance, name, value)
        with pytest.raises(InvalidRequestError, match=name):
            request.dbsession.flush()
        raise Failure

    browser.fail(view)
    assert browser.application.row().userid is None


@pytest.mark.parametrize("empty", [False, True], ids=["with data", "empty"])
def test_a_cart_of_a_new_session(shop, empty):
    """persist() writes the row, so that others can refer to it."""
    browser = Browser(Application(shop, Shopper))

    def view(request):
        if not empty:
            request.session["a"] = 1
        request.session.persist()
        assert request.session.instance.id == request.session.id
        request.dbsession.add(Cart(session_id=request.session.id))
        request.session["later"] = [1]

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert sent(response).id == browser.application.row().id
    assert browser.ask(lambda session: session["later"]) == [1]
    with Session(shop) as dbsession:
        assert dbsession.query(Cart).one().session_id == browser.application.row().id
    # The row, and foreign keys to it, stay with a login.
    browser.visit(lambda request: setattr(request.session, "userid", 5))
    with Session(shop) as dbsession:
        assert dbsession.query(Cart).one().session_id == browser.application.row().id


WRITERS = ["above", "view", "exception view", "after"]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("fails", [False, True])
def test_a_new_session_has_one_id(engine, writer, fails):
    """It's the same wherever a request asks for it, and whatever is rolled back."""
    ids = []

    def work(place):
        def do(request):
            if place == writer:
                request.session["by"] = place
            ids.append(request.session.id)

        return do

    def answer(request):
        work("exception view")(request)
        return Response("")

    def view(request):
        work("view")(request)
        if fails:
            raise Failure

    def tween(handler, request):
        work("above")(request)
        response = handler(request)
        work("after")(request)
        return response

    configure = all_of(tween_above(tween), exception_view(answer))
    browser = Browser(Application(engine, configure=configure))
    response = browser.visit(view)
    assert len(set(ids)) == 1
    is_stored = writer in ("above", "after", "exception view" if fails else "view")
    assert [row.id for row in browser.application.rows()] == ids[:1] * is_stored
    assert len(set_cookies(response)) == is_stored


def test_a_session_after_an_end_has_another_id(shop):
    """That of a session that has ended never comes back."""
    browser = Browser(Application(shop))

    def view(request):
        ids = []
        for work in (
            lambda session: session.update(a=1),
            lambda session: session.invalidate(),
            lambda session: session.update(b=2),
        ):
            work(request.session)
            ids.append(request.session.id)
            request.tm.commit()
            request.tm.begin()
        return len(set(ids)), ids[1] == ids[2]

    assert browser.visit(view).text == "(2, True)"
    assert browser.ask(dict) == {"b": 2}


def test_a_session_that_may_be_stored_already(engine):
    """If a commit fails after it has succeeded, what follows has another id."""

    def answer(request):
        request.session["b"] = 2
        return Response("")

    def fail(dbsession):
        raise ZeroDivisionError

    def view(request):
        request.session["a"] = 1
        event.listen(request.dbsession, "after_commit", fail, once=True)

    configure = exception_view(answer, ZeroDivisionError)
    browser = Browser(Application(engine, configure=configure))
    browser.visit(view)
    assert len(browser.application.rows()) == 2
    assert browser.ask(dict) == {"b": 2}


def test_persisted_with_a_new_user(shop):
    """What the session's row refers to is written first, as at the commit."""
    browser = Browser(Application(shop, Owned))

    def view(request):
        request.dbsession.add(Owner(id=7))
        request.session.userid = 7
        request.session.persist()
        request.session["later"] = 1

    browser.visit(view)
    assert browser.ask(lambda session: (session.userid, dict(session))) == (
        7,
        {"later": 1},
    )


def test_a_value_is_changed_after_it_was_persisted(engine):
    """A mutable value that was handed out before is stored with its changes."""
    browser = visitor(engine)

    def view(request):
        value = request.session["list"]
        request.session.persist()
        value.append(1)

    browser.visit(view)
    assert browser.ask(lambda session: session["list"]) == [0, 1]


def test_persisted_beside_another_write(engine):
    """Also where persist() met another request's write."""
    browser = visitor(engine)

    def view(request):
        value = request.session["list"]
        request.session["mine"] = 1
        elsewhere(lambda: twin(browser).visit(lambda r: r.session.update(theirs=1)))
        request.session.persist()
        value.append(1)

    browser.visit(view)
    found = browser.ask(dict)
    assert (found["list"], found["mine"], found["theirs"]) == ([0, 1], 1, 1)


# Events.


def test_events_name_the_request(engine):
    """A subrequest that logs in is what the event tells of."""
    told: list = []

    def configure(config):
        config.add_subscriber(told.append, SessionRotatedEvent)

    browser = visitor(engine, configure=configure)

    def view(request):
        if request.path == "/sub":
            request.session.userid = 5
            return
        from pyramid.request import Request

        assert request.session["n"] == 1
        sub = Request.blank("/sub", headers={"Cookie": request.headers["Cookie"]})
        sub.environ["tm.active"] = True
        sub.environ["tm.manager"] = request.tm
        sub.environ["app.dbsession"] = request.dbsession
        request.invoke_subrequest(sub)
        request.session["outer"] = 1

    browser.visit(view)
    (event,) = told
    assert event.request.path == "/sub"
    assert event.cause == "login"
