"""Outside of the transaction: exception views, tweens above pyramid_tm, callbacks."""

from __future__ import annotations

import contextlib

import pytest
import zope.sqlalchemy
from pyramid.events import NewRequest, NewResponse
from pyramid.httpexceptions import HTTPForbidden, HTTPFound, HTTPNotFound
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from sqlalchemy import Integer, create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.pool import NullPool, StaticPool

from pyramid_sqlalchemy_sessions import TransactionRequiredError
from tests.application import (
    Application,
    Browser,
    Failure,
    Full,
    explicit_manager,
    statements,
)
from tests.application import Base as SessionBase
from tests.stories.transactions import (
    Refusal,
    Refuser,
    all_of,
    elsewhere,
    exception_view,
    gives_access,
    logged,
    plain_dbsession,
    set_cookies,
    tween_above,
)


class Base(DeclarativeBase):
    """The declarative base of what is not a session here."""


class Thing(Base):
    """Something of the application's own."""

    __tablename__ = "exception_view_thing"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)


def things(engine) -> list[int]:
    """Return the ids of the things that are stored."""
    with engine.connect() as connection:
        return list(connection.scalars(select(Thing.id)))


new_and_stored = pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])

VETO = {"tm.commit_veto": "pyramid_tm.default_commit_veto"}


def begin(request):
    """Store a session."""
    request.session.update(n=1, nested=[0])


def nothing(request):
    """Do nothing."""


def fail(request):
    """Change the session and fail: the view of most stories here."""
    request.session["view"] = 1
    request.session["n"] = 100
    request.session.setdefault("nested", []).append("view")
    request.session.flash("view")
    raise Failure


def visitor(engine, answer=None, *, stored: bool = True, context=Failure, **kw):
    """Return a browser of an application that answers exceptions with a view."""
    if answer is not None:
        configure = exception_view(answer, context)
        others = [kw.pop("configure")] if "configure" in kw else []
        kw["configure"] = all_of(configure, *others)
    browser = Browser(Application(engine, **kw))
    if stored:
        browser.visit(begin)
    return browser


def as_another(browser, view):
    """Visit with the same cookie, another application and in another thread."""
    rival = Browser(Application(browser.application.engine))
    rival.set_cookie("session", browser.cookie)
    return elsewhere(rival.visit, view)


# What an exception view does is stored.


@new_and_stored
def test_a_forbidden_view_flashes_and_redirects(engine, stored):
    """The message of a forbidden view that redirects is there at the next visit."""

    def forbidden(request):
        request.session.flash("Please log in.")
        return HTTPFound("/login")

    browser = visitor(engine, forbidden, stored=stored, context=HTTPForbidden)

    def view(request):
        raise HTTPForbidden

    response = browser.visit(view)
    assert response.status_int == 302
    assert len(set_cookies(response)) == (not stored)
    assert "Cookie" in response.headers["Vary"]
    assert browser.ask(lambda session: session.pop_flash()) == ["Please log in."]
    assert browser.ask(lambda session: session.pop_flash()) == []
    assert len(browser.application.rows()) == 1


@new_and_stored
def test_the_failed_view_s_changes_are_not_stored(engine, stored):
    """The exception view's changes are stored, those of the failed view are not."""

    def answer(request):
        request.session["answer"] = 2
        request.session.flash("answer")

    browser = visitor(engine, answer, stored=stored)
    response = browser.visit(fail, status=500)
    assert len(set_cookies(response)) == (not stored)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "answer": 2}
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]


def test_an_exception_view_starts_from_what_is_stored(engine):
    """An exception view does not see what the failed view changed."""

    def answer(request):
        request.session["n"] += 1
        request.session["nested"].append("answer")
        request.session.flash("answer")

    browser = visitor(engine, answer)
    browser.visit(fail, status=500)
    assert browser.ask(dict) == {"n": 2, "nested": [0, "answer"]}
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]


@new_and_stored
def test_an_exception_view_that_only_reads(engine, stored):
    """An exception view that reads the session stores nothing."""
    browser = visitor(engine, lambda request: len(request.session), stored=stored)
    with statements(engine) as executed:
        response = browser.visit(fail, status=500)
    assert set_cookies(response) == []
    assert not [each for each in executed if not each.startswith("SELECT")]
    assert browser.ask(dict) == ({"n": 1, "nested": [0]} if stored else {})


def test_only_the_exception_view_uses_the_session(engine):
    """A session that the view did not use can be used in the exception view."""

    def view(request):
        raise Failure

    def answer(request):
        request.session["n"] += 1
        return request.session["n"]

    browser = visitor(engine, answer)
    assert browser.visit(view, status=500).text == "2"
    assert browser.ask(lambda session: session["n"]) == 2


def test_the_exception_view_changes_a_nested_value(engine):
    """A mutable value that an exception view changes in place is stored."""
    browser = visitor(engine, lambda request: request.session["nested"].append(1))
    browser.visit(fail, status=500)
    assert browser.ask(lambda session: session["nested"]) == [0, 1]


def test_the_exception_view_announces_a_change(engine):
    """changed() in an exception view is obeyed."""
    browser = visitor(engine, lambda request: request.session.changed())
    before = browser.application.row().version
    browser.visit(fail, status=500)
    assert browser.application.row().version == before + 1


def test_an_exception_view_deletes_a_key(engine):
    """A key that an exception view deletes is gone, the others stay."""
    browser = visitor(engine, lambda request: request.session.pop("n"))
    browser.visit(fail, status=500)
    assert browser.ask(dict) == {"nested": [0]}


def test_an_empty_new_session_is_not_stored(engine):
    """A new session in which an exception view leaves nothing is not stored."""

    def answer(request):
        request.session["a"] = 1
        del request.session["a"]

    browser = visitor(engine, answer, stored=False)
    response = browser.visit(fail, status=500)
    assert set_cookies(response) == []
    assert browser.application.rows() == []


def test_an_exception_view_fails(engine):
    """What an exception view that fails itself has changed is not stored."""

    def answer(request):
        request.session["answer"] = 1
        raise ZeroDivisionError

    browser = visitor(engine, answer)
    with pytest.raises(ZeroDivisionError):
        browser.visit(fail)
    assert browser.ask(dict) == {"n": 1, "nested": [0]}


@new_and_stored
def test_invalidated_in_an_exception_view(engine, stored):
    """A session that an exception view invalidates is deleted, and its cookie."""
    browser = visitor(
        engine, lambda request: request.session.invalidate(), stored=stored
    )
    response = browser.visit(fail, status=500)
    assert len(set_cookies(response)) == stored
    assert browser.application.rows() == []
    assert not browser.cookie


