"""pyramid_retry: every attempt starts from the database, and the last one counts."""

from __future__ import annotations

from copy import deepcopy

import pytest
from pyramid.response import Response
from pyramid_retry import RetryableException, mark_error_retryable
from sqlalchemy import ForeignKey, Integer, String, text
from sqlalchemy.orm import mapped_column, relationship
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool

from pyramid_sqlalchemy_sessions import BaseMixin, UseridMixin
from tests.application import Application, Base, Browser, statements
from tests.stories.transactions import (
    Refuser,
    all_of,
    elsewhere,
    exception_view,
    logged,
    set_cookies,
    tween_above,
)

ATTEMPTS = 3


class Owner(Base):
    """The user that a session belongs to."""

    __tablename__ = "retry_owner"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)
    name = mapped_column(String(50))


class Owned(UseridMixin, BaseMixin, Base):
    """A session whose user arrives in the same statement."""

    __tablename__ = "retry_owned_session"
    userid = mapped_column(ForeignKey(Owner.id))
    user = relationship(Owner, lazy="joined")


def include(config):
    """Let pyramid_retry run the requests."""
    config.include("pyramid_retry")


def visitor(engine, answer=None, *, stored=True, context=RetryableException, **kw):
    """Return a browser of an application with pyramid_retry."""
    configure = include
    if answer is not None:
        configure = all_of(include, exception_view(answer, context))
    application = Application(
        engine, settings={"retry.attempts": ATTEMPTS}, configure=configure, **kw
    )
    browser = Browser(application)
    if stored:
        browser.visit(lambda request: request.session.update(n=1, nested=[0]))
    return browser


def attempt(request) -> int:
    """Return the number of the attempt, from 1 on."""
    return request.environ["retry.attempt"] + 1


def as_another(browser, view):
    """Visit with the same cookie, another application and in another thread."""
    rival = Browser(Application(browser.application.engine, browser.application.model))
    rival.set_cookie("session", browser.cookie)
    return elsewhere(rival.visit, view)


new_and_stored = pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])


@new_and_stored
def test_every_attempt_starts_from_the_database(engine, stored):
    """An attempt sees nothing of what the ones before it changed."""
    seen = []

    def view(request):
        session = request.session
        seen.append((session.new, deepcopy(dict(session)), session.peek_flash()))
        session["n"] = session.get("n", 0) + 1
        session.setdefault("nested", [0]).append(attempt(request))
        session.flash("message")
        if attempt(request) < ATTEMPTS:
            raise RetryableException

    browser = visitor(engine, stored=stored)
    response = browser.visit(view)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert seen == [(not stored, base, [])] * ATTEMPTS
    assert len(set_cookies(response)) == (not stored)
    assert browser.ask(dict) == {"n": 1 + stored, "nested": [0, ATTEMPTS]}
    assert browser.ask(lambda session: session.peek_flash()) == ["message"]
    assert len(browser.application.rows()) == 1


@new_and_stored
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
def test_exactly_one_cookie(engine, stored, explicit):
    """A login that is tried several times sends one cookie, which is valid."""

    def view(request):
        request.session.userid = 5
        if attempt(request) < ATTEMPTS:
            raise RetryableException

    browser = visitor(engine, stored=stored, explicit=explicit)
    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert len(browser.application.rows()) == 1
    assert browser.ask(lambda session: session.userid) == 5


def test_one_deletion_of_a_bad_cookie(engine):
    """A cookie that cannot be read is deleted once, however many attempts there are."""

    def view(request):
        assert request.session.new
        if attempt(request) < ATTEMPTS:
            raise RetryableException

    browser = visitor(engine, stored=False)
    browser.set_cookie("session", "nonsense")
    assert len(set_cookies(browser.visit(view))) == 1


