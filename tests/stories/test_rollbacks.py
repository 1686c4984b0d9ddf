"""What is rolled back leaves no trace, and what is committed stays."""

from __future__ import annotations

from typing import Any

import pytest
import transaction
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import Integer, String, event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, sessionmaker

from pyramid_sqlalchemy_sessions import FullyFeaturedSession
from tests.application import Application, Browser, Failure, Full, explicit_manager
from tests.stories.transactions import (
    Refusal,
    Refuser,
    exception_view,
    gives_access,
    logged,
    set_cookies,
)


class Base(DeclarativeBase):
    """The declarative base of what is not a session here."""


class Person(Base):
    """Something of the application's own, with a name that must be unique."""

    __tablename__ = "rollback_person"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String(50), unique=True, nullable=False)


@pytest.fixture
def people(engine):
    """The names of the people in the database, none at first."""
    Base.metadata.create_all(engine)

    def names() -> list[str]:
        with Session(engine) as dbsession:
            return sorted(dbsession.scalars(select(Person.name)))

    return names


class Everything(FullyFeaturedSession, Base):
    """A session with every feature."""

    __tablename__ = "rollback_everything"


def make_application(engine, **kw: Any) -> Application:
    """Make an application whose exception view does not touch the session."""
    kw.setdefault("configure", exception_view(lambda request: "sorry", Exception))
    return Application(engine, **kw)


# The ways of failing: each is called at the end of the view.


def raise_an_exception(request):
    raise Failure


def doom_the_transaction(request):
    request.tm.doom()


def be_vetoed(request):
    return Response("no", status=400)


def be_vetoed_by_header(request):
    return Response("no", headers={"X-Tm": "abort"})


def fail_in_hook(request):
    def hook():
        raise Refusal

    request.tm.get().addBeforeCommitHook(hook)
    # Here pyramid_tm calls the exception view and aborts nothing.
    request.add_finished_callback(lambda request: request.tm.abort())


def violate_a_constraint(request):
    request.dbsession.add_all([Person(name="Ann"), Person(name="Ann")])


def refuse(phase: str, sort_key: str):
    def way(request):
        request.tm.get().join(Refuser(phase, sort_key))

    way.__name__ = f"refuse_in_{phase}_at_{sort_key}"
    return way


WAYS = [
    raise_an_exception,
    doom_the_transaction,
    be_vetoed,
    be_vetoed_by_header,
    fail_in_hook,
    violate_a_constraint,
    refuse("tpc_begin", "first"),
    refuse("tpc_begin", "~~last"),
    refuse("commit", "first"),
    refuse("commit", "~q_after_the_session"),
    refuse("commit", "~~last"),
    refuse("tpc_vote", "first"),
    refuse("tpc_vote", "~q_after_the_session"),
]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request, people):
    """One way of failing."""
    return request.param


def make_browser(engine, **kw: Any) -> Browser:
    settings = {"tm.commit_veto": "pyramid_tm.default_commit_veto"}
    return Browser(make_application(engine, settings=settings, **kw))


@pytest.fixture
def browser(engine):
    """A browser of an application with a commit veto."""
    return make_browser(engine)


def visit_in_vain(browser, change, way):
    def view(request):
        change(request.session)
        return way(request)

    return browser.visit(view, status="*")


def test_a_new_session_is_not_stored(browser, way):
    """A new session of a request that fails is not stored and sends no cookie."""

    def change(session):
        session["a"] = 1
        session.flash("hello")
        session.userid = 3

    response = visit_in_vain(browser, change, way)
    assert set_cookies(response) == []
    assert browser.application.rows() == []