def test_invalidated_and_filled_in_an_exception_view(engine):
    """After an invalidation in an exception view the session is a new one."""

    def answer(request):
        request.session.invalidate()
        assert request.session.new
        request.session["answer"] = 1

    browser = visitor(engine, answer)
    before = browser.application.row().id
    response = browser.visit(fail, status=500)
    assert len(set_cookies(response)) == 1
    assert browser.application.row().id != before
    assert browser.ask(dict) == {"answer": 1}


def test_the_failed_view_s_invalidation_is_taken_back(engine):
    """A session that the failed view invalidated lives on in the exception view."""

    def view(request):
        request.session.invalidate()
        request.session["view"] = 1
        raise Failure

    def answer(request):
        assert not request.session.new
        request.session["answer"] = 1

    browser = visitor(engine, answer)
    response = browser.visit(view, status=500)
    assert set_cookies(response) == []
    assert browser.ask(dict) == {"n": 1, "nested": [0], "answer": 1}


@new_and_stored
def test_logged_in_in_an_exception_view(engine, stored):
    """A login in an exception view is stored, and replaces the cookie."""

    def answer(request):
        request.session.userid = 5

    browser = visitor(engine, answer, stored=stored)
    before = [row.id for row in browser.application.rows()]
    cookie = browser.cookie
    response = browser.visit(fail, status=500)
    assert len(set_cookies(response)) == 1
    row = browser.application.row()
    assert row.userid == 5
    assert before == ([row.id] if stored else [])
    assert browser.ask(lambda session: session.userid) == 5
    if stored:
        assert not gives_access(browser.application, cookie)


def test_rotated_in_an_exception_view(engine):
    """A rotation in an exception view replaces the cookie, once; the id stays."""

    def answer(request):
        request.session.get_csrf_token()
        request.session.rotate()

    browser = visitor(engine, answer)
    before, cookie = browser.application.row(), browser.cookie
    response = browser.visit(fail, status=500)
    assert len(set_cookies(response)) == 1
    row = browser.application.row()
    assert (row.id, row.rotated_from) == (before.id, before.renewal_id)
    assert row.renewal_id is not None
    assert browser.ask(dict) == {"n": 1, "nested": [0]}
    assert not gives_access(browser.application, cookie)


def test_the_failed_view_s_rotation_is_taken_back(engine):
    """A rotation in the failed view does not happen, whatever comes after it."""

    def view(request):
        request.session.userid = 7
        raise Failure

    browser = visitor(engine, lambda request: request.session.update(answer=1))
    before = browser.application.row().id
    response = browser.visit(view, status=500)
    assert set_cookies(response) == []
    row = browser.application.row()
    assert (row.id, row.userid) == (before, None)
    assert (row.renewal_id, row.rotated) == (None, None)


def test_a_csrf_token_in_an_exception_view(engine):
    """The CSRF token of a form in an exception view is valid afterwards."""
    browser = visitor(engine, lambda request: request.session.get_csrf_token())
    token = browser.visit(fail, status=500).text
    assert browser.ask(lambda session: session.get_csrf_token()) == token


def test_a_failed_view_has_flushed(engine):
    """What the failed view flushed is not committed by the exception view's session."""
    Base.metadata.create_all(engine)

    def view(request):
        request.session["view"] = 1
        request.dbsession.add(Thing(id=1))
        request.dbsession.flush()
        raise Failure

    browser = visitor(engine, lambda request: request.session.update(answer=1))
    browser.visit(view, status=500)
    assert browser.ask(dict) == {"n": 1, "nested": [0], "answer": 1}
    assert things(engine) == []


def test_the_instance_in_an_exception_view(engine):
    """session.instance works in an exception view, or says why it cannot."""
    seen = []

    def answer(request):
        try:
            seen.append(request.session.instance.id)
        except TransactionRequiredError as error:
            seen.append(str(error))

    browser = visitor(engine, answer)
    browser.visit(fail, status=500)
    assert seen == [browser.application.row().id] or "transaction" in seen[0]


def test_a_raised_redirect_is_an_exception(engine):
    """With a raised redirect pyramid_tm aborts, and the view's changes go."""

    def view(request):
        request.session["view"] = 1
        raise HTTPFound("/")

    browser = visitor(engine)
    response = browser.visit(view)
    assert response.status_int == 302
    assert set_cookies(response) == []
    assert browser.ask(dict) == {"n": 1, "nested": [0]}


@new_and_stored
def test_a_raised_redirect_is_committed_with_a_veto(engine, stored):
    """With tm.commit_veto a raised redirect commits, and the view's changes stay."""

    def view(request):
        request.session["view"] = 1
        raise HTTPFound("/")

    browser = visitor(engine, settings=VETO, stored=stored)
    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    assert browser.ask(lambda session: session["view"]) == 1


@new_and_stored
def test_a_veto_that_lets_it_commit(engine, stored):
    """Where tm.commit_veto lets pyramid_tm commit, all that was changed is stored."""

    def answer(request):
        request.session["n"] += 1
        request.session["nested"].append("answer")
        request.session.flash("answer")
        return Response("ok")

    browser = visitor(engine, answer, settings=VETO, stored=stored)
    response = browser.visit(fail)
    assert len(set_cookies(response)) == (not stored)
    zero = [0] if stored else []
    assert browser.ask(dict) == {
        "n": 101,
        "nested": [*zero, "view", "answer"],
        "view": 1,
    }
    assert browser.ask(lambda session: session.peek_flash()) == ["view", "answer"]
    assert len(browser.application.rows()) == 1


@new_and_stored
def test_a_veto_that_aborts(engine, stored):
    """Where tm.commit_veto aborts, what the exception view changed is stored alone."""

    def answer(request):
        request.session["answer"] = 1
        request.session.flash("answer")

    browser = visitor(engine, answer, settings=VETO, stored=stored)
    response = browser.visit(fail, status=500)
    assert len(set_cookies(response)) == (not stored)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "answer": 1}
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]


@pytest.mark.parametrize("status", [200, 500], ids=["commit", "abort"])
def test_invalidated_with_a_veto(engine, status):
    """An exception view's invalidation is stored whether the veto commits or aborts."""

    def answer(request):
        request.session.invalidate()
        request.session["answer"] = 1
        return Response("ok", status=status)

    browser = visitor(engine, answer, settings=VETO)
    before = browser.application.row().id
    response = browser.visit(fail, status=status)
    assert len(set_cookies(response)) == 1
    assert browser.application.row().id != before
    assert browser.ask(dict) == {"answer": 1}


@pytest.mark.parametrize("status", [200, 500], ids=["commit", "abort"])
@new_and_stored
def test_logged_in_with_a_veto(engine, status, stored):
    """An exception view's login is stored whether the veto commits or aborts."""

    def answer(request):
        request.session.userid = 5
        return Response("ok", status=status)

    browser = visitor(engine, answer, settings=VETO, stored=stored)
    response = browser.visit(fail, status=status)
    assert len(set_cookies(response)) == 1
    assert browser.application.row().userid == 5
    assert browser.ask(lambda session: session.userid) == 5


