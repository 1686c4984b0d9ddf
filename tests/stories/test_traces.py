"""The panel and the log tell what became of what a request did with its session."""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import sys

import pytest
import zope.sqlalchemy
from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.httpexceptions import HTTPForbidden, HTTPSeeOther
from pyramid.request import Request
from pyramid.response import Response
from pyramid_retry import RetryableException
from sqlalchemy.orm import Session

import pyramid_sqlalchemy_sessions.debugtoolbar as panel_module
from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    ConfigurationError,
    EncryptedDataMixin,
    FullyFeaturedSession,
    TransactionRequiredError,
    later,
)
from pyramid_sqlalchemy_sessions.trace import MOST_CHANGES
from tests.application import Application, Base, Browser, Failure, Full, statements
from tests.features.timed import use_cookie, visit_meanwhile
from tests.stories.transactions import (
    Refuser,
    all_of,
    exception_view,
    logged,
    plain_dbsession,
    tween_above,
)

pytest.importorskip("pyramid_debugtoolbar")

PANEL = "pyramid_sqlalchemy_sessions.debugtoolbar"
TRACE = "pyramid_sqlalchemy_sessions.trace"


class Rich(FullyFeaturedSession, Base):
    """A session with every feature."""

    __tablename__ = "traced_session"


class Encrypted(EncryptedDataMixin, BaseMixin, Base):
    """A session whose data is encrypted."""

    __tablename__ = "traced_encrypted_session"


class Sealed(FullyFeaturedSession, EncryptedDataMixin, Base):
    """The same, with all the features of 0.1.0."""

    __tablename__ = "traced_and_sealed_session"


def include(config):
    """Include the panel."""
    config.include(PANEL)


class Developer(Browser):
    """A browser on the machine of the application, with the toolbar."""

    def __init__(self, engine, *configures, model=Full, **kw):
        configure = all_of(include, *configures)
        model.__table__.create(engine, checkfirst=True)
        super().__init__(
            Application(engine, model, configure=configure, **kw),
            REMOTE_ADDR="127.0.0.1",
        )

    @property
    def panel(self):
        """The panel of the last request, as the toolbar has it in its page."""
        ((request_id, _),) = self.application.registry.pdtb_history.last(1)
        page = self.get(f"/_debug_toolbar/{request_id}").html
        return page.find(id="pDebugPanel-stored_session-content")

    @property
    def story(self) -> list[str]:
        """What happened in the last request, each line with its label."""
        rows = self.panel.select("tbody tr")
        cells = [[_text(each) for each in row.find_all(["th", "td"])] for row in rows]
        return [": ".join(filter(None, row[:2])) for row in cells]

    def line_of(self, text: str) -> str:
        """Return which line of the application did it."""
        (row,) = (each for each in self.panel.select("tbody tr") if text in each.text)
        return _text(row.find_all("td")[-1])


def _text(element) -> str:
    return " ".join(element.get_text(" ").split())


def page(*_):
    return Response("<html><body>hello</body></html>")


def fill(request):
    """Begin a session."""
    request.session.update(n=1, cart=["lamp"])
    return page()


@pytest.fixture
def developer(sqlite_engine):
    """Someone who looks at the panel, with a session."""
    developer = Developer(sqlite_engine)
    developer.visit(fill)
    return developer


def test_new_session(sqlite_engine):
    """It shows each change as it was written, and the cookie without its value."""
    developer = Developer(sqlite_engine)

    def view(request):
        session = request.session
        session["n"] = 1
        session.update({"a": 1}, b=2)
        session |= {"c": [3]}
        session.setdefault("d", 4)
        session.pop("a")
        del session["b"]
        session.flash("Saved.")
        session.flash("Oops", "errors")
        session.userid = 7
        session.clear()
        return page()

    developer.visit(view)
    assert developer.story == [
        "cookie: none",
        "change: session['n'] = 1",
        "change: session.update({'a': 1, 'b': 2})",
        "change: session.update({'c': [3]})",
        "change: session.setdefault('d', 4)",
        "change: session.pop('a')",
        "change: del session['b']",
        "change: session.flash('Saved.')",
        "change: session.flash('Oops', 'errors')",
        "change: session.userid = 7",
        "change: session.clear()",
        "stored: as a new session",
        "sent: a cookie: Path=/; HttpOnly; SameSite=Lax",
    ]
    first = view.__code__.co_firstlineno
    assert developer.line_of("['n']") == (
        f"tests/stories/test_traces.py:{first + 2} in view"
    )