CHANGES = {
    "write": lambda session: session.update(a=2),
    "nested": lambda session: session["nested"].append(1),
    "flash": lambda session: session.flash("another"),
    "pop_flash": lambda session: session.pop_flash(),
    "login": lambda session: setattr(session, "userid", 3),
    "rotate": lambda session: session.rotate(),
    "invalidate": lambda session: session.invalidate(),
    "changed": lambda session: session.changed(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_stored_session_stays_what_it_was(engine, people, change):
    """No change of a stored session survives a failing request."""
    application = make_application(engine)
    browser = Browser(application)

    def begin(request):
        request.session.update(a=1, nested=[])
        request.session.flash("first")

    browser.visit(begin)
    before = application.row()
    cookie = browser.cookie
    for way in (
        raise_an_exception,
        doom_the_transaction,
        violate_a_constraint,
        refuse("tpc_vote", "~q"),
    ):
        response = visit_in_vain(browser, change, way)
        assert set_cookies(response) == []
    after = application.row()
    assert browser.cookie == cookie
    for name in dict(Full.__table__.columns):
        assert getattr(after, name) == getattr(before, name)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
def test_the_session_works_after_a_failed_request(engine, way, explicit):
    """After a request that failed the next one finds the session as it was."""
    browser = make_browser(engine, explicit=explicit)
    browser.visit(lambda request: request.session.update(n=1))
    visit_in_vain(browser, lambda session: session.update(n=10), way)

    def increment(request):
        request.session["n"] += 1
        return request.session["n"]

    assert browser.visit(increment).text == "2"


def test_an_exception_that_nobody_answers(engine):
    """Without an exception view the exception goes through, and nothing is stored."""
    application = Application(engine)
    browser = Browser(application)
    browser.fail(lambda request: request.session.update(a=1))
    assert application.rows() == []


def test_what_the_application_wrote_goes_as_well(browser, people):
    """A failing session takes the application's own changes with it."""

    class Unpicklable:
        def __reduce__(self):
            raise TypeError("not me")

    def view(request):
        request.dbsession.add(Person(name="Ann"))
        request.session["a"] = Unpicklable()

    response = browser.visit(view, status=500)
    assert set_cookies(response) == []
    assert people() == []
    assert browser.application.rows() == []


def test_a_bad_cookie_is_deleted_on_rollback_too(engine):
    """A cookie that cannot be read is deleted although the request fails."""
    browser = Browser(make_application(engine))
    browser.set_cookie("session", "nonsense")
    response = visit_in_vain(
        browser, lambda session: session.update(a=1), raise_an_exception
    )
    (header,) = set_cookies(response)
    assert header.startswith("session=;")
    assert "Max-Age=0" in header


def test_a_failing_response_varies_with_the_cookie(engine):
    """The response of a failed request that used the session says Vary: Cookie."""
    browser = Browser(make_application(engine))
    response = visit_in_vain(
        browser, lambda session: session.get("a"), raise_an_exception
    )
    assert "Cookie" in response.headers["Vary"]


# Doom.


def test_doom_in_a_view_is_silent(browser, caplog):
    """Dooming the transaction after the session was used logs nothing."""
    visit_in_vain(browser, lambda session: session.update(a=1), doom_the_transaction)
    assert logged(caplog, "WARNING") == logged(caplog, "ERROR") == []


def test_a_doomed_transaction_can_be_read_in(browser, caplog):
    """Reading a session in a transaction that was doomed before logs nothing."""
    browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        request.tm.doom()
        return request.session["a"]

    assert browser.visit(view).text == "1"
    assert logged(caplog, "WARNING") == []


# Test fixtures whose transaction nobody commits.


@pytest.fixture
def fixture_environ(engine):
    """The environ of the well-known fixture: a transaction that is never committed."""
    manager = explicit_manager(None)
    manager.begin()
    dbsession = sessionmaker(engine)()
    import zope.sqlalchemy

    zope.sqlalchemy.register(dbsession, transaction_manager=manager)
    yield {"tm.active": True, "tm.manager": manager, "app.dbsession": dbsession}
    manager.abort()
    dbsession.close()


def test_nobody_commits(engine, fixture_environ, caplog):
    """A transaction that nobody commits is warned about, once in a request."""
    application = Application(engine)
    browser = Browser(application, **fixture_environ)

    def view(request):
        request.session["a"] = 1
        request.session.flash("hello")

    response = browser.visit(view)
    assert set_cookies(response) == []
    (message,) = logged(caplog, "WARNING")
    assert "committed" in message
    assert application.rows() == []


def test_nobody_commits_a_read(engine, fixture_environ, caplog):
    """Reading in a transaction that nobody commits is not warned about."""
    browser = Browser(Application(engine), **fixture_environ)
    browser.visit(lambda request: request.session.get("a"))
    assert logged(caplog, "WARNING") == []


def test_a_fixture_that_commits(engine, fixture_environ, caplog):
    """A fixture that commits the transaction of the request stores the session."""
    application = Application(engine)
    browser = Browser(application, **fixture_environ)
    browser.visit(lambda request: request.session.update(a=1))
    fixture_environ["tm.manager"].commit()
    fixture_environ["tm.manager"].begin()
    assert len(application.rows()) == 1


def test_a_doomed_fixture(engine, fixture_environ, caplog):
    """A transaction that was doomed before the first use is warned about, once."""
    fixture_environ["tm.manager"].doom()
    application = Application(engine)
    browser = Browser(application, **fixture_environ)

    def view(request):
        request.session["a"] = 1
        request.session["b"] = 2

    response = browser.visit(view)
    assert set_cookies(response) == []
    (message,) = logged(caplog, "WARNING")
    assert "doomed" in message


def test_a_doomed_fixture_with_a_stored_session(engine, fixture_environ, caplog):
    """A change of a stored session in a doomed transaction is warned about, too."""
    application = Application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(a=1))
    fixture_environ["tm.manager"].doom()
    browser.extra_environ.update(fixture_environ)
    browser.visit(lambda request: request.session.update(a=2))
    (message,) = logged(caplog, "WARNING")
    assert "doomed" in message


# Several transactions in one request.


def test_two_transactions(engine):
    """What two transactions of one request write is in one session."""
    application = Application(engine)
    browser = Browser(application)

    def view(request):
        request.session["a"] = 1
        request.tm.commit()
        request.tm.begin()
        assert request.session["a"] == 1
        request.session["b"] = 2

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert len(application.rows()) == 1
    assert browser.visit(lambda request: dict(request.session)).text == str(
        {"a": 1, "b": 2}
    )


def test_two_transactions_of_the_thread_local_manager(engine):
    """The thread-local manager begins the second transaction by itself."""
    application = Application(engine, explicit=False)
    browser = Browser(application)

    def view(request):
        request.session["a"] = 1
        request.tm.commit()
        request.session["b"] = 2

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert browser.visit(lambda request: sorted(request.session)).text == "['a', 'b']"
    assert len(application.rows()) == 1


def test_the_second_transaction_fails(engine):
    """When the second transaction fails the first one is stored, cookie and all."""
    application = make_application(engine)
    browser = Browser(application)

    def view(request):
        request.session["a"] = 1
        request.tm.commit()
        request.tm.begin()
        request.session["b"] = 2
        raise Failure

    response = browser.visit(view, status=500)
    assert len(set_cookies(response)) == 1
    assert browser.visit(lambda request: dict(request.session)).text == "{'a': 1}"


def test_the_first_transaction_is_aborted(engine):
    """What an aborted first transaction wrote is gone in the second one."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        request.session["n"] = 10
        request.tm.abort()
        request.tm.begin()
        request.session["n"] += 1

    browser.visit(view)
    assert browser.visit(lambda request: request.session["n"]).text == "2"


def test_the_first_transaction_of_a_new_session_is_aborted(engine):
    """A new session that was aborted starts new in the second transaction."""
    application = make_application(engine)
    browser = Browser(application)

    def view(request):
        request.session["a"] = 1
        request.tm.abort()
        request.tm.begin()
        assert request.session.new
        assert "a" not in request.session
        request.session["b"] = 2

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert browser.visit(lambda request: dict(request.session)).text == "{'b': 2}"


def test_the_second_transaction_reloads(engine):
    """The second transaction sees what others wrote between the two."""
    application = make_application(engine)
    browser = Browser(application)
    other = Application(engine)
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        request.session["n"] += 1
        request.tm.commit()
        visitor = Browser(other)
        visitor.set_cookie("session", browser.cookie)
        visitor.visit(lambda request: request.session.update(n=100))
        request.tm.begin()
        request.session["n"] += 1

    browser.visit(view)
    assert browser.visit(lambda request: request.session["n"]).text == "101"


def test_a_session_that_ends_in_the_first_transaction(engine):
    """Invalidated in one transaction, the session is a new one in the next."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(a=1))
    old = application.row().id

    def view(request):
        request.session.invalidate()
        request.tm.commit()
        request.tm.begin()
        assert request.session.new
        request.session["b"] = 2

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert application.row().id != old
    assert browser.visit(lambda request: dict(request.session)).text == "{'b': 2}"


def test_a_session_that_ends_in_the_second_transaction(engine):
    """Made in one transaction and invalidated in the next, nothing is left."""
    application = make_application(engine)
    browser = Browser(application)

    def view(request):
        request.session["a"] = 1
        request.tm.commit()
        request.tm.begin()
        request.session.invalidate()

    browser.visit(view)
    assert application.rows() == []
    assert not browser.cookie


def test_rotated_in_both_transactions(engine):
    """A session that is rotated in both transactions sends the last cookie only."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(a=1))

    before, cookie = application.row(), browser.cookie
    renewal_ids = []

    def view(request):
        request.session.rotate()
        request.tm.commit()
        renewal_ids.append(application.row().renewal_id)
        request.tm.begin()
        request.session.rotate()

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    row = application.row()
    assert (row.id, row.rotated_from) == (before.id, *renewal_ids)
    assert row.renewal_id not in (None, *renewal_ids)
    assert browser.visit(lambda request: dict(request.session)).text == "{'a': 1}"
    assert not gives_access(application, cookie)


def test_between_two_transactions(engine):
    """What is written between two transactions of a request is stored, too."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        request.session["b"] = 2
        request.tm.commit()
        request.session["c"] = request.session["b"] + 1
        request.tm.begin()
        request.session["d"] = request.session["c"] + 1

    response = browser.visit(view)
    assert set_cookies(response) == []
    assert browser.visit(lambda request: dict(request.session)).text == str(
        {"a": 1, "b": 2, "c": 3, "d": 4}
    )


def test_between_two_transactions_of_a_new_session(engine):
    """A session that begins between two transactions is one session."""
    application = make_application(engine)
    browser = Browser(application)

    def view(request):
        request.tm.commit()
        request.session["a"] = 1
        request.tm.begin()
        request.session["b"] = 2

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert len(application.rows()) == 1
    assert browser.visit(lambda request: dict(request.session)).text == str(
        {"a": 1, "b": 2}
    )


def test_a_value_from_the_first_transaction(engine):
    """A mutable value that was handed out before belongs to the first transaction."""
    application = make_application(engine)
    browser = Browser(application)

    def view(request):
        cart = request.session.setdefault("cart", [])
        cart.append(1)
        request.tm.commit()
        request.tm.begin()
        request.session["cart"].append(2)

    browser.visit(view)
    assert browser.visit(lambda request: request.session["cart"]).text == "[1, 2]"


# What applications do to the dbsession.


@pytest.mark.parametrize("deed", ["expire_all", "expunge_all", "flush"])
@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
def test_nothing_is_lost_by(engine, deed, stored):
    """The dbsession may be flushed, and its objects expired or expunged."""
    application = Application(engine)
    browser = Browser(application)
    if stored:
        browser.visit(lambda request: request.session.update(nested=[0]))

    def view(request):
        request.session.setdefault("nested", [0]).append(1)
        request.session["a"] = 1
        getattr(request.dbsession, deed)()
        request.session["b"] = 2
        getattr(request.dbsession, deed)()

    browser.visit(view)
    assert browser.visit(lambda request: dict(request.session)).text == str(
        {"nested": [0, 1], "a": 1, "b": 2}
    )


@pytest.mark.parametrize("deed", ["expire_all", "expunge_all"])
def test_the_instance_may_be_expunged(engine, deed):
    """Nothing is lost either when the session's mapped object has been loaded."""
    application = Application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        assert request.session.instance.id
        request.session["a"] = 2
        getattr(request.dbsession, deed)()

    browser.visit(view)
    assert browser.visit(lambda request: request.session["a"]).text == "2"


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
def test_the_application_rolls_back(engine, stored):
    """The application's own rollback takes back what the session was told before it."""
    application = make_application(engine)
    browser = Browser(application)
    if stored:
        browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        request.session["b"] = 2
        # A rollback without a transaction is none, and nobody hears of it.
        request.dbsession.connection()
        request.dbsession.rollback()
        return sorted(request.session)

    text = browser.visit(view).text
    assert text == ("['a']" if stored else "[]")
    assert len(application.rows()) == stored
    assert browser.visit(lambda request: "b" in request.session).text == "False"


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
@pytest.mark.parametrize("deed", ["rollback", "close", "reset"])
def test_what_follows_a_rollback_is_never_lost_silently(engine, stored, deed):
    """What is written after the application's rollback is stored, or an error."""
    application = make_application(engine)
    browser = Browser(application)
    if stored:
        browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        request.session["b"] = 2
        getattr(request.dbsession, deed)()
        request.session["c"] = 3
        return Response("done")

    response = browser.visit(view, status="*")
    if response.status_int == 200:
        assert browser.visit(lambda request: request.session.get("c")).text == "3"
    else:
        assert set_cookies(response) == []
        assert len(application.rows()) == stored


def test_the_application_commits_itself(engine):
    """With a dbsession that is not joined the application may commit in the view."""
    # zope.sqlalchemy forbids it, and says so; the session makes no difference.
    application = make_application(engine)
    browser = Browser(application)

    def view(request):
        request.session["a"] = 1
        request.dbsession.connection()
        request.dbsession.commit()

    response = browser.visit(view, status=500)
    assert set_cookies(response) == []
    assert application.rows() == []


# Subrequests, and other second sessions.


def subrequest(request, path="/sub", *, share: bool, tweens: bool, cookie=True):
    """Invoke a subrequest, in the transaction of the outer one if ``share``."""
    sub = Request.blank(path)
    if cookie and "Cookie" in request.headers:
        sub.headers["Cookie"] = request.headers["Cookie"]
    if share:
        sub.environ["tm.active"] = True
        sub.environ["tm.manager"] = request.tm
        sub.environ["app.dbsession"] = request.dbsession
    return request.invoke_subrequest(sub, use_tweens=tweens)


def dispatch(outer, inner):
    """Return a view that calls ``inner`` in subrequests and ``outer`` otherwise."""
    return lambda request: (inner if request.path == "/sub" else outer)(request)


@pytest.mark.parametrize("tweens", [True, False], ids=["tweens", "no-tweens"])
def test_a_subrequest_adds_to_the_session(engine, tweens):
    """A subrequest in the same transaction adds to the outer one's values."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def outer(request):
        request.session["n"] += 1
        request.session["list"] = [1]
        subrequest(request, share=True, tweens=tweens)
        assert request.session["n"] == 12
        assert request.session["list"] == [1, 2]
        request.session["n"] += 100

    def inner(request):
        request.session["n"] += 10
        request.session["list"].append(2)

    response = browser.visit(dispatch(outer, inner))
    assert set_cookies(response) == []
    assert browser.visit(lambda request: dict(request.session)).text == str(
        {"n": 112, "list": [1, 2]}
    )


@pytest.mark.parametrize("tweens", [True, False], ids=["tweens", "no-tweens"])
def test_a_subrequest_with_a_dbsession_of_its_own(engine, tweens):
    """A subrequest that shares the transaction, but no dbsession, adds to it too."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def outer(request):
        request.session["n"] += 1
        sub = Request.blank("/sub", headers={"Cookie": request.headers["Cookie"]})
        sub.environ["tm.active"] = True
        sub.environ["tm.manager"] = request.tm
        request.invoke_subrequest(sub, use_tweens=tweens)
        request.session["n"] += 100

    def inner(request):
        request.session["n"] += 10

    response = browser.visit(dispatch(outer, inner))
    assert set_cookies(response) == []
    assert browser.ask(lambda session: session["n"]) == 112


def edit(session):
    with session.settings as settings:
        settings.renewal_timeout = 90


@pytest.mark.parametrize("renewal", [None, 60], ids=["plain", "renewal"])
@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.invalidate(),
        lambda session: session.rotate(),
        lambda session: setattr(session, "userid", 7),
        edit,
    ],
    ids=["invalidate", "rotate", "login", "settings"],
)
@pytest.mark.parametrize("persists", [True, False], ids=["persisted", "not-yet"])
def test_a_subrequest_with_the_cookie_of_before(
    engine, caplog, renewal, change, persists
):
    """The outer request has replaced it, in the same transaction: it's still good."""
    Everything.__table__.create(engine, checkfirst=True)
    application = make_application(engine, model=Everything, renewal_timeout=renewal)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def outer(request):
        session = request.session
        change(session)
        session["outer"] = 2
        if persists:
            session.persist()
        subrequest(request, share=True, tweens=False)
        assert session["inner"] == 3

    def inner(request):
        assert not request.session.is_late
        assert request.session["outer"] == 2
        request.session["inner"] = 3

    browser.visit(dispatch(outer, inner))
    stored = browser.ask(dict)
    assert stored.pop("n", 1) == 1
    assert stored == {"outer": 2, "inner": 3}
    assert len(application.rows()) == 1
    assert logged(caplog, "WARNING") == []


