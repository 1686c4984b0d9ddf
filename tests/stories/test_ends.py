"""Ends: an acknowledged one stays one, and the application's own is no conflict."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import ForeignKey, Integer, delete, text
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    InconsistentDataError,
    RenewalMixin,
    RenewalViolationEvent,
    UseridMixin,
    UserSessionAuthenticationHelper,
    UserSessionAuthenticationPolicy,
)
from tests.application import Application, Browser, Failure, Full
from tests.features.timed import sent, twin, use_cookie, visit_meanwhile
from tests.stories.transactions import (
    all_of,
    exception_view,
    logged,
    set_cookies,
)

HELPER = UserSessionAuthenticationHelper()
POLICY = UserSessionAuthenticationPolicy()


class Base(DeclarativeBase):
    """The declarative base of what the application deletes."""


class User(Base):
    """Whose sessions go when they go."""

    __tablename__ = "ending_user"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)


class Note(Base):
    """What has nothing to do with sessions."""

    __tablename__ = "ending_note"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)


class Owned(RenewalMixin, UseridMixin, CSRFMixin, BaseMixin, Base):
    """A session that belongs to a user."""

    __tablename__ = "owned_session"
    userid = mapped_column(Integer, ForeignKey(User.id, ondelete="CASCADE"))


def begin(request):
    request.session.update(n=1, nested=[0])
    request.session.userid = 5


def browser_of(engine, model=None, **kw) -> Browser:
    """Return a browser in which user 5 is logged in."""
    if model is Owned:
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(delete(User))
            connection.execute(User.__table__.insert(), [{"id": 5}, {"id": 6}])
    browser = Browser(Application(engine, *([model] if model else []), **kw))
    browser.visit(begin)
    return browser


ENDS = {
    "invalidate": lambda request: request.session.invalidate(),
    "helper": lambda request: HELPER.forget(request),
}
RIVALS = {
    "rotates": lambda request: request.session.rotate(),
    "logs in again": lambda request: request.session.authenticate(5),
    "switches": lambda request: setattr(request.session, "userid", 6),
    "writes": lambda request: request.session.update(n=2),
    "ends": lambda request: request.session.invalidate(),
}


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("used", [False, True], ids=["unused", "written"])
def test_an_end_is_an_end(engine, end, rival, used):
    """Whatever another request did to it meanwhile, an ended session is dead."""
    browser = browser_of(engine)
    others: list = []

    def view(request):
        assert request.session.userid == 5
        if used:
            request.session["mine"] = 1
        others.append(sent(visit_meanwhile(browser, RIVALS[rival])))
        ENDS[end](request)

    response = browser.visit(view)
    assert sent(response).is_deletion
    assert browser.application.rows() == []
    if others[0] is not None and not others[0].is_deletion:
        other = twin(browser, others[0].value)
        assert other.ask(lambda session: (session.new, session.userid)) == (True, None)


@pytest.mark.parametrize("rival", ["rotates", "writes"])
def test_an_end_in_an_exception_view(engine, rival):
    """That holds in an exception view, too."""
    configure = exception_view(lambda request: request.session.invalidate())
    browser = browser_of(engine, configure=configure)

    def view(request):
        assert request.session["n"] == 1
        visit_meanwhile(browser, RIVALS[rival])
        raise Failure

    browser.visit(view, status=500)
    assert browser.application.rows() == []


def test_an_end_after_which_the_session_goes_on(engine):
    """What comes after the end is in a new session, which the cookie names."""
    browser = browser_of(engine)
    before = browser.application.row().id

    def view(request):
        assert request.session["n"] == 1
        visit_meanwhile(browser, RIVALS["rotates"])
        request.session.invalidate()
        request.session.flash("bye")

    browser.visit(view)
    assert browser.application.row().id != before
    assert browser.ask(lambda session: (dict(session), session.pop_flash())) == (
        {},
        ["bye"],
    )


def test_a_logout_that_keeps_the_data_is_a_change(engine):
    """userid = None conflicts with a switch, and merges with a write of a key."""
    browser = browser_of(engine)

    def view(request):
        assert request.session.userid == 5
        visit_meanwhile(browser, RIVALS["switches"])
        request.session.userid = None

    with pytest.raises(StaleDataError):
        browser.visit(view)
    assert browser.application.row().userid == 6


# An unreadable row can be left.


def spoil(browser, value=b"\x80\x04c__main__\nGone\n."):
    """Let the pickle of all sessions name a class that's gone."""
    with browser.application.engine.begin() as connection:
        connection.execute(
            text("UPDATE full_session SET data = :data"), {"data": value}
        )