def add_chair(request):
    """Change a value in place."""
    request.session["cart"].append("chair")
    return page()


def test_stored_session(developer):
    """It says what was loaded, what was changed in place, and what was written."""
    with later(3720):
        developer.visit(add_chair)
    assert developer.story == [
        "cookie: good",
        "loaded: started 1 h 2 min ago, version 1",
        "change: session['cart'] was changed in place",
        "stored: data (version 2)",
        "sent: no cookie: the browser keeps what it has",
    ]


@pytest.mark.parametrize("model", [Encrypted, Sealed])
def test_encrypted_session(sqlite_engine, model):
    """It says what was changed in place there, too."""
    developer = Developer(sqlite_engine, model=model)
    developer.visit(fill)
    developer.visit(add_chair)
    assert "change: session['cart'] was changed in place" in developer.story


def test_time_left(sqlite_engine):
    """It says what time the session has left, and that it was extended."""
    developer = Developer(
        sqlite_engine, model=Rich, idle_timeout=600, absolute_timeout=7200
    )
    developer.visit(fill)
    with later(330):
        developer.visit(lambda request: page(request.session["n"]))
    loaded, *rest = developer.story[1:]
    # A second more or less may pass.
    assert re.fullmatch(
        r"loaded: started 5 min 3\d s ago, version 1, idle timeout in 4 min (2\d|30) s,"
        " absolute timeout in 1 h 54 min",
        loaded,
    )
    assert rest == [
        "kept up: nothing was changed, but idle_expire was due",
        "sent: no cookie: the browser keeps what it has",
    ]
    with later(1000):
        developer.visit(lambda request: page(request.session.new))
    assert developer.story[0] == "cookie: expired (idle)"
    assert developer.story[-1].startswith("sent: an order to delete the cookie: ")


def test_unused_session(developer):
    """A request that doesn't use its session has nothing to tell, and loads nothing."""
    with statements(developer.application.engine) as executed:
        developer.visit(page)
    assert "didn't use its session" in developer.panel.text
    assert executed == []


def test_reads(developer):
    """What was only looked at is told so. The panel costs no statement."""
    with statements(developer.application.engine) as executed:
        developer.visit(lambda request: page(request.session["cart"]))
    assert developer.story[-2:] == [
        "unchanged: the session was only read",
        "sent: no cookie: the browser keeps what it has",
    ]
    assert {each.split()[0] for each in executed} == {"SELECT"}


@pytest.mark.parametrize(
    ("view", "fate"),
    [
        (lambda session: session.update(n=1), "unchanged: the session was only"),
        (lambda session: session.changed(), "stored: nothing (version 2)"),
        (
            lambda session: session.update(n=2) or session.update(n=1),
            "unchanged: every",
        ),
        (lambda session: session.invalidate(), "deleted: the session has ended"),
        (
            lambda session: session.invalidate() or session.update(n=2),
            "stored: as a new session; the one before has ended",
        ),
        (lambda session: session.persist(), "unchanged: everything"),
        (
            lambda session: session["cart"].append(1) or session.persist(),
            "stored: data",
        ),
    ],
    ids=["same", "changed()", "back", "ended", "begun anew", "persist()", "in place"],
)
def test_fates(developer, view, fate):
    """It says what a commit made of the changes."""

    def visited(request):
        view(request.session)
        return page()

    developer.visit(visited)
    assert developer.story[-2].startswith(fate)


def test_empty_session(sqlite_engine):
    """It says that a new session with nothing in it isn't stored."""
    developer = Developer(sqlite_engine)
    developer.visit(lambda request: page(request.session.changed()))
    assert "not stored: a new session with nothing in it" in developer.story


@pytest.mark.parametrize(
    ("cookie", "verdict"),
    [("garbage", "not ours: it's malformed"), ("A" * 64, "not ours: none of the keys")],
)
def test_bad_cookies(developer, cookie, verdict):
    """It says that a cookie can't be read."""
    use_cookie(developer, cookie)
    developer.visit(lambda request: page(len(request.session)))
    assert developer.story[0].startswith(f"cookie: {verdict}")
    assert developer.story[-1].startswith("sent: an order to delete the cookie: ")