@pytest.mark.parametrize("tweens", [True, False], ids=["tweens", "no-tweens"])
def test_a_subrequest_fails_with_the_outer_request(engine, tweens):
    """What a subrequest wrote in the outer transaction is rolled back with it."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def outer(request):
        subrequest(request, share=True, tweens=tweens)
        raise Failure

    def inner(request):
        request.session["n"] = 10
        request.session.rotate()

    response = browser.visit(dispatch(outer, inner), status=500)
    assert set_cookies(response) == []
    assert browser.visit(lambda request: request.session["n"]).text == "1"
    assert application.row().renewal_id is None


def test_only_the_subrequest_uses_the_session(engine, caplog):
    """A session that only the subrequest uses is stored with the outer transaction."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def outer(request):
        subrequest(request, share=True, tweens=False)

    def inner(request):
        request.session["n"] = 10

    browser.visit(dispatch(outer, inner))
    assert browser.visit(lambda request: request.session["n"]).text == "10"
    assert logged(caplog, "WARNING") == []


@pytest.mark.parametrize("tweens", [True, False], ids=["tweens", "no-tweens"])
def test_the_response_of_a_subrequest_is_the_response(engine, tweens, caplog):
    """A new session of a subrequest sends its cookie when its response is used."""
    application = make_application(engine)
    browser = Browser(application)

    def outer(request):
        return subrequest(request, share=True, tweens=tweens)

    def inner(request):
        request.session["n"] = 10

    response = browser.visit(dispatch(outer, inner))
    assert len(set_cookies(response)) == 1
    assert browser.visit(lambda request: request.session["n"]).text == "10"
    assert logged(caplog, "WARNING") == []