def test_an_exception_view_invoked_by_hand(engine):
    """A view that invokes an exception view itself gets the same as from the tween."""

    def view(request):
        request.session["view"] = 1
        try:
            raise Failure
        except Failure:
            return request.invoke_exception_view()

    browser = visitor(engine, lambda request: request.session.update(answer=1))
    browser.visit(view, status=500)
    assert browser.ask(dict) == {"n": 1, "nested": [0], "answer": 1}


# After a failed commit.


@pytest.mark.parametrize("phase", ["tpc_begin", "commit", "tpc_vote"])
@new_and_stored
def test_after_a_failed_commit(engine, phase, stored):
    """An exception view after a failed commit can use the session."""

    def view(request):
        request.session["view"] = 1
        request.tm.get().join(Refuser(phase, "~q"))

    def answer(request):
        assert "view" not in request.session
        request.session["answer"] = 2
        request.session.flash("answer")

    browser = visitor(engine, answer, stored=stored, context=Refusal)
    response = browser.visit(view, status=500)
    assert len(set_cookies(response)) == (not stored)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "answer": 2}
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]


def test_first_used_after_a_failed_commit(engine):
    """After a failed commit a session that the view did not use works, too."""

    def view(request):
        request.tm.get().join(Refuser("tpc_vote"))

    def answer(request):
        request.session["n"] += 1

    browser = visitor(engine, answer, context=Refusal)
    browser.visit(view, status=500)
    assert browser.ask(lambda session: session["n"]) == 2


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
def test_after_a_constraint_violation_at_commit(engine, explicit):
    """A catch-all exception view after a constraint violation at commit can flash."""
    Base.metadata.create_all(engine)

    def view(request):
        request.session["view"] = 1
        request.dbsession.add_all([Thing(id=1), Thing(id=2)])
        request.dbsession.execute(Thing.__table__.insert(), {"id": 2})

    browser = visitor(
        engine,
        lambda request: request.session.update(answer=1),
        context=Exception,
        explicit=explicit,
    )

    def violate(request):
        request.session["view"] = 1
        request.dbsession.execute(Thing.__table__.insert(), {"id": 2})
        request.dbsession.add(Thing(id=2))

    browser.visit(violate, status=500)
    assert browser.ask(dict) == {"n": 1, "nested": [0], "answer": 1}
    assert things(engine) == []


def test_the_commit_fails_because_of_the_session(engine):
    """An exception view can tell the user that the session was changed elsewhere."""

    def view(request):
        request.session["n"] += 1
        as_another(browser, lambda request: request.session.update(n=50))

    def answer(request):
        request.session.flash(f"It is {request.session['n']} now.")

    browser = visitor(engine, answer, context=Exception)
    browser.visit(view, status=500)
    assert browser.ask(lambda session: session["n"]) == 50
    assert browser.ask(lambda session: session.pop_flash()) == ["It is 50 now."]


# When the transaction of the dbsession is broken.


def break_by_flush(request):
    """Leave the dbsession as SQLAlchemy does after a failed flush."""
    request.dbsession.execute(Thing.__table__.insert(), {"id": 1})
    request.dbsession.add(Thing(id=1))
    request.dbsession.flush()


def break_by_statement(request):
    """Leave the transaction as PostgreSQL does after a failed statement."""
    request.dbsession.execute(text("SELECT nonsense FROM nowhere"))


@pytest.mark.parametrize("how", [break_by_flush, break_by_statement])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@new_and_stored
def test_the_dbsession_is_broken(engine, how, used, stored):
    """With a broken dbsession an exception view can read and change the session."""
    Base.metadata.create_all(engine)

    def view(request):
        if used:
            request.session["view"] = 1
        how(request)

    def answer(request):
        assert "view" not in request.session
        request.session["n"] = request.session.get("n", 0) + 1
        request.session.flash("answer")
        return Response(str(request.session["n"]), status=500)

    browser = visitor(engine, answer, context=DBAPIError, stored=stored)
    response = browser.visit(view, status=500)
    assert response.text == str(1 + stored)
    assert len(set_cookies(response)) == (not stored)
    assert browser.ask(lambda session: session["n"]) == 1 + stored
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]
    assert things(engine) == []


@pytest.mark.parametrize("how", [break_by_flush, break_by_statement])
def test_the_dbsession_is_broken_but_the_view_goes_on(engine, how):
    """A view that ignores a broken dbsession gets an error, and nothing is stored."""
    Base.metadata.create_all(engine)

    def view(request):
        request.session["view"] = 1
        try:
            how(request)
        except DBAPIError:
            request.session["view"] = 2

    browser = visitor(engine, lambda request: None, context=Exception)
    response = browser.visit(view, status="*")
    if response.status_int == 200:
        # Only where the statement broke nothing.
        assert how is break_by_statement
        assert engine.dialect.name != "postgresql"
        assert browser.ask(lambda session: session["view"]) == 2
    else:
        assert browser.ask(dict) == {"n": 1, "nested": [0]}


@pytest.mark.parametrize("how", [break_by_flush, break_by_statement])
def test_first_used_in_a_view_with_a_broken_dbsession(engine, how):
    """First used in a view whose dbsession is broken, the session works or says so."""
    Base.metadata.create_all(engine)

    def view(request):
        try:
            how(request)
        except DBAPIError:
            request.session["view"] = 2

    browser = visitor(engine, lambda request: None, context=Exception)
    response = browser.visit(view, status="*")
    stored = browser.ask(lambda session: session.get("view"))
    assert stored == (2 if response.status_int == 200 else None)


# Meanwhile.


def test_another_request_writes_before_the_response(engine):
    """What another request stored meanwhile stays beside what is stored now."""
    browser = None

    def tween(handler, request):
        response = handler(request)
        if request.path == "/raced":
            as_another(browser, meanwhile)
        return response

    def meanwhile(request):
        request.session["n"] = 50
        request.session["other"] = 1
        request.session.flash("other")

    def answer(request):
        request.session["answer"] = 1
        request.session.flash("answer")

    browser = visitor(engine, answer, configure=tween_above(tween))
    browser.visit(fail, "/raced", status=500)
    assert browser.ask(dict) == {"n": 50, "nested": [0], "other": 1, "answer": 1}
    assert sorted(browser.ask(lambda session: session.peek_flash())) == [
        "answer",
        "other",
    ]