def test_dead_cookies(developer):
    """It says that a cookie stands for nothing, or came too late."""
    before = developer.cookie
    developer.visit(lambda request: page(request.session.rotate()))
    assert developer.story[-1].startswith("sent: a cookie: ")
    use_cookie(developer, before)
    developer.visit(lambda request: page(request.session.update(n=5)))
    assert developer.story[0].startswith("cookie: late: ")
    assert (
        "not stored: the cookie came too late, and no user logged in" in developer.story
    )
    with later(1000):
        developer.visit(lambda request: page(len(request.session)))
    assert developer.story[0].startswith("cookie: replaced: ")
    developer.application.clear()
    developer.visit(lambda request: page(len(request.session)))
    assert developer.story[0].startswith("cookie: unknown: ")


def test_stolen_cookie(sqlite_engine):
    """It says that a cookie was copied."""
    developer = Developer(
        sqlite_engine, model=Rich, renewal_timeout=60, renewal_grace=1
    )
    developer.visit(fill)
    before = developer.cookie
    for seconds in (100, 110):
        with later(seconds):
            developer.visit(lambda request: page(request.session["n"]))
    use_cookie(developer, before)
    with later(200):
        developer.visit(lambda request: page(len(request.session)))
    assert developer.story[0].startswith("cookie: violation: ")


def test_rollback(developer):
    """It says which exception rolled the changes back, and where it was raised."""

    def view(request):
        request.session["cart"].append("chair")
        raise HTTPSeeOther("/")

    developer.visit(view)
    assert developer.story[2:4] == [
        "change: session['cart'] was changed in place",
        "rolled back: HTTPSeeOther, a response that was raised instead of returned",
    ]
    assert developer.line_of("HTTPSeeOther").endswith(" in view")


def test_exception_view(sqlite_engine):
    """What an exception view does is stored in a second transaction."""

    def forbidden(request):
        request.session.flash("Please log in.")
        return page()

    developer = Developer(sqlite_engine, exception_view(forbidden))
    developer.visit(fill)

    def view(request):
        request.session["n"] = 2
        raise Failure

    developer.visit(view)
    assert developer.story[2:] == [
        "change: session['n'] = 2",
        "change: session.flash('Please log in.') (in an exception view)",
        "rolled back: Failure was raised",
        "second transaction: for what was changed outside of the first one",
        "stored: flash (version 2)",
        "sent: no cookie: the browser keeps what it has",
    ]
    fates = [_text(each) for each in developer.panel.select(".alert")]
    assert [each.partition(":")[0] for each in fates] == ["Rolled back", "Stored"]


@pytest.mark.parametrize(
    ("end", "settings", "cause"),
    [
        (lambda request: request.tm.doom(), {}, "the transaction was doomed"),
        (
            lambda request: Response("no", status=409),
            {"tm.commit_veto": "pyramid_tm.default_commit_veto"},
            "tm.commit_veto rejected the response 409 Conflict",
        ),
        (
            lambda request: request.tm.abort() or (request.tm.begin() and None),
            {},
            "the transaction was aborted",
        ),
        (
            lambda request: request.tm.get().join(Refuser("commit")),
            {},
            "Refusal was raised",
        ),
    ],
    ids=["doom", "veto", "abort", "commit fails"],
)
def test_causes(sqlite_engine, end, settings, cause):
    """It says why the changes were rolled back, if it wasn't a view that failed."""
    answer = exception_view(page, Exception)
    developer = Developer(sqlite_engine, answer, settings=settings)

    def view(request):
        request.session["n"] = 1
        return end(request) or page()

    developer.visit(view, expect_errors=True)
    assert f"rolled back: {cause}" in developer.story


def test_other_manager(sqlite_engine):
    """It says that the dbsession isn't in the request's transaction."""

    def make_dbsession(request, manager):
        dbsession = Session(sqlite_engine)
        request.add_finished_callback(lambda request: dbsession.close())
        zope.sqlalchemy.register(dbsession)
        return dbsession

    developer = Developer(sqlite_engine, make_dbsession=make_dbsession)
    developer.visit(fill)
    assert any(
        "isn't in the transaction of request.tm" in each for each in developer.story
    )