@pytest.mark.parametrize("tweens", [True, False], ids=["tweens", "no-tweens"])
def test_a_subrequest_in_a_transaction_of_its_own(engine, tweens):
    """A subrequest that shares nothing stores its session if the outer one fails."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def outer(request):
        subrequest(request, share=False, tweens=tweens)
        raise Failure

    def inner(request):
        request.session["n"] += 1

    browser.visit(dispatch(outer, inner), status=500)
    assert browser.visit(lambda request: request.session["n"]).text == "2"


def test_a_conflict_with_a_subrequest(engine):
    """An outer request never overwrites what a subrequest stored on its own."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def outer(request):
        request.session["n"] += 1
        subrequest(request, share=False, tweens=True)

    def inner(request):
        request.session["n"] += 10

    response = browser.visit(dispatch(outer, inner), status="*")
    assert response.status_int == 500
    assert browser.visit(lambda request: request.session["n"]).text == "11"


def test_the_outer_request_goes_on_after_the_subrequest(engine):
    """First used after a subrequest that committed, the session has its values."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))

    def outer(request):
        subrequest(request, share=False, tweens=True)
        request.session["n"] += 1

    def inner(request):
        request.session["n"] += 10

    browser.visit(dispatch(outer, inner))
    assert browser.visit(lambda request: request.session["n"]).text == "12"


def second_session(request):
    """Return another session of the same request."""
    return request.registry.getUtility(ISessionFactory)(request)


def test_a_value_becomes_unpicklable(engine):
    """A session that cannot be pickled fails the request, but opens no leak."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(nested=[]))

    def view(request):
        request.session["nested"].append(lambda: None)

    response = browser.visit(view, status=500)
    assert set_cookies(response) == []
    assert engine.pool.checkedout() == 0
    assert browser.visit(lambda request: request.session["nested"]).text == "[]"