@pytest.mark.parametrize("deed", ["invalidate", "rotate"])
def test_another_request_ends_the_session_before_the_response(engine, deed, caplog):
    """A session that ended takes nothing of it; a rotation is not in the way."""
    caplog.set_level("INFO")
    browser = None

    def tween(handler, request):
        response = handler(request)
        if request.path == "/raced":
            as_another(browser, lambda request: getattr(request.session, deed)())
        return response

    def answer(request):
        request.session["answer"] = 1

    browser = visitor(engine, answer, configure=tween_above(tween))
    before, cookie = browser.application.row(), browser.cookie
    response = browser.visit(fail, "/raced", status=500)
    assert response.status_int == 500
    assert set_cookies(response) == []
    assert not gives_access(browser.application, cookie)
    rows = browser.application.rows()
    assert len(rows) == (deed == "rotate")
    assert [row.id for row in rows] == [before.id] * len(rows)
    assert [b"answer" in row.data for row in rows] == [True] * len(rows)
    assert len(logged(caplog, "ERROR")) == (deed == "invalidate")


def test_another_request_writes_between_view_and_exception_view(engine):
    """An increment in an exception view adds to what is stored, or is refused."""

    def view(request):
        assert request.session["n"] == 1
        as_another(browser, lambda request: request.session.update(other=1))
        raise Failure

    def answer(request):
        request.session["n"] += 1

    browser = visitor(engine, answer)
    browser.visit(view, status=500)
    assert browser.ask(dict) == {"n": 2, "nested": [0], "other": 1}


def lost_changes(caplog) -> int:
    """Return how often changes were logged as lost."""
    return sum("lost" in message for message in logged(caplog, "ERROR"))


def test_an_increment_in_an_exception_view_overwrites_nothing(engine, caplog):
    """Of two increments, the one in an exception view is logged as lost."""

    def view(request):
        assert request.session["n"] == 1
        as_another(browser, increment)
        raise Failure

    def increment(request):
        request.session["n"] += 1

    browser = visitor(engine, increment)
    response = browser.visit(view, status=500)
    assert set_cookies(response) == []
    assert browser.ask(lambda session: session["n"]) == 2
    assert lost_changes(caplog) == 1


def test_an_increment_above_pyramid_tm_overwrites_nothing(engine, caplog):
    """Of two increments, the one above pyramid_tm is logged as lost."""

    def increment(request):
        request.session["n"] += 1

    def tween(handler, request):
        response = handler(request)
        if request.path == "/tween":
            increment(request)
            as_another(browser, increment)
        return response

    browser = visitor(engine, configure=tween_above(tween))
    browser.visit(nothing, "/tween")
    assert browser.ask(lambda session: session["n"]) == 2
    assert lost_changes(caplog) == 1


def test_a_nested_value_in_an_exception_view_overwrites_nothing(engine, caplog):
    """Of two items added to one list, the exception view's is logged as lost."""

    def view(request):
        assert request.session["nested"] == [0]
        as_another(browser, lambda request: request.session["nested"].append("other"))
        raise Failure

    browser = visitor(engine, lambda request: request.session["nested"].append("own"))
    browser.visit(view, status=500)
    assert browser.ask(lambda session: session["nested"]) == [0, "other"]
    assert lost_changes(caplog) == 1


def test_a_message_is_not_lost_while_others_are_popped(engine, caplog):
    """Messages popped by two requests at once take no new message with them."""

    def view(request):
        assert request.session.peek_flash() == ["first"]
        as_another(browser, meanwhile)
        raise Failure

    def meanwhile(request):
        request.session.pop_flash()
        request.session.flash("other")

    browser = visitor(engine, lambda request: request.session.pop_flash())
    browser.visit(lambda request: request.session.flash("first"))
    browser.visit(view, status=500)
    assert browser.ask(lambda session: session.peek_flash()) == ["other"]
    assert lost_changes(caplog) == 1


def test_other_keys_of_an_exception_view_are_merged(engine, caplog):
    """What doesn't meet is stored, whoever wrote the rest, and nothing is lost."""

    def view(request):
        assert request.session["n"] == 1
        as_another(browser, meanwhile)
        raise Failure

    def meanwhile(request):
        request.session["other"] = 1
        request.session.flash("other")
        request.session.pop_flash("queue")

    def answer(request):
        request.session["nested"].append("own")
        request.session["answer"] = 1
        request.session.flash("own")

    browser = visitor(engine, answer)
    browser.visit(lambda request: request.session.flash("first", "queue"))
    browser.visit(view, status=500)
    assert browser.ask(dict) == {"n": 1, "nested": [0, "own"], "other": 1, "answer": 1}
    assert browser.ask(lambda session: session.peek_flash()) == ["other", "own"]
    assert browser.ask(lambda session: session.peek_flash("queue")) == []
    assert logged(caplog, "ERROR") == []


# Above pyramid_tm.


def above(before=None, after=None):
    """Return a ``configure`` with a tween that calls these, on the path /tween only."""

    def tween(handler, request):
        active = request.path == "/tween"
        if active and before:
            before(request)
        response = handler(request)
        if active and after:
            after(request)
        return response

    return tween_above(tween)


def add(name):
    """Return a view that adds a value, a message and an item to the session."""

    def view(request):
        request.session[name] = 1
        request.session.flash(name)
        request.session.setdefault("nested", [0]).append(name)

    return view


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
@new_and_stored
@pytest.mark.parametrize("in_view", [nothing, add("view")], ids=["unused", "used"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(None, add("after")), (add("before"), None), (add("before"), add("after"))],
    ids=["after", "before", "both"],
)
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
def test_a_tween_above(engine, before, after, in_view, stored, explicit):
    """What a tween above pyramid_tm and the view change is in one session."""
    browser = visitor(
        engine, stored=stored, configure=above(before, after), explicit=explicit
    )
    response = browser.visit(in_view, "/tween")
    assert len(set_cookies(response)) == (not stored)
    assert len(browser.application.rows()) == 1
    names = [
        name
        for name, there in (
            ("before", before),
            ("view", in_view is not nothing),
            ("after", after),
        )
        if there
    ]
    expected = {"n": 1} if stored else {}
    expected |= {"nested": [0, *names]} | dict.fromkeys(names, 1)
    assert browser.ask(dict) == expected
    assert browser.ask(lambda session: session.peek_flash()) == names


def test_a_tween_above_reads(engine):
    """A tween above pyramid_tm sees what was stored, before and after the view."""
    seen = []

    def look(request):
        seen.append(request.session["n"])

    browser = visitor(engine, configure=above(look, look))

    def view(request):
        request.session["n"] += 1

    browser.visit(view, "/tween")
    assert seen == [1, 2]
    assert browser.ask(lambda session: session["n"]) == 2


def test_a_value_is_handed_out_above_the_view(engine):
    """A mutable value that a tween took before the view may be changed after it."""

    def tween(handler, request):
        if request.path != "/tween":
            return handler(request)
        value = request.session["nested"]
        response = handler(request)
        value.append("tween")
        return response

    browser = visitor(engine, configure=tween_above(tween))
    browser.visit(nothing, "/tween")
    assert browser.ask(lambda session: session["nested"]) == [0, "tween"]