def test_savepoint(developer):
    """It says that the session went back to a savepoint."""

    def view(request):
        request.session["n"] = 2
        savepoint = request.dbsession.begin_nested()
        request.session["m"] = 3
        savepoint.rollback()
        return page()

    developer.visit(view)
    assert developer.story[2:6] == [
        "change: session['n'] = 2",
        "change: session['m'] = 3",
        "rolled back: by the application: to a savepoint, or the whole dbsession",
        "stored: data (version 2)",
    ]
    assert developer.line_of("to a savepoint").endswith(" in view")


def test_retries(sqlite_engine):
    """The panel of an attempt shows the ones before it, too."""
    developer = Developer(
        sqlite_engine,
        lambda config: config.include("pyramid_retry"),
        exception_view(page, RetryableException),
        settings={"retry.attempts": 3},
    )

    def view(request):
        request.session["n"] = 1
        if request.environ["retry.attempt"] < 1:
            raise RetryableException
        return page()

    developer.visit(view)
    assert [_text(each) for each in developer.panel.select("h4 small")] == [
        "attempt 1 of 3",
        "attempt 2 of 3",
    ]
    assert developer.story.count("tried again: nothing of this attempt counts") == 1
    assert developer.story[-2] == "stored: as a new session"


def test_merge(engine):
    """It says that another request's change was merged."""
    # The toolbar's own panel of sessions reads all keys, so that nothing can be merged.
    settings = {"debugtoolbar.panels": "headers"}
    developer = Developer(engine, settings=settings)
    developer.visit(fill)

    def view(request):
        request.session["mine"] = 1
        visit_meanwhile(developer, lambda request: request.session.update(theirs=2))
        return page()

    developer.visit(view)
    assert (
        "stored: data (version 3); merged with what another request has stored"
        in developer.story
    )


def test_outside(sqlite_engine):
    """It says what was changed above the transaction, and without any."""

    def tween(handler, request):
        request.session["above"] = 1
        return handler(request)

    developer = Developer(sqlite_engine, tween_above(tween))
    developer.visit(page)
    assert any(each.endswith("(above the transaction)") for each in developer.story)
    assert developer.story[-2] == "stored: as a new session"
    developer = Developer(
        sqlite_engine, pyramid_tm=False, make_dbsession=plain_dbsession(sqlite_engine)
    )
    developer.visit(fill)
    assert any(each.endswith("(without a transaction)") for each in developer.story)
    developer.visit(lambda r: r.session.update(n=5) or 1 / 0, expect_errors=True)
    assert developer.story[-2] == "not stored: see the log"


def test_too_late(developer):
    """It says that a change was refused."""

    def view(request):
        def finished(request):
            with pytest.raises(Exception, match="cannot be changed here"):
                request.session["n"] = 2

        request.session["n"]
        request.add_finished_callback(finished)
        return page()

    developer.visit(view)
    assert "refused: it's too late to store it" in developer.story


def test_many_changes(developer):
    """After so many changes the rest is only counted."""

    def view(request):
        for number in range(MOST_CHANGES + 5):
            request.session["n"] = f"{number}."
        return page()

    developer.visit(view)
    changes = [each for each in developer.story if each.startswith("change")]
    assert len(changes) == MOST_CHANGES
    assert developer.story[-1] == "and 5 more changes"


class Dangerous:
    """A value whose code must not run."""

    def __repr__(self):
        raise AssertionError

    def __reduce__(self):
        return (Dangerous, ())


@pytest.mark.parametrize("before", [False, True])
def test_savepoint_in_an_exception_view(sqlite_engine, before):
    """What was rolled back there isn't told of as lost, and the rest as stored."""

    def forbidden(request):
        if before:
            request.session["before"] = 1
        point = request.dbsession.begin_nested()
        request.session["n"] = 2
        point.rollback()
        return page()

    def view(request):
        raise Failure

    developer = Developer(sqlite_engine, exception_view(forbidden))
    developer.visit(fill)
    developer.visit(view)
    assert "change: session['n'] = 2 (in an exception view)" in developer.story
    assert "not stored: see the log" not in developer.story
    assert ("stored: data (version 2)" in developer.story) == before