def test_two_sessions_on_one_row(engine):
    """Two session objects on one row see and add to each other's values."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1, nested=[]))

    def view(request):
        one, two = request.session, second_session(request)
        one["n"] += 1
        two["n"] += 1
        assert one["n"] == 3
        one["nested"].append(1)
        two["nested"].append(2)
        one.flash("one")
        two.flash("two")
        two.userid = 5
        assert one.userid == 5

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    row = application.row()
    assert (row.version, row.userid) == (2, 5)
    assert browser.visit(
        lambda request: [dict(request.session), request.session.pop_flash()]
    ).text == str([{"n": 3, "nested": [1, 2]}, ["one", "two"]])


def test_one_of_two_sessions_is_invalidated(engine):
    """When one of two session objects on a row is invalidated, both are new."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))
    old = application.row().id

    def view(request):
        one, two = request.session, second_session(request)
        assert two["n"] == 1
        one.invalidate()
        assert two.new
        assert "n" not in two

    browser.visit(view)
    assert application.rows() == []
    assert not browser.cookie

    def write(request):
        two = second_session(request)
        assert two.new
        two["a"] = 1

    browser.visit(write)
    assert application.row().id != old


def test_a_second_session_writes_after_an_invalidation(engine):
    """What another session object writes after an invalidation is a new session's."""
    application = make_application(engine)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))
    old = application.row().id

    def view(request):
        one, two = request.session, second_session(request)
        assert two["n"] == 1
        one.invalidate()
        two["a"] = 1

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert application.row().id != old
    assert browser.visit(lambda request: dict(request.session)).text == "{'a': 1}"