def test_a_toolbar_costs_no_write(engine):
    """What a debug toolbar does, to read all of the session, writes nothing."""

    def look(request):
        dict(request.session)
        [request.session[key] for key in request.session]
        repr(request.session)

    browser = visitor(engine, configure=above(look, look))
    with statements(engine) as executed:
        browser.visit(lambda request: request.session["n"], "/tween")
    assert not [each for each in executed if not each.startswith("SELECT")]


def test_all_three_count(engine):
    """A counter that the tween raises before and after, and the view in between."""

    def count(request):
        request.session["n"] += 1

    browser = visitor(engine, configure=above(count, count))
    browser.visit(count, "/tween")
    assert browser.ask(lambda session: session["n"]) == 4


def test_the_view_fails_below_a_tween(engine):
    """A tween's changes are stored although the view below it fails."""

    def answer(request):
        request.session["answer"] = 1

    browser = visitor(engine, answer, configure=above(add("before"), add("after")))
    browser.visit(fail, "/tween", status=500)
    assert browser.ask(dict) == {
        "n": 1,
        "nested": [0, "before", "after"],
        "before": 1,
        "answer": 1,
        "after": 1,
    }


def test_the_view_ends_the_session_below_a_tween(engine):
    """What a tween writes after the view's invalidation is in a new session."""
    browser = visitor(
        engine, configure=above(None, lambda request: request.session.update(after=1))
    )
    before = browser.application.row().id

    def view(request):
        request.session.invalidate()

    response = browser.visit(view, "/tween")
    assert len(set_cookies(response)) == 1
    assert browser.application.row().id != before
    assert browser.ask(dict) == {"after": 1}


def test_a_tween_ends_the_session_above_the_view(engine):
    """A view below a tween that invalidated the session works with a new one."""
    browser = visitor(
        engine, configure=above(lambda request: request.session.invalidate())
    )
    before = browser.application.row().id

    def view(request):
        assert "n" not in request.session
        request.session["view"] = 1

    response = browser.visit(view, "/tween")
    assert len(set_cookies(response)) == 1
    assert browser.application.row().id != before
    assert browser.ask(dict) == {"view": 1}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_tween_logs_in(engine, when):
    """A login in a tween above pyramid_tm replaces the cookie, once."""

    def log_in(request):
        request.session.userid = 5

    browser = visitor(engine, configure=above(**{when: log_in}))
    before, cookie = browser.application.row(), browser.cookie
    response = browser.visit(lambda request: request.session.update(n=2), "/tween")
    assert len(set_cookies(response)) == 1
    row = browser.application.row()
    assert (row.id, row.userid) == (before.id, 5)
    assert row.renewal_id not in (None, before.renewal_id)
    assert browser.ask(lambda session: session["n"]) == 2
    assert not gives_access(browser.application, cookie)


def test_the_view_logs_in_below_a_tween_that_flashes(engine):
    """A tween's message after the login reaches the session with its new cookie."""
    browser = visitor(
        engine,
        configure=above(None, lambda request: request.session.flash("Welcome!")),
    )

    def view(request):
        request.session.userid = 5

    response = browser.visit(view, "/tween")
    assert len(set_cookies(response)) == 1
    assert browser.ask(lambda session: session.peek_flash()) == ["Welcome!"]


def test_the_activate_hook_excludes_the_request(engine):
    """Where pyramid_tm's activate hook leaves a request out, its session is stored."""
    browser = visitor(
        engine,
        settings={"tm.activate_hook": lambda request: request.path != "/without"},
    )

    def view(request):
        request.session["n"] += 1

    browser.visit(view, "/without")
    assert browser.ask(lambda session: session["n"]) == 2


# Without pyramid_tm.


@new_and_stored
def test_without_pyramid_tm(engine, stored, caplog):
    """Without pyramid_tm sessions are stored, and that is warned about once."""
    browser = visitor(
        engine,
        stored=stored,
        pyramid_tm=False,
        make_dbsession=plain_dbsession(engine),
    )

    def view(request):
        request.session["n"] = request.session.get("n", 0) + 1

    for _ in range(3):
        browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 3 + stored
    assert len(browser.application.rows()) == 1
    (message,) = logged(caplog, "WARNING")
    assert "pyramid_tm" in message


def test_without_pyramid_tm_with_another_manager(engine):
    """Without pyramid_tm a dbsession that zope.sqlalchemy knows is stored as any other.

    The transaction of the application is its own.
    """
    Base.metadata.create_all(engine)
    manager = explicit_manager(None)

    def make(request, _):
        dbsession = Session(engine)
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        return dbsession

    browser = visitor(engine, pyramid_tm=False, make_dbsession=make)

    def view(request):
        with manager:
            request.session["n"] += 1
            request.dbsession.add(Thing(id=1))

    browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 2
    assert things(engine) == [1]


def test_without_pyramid_tm_an_exception_view(engine):
    """Without pyramid_tm an exception view's changes are stored, the view's are not."""
    browser = visitor(
        engine,
        lambda request: request.session.update(answer=1),
        pyramid_tm=False,
        make_dbsession=plain_dbsession(engine),
    )
    browser.visit(fail, status=500)
    assert browser.ask(dict) == {"n": 1, "nested": [0], "answer": 1}


def test_without_pyramid_tm_and_without_a_response(engine):
    """Without pyramid_tm a view that fails without an answer stores nothing."""
    browser = visitor(engine, pyramid_tm=False, make_dbsession=plain_dbsession(engine))
    with pytest.raises(Failure):
        browser.visit(fail)
    assert browser.ask(dict) == {"n": 1, "nested": [0]}


def test_without_pyramid_tm_the_application_s_transaction_is_its_own(engine):
    """Without pyramid_tm storing the session commits nothing of the application's."""
    Base.metadata.create_all(engine)
    browser = visitor(engine, pyramid_tm=False, make_dbsession=plain_dbsession(engine))

    def view(request):
        request.session["n"] += 1
        request.dbsession.add(Thing(id=1))

    browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 2
    assert things(engine) == []


# What the dbsession is bound to.


@pytest.fixture
def outer(engine):
    """A connection in a transaction that is rolled back in the end."""
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        transaction = connection.begin()
        if engine.dialect.name == "sqlite":
            # The driver begins no transaction before a savepoint by itself.
            connection.execute(text("DELETE FROM full_session"))
        yield connection
        if transaction.is_active:
            transaction.rollback()


def on_connection(connection):
    """Return a way to make dbsessions in the transaction of the connection."""

    def make(request, manager):
        dbsession = Session(connection, join_transaction_mode="create_savepoint")
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        return dbsession

    return make