class Sloppy:
    """A key that can only be compared with its own kind."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return self.number == other.number

    def __lt__(self, other):
        raise SystemExit

    def __hash__(self):
        return hash(self.number)


def test_odd_values(sqlite_engine):
    """No code of the application is run for the panel, which refuses no value."""
    # The toolbar's own panel of the session sorts the keys.
    settings = {
        "debugtoolbar.panels": "pyramid_debugtoolbar.panels.versions.VersionDebugPanel"
    }
    developer = Developer(sqlite_engine, settings=settings)
    developer.visit(fill)

    def view(request):
        session = request.session
        session[Sloppy(1)] = {Sloppy(2): 1, Sloppy(3): {Sloppy(4), Sloppy(5)}}
        session.setdefault(Sloppy(6), frozenset({Sloppy(7), Sloppy(8)}))
        session["n"] = 10**5000
        session["empty"] = [set(), frozenset(), {}, {7}, frozenset({8})]
        session["deep"] = {1: {2: {3: {4: {5: {6: {7: 8}}}}}}}
        return page()

    developer.visit(view)
    assert developer.story[2:-2] == [
        "change: session[<Sloppy>] = {<Sloppy>: 1, <Sloppy>: {<Sloppy>, <Sloppy>}}",
        "change: session.setdefault(<Sloppy>, frozenset({<Sloppy>, <Sloppy>}))",
        "change: session['n'] = <int>",
        "change: session['empty'] = [set(), frozenset(), {}, {7}, frozenset({8})]",
        "change: session['deep'] = {1: {2: {3: {4: {5: {6: {...}}}}}}}",
    ]


def test_large_update(developer):
    """Of an update with a thousand keys only the first ones are shown."""

    def view(request):
        request.session.update({number: number for number in range(1000)})
        return page()

    developer.visit(view)
    change = developer.story[2]
    assert change.startswith("change: session.update({0: 0, 1: 1, ")
    assert change.endswith(", ...})")
    assert len(change) < 1000


def test_moved_cookie(sqlite_engine):
    """A cookie that moves to another path is sent, and deleted where it was."""
    developer = Developer(sqlite_engine, model=Rich)
    developer.visit(fill)

    def view(request):
        with request.session.settings as settings:
            settings.cookie_path = "/shop"
        response = page()
        response.set_cookie("other", "value")
        return response

    developer.visit(view)
    sent = developer.story[-1]
    assert "an order to delete the cookie: Max-Age=0; Path=/;" in sent
    assert "a cookie: Path=/shop;" in sent
    assert "value" not in sent


def test_first_used_when_the_response_was_made(developer):
    """What is refused then isn't told of as lost, and there was a response."""

    def view(request):
        def finished(request):
            with pytest.raises(TransactionRequiredError):
                request.session["n"] = 2

        request.add_finished_callback(finished)
        return page()

    developer.visit(view)
    assert developer.story[-3:] == [
        "change: session['n'] = 2 (without a transaction)",
        "refused: it's too late to store it",
        "sent: no cookie: the response was made before",
    ]


def test_subrequest(developer):
    """What a subrequest does is told with what the request does."""
    application = developer.application

    def outer(request):
        def inner(subrequest):
            subrequest.session["n"] = 2
            return page()

        application.view = inner
        subrequest = Request.blank("/", headers={"Cookie": request.headers["Cookie"]})
        subrequest.tm, subrequest.dbsession = request.tm, request.dbsession
        request.invoke_subrequest(subrequest)
        return page()

    developer.visit(outer)
    assert "(in a subrequest)" in _text(developer.panel)
    assert developer.story[0] == "cookie: good"
    assert developer.story[2:] == [
        "change: session['n'] = 2",
        "open: its transaction goes on, and may be that of an outer request",
        "stored: data (version 2)",
        "sent: no cookie: the browser keeps what it has",
    ]


def test_cookie_of_a_subrequest(sqlite_engine):
    """It's set when the outer transaction is committed."""
    developer = Developer(sqlite_engine)
    application = developer.application

    def outer(request):
        application.view = fill
        subrequest = Request.blank("/")
        subrequest.tm, subrequest.dbsession = request.tm, request.dbsession
        request.invoke_subrequest(subrequest)
        return page()

    developer.visit(outer)
    assert developer.story[-2:] == [
        "stored: as a new session",
        "sent: a cookie: Path=/; HttpOnly; SameSite=Lax",
    ]