# The application's own data, with the session's.


def test_both_are_committed(browser, people):
    """The session and the application's data are stored by one commit."""

    def view(request):
        request.dbsession.add(Person(name="Ann"))
        request.session["a"] = 1

    browser.visit(view)
    assert people() == ["Ann"]
    assert len(browser.application.rows()) == 1


def test_a_constraint_fails_in_the_view(browser, people):
    """The session survives an IntegrityError that the view caught in a savepoint."""

    def view(request):
        request.session["a"] = 1
        request.dbsession.add(Person(name="Ann"))
        request.dbsession.flush()
        try:
            with request.dbsession.begin_nested():
                request.dbsession.add(Person(name="Ann"))
        except IntegrityError:
            request.session["b"] = 2

    browser.visit(view)
    assert people() == ["Ann"]
    assert browser.visit(lambda request: dict(request.session)).text == str(
        {"a": 1, "b": 2}
    )


@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_two_phase_commit(engine):
    """A dbsession with two-phase commit stores sessions, new and loaded ones."""

    def make(request, manager):
        import zope.sqlalchemy

        dbsession = Session(engine, twophase=True)
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        return dbsession

    application = Application(engine, make_dbsession=make)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))
    browser.visit(lambda request: request.session.update(n=2))
    assert browser.visit(lambda request: request.session["n"]).text == "2"