@pytest.mark.parametrize("deed", ["invalidate", "rotate"])
def test_only_the_last_attempt_ends_the_session(engine, deed):
    """A session that a discarded attempt invalidated or rotated is what it was."""

    def view(request):
        if attempt(request) < ATTEMPTS:
            getattr(request.session, deed)()
            raise RetryableException

    browser = visitor(engine)
    before = browser.application.row().id
    assert set_cookies(browser.visit(view)) == []
    assert browser.application.row().id == before


@new_and_stored
def test_the_exception_view_of_a_discarded_attempt(engine, stored):
    """What the exception view of a discarded attempt changed is not stored."""

    def answer(request):
        request.session.flash(f"attempt {attempt(request)}")
        request.session["answer"] = attempt(request)

    def view(request):
        if attempt(request) < ATTEMPTS:
            raise RetryableException
        request.session["view"] = attempt(request)

    browser = visitor(engine, answer, stored=stored)
    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "view": ATTEMPTS}
    assert browser.ask(lambda session: session.peek_flash()) == []
    assert len(browser.application.rows()) == 1


@new_and_stored
def test_the_exception_view_of_the_last_attempt(engine, stored):
    """When every attempt fails, what the last exception view changed is stored."""

    def answer(request):
        request.session.flash(f"attempt {attempt(request)}")

    def view(request):
        request.session["view"] = 1
        raise RetryableException

    browser = visitor(engine, answer, stored=stored)
    response = browser.visit(view, status=500)
    assert len(set_cookies(response)) == (not stored)
    assert browser.ask(lambda session: session.peek_flash()) == [f"attempt {ATTEMPTS}"]
    assert "view" not in browser.ask(dict)
    assert len(browser.application.rows()) == 1


def test_the_exception_view_of_an_error_that_cannot_be_retried(engine):
    """An exception view of another error is stored at the first attempt."""

    def answer(request):
        request.session.flash(f"attempt {attempt(request)}")

    def view(request):
        raise ValueError

    browser = visitor(engine, answer, context=ValueError)
    browser.visit(view, status=500)
    assert browser.ask(lambda session: session.peek_flash()) == ["attempt 1"]


def test_the_exception_view_of_an_error_that_pyramid_tm_tags(engine):
    """An exception view's changes are dropped when pyramid_tm tags the error."""

    def answer(request):
        request.session.flash(f"attempt {attempt(request)}")

    def view(request):
        # zope.sqlalchemy's data manager knows this error.
        request.dbsession.connection()
        if attempt(request) < ATTEMPTS:
            raise StaleDataError
        return Response("done")

    browser = visitor(engine, answer, context=StaleDataError)
    assert browser.visit(view).text == "done"
    assert browser.ask(lambda session: session.peek_flash()) == []


# Conflicts.


def increment(request):
    """Raise the counter."""
    request.session["n"] += 1


def raced(browser, attempts=1):
    """Return a view to which another request gets ahead in the first attempts."""

    def view(request):
        increment(request)
        if attempt(request) <= attempts:
            as_another(browser, increment)

    return view


def test_a_conflict_is_tried_again(engine):
    """A request that would overwrite another one's write is run again on top of it."""
    browser = visitor(engine)
    response = browser.visit(raced(browser))
    assert set_cookies(response) == []
    assert browser.ask(lambda session: session["n"]) == 3


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
def test_a_conflict_is_tried_again_and_again(engine, explicit):
    """Conflicts in all attempts but the last one are survived."""
    browser = visitor(engine, explicit=explicit)
    if engine.dialect.name == "sqlite":
        browser.visit(raced(browser, ATTEMPTS - 1))
        assert browser.ask(lambda session: session["n"]) == 1 + ATTEMPTS
    else:
        # The second attempt holds a lock: nobody gets ahead of it.
        browser.visit(raced(browser))
        assert browser.ask(lambda session: session["n"]) == 3