def test_secrets_in_values(sqlite_engine):
    """They are hidden as well where the application puts them into the session."""
    developer = Developer(sqlite_engine, model=Rich, renewal_timeout=60)
    developer.visit(fill)
    secrets = {"hunter2", "s" * 20}

    def view(request):
        session, cookie = request.session, request.cookies["session"]
        token = session.get_csrf_token()
        mine = [str(session.id), session.id.hex, token, cookie]
        for number, each in enumerate(mine):
            session[number] = each
            session[each] = {"list": ["x" * 40 + each]}
            session.flash(f"It is {each}.")
        session["number"] = session.id.int
        session["user_password"] = "hunter2"
        session.update(login={"API-Token": "s" * 20})
        secrets.update([*mine, str(session.id.int)])
        return page()

    developer.visit(view)
    shown = _text(developer.panel)
    assert [each for each in secrets if each in shown] == []
    assert "session.flash('It is (hidden).')" in shown
    assert "session['user_password'] = (hidden)" in shown


def test_no_secrets(sqlite_engine, caplog):
    """Neither page nor log has an id, a token or a long value, and markup is text."""
    caplog.set_level(logging.DEBUG, TRACE)
    policy = SessionCSRFStoragePolicy()
    developer = Developer(
        sqlite_engine,
        lambda config: config.set_csrf_storage_policy(policy),
        model=Rich,
        renewal_timeout=60,
    )
    secrets = {"a" * 101, "b" * 101, "secret-path"}

    def view(request):
        session = request.session
        secrets.update([policy.new_csrf_token(request), session.new_csrf_token()])
        session.update({policy.key: "t" * 20, "long": ["a" * 101] * 9})
        session.setdefault(policy.key, "u" * 20)
        session[policy.key] = "v" * 20
        session.flash({"html": "<script>", "text": "b" * 101})
        session["object"] = [Dangerous()]
        session["id"] = session.id
        session["bytes"] = session.id.bytes
        session.userid = 7
        session.rotate()
        secrets.add(policy.get_csrf_token(request))
        return page()

    for _ in range(2):
        developer.visit(view, "/secret-path")
        row = developer.application.row()
        for each in (row.id, row.renewal_id):
            secrets.update([str(each), each.hex])
        secrets.update(
            [developer.cookie, base64.urlsafe_b64encode(row.csrf_token).decode()]
        )
        shown = str(developer.panel) + caplog.text
        assert [each for each in secrets if each in shown] == []
        assert not re.search("t{20}|u{20}|v{20}|<script>", shown)
        assert "(hidden)" in shown
        assert "&lt;script&gt;" in shown


# The log.


def test_log(sqlite_engine, caplog):
    """One line for each request that uses its session, without a value."""
    caplog.set_level(logging.DEBUG, TRACE)
    Full.__table__.create(sqlite_engine)
    browser = Browser(Application(sqlite_engine))
    browser.visit(page)
    browser.visit(fill)
    (line,) = (each.getMessage() for each in caplog.records if each.name == TRACE)
    number = fill.__code__.co_firstlineno + 2
    assert line == (
        "GET route view, cookie session, attempt 1 of 1: cookie: none;"
        f" change: update at {fill.__module__}:{number}; stored: as a new session;"
        " sent: a cookie: Path=/; HttpOnly; SameSite=Lax"
    )


def test_log_without_a_response(sqlite_engine, caplog):
    """An error that nothing answers leaves no response to tell of."""
    caplog.set_level(logging.DEBUG, TRACE)
    Full.__table__.create(sqlite_engine)
    Browser(Application(sqlite_engine)).fail(fill)
    (line,) = (each.getMessage() for each in caplog.records if each.name == TRACE)
    assert line.endswith("; sent: no response was made")


def test_log_of_a_subrequest(sqlite_engine, caplog):
    """A subrequest in the transaction of the outer one can't tell how that ends."""
    caplog.set_level(logging.DEBUG, TRACE)
    Full.__table__.create(sqlite_engine)
    browser = Browser(Application(sqlite_engine))

    def view(request):
        application.view = fill
        subrequest = request.blank("/")
        subrequest.tm, subrequest.dbsession = request.tm, request.dbsession
        request.invoke_subrequest(subrequest)

    application = browser.application
    browser.visit(view)
    (line,) = (each.getMessage() for each in caplog.records if each.name == TRACE)
    assert "; open: its transaction goes on" in line