@pytest.mark.parametrize(
    "deed",
    [
        lambda request: request.session.invalidate(),
        lambda request: HELPER.forget(request),
        lambda request: request.session.flash("sorry"),
        lambda request: setattr(request.session, "userid", None),
        lambda request: setattr(request.session, "userid", 6),
        lambda request: request.session.rotate(),
        lambda request: request.session.new_csrf_token(),
        lambda request: POLICY.forget(request),
        lambda request: request.session.pop_flash(),
    ],
)
@pytest.mark.parametrize("where", ["view", "exception view"])
def test_an_unreadable_row_can_be_left(engine, deed, where):
    """Only what needs the dict decodes it."""
    configure = exception_view(deed, InconsistentDataError)
    browser = browser_of(engine, configure=configure)
    browser.visit(lambda request: request.session.flash("hello"))
    spoil(browser)

    if where == "view":
        browser.visit(deed)
    else:
        browser.visit(lambda request: request.session["n"], status=500)


def test_an_unreadable_row_is_merged_with(engine):
    """Two requests can flash at once beside a dict that can't be read."""
    browser = browser_of(engine)
    spoil(browser)

    def view(request):
        request.session.flash("mine")
        visit_meanwhile(browser, lambda request: request.session.flash("theirs"))

    browser.visit(view)
    assert browser.application.row().flash == {"": ["theirs", "mine"]}


# Violations.


class Kill(SystemExit):
    """What ends the process, or the greenlet."""


def in_a_hook(request):
    def hook():
        raise Failure

    request.session.get("n")
    request.tm.get().addBeforeCommitHook(hook)


def in_the_body(request):
    from pyramid.response import Response

    def body():
        request.session.get("n")
        yield b"body"

    return Response(app_iter=body())


def raising(error):
    def view(request):
        request.session.get("n")
        raise error

    return view


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
@pytest.mark.parametrize("answered", [False, True], ids=["raised", "answered"])
@pytest.mark.parametrize(
    "view",
    [
        lambda request: request.session.get("n"),
        raising(Failure()),
        raising(Kill()),
        raising(GeneratorExit()),
        raising(KeyboardInterrupt()),
        in_a_hook,
        in_the_body,
        lambda request: (request.session.get("n"), request.tm.doom())[0],
    ],
    ids=["success", "error", "exit", "generator", "interrupt", "hook", "body", "doom"],
)
def test_a_violation_ends_the_session(engine, view, answered, explicit):
    """However the request with the stolen cookie ends, the session is gone."""
    import transaction

    told: list = []

    def configure(config):
        config.add_subscriber(told.append, RenewalViolationEvent)

    if answered:
        configure = all_of(configure, exception_view(lambda request: "sorry"))
    browser = browser_of(
        engine, Owned, configure=configure, renewal_timeout=100, explicit=explicit
    )
    good = browser.cookie
    import uuid

    from tests.features.timed import OURS

    forged = OURS.dumps(OURS.loads(good)[:16] + uuid.uuid4().bytes).decode()
    with engine.begin() as connection:  # no rotation is near
        connection.execute(text("UPDATE owned_session SET rotated = NULL"))
    use_cookie(browser, forged)
    try:
        browser.visit(view, status="*")
    except (Failure, Kill, GeneratorExit, KeyboardInterrupt):
        pass
    finally:
        transaction.abort()
    assert browser.application.rows() == []
    assert len(told) == 1
    assert twin(browser, good).ask(lambda session: session.new)


