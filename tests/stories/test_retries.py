"""pyramid_retry: every attempt starts from the database, and the last one counts."""

from __future__ import annotations

from copy import deepcopy

import pytest
from pyramid.response import Response
from pyramid_retry import RetryableException, mark_error_retryable
from sqlalchemy import ForeignKey, Integer, String, create_engine, event, text
from sqlalchemy.exc import DBAPIError
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
    before = browser.application.row()
    assert set_cookies(browser.visit(view)) == []
    row = browser.application.row()
    assert (row.id, row.renewal_id) == (before.id, before.renewal_id)
    assert (row.rotated, row.version) == (None, 1)


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
def test_a_second_conflict_is_impossible(engine, explicit):
    """The second attempt holds a lock: no other request gets ahead of it."""
    browser = visitor(engine, explicit=explicit)
    blocked = []

    def view(request):
        increment(request)
        if attempt(request) == 1:
            as_another(browser, increment)
        else:
            with impatient(engine).connect() as connection:
                try:
                    connection.execute(text("UPDATE full_session SET version = 1"))
                except DBAPIError:
                    blocked.append(attempt(request))
            connection.engine.dispose()

    browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 3
    assert blocked == [2]


def impatient(engine):
    """Return another engine on the database, on which no statement waits for a lock."""
    setting = {
        "sqlite": "PRAGMA busy_timeout = 0",
        "postgresql": "SET lock_timeout = 50",
        "mysql": "SET SESSION innodb_lock_wait_timeout = 1",
    }[engine.dialect.name]
    other = create_engine(engine.url, poolclass=NullPool)

    @event.listens_for(other, "connect")
    def connect(connection, record):
        cursor = connection.cursor()
        cursor.execute(setting)
        cursor.close()
        connection.commit()

    return other


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


#: What requests do, and which of them meet: all others are merged.
DEEDS = {
    "increment": increment,
    "assign": lambda request: request.session.update(n=5),
    "other key": lambda request: request.session.update(other=1),
    "another key": lambda request: request.session.update(another=1),
    "nested": lambda request: request.session["nested"].append(1),
    "list": lambda request: request.session.update(seen=[*request.session]),
    "clear": lambda request: request.session.clear(),
    "flash": lambda request: request.session.flash("message"),
    "flash once": lambda request: request.session.flash("message", "", False),
    "other queue": lambda request: request.session.pop_flash("queue"),
    "login": lambda request: setattr(request.session, "userid", 5),
    "csrf": lambda request: request.session.new_csrf_token(),
    "rotate": lambda request: request.session.rotate(),
    "changed": lambda request: request.session.changed(),
}

#: Those of another request that the deed of the slower one doesn't fit.
CLASHES = {
    "increment": {"increment", "assign", "clear"},
    "assign": {"increment", "assign", "clear"},
    "other key": {"other key"},
    "another key": {"another key"},
    "nested": {"nested", "clear"},
    "list": {
        "increment",
        "assign",
        "other key",
        "another key",
        "nested",
        "list",
        "clear",
    },
    "clear": {
        "increment",
        "assign",
        "other key",
        "another key",
        "nested",
        "list",
        "clear",
    },
    "flash": set(),
    "flash once": {"flash", "flash once"},
    "other queue": {"other queue"},
    "login": {"csrf", "rotate"},
    "csrf": {"csrf", "rotate"},
    "rotate": {"csrf", "rotate"},
    # It conflicts with every write.
    "changed": DEEDS.keys(),
}


@pytest.mark.parametrize("late", DEEDS)
@pytest.mark.parametrize("quick", DEEDS)
def test_only_what_meets_is_a_conflict(engine, quick, late):
    """A write is refused if what it read or wrote was changed, and merged if not."""
    browser = Browser(Application(engine))

    def begin(request):
        request.session.update(n=1, nested=[0])
        request.session.flash("first", "queue")
        request.session.get_csrf_token()

    browser.visit(begin)
    before = browser.application.row()

    def view(request):
        DEEDS[late](request)
        as_another(browser, DEEDS[quick])

    # The user is always looked at.
    clashes = CLASHES[late] | {"login"}
    if quick in clashes:
        with pytest.raises(StaleDataError):
            browser.visit(view)
        assert browser.application.row().version == 2
    else:
        browser.visit(view)
        row = browser.application.row()
        assert (row.id, row.version) == (before.id, 3)