@new_and_stored
def test_on_a_connection(engine, outer, stored):
    """In a test fixture's outer transaction an exception view's changes are stored."""
    browser = visitor(
        engine,
        lambda request: request.session.update(answer=1),
        make_dbsession=on_connection(outer),
        stored=stored,
    )

    def view(request):
        request.dbsession.add(Thing(id=1))
        request.dbsession.flush()
        fail(request)

    response = browser.visit(view, status=500)
    assert len(set_cookies(response)) == (not stored)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "answer": 1}
    assert outer.scalars(select(Thing.id)).all() == []
    outer.get_transaction().rollback()
    assert browser.application.rows() == []


def test_on_a_connection_above_pyramid_tm(engine, outer):
    """In a test fixture's outer transaction a tween above pyramid_tm works, too."""
    browser = visitor(
        engine,
        make_dbsession=on_connection(outer),
        configure=above(add("before"), add("after")),
    )
    browser.visit(add("view"), "/tween")
    assert browser.ask(lambda session: session["nested"]) == [
        0,
        "before",
        "view",
        "after",
    ]
    outer.get_transaction().rollback()
    assert browser.application.rows() == []


@pytest.mark.parametrize("how", [break_by_flush, break_by_statement])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_on_a_connection_that_the_view_broke(engine, outer, how, used):
    """In a test fixture's transaction an exception view survives a broken dbsession."""

    def view(request):
        if used:
            request.session["view"] = 1
        how(request)

    browser = visitor(
        engine,
        lambda request: request.session.update(answer=1),
        context=DBAPIError,
        make_dbsession=on_connection(outer),
    )
    browser.visit(view, status=500)
    assert browser.ask(dict) == {"n": 1, "nested": [0], "answer": 1}


def flush_and_fail(request):
    """Hold the database's write lock, and fail."""
    request.session["view"] = 1
    request.dbsession.add(Thing(id=1))
    request.dbsession.flush()
    raise Failure


@pytest.mark.parametrize(
    "options",
    [{"poolclass": NullPool}, {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}],
    ids=["NullPool", "one-connection"],
)
@new_and_stored
def test_no_deadlock(engine, make_story_engine, options, stored):
    """An exception view's change waits neither for a lock nor for a connection."""
    Base.metadata.create_all(engine)
    browser = visitor(
        make_story_engine(**options),
        lambda request: request.session.update(answer=1),
        stored=stored,
    )
    browser.visit(flush_and_fail, status=500)
    assert browser.ask(lambda session: session["answer"]) == 1
    assert things(engine) == []


@new_and_stored
def test_no_deadlock_after_a_failed_commit(engine, stored):
    """After a failed commit that had flushed there is no deadlock either."""
    Base.metadata.create_all(engine)

    def view(request):
        request.session["view"] = 1
        request.dbsession.add(Thing(id=1))
        request.tm.get().join(Refuser("tpc_vote", "~q"))

    browser = visitor(
        engine,
        lambda request: request.session.update(answer=1),
        context=Refusal,
        stored=stored,
    )
    browser.visit(view, status=500)
    assert browser.ask(lambda session: session["answer"]) == 1
    assert things(engine) == []


@new_and_stored
@pytest.mark.parametrize("how", [flush_and_fail, break_by_flush])
def test_in_memory(stored, how):
    """With SQLite in memory, on one connection, nothing of the view is committed."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    Base.metadata.create_all(engine)
    SessionBase.metadata.create_all(engine)
    browser = visitor(
        engine,
        lambda request: request.session.update(answer=1),
        context=Exception,
        stored=stored,
    )
    browser.visit(how, status=500)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "answer": 1}
    assert things(engine) == []
    engine.dispose()


# Callbacks and events.


def test_a_response_callback(engine):
    """A response callback can change the session, even as the first to use it."""

    def view(request):
        request.add_response_callback(
            lambda request, response: request.session.update(callback=1)
        )

    browser = visitor(engine)
    browser.visit(view)
    assert browser.ask(dict) == {"n": 1, "nested": [0], "callback": 1}


def test_a_response_callback_before_the_session_s(engine):
    """A response callback added before the first use can change the session."""

    def view(request):
        request.add_response_callback(
            lambda request, response: request.session.update(callback=1)
        )
        request.session["view"] = 1

    browser = visitor(engine)
    browser.visit(view)
    assert browser.ask(lambda session: (session["view"], session["callback"])) == (1, 1)


def test_a_response_callback_after_the_session_s(engine):
    """A response callback that comes too late is told so, or its change is stored."""
    caught = []

    def callback(request, response):
        try:
            request.session["callback"] = 1
        except TransactionRequiredError as error:
            caught.append(str(error))

    def view(request):
        request.session["view"] = 1
        request.add_response_callback(callback)

    browser = visitor(engine)
    browser.visit(view)
    assert browser.ask(lambda session: "callback" in session) == (not caught)
    assert browser.ask(lambda session: session["view"]) == 1


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_writing_in_a_finished_callback(engine, used, caplog):
    """Writing in a finished callback raises TransactionRequiredError, or is logged."""
    caught = []

    def callback(request):
        try:
            request.session["callback"] = 1
        except TransactionRequiredError as error:
            caught.append(str(error))

    def view(request):
        request.add_finished_callback(callback)
        if used:
            request.session["view"] = 1

    browser = visitor(engine)
    browser.visit(view)
    assert caught or logged(caplog, "ERROR")
    assert "callback" not in browser.ask(dict)
    assert ("view" in browser.ask(dict)) == used


def test_reading_in_a_finished_callback(engine):
    """Reading in a finished callback works."""
    seen = []

    def view(request):
        request.session["n"] += 1
        request.add_finished_callback(lambda request: seen.append(request.session["n"]))

    browser = visitor(engine)
    browser.visit(view)
    assert seen == [2]


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_subscriber_of_new_response(engine, used, caplog):
    """A subscriber of NewResponse comes too late: an exception, or a log entry."""
    caught = []

    def subscriber(event):
        try:
            event.request.session["subscriber"] = 1
        except TransactionRequiredError as error:
            caught.append(str(error))

    def configure(config):
        def on_path(event):
            if event.request.path == "/event":
                subscriber(event)

        config.add_subscriber(on_path, NewResponse)

    browser = visitor(engine, configure=configure)

    def view(request):
        if used:
            request.session["view"] = 1

    response = browser.visit(view, "/event")
    assert set_cookies(response) == []
    assert caught or logged(caplog, "ERROR")
    assert "subscriber" not in browser.ask(dict)
    assert ("view" in browser.ask(dict)) == used


def test_a_subscriber_of_new_request(engine):
    """A subscriber of NewRequest, in the transaction, can change the session."""

    def configure(config):
        def subscriber(event):
            event.request.session["subscriber"] = 1

        config.add_subscriber(subscriber, NewRequest)

    browser = visitor(engine, configure=configure, stored=False)
    response = browser.visit(lambda request: request.session.update(view=2))
    assert len(set_cookies(response)) == 1
    assert browser.ask(dict) == {"subscriber": 1, "view": 2}


def test_a_value_is_changed_after_the_commit(engine):
    """A mutable value of the view's that a response callback changes is no error."""

    def view(request):
        value = request.session["nested"]
        request.add_response_callback(lambda request, response: value.append(1))

    browser = visitor(engine)
    browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 1