# The application's own deletion.


@pytest.mark.parametrize("how", ["orm", "orm statement", "core", "text", "by hand"])
@pytest.mark.parametrize(
    ("deed", "flash"),
    [
        (lambda request: request.session.flash("bye"), ["bye"]),
        (lambda request: setattr(request.session, "userid", None), []),
        (lambda request: request.session.update(n=7), []),
        (lambda request: request.session.invalidate(), []),
    ],
    ids=["flash", "logout", "write", "invalidate"],
)
@pytest.mark.parametrize("late", [False, True], ids=["after", "before"])
def test_own_deletion(engine, how, deed, flash, late):
    """A row that the application deleted, with its user, is no conflict."""
    browser = browser_of(engine, Owned)
    if engine.dialect.name == "sqlite":
        from sqlalchemy import event

        def enforce(connection, record):
            connection.execute("PRAGMA foreign_keys = ON")

        event.listen(engine, "connect", enforce)
        engine.dispose()

    def remove(request):
        if how == "orm":
            request.dbsession.delete(request.dbsession.get(User, 5))
            request.dbsession.flush()
        elif how == "orm statement":
            request.dbsession.execute(delete(User).where(User.id == 5))
        elif how == "core":
            request.dbsession.execute(
                delete(User.__table__).where(User.__table__.c.id == 5)
            )
        elif how == "text":
            request.dbsession.execute(text("DELETE FROM ending_user WHERE id = 5"))
        else:
            key = request.session.id
            request.dbsession.execute(delete(Owned).where(Owned.id == key))

    def view(request):
        assert request.session["n"] == 1
        if late:
            deed(request)
        remove(request)
        if not late:
            deed(request)

    try:
        response = browser.visit(view)
    finally:
        if engine.dialect.name == "sqlite":
            event.remove(engine, "connect", enforce)
            engine.dispose()
    assert len(set_cookies(response)) == 1
    rows = browser.application.rows()
    assert [row.userid for row in rows] == [None] * len(rows)
    assert browser.ask(lambda session: session.pop_flash()) == flash
    assert browser.ask(lambda session: session.userid) is None


def test_another_request_revokes(engine):
    """What another request deleted is never brought back, and is a conflict."""
    browser = browser_of(engine)

    def view(request):
        request.session["n"] = 7
        visit_meanwhile(browser, lambda request: request.session.invalidate())

    with pytest.raises(StaleDataError):
        browser.visit(view)
    assert browser.application.rows() == []


def delete_note(request):
    """Delete something that has nothing to do with the session."""
    request.dbsession.execute(delete(Note).where(Note.id == 1))


def delete_note_object(request):
    """Delete an object that has nothing to do with the session."""
    note = Note(id=2)
    request.dbsession.add(note)
    request.dbsession.flush()
    request.dbsession.delete(note)


def revoke_others(request):
    """End the other sessions of the user."""
    request.session_store.revoke_user(5, keep=request.session)


@pytest.mark.parametrize("deletion", [delete_note, delete_note_object, revoke_others])
@pytest.mark.parametrize("model", [Full, Owned])
def test_another_request_revokes_while_this_one_deletes(engine, model, deletion):
    """What this request deletes isn't taken for the end of its session."""
    browser = browser_of(engine, model)
    Base.metadata.create_all(engine)

    def view(request):
        request.session["n"] = 7
        visit_meanwhile(browser, lambda request: request.session.invalidate())
        deletion(request)

    with pytest.raises(StaleDataError):
        browser.visit(view)
    assert browser.application.rows() == []


def test_nothing_else_is_logged(engine, caplog):
    """An end that another request was faster with is no news."""
    caplog.set_level(logging.INFO)
    browser = browser_of(engine)

    def view(request):
        assert request.session["n"] == 1
        visit_meanwhile(browser, RIVALS["ends"])
        request.session.invalidate()

    browser.visit(view)
    assert logged(caplog, "ERROR") == logged(caplog, "WARNING") == []