def test_a_dbsession_that_is_kept(engine):
    """zope.sqlalchemy's keep_session makes no difference."""
    import zope.sqlalchemy

    def make(request, manager):
        dbsession = Session(engine)
        zope.sqlalchemy.register(
            dbsession, transaction_manager=manager, keep_session=True
        )
        request.add_finished_callback(lambda request: dbsession.close())
        return dbsession

    application = make_application(engine, make_dbsession=make)
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))
    visit_in_vain(browser, lambda session: session.update(n=2), raise_an_exception)
    visit_in_vain(browser, lambda session: session.update(n=2), doom_the_transaction)
    assert browser.visit(lambda request: request.session["n"]).text == "1"
    browser.visit(lambda request: request.session.update(n=3))
    assert browser.visit(lambda request: request.session["n"]).text == "3"


def test_a_scoped_dbsession(engine):
    """A scoped_session may be what request.dbsession is."""
    import zope.sqlalchemy
    from sqlalchemy.orm import scoped_session

    registry = scoped_session(sessionmaker(engine))
    zope.sqlalchemy.register(registry)

    application = make_application(
        engine, explicit=False, make_dbsession=lambda request, manager: registry
    )
    browser = Browser(application)
    browser.visit(lambda request: request.session.update(n=1))
    visit_in_vain(browser, lambda session: session.update(n=2), raise_an_exception)
    assert browser.visit(lambda request: request.session["n"]).text == "1"
    registry.remove()
    transaction.abort()