def test_a_request_without_a_response(engine, caplog):
    """Changes above pyramid_tm in a request without a response are logged."""

    def tween(handler, request):
        if request.path == "/tween":
            request.session["before"] = 1
        return handler(request)

    browser = visitor(engine, configure=tween_above(tween))

    def view(request):
        raise Failure

    with pytest.raises(Failure):
        browser.visit(view, "/tween")
    assert len(logged(caplog, "ERROR")) == 1
    assert browser.ask(dict) == {"n": 1, "nested": [0]}


# Where no response is to come.


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
def test_writing_while_the_body_is_sent(engine, used, explicit, caplog):
    """Writing while the body is sent is too late: an exception, or a log entry."""
    caught = []

    def view(request):
        if used:
            request.session["view"] = 1

        def body():
            yield b"body"
            try:
                request.session["body"] = 1
            except TransactionRequiredError as error:
                caught.append(str(error))

        return Response(app_iter=body())

    browser = visitor(engine, explicit=explicit)
    caplog.clear()
    assert browser.visit(view).text == "body"
    assert "body" not in browser.ask(dict)
    assert caught or logged(caplog, "ERROR") or logged(caplog, "WARNING")


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "thread-local"])
def test_a_script_without_a_transaction(engine, explicit, caplog):
    """A script that writes outside of a transaction is told that nothing is stored."""
    application = Application(engine, explicit=explicit)
    caught = []
    with prepare(registry=application.registry) as env:
        try:
            env["request"].session["script"] = 1
        except TransactionRequiredError as error:
            caught.append(str(error))
    assert application.rows() == []
    assert caught or logged(caplog, "ERROR") or logged(caplog, "WARNING")


def test_a_script_with_a_transaction(engine):
    """A script can make a session in a transaction of its own."""
    application = Application(engine)
    with prepare(registry=application.registry) as env:
        request = env["request"]
        with request.tm:
            request.session["script"] = 1
    assert len(application.rows()) == 1


# The cookie and the caches, as ever.


def test_the_cookie_of_an_exception_view_is_not_cached(engine):
    """An exception view's response with the cookie is kept from shared caches."""

    def answer(request):
        request.session["answer"] = 1
        return Response("sorry", status=500, cache_control="public, max-age=60")

    browser = visitor(engine, answer, stored=False)
    response = browser.visit(fail, status=500)
    assert len(set_cookies(response)) == 1
    assert "private" in response.headers["Cache-Control"]
    assert "public" not in response.headers["Cache-Control"]


def test_a_bad_cookie_and_an_exception_view(engine):
    """A new session of an exception view replaces a bad cookie, with one Set-Cookie."""
    browser = visitor(
        engine, lambda request: request.session.update(answer=1), stored=False
    )
    response = browser.visit(fail, status=500, headers={"Cookie": "session=nonsense"})
    (header,) = set_cookies(response)
    assert "Max-Age=0" not in header
    assert browser.ask(dict) == {"answer": 1}


# What the dbsession is bound to, once more.


@new_and_stored
def test_a_bind_for_the_model_only(engine, stored):
    """The bind that the dbsession has for the model is used, everywhere."""

    def make(request, manager):
        dbsession = Session(binds={Full: engine})
        zope.sqlalchemy.register(dbsession, transaction_manager=manager)
        return dbsession

    browser = visitor(
        engine,
        lambda request: request.session.update(answer=1),
        make_dbsession=make,
        stored=stored,
    )
    browser.visit(fail, status=500)
    assert browser.ask(lambda session: session["answer"]) == 1
    browser.visit(lambda request: request.session.update(answer=2))
    assert browser.ask(lambda session: session["answer"]) == 2


# Exception views of subrequests.


@pytest.mark.parametrize("fails", [False, True], ids=["commit", "abort"])
def test_the_exception_view_of_a_subrequest(engine, fails, caplog):
    """What a subrequest's exception view changed is stored with the outer request."""

    def view(request):
        if request.path == "/sub":
            raise KeyError
        sub = Request.blank("/sub", headers={"Cookie": request.headers["Cookie"]})
        sub.environ["tm.active"] = True
        sub.environ["tm.manager"] = request.tm
        sub.environ["app.dbsession"] = request.dbsession
        assert request.invoke_subrequest(sub, use_tweens=True).status_int == 500
        if fails:
            raise Failure

    browser = visitor(
        engine, lambda request: request.session.flash("answer"), context=KeyError
    )
    if fails:
        with pytest.raises(Failure):
            browser.visit(view)
    else:
        browser.visit(view)
        assert browser.ask(lambda session: session.peek_flash()) == ["answer"]
        assert logged(caplog, "ERROR") == []


# What the failed view did to the session as a whole, where a veto might let it commit.


@pytest.mark.parametrize(
    "deed",
    [
        lambda request: request.session.invalidate(),
        lambda request: request.session.rotate(),
        lambda request: setattr(request.session, "userid", 7),
    ],
    ids=["invalidate", "rotate", "login"],
)
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_a_veto_aborts_what_the_failed_view_did(engine, deed, read):
    """A failed view's end, rotation or login is taken back, the message stays."""

    def view(request):
        deed(request)
        if read:
            request.session.get("n")
        raise Failure

    browser = visitor(
        engine, lambda request: request.session.flash("answer"), settings=VETO
    )
    before = browser.application.row().id
    response = browser.visit(view, status=500)
    assert set_cookies(response) == []
    row = browser.application.row()
    assert (row.id, row.userid, row.renewal_id) == (before, None, None)
    assert browser.ask(dict) == {"n": 1, "nested": [0]}
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]


@pytest.mark.parametrize(
    ("deed", "is_same"),
    [
        (lambda request: request.session.invalidate(), False),
        (lambda request: request.session.rotate(), True),
        (lambda request: setattr(request.session, "userid", 7), True),
    ],
    ids=["invalidate", "rotate", "login"],
)
def test_a_veto_commits_what_the_failed_view_did(engine, deed, is_same):
    """Where the veto lets it commit, the view's end, rotation or login happens."""

    def view(request):
        deed(request)
        raise Failure

    def answer(request):
        request.session.flash("answer")
        return Response("ok")

    browser = visitor(engine, answer, settings=VETO)
    before, cookie = browser.application.row(), browser.cookie
    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    row = browser.application.row()
    assert (row.id == before.id) is is_same
    assert (row.renewal_id is not None) is is_same
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]
    assert not gives_access(browser.application, cookie)