def test_a_conflict_without_attempts_left(engine):
    """Without pyramid_retry a conflict is an error, and nothing is overwritten."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        increment(request)
        as_another(browser, increment)

    with pytest.raises(StaleDataError):
        browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 2


@pytest.mark.parametrize(
    "rival",
    [
        lambda request: request.session.flash("other"),
        lambda request: request.session.update(other=1),
        lambda request: setattr(request.session, "userid", 5),
        lambda request: request.session.get_csrf_token(),
        lambda request: request.session.changed(),
    ],
    ids=["flash", "update", "login", "csrf", "changed"],
)
def test_every_write_is_a_conflict(engine, rival):
    """Whatever the other request wrote, a write on top of it is refused."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        increment(request)
        as_another(browser, rival)

    with pytest.raises(StaleDataError):
        browser.visit(view)
    assert browser.application.rows()[0].version == 2


@pytest.mark.parametrize(
    "deed",
    [
        lambda request: request.session.flash("own"),
        lambda request: request.session.invalidate(),
        lambda request: request.session.rotate(),
        lambda request: setattr(request.session, "userid", 5),
        lambda request: request.session.changed(),
        lambda request: request.session["nested"].append(1),
    ],
    ids=["flash", "invalidate", "rotate", "login", "changed", "nested"],
)
def test_every_write_notices_a_conflict(engine, deed):
    """Whatever a request writes, it is refused when another one was faster."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(n=1, nested=[0]))
    before = browser.application.row().id

    def view(request):
        deed(request)
        as_another(browser, increment)

    with pytest.raises(StaleDataError):
        browser.visit(view)
    row = browser.application.row()
    assert (row.id, row.version) == (before, 2)
    assert browser.ask(lambda session: session["n"]) == 2


def test_a_read_is_no_conflict(engine):
    """A request that only read is not refused when another one wrote."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        as_another(browser, increment)
        return request.session["n"]

    def late(request):
        before = request.session["n"]
        as_another(browser, increment)
        return before

    browser.visit(view)
    browser.visit(late)
    assert browser.ask(lambda session: session["n"]) == 3


@pytest.mark.parametrize("deed", ["invalidate", "rotate"])
def test_a_session_that_ended_meanwhile_does_not_come_back(engine, deed):
    """A write to a session that another request ended meanwhile never revives it."""
    browser = visitor(engine)
    before = browser.application.row().id

    def view(request):
        request.session["view"] = attempt(request)
        if attempt(request) == 1:
            as_another(browser, lambda request: getattr(request.session, deed)())

    browser.visit(view)
    assert before not in [row.id for row in browser.application.rows()]


def test_both_requests_log_out(engine):
    """Two requests that end the same session do not conflict."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        request.session.invalidate()
        as_another(browser, lambda request: request.session.invalidate())

    browser.visit(view)
    assert browser.application.rows() == []
    assert not browser.cookie


# What a conflict leaves behind.


def idle_in_transaction(engine) -> int:
    """Return how many of the test's connections to PostgreSQL are in a transaction."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        " AND datname = current_database() AND application_name = 'pss retries'"
    )
    with engine.connect() as connection:
        return connection.scalar(text(query))


@pytest.mark.parametrize("retry", [False, True], ids=["no-retry", "retry"])
@pytest.mark.parametrize("catch_all", [False, True], ids=["no-view", "catch-all"])
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
def test_a_conflict_leaves_nothing_open(engine, retry, catch_all, explicit):
    """After a conflict no connection is in use, and no lock is held."""
    configure = [include] if retry else []
    if catch_all:
        configure.append(exception_view(lambda request: "sorry", Exception))
    browser = Browser(
        Application(engine, explicit=explicit, configure=all_of(*configure))
    )
    browser.visit(lambda request: request.session.update(n=1))
    tried = []

    def view(request):
        tried.append(request)
        increment(request)
        if len(tried) == 1:
            as_another(browser, increment)

    try:
        browser.visit(view, status="*")
    except StaleDataError:
        assert not retry
    assert engine.pool.checkedout() == 0
    as_another(browser, increment)
    assert browser.ask(lambda session: session["n"]) >= 3


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_conflict_leaves_no_idle_transaction(engine, make_story_engine):
    """After a conflict no connection of PostgreSQL's is idle in a transaction."""
    named = make_story_engine(connect_args={"application_name": "pss retries"})
    browser = visitor(named)
    browser.visit(raced(browser))
    assert browser.ask(lambda session: session["n"]) == 3
    assert idle_in_transaction(engine) == 0


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_conflict_leaves_no_lock(engine, make_story_engine):
    """After a conflict SQLite's file is not locked."""
    browser = visitor(engine)
    browser.visit(raced(browser))
    impatient = make_story_engine(poolclass=NullPool)
    with impatient.connect() as connection:
        connection.execute(text("PRAGMA busy_timeout = 0"))
        connection.execute(text("BEGIN EXCLUSIVE"))
        connection.rollback()