def test_a_dbsession_that_nobody_joins(engine, caplog):
    """With a dbsession that is in no transaction nothing is lost silently."""

    def make(request, manager):
        dbsession = Session(engine)
        request.add_finished_callback(lambda request: dbsession.close())
        return dbsession

    browser = Browser(make_application(engine, make_dbsession=make))
    response = browser.visit(lambda request: request.session.update(n=1), status="*")
    if response.status_int == 200:
        assert len(browser.application.rows()) == 1
    else:
        assert set_cookies(response) == []
        assert browser.application.rows() == []


def test_a_dbsession_that_is_joined_to_another_manager(engine, caplog):
    """With a dbsession in another manager's transaction nothing is lost silently."""
    import zope.sqlalchemy

    def make(request, manager):
        dbsession = Session(engine)
        zope.sqlalchemy.register(dbsession)  # to the thread-local manager
        return dbsession

    browser = Browser(make_application(engine, make_dbsession=make))
    transaction.begin()
    response = browser.visit(lambda request: request.session.update(n=1), status="*")
    transaction.abort()
    if browser.application.rows() == []:
        assert set_cookies(response) == [] or logged(caplog, "ERROR")
    transaction.abort()


# Hooks of the transaction.


@pytest.mark.parametrize("used", ["before", "after", "not"])
@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
def test_writing_in_a_before_commit_hook(engine, used, stored):
    """What a before-commit hook of the application writes is stored."""
    browser = Browser(make_application(engine))
    if stored:
        browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        if used == "before":
            request.session["view"] = 1
        request.tm.get().addBeforeCommitHook(lambda: request.session.update(hook=1))
        if used == "after":
            request.session["view"] = 1

    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    expected = {"a": 1} if stored else {}
    expected |= {"view": 1} if used != "not" else {}
    assert browser.ask(dict) == {**expected, "hook": 1}


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
def test_writing_in_an_after_commit_hook(engine, stored):
    """What an after-commit hook of the application writes is stored."""
    browser = Browser(make_application(engine))
    if stored:
        browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        request.session["view"] = 1
        request.tm.get().addAfterCommitHook(
            lambda success: request.session.update(hook=success)
        )

    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    assert len(browser.application.rows()) == 1
    assert browser.ask(lambda session: (session["view"], session["hook"])) == (1, True)


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_writing_while_the_commit_flushes(engine, people, used):
    """What is written while the commit flushes is stored, or it is an error."""
    browser = Browser(make_application(engine))
    browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        if used:
            request.session["view"] = 1

        def before_flush(dbsession, context, instances):
            request.session["flush"] = 1

        event.listen(request.dbsession, "before_flush", before_flush)
        request.dbsession.add(Person(name="Ann"))

    response = browser.visit(view, status="*")
    if response.status_int == 200:
        assert browser.ask(lambda session: session["flush"]) == 1
        assert people() == ["Ann"]
    else:
        assert people() == []
        assert browser.ask(dict) == {"a": 1}


def test_a_transaction_with_the_manager_as_context(engine):
    """A view may run a transaction of its own with the thread-local manager."""
    browser = Browser(make_application(engine, explicit=False))
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        request.session["n"] = 100  # which begin() aborts
        with request.tm:
            request.session["n"] += 1
        request.session["n"] += 1

    browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 3


def test_the_manager_tries_again_by_itself(engine):
    """transaction's own attempts start from the database again, too."""
    browser = Browser(make_application(engine, explicit=False))
    browser.visit(lambda request: request.session.update(n=1))
    tries = []

    def view(request):
        for attempt in request.tm.attempts():
            with attempt:
                tries.append(request.session["n"])
                request.session["n"] += 1
                if len(tries) < 3:
                    raise transaction.interfaces.TransientError

    browser.visit(view)
    assert tries == [1, 1, 1]
    assert browser.ask(lambda session: session["n"]) == 2