def stored(browser):
    """Return what is stored, as a session with this cookie finds it."""
    return browser.ask(lambda s: (dict(s), s.peek_flash(), s.peek_flash("queue")))


def test_what_is_merged_is_all_there(engine):
    """Both requests' keys, messages and tokens are stored, each in its own order."""
    browser = Browser(Application(engine))

    def begin(request):
        request.session.update(moved=1, n=1, nested=[0], gone=1, both=1)
        request.session.flash("first")
        request.session.flash("first", "queue")

    def rival(request):
        request.session["n"] = 2
        request.session["rival"] = 1
        del request.session["both"]
        request.session.flash("rival")
        request.session.pop_flash("queue")

    def view(request):
        request.session["nested"].append(1)
        del request.session["gone"]
        request.session["own"] = 1
        request.session["moved"] = request.session.pop("moved")
        request.session.flash("own")
        request.session.get_csrf_token()
        as_another(browser, rival)

    browser.visit(begin)
    browser.visit(view)
    data, messages, queue = stored(browser)
    assert data == {"n": 2, "nested": [0, 1], "rival": 1, "own": 1, "moved": 1}
    assert [*data] == ["n", "nested", "rival", "own", "moved"]
    assert messages == ["first", "rival", "own"]
    assert queue == []
    assert browser.application.row().csrf_token is not None


def test_an_end_wins_over_a_write(engine):
    """A request that ends the session is not refused, whatever others wrote."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        request.session["n"] += 1
        request.session.invalidate()
        as_another(browser, increment)

    browser.visit(view)
    assert browser.application.rows() == []
    assert not browser.cookie


@pytest.mark.parametrize("rival", ["rotate", "login"])
def test_an_end_wins_over_a_new_cookie(engine, rival):
    """A logout under way while the cookie is replaced ends the session all the same."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(n=1))

    def view(request):
        request.session.invalidate()
        as_another(browser, DEEDS[rival])

    browser.visit(view)
    assert browser.application.rows() == []


@pytest.mark.parametrize(
    "deed", ["increment", "nested", "flash", "login", "csrf", "rotate", "changed"]
)
def test_a_write_does_not_bring_back_a_session(engine, deed):
    """Whatever a request writes, it is refused when another one ended the session."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(n=1, nested=[0]))

    def view(request):
        DEEDS[deed](request)
        as_another(browser, lambda request: request.session.invalidate())

    with pytest.raises(StaleDataError):
        browser.visit(view)
    assert browser.application.rows() == []


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


def test_a_session_that_ended_meanwhile_does_not_come_back(engine):
    """A write to a session that another request ended starts a new one."""
    browser = visitor(engine)
    before = browser.application.row().id

    def view(request):
        request.session["view"] = attempt(request)
        if attempt(request) == 1:
            as_another(browser, lambda request: request.session.invalidate())

    browser.visit(view)
    assert browser.application.row().id != before
    assert browser.ask(dict) == {"view": 2}


@pytest.mark.parametrize("deed", ["rotate", "login"])
def test_an_attempt_after_a_new_cookie_comes_too_late(engine, deed, caplog):
    """Tried again after a rotation, a request finds an empty session and stores none.

    However short the grace is: the cookie was good when the request came.
    """
    caplog.set_level("INFO")
    browser = visitor(engine, renewal_grace=0)
    before = browser.application.row()
    found = []

    def view(request):
        session = request.session
        found.append((session.is_late, session.get("n")))
        session["n"] = session.get("n", 0) + 1
        if attempt(request) == 1:
            as_another(browser, DEEDS[deed])
            raise RetryableException

    response = browser.visit(view)
    assert set_cookies(response) == []
    assert found == [(False, 1), (True, None)]
    row = browser.application.row()
    assert (row.id, row.data, row.version) == (before.id, before.data, 2)
    assert len(logged(caplog, "INFO")) == 1


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