def test_costs_nothing(sqlite_engine):
    """Without the panel and the log, one function is called in a request."""
    Full.__table__.create(sqlite_engine)
    browser, called = Browser(Application(sqlite_engine)), []
    browser.visit(fill)

    def profile(frame, kind, argument):
        name = frame.f_globals.get("__name__", "")
        if kind == "call" and name.endswith((".trace", ".traced_visit", ".callers")):
            called.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        browser.visit(
            lambda request: request.session["cart"].append(request.session["n"])
        )
    finally:
        sys.setprofile(None)
    assert called == ["visit_for"]


# The include.


def test_includes_of_the_toolbar(sqlite_engine):
    """The panel can be one of the toolbar's own includes, too."""
    Full.__table__.create(sqlite_engine)
    application = Application(
        sqlite_engine,
        configure=lambda config: config.include("pyramid_debugtoolbar"),
        settings={"debugtoolbar.includes": PANEL},
    )
    Browser(application, REMOTE_ADDR="127.0.0.1").visit(fill)
    ((_, toolbar),) = application.registry.pdtb_history.last(1)
    assert [
        each.nav_subtitle for each in toolbar.panels if each.name == "stored_session"
    ]


def test_without_the_toolbar(sqlite_engine, monkeypatch):
    """The include says what to install."""
    monkeypatch.setattr(panel_module, "pyramid_debugtoolbar", None)
    with pytest.raises(ConfigurationError, match=r"\[toolbar\]"):
        Developer(sqlite_engine)


# The view that raised a response.


@pytest.fixture
def browser(sqlite_engine):
    """A visitor with a session."""
    Full.__table__.create(sqlite_engine)
    browser = Browser(Application(sqlite_engine))
    browser.visit(fill)
    return browser


def raising(change, error=HTTPSeeOther):
    def view(request):
        change(request)
        raise error("/")

    return view


def test_raised_redirect(browser, caplog):
    """A view that changed the session and raised a redirect is told of once."""
    view = raising(lambda request: request.session["cart"].append(1))
    for _ in range(3):
        browser.visit(view)
    (message,) = logged(caplog, "WARNING")
    assert "HTTPSeeOther" in message
    assert f"test_traces.py:{view.__code__.co_firstlineno + 2} in view" in message
    assert "Return the response" in message
    assert "tm.commit_veto" in message


def test_raised_error(browser, caplog):
    """An error that's raised may be meant to roll back: that's no warning."""
    caplog.set_level(logging.INFO)
    view = raising(lambda request: request.session.update(n=2), HTTPForbidden)
    browser.visit(view, expect_errors=True)
    assert logged(caplog, "WARNING") == []
    assert [each for each in logged(caplog, "INFO") if "HTTPForbidden" in each]


@pytest.mark.parametrize(
    "view",
    [
        raising(lambda request: request.session["cart"]),
        raising(lambda request: request.session.get_csrf_token()),
        raising(lambda request: request.session.update(n=2) or request.tm.doom()),
        raising(lambda request: request.session.update(n=2), Failure),
        lambda request: request.session.update(n=2) or HTTPSeeOther("/"),
    ],
    ids=["read", "token", "doomed", "failure", "returned"],
)
def test_nothing_to_tell(browser, caplog, view):
    """Nothing is logged if nothing was lost, or on purpose."""
    caplog.set_level(logging.INFO)
    with contextlib.suppress(Failure):
        browser.visit(view)
    assert logged(caplog, "WARNING") == logged(caplog, "INFO") == []


def test_veto(sqlite_engine, caplog):
    """With a veto that commits what was raised, nothing is lost."""
    Full.__table__.create(sqlite_engine)
    settings = {"tm.commit_veto": "pyramid_tm.default_commit_veto"}
    browser = Browser(Application(sqlite_engine, settings=settings))
    browser.visit(raising(fill))
    assert browser.ask(lambda session: session["n"]) == 1
    assert logged(caplog, "WARNING") == []