def test_the_commit_of_another_data_manager_is_tried_again(engine):
    """A retryable error of another data manager has the session tried again, too."""

    class Conflict(Exception):
        pass

    mark_error_retryable(Conflict)

    def view(request):
        increment(request)
        if attempt(request) == 1:
            request.tm.get().join(Refuser("tpc_vote", "~q", Conflict))

    browser = visitor(engine)
    browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 2


# The second attempt locks the row.


def locking(executed) -> list[bool]:
    """Return which of the SELECTs on a session's table lock the row."""
    return [
        "FOR UPDATE" in each
        for each in executed
        if each.startswith("SELECT") and "session" in each
    ]


def test_the_second_attempt_locks_the_row(engine):
    """From the second attempt on the row is loaded FOR UPDATE, except on SQLite."""
    browser = visitor(engine)

    def view(request):
        increment(request)
        if attempt(request) < ATTEMPTS:
            raise RetryableException

    with statements(engine) as executed:
        browser.visit(view)
    has_locks = engine.dialect.name != "sqlite"
    assert locking(executed) == [False] + [has_locks] * (ATTEMPTS - 1)


def test_an_eager_relationship_is_not_locked(engine):
    """The session's row alone is locked, also when its user is loaded with it."""
    Base.metadata.create_all(engine)
    browser = visitor(engine, model=Owned)
    names = []

    def view(request):
        user = request.session.instance.user
        names.append(user and user.name)
        increment(request)
        if attempt(request) < ATTEMPTS:
            raise RetryableException

    with statements(engine) as executed:
        browser.visit(view)
    assert names == [None] * ATTEMPTS
    if engine.dialect.name == "postgresql":
        assert "FOR UPDATE OF" in executed[1]
    assert browser.ask(lambda session: session["n"]) == 2


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"], indirect=True)
def test_nobody_gets_ahead_of_the_second_attempt(engine):
    """While the second attempt runs, other requests wait until it has committed."""
    browser = visitor(engine)
    rival = Browser(Application(engine))
    rival.set_cookie("session", browser.cookie)
    refused = []

    def try_to_lock():
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
                query = "SELECT id FROM full_session FOR UPDATE"
            else:
                query = "SELECT id FROM full_session FOR UPDATE NOWAIT"
            try:
                connection.execute(text(query))
            except Exception as error:
                refused.append(error)

    def view(request):
        increment(request)
        elsewhere(try_to_lock)
        if attempt(request) == 1:
            assert refused == []
            raise RetryableException

    browser.visit(view)
    assert len(refused) == 1
    assert browser.ask(lambda session: session["n"]) == 2


def test_a_tween_above_is_tried_again(engine, caplog):
    """What a tween above pyramid_tm changed in a discarded attempt goes silently."""

    def tween(handler, request):
        increment(request)
        response = handler(request)
        increment(request)
        return response

    def view(request):
        increment(request)
        if attempt(request) < ATTEMPTS:
            raise RetryableException

    browser = visitor(engine)
    application = Application(
        engine,
        settings={"retry.attempts": ATTEMPTS},
        configure=all_of(include, tween_above(tween)),
    )
    second = Browser(application)
    second.set_cookie("session", browser.cookie)
    second.visit(view)
    assert browser.ask(lambda session: session["n"]) == 4
    assert logged(caplog, "ERROR") == []