def test_a_veto_and_a_tween_above(engine):
    """What a tween above pyramid_tm flashes after a vetoed response is stored alone."""
    browser = visitor(
        engine,
        settings=VETO,
        configure=above(None, lambda request: request.session.flash("after")),
    )

    def view(request):
        request.session["n"] = 100
        request.session.flash("view")
        return Response("no", status=400)

    browser.visit(view, "/tween", status=400)
    assert browser.ask(dict) == {"n": 1, "nested": [0]}
    assert browser.ask(lambda session: session.peek_flash()) == ["after"]


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_doomed_view_fails(engine, used, caplog):
    """An exception view after doom() is stored as any other, and without a warning."""

    def view(request):
        if used:
            request.session["view"] = 1
        request.tm.doom()
        raise Failure

    browser = visitor(engine, lambda request: request.session.flash("answer"))
    browser.visit(view, status=500)
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]
    assert "view" not in browser.ask(dict)
    assert logged(caplog, "WARNING") == logged(caplog, "ERROR") == []


def test_an_exception_view_declines(engine):
    """A view that goes on after an exception view declined has its own values still."""

    def answer(request):
        assert request.session["n"]
        raise HTTPNotFound

    def view(request):
        request.session["n"] = 100
        try:
            raise Failure
        except Failure:
            with contextlib.suppress(HTTPNotFound):
                request.invoke_exception_view()
        assert request.exception is None
        assert request.session["n"] == 100
        request.session["n"] += 1

    browser = visitor(engine, answer)
    browser.visit(view)
    assert browser.ask(lambda session: session["n"]) == 101


# Corners.


def test_a_veto_aborts_the_end_of_a_login(engine):
    """A failed view's invalidation takes neither the user nor the token with it."""

    def log_in(request):
        request.session.userid = 5
        return request.session.get_csrf_token()

    def view(request):
        request.session.invalidate()
        raise Failure

    browser = visitor(
        engine, lambda request: request.session.flash("answer"), settings=VETO
    )
    token = browser.visit(log_in).text
    created = browser.application.row().created
    browser.visit(view, status=500)
    row = browser.application.row()
    assert (row.userid, row.created) == (5, created)
    assert browser.ask(lambda session: session.get_csrf_token()) == token
    assert browser.ask(lambda session: session.peek_flash()) == ["answer"]


def test_the_failed_view_of_a_request_without_a_transaction(engine):
    """A failed view that the activate hook left out of transactions stores nothing."""
    browser = visitor(
        engine,
        lambda request: request.session.update(answer=1),
        settings={"tm.activate_hook": lambda request: request.path != "/without"},
    )
    browser.visit(fail, "/without", status=500)
    assert browser.ask(dict) == {"n": 1, "nested": [0], "answer": 1}


@new_and_stored
def test_a_savepoint_below_a_tween(engine, stored):
    """A tween's changes survive the rollback of the savepoint that first saw them."""
    browser = visitor(
        engine,
        stored=stored,
        configure=above(lambda request: request.session.update(before=1)),
    )

    def view(request):
        request.dbsession.connection()
        point = request.dbsession.begin_nested()
        request.session["inside"] = 1
        point.rollback()

    response = browser.visit(view, "/tween")
    assert len(set_cookies(response)) == (not stored)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "before": 1}


@new_and_stored
@pytest.mark.parametrize("ends", [False, True], ids=["goes-on", "ends"])
def test_a_persisted_session_that_a_veto_rolls_back(engine, stored, ends, caplog):
    """What the exception view does is stored, though the row it saw is gone."""
    browser = visitor(
        engine,
        lambda request: request.session.update(answer=request.session["view"] + 1),
        stored=stored,
        settings={"tm.commit_veto": "pyramid_tm.default_commit_veto"},
    )

    def view(request):
        if ends:
            request.session.invalidate()
        request.session["view"] = 1
        request.session.persist()
        raise Failure

    browser.visit(view, status=500)
    base = {"n": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "answer": 2}
    assert logged(caplog, "ERROR") == []


@new_and_stored
def test_a_savepoint_in_what_a_tween_is_brought_into(engine, stored):
    """What a tween did comes into the transaction once, whatever is rolled back."""
    browser = visitor(
        engine,
        stored=stored,
        configure=above(lambda request: request.session.flash("tween")),
    )

    def view(request):
        request.session["view"] = 1
        for _ in range(2):
            point = request.dbsession.begin_nested()
            request.session["inside"] = 1
            point.rollback()

    browser.visit(view, "/tween")
    assert browser.ask(lambda session: session.peek_flash()) == ["tween"]


def test_a_request_in_a_finished_callback(engine):
    """A request that is handled in another one's finished callback has a session."""

    def callback(request):
        sub = Request.blank("/sub", headers={"Cookie": request.headers["Cookie"]})
        request.invoke_subrequest(sub, use_tweens=True)

    def view(request):
        if request.path == "/sub":
            raise Failure
        request.add_finished_callback(callback)

    browser = visitor(engine, lambda request: request.session.update(answer=1))
    browser.visit(view)
    assert browser.ask(lambda session: session["answer"]) == 1


def test_looked_at_in_one_transaction_and_written_in_the_next(engine):
    """A new session that was but looked at before can be written in any transaction."""

    def view(request):
        assert not request.session
        request.tm.commit()
        request.tm.begin()
        assert "n" not in request.session
        request.session["n"] = 1

    browser = visitor(engine, stored=False)
    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert browser.ask(dict) == {"n": 1}


def test_looked_at_in_the_view_and_written_above(engine):
    """A new session that the view looked at can be written by a tween above it."""
    browser = visitor(
        engine,
        stored=False,
        configure=above(None, lambda request: request.session.update(after=1)),
    )
    response = browser.visit(lambda request: len(request.session), "/tween")
    assert len(set_cookies(response)) == 1
    assert browser.ask(dict) == {"after": 1}


@pytest.mark.parametrize("deed", ["commit", "abort"])
def test_a_token_of_a_new_session_that_was_looked_at(engine, deed):
    """A new session keeps one CSRF token through view and exception view."""
    tokens = []

    def view(request):
        assert not request.session
        tokens.append(request.session.get_csrf_token())
        if deed == "abort":
            raise Failure

    def answer(request):
        tokens.append(request.session.get_csrf_token())

    browser = visitor(engine, answer, stored=False)
    browser.visit(view, status="*")
    assert browser.ask(lambda session: session.get_csrf_token()) == tokens[-1]
