"""A request that a login or a rotation overtakes does not log the user out."""

from __future__ import annotations

import logging

import pytest
from pyramid.httpexceptions import HTTPForbidden, HTTPFound

from pyramid_sqlalchemy_sessions import (
    UserSessionAuthenticationHelper,
    UserSessionAuthenticationPolicy,
)
from tests.application import Application, Browser, Failure
from tests.features.timed import sent, twin, use_cookie
from tests.stories.transactions import (
    all_of,
    elsewhere,
    exception_view,
    logged,
    set_cookies,
    tween_above,
)


def log_in(request):
    request.session.userid = 5


def visitor(engine, *, retry=False, **kw) -> Browser:
    """Return a browser that has a session without a user."""
    if retry:
        include = lambda config: config.include("pyramid_sqlalchemy_sessions.retry")  # noqa: E731
        kw["configure"] = all_of(include, kw.get("configure", lambda config: None))
    browser = Browser(Application(engine, **kw))
    browser.visit(lambda request: request.session.update(a=1, nested=[0]))
    return browser


def forbid(request):
    raise HTTPForbidden


def forbidden(request):
    request.session.flash("Please log in.")
    return HTTPFound("/login")


CHANGES = {
    "token": lambda request: request.session.get_csrf_token(),
    "write": lambda request: request.session.update(b=1),
    "flash": lambda request: request.session.flash("hello"),
    "in place": lambda request: request.session.setdefault("list", []).append(1),
    "rotate": lambda request: request.session.rotate(),
    "changed": lambda request: request.session.changed(),
    "settings": lambda request: request.session.settings.get("cookie_path"),
    "forbidden": forbid,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rival", ["login", "rotate"])
def test_a_late_cookie(engine, caplog, change, rival):
    """A page with the cookie from before the login sees, stores and sends nothing."""
    caplog.set_level(logging.INFO)
    browser = visitor(engine, configure=exception_view(forbidden, HTTPForbidden))
    late = twin(browser)
    deed = log_in if rival == "login" else CHANGES["rotate"]
    browser.visit(deed)
    row = vars(browser.application.row())

    def view(request):
        assert request.session.is_late
        assert (dict(request.session), request.session.userid) == ({}, None)
        CHANGES[change](request)

    response = late.visit(view, status="*")
    assert set_cookies(response) == []
    after = vars(browser.application.row())
    assert {**row, "_sa_instance_state": 0} == {**after, "_sa_instance_state": 0}
    assert len(logged(caplog, "INFO")) == (change != "settings")
    assert browser.ask(lambda session: session["a"]) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_under_way_during_the_login(engine, caplog, change):
    """A page that had loaded the session is tried again, and then comes too late."""
    caplog.set_level(logging.INFO)
    browser = visitor(
        engine, retry=True, configure=exception_view(forbidden, HTTPForbidden)
    )
    attempts: list = []

    def view(request):
        attempts.append(request.session.get("a"))
        if len(attempts) == 1:
            logged_in.append(sent(elsewhere(lambda: twin(browser).visit(log_in))))
            browser.application.view = view
        CHANGES[change](request)

    logged_in: list = []
    response = browser.visit(view, status="*")
    assert set_cookies(response) == []
    use_cookie(browser, logged_in[0].value)
    assert browser.ask(lambda session: session.userid) == 5
    assert len(browser.application.rows()) == 1
    assert browser.ask(lambda session: session.pop_flash()) == []
    if change != "settings":
        assert logged(caplog, "INFO")
    assert logged(caplog, "ERROR") == []


def test_a_tween_above(engine, caplog):
    """What a tween above pyramid_tm adds to a session that was logged in is dropped."""
    caplog.set_level(logging.INFO)
    logged_in: list = []

    def tween(handler, request):
        response = handler(request)
        if request.path == "/tween":
            logged_in.append(sent(elsewhere(lambda: twin(browser).visit(log_in))))
            request.session.flash("after")
        return response

    browser = visitor(engine, configure=tween_above(tween))
    response = browser.visit(lambda request: request.session["a"], "/tween")
    assert set_cookies(response) == []
    assert browser.application.row().flash == {}
    assert logged(caplog, "INFO")
    assert logged(caplog, "ERROR") == []


ENDS = {
    "invalidate": lambda request: request.session.invalidate(),
    "helper": lambda request: UserSessionAuthenticationHelper().forget(request),
    "policy": lambda request: UserSessionAuthenticationPolicy().forget(request),
    "userid": lambda request: setattr(request.session, "userid", None),
}


@pytest.mark.parametrize("where", ["view", "exception view"])
@pytest.mark.parametrize("end", ENDS)
def test_a_late_end(engine, end, where):
    """A logout with the cookie from before the login ends the session all the same."""
    browser = visitor(engine, configure=exception_view(ENDS[end]))
    late = twin(browser)
    browser.visit(log_in)

    def fail(request):
        raise Failure

    response = late.visit(ENDS[end] if where == "view" else fail, status="*")
    assert sent(response).is_deletion
    assert browser.application.rows() == []
    assert browser.ask(lambda session: session.new)


def test_a_late_end_that_goes_on(engine):
    """After a late end the session is an ordinary new one."""
    browser = visitor(engine)
    late = twin(browser)
    browser.visit(log_in)

    def view(request):
        request.session.invalidate()
        assert not request.session.is_late
        request.session.flash("bye")

    late.visit(view)
    assert late.ask(lambda session: session.pop_flash()) == ["bye"]
    assert len(browser.application.rows()) == 1


@pytest.mark.parametrize("where", ["view", "exception view"])
def test_a_late_login(engine, where):
    """A login form that was sent twice makes two sessions, and both are good."""
    browser = visitor(engine, configure=exception_view(log_in))
    late = twin(browser)
    browser.visit(log_in)

    def fail(request):
        raise Failure

    late.visit(log_in if where == "view" else fail, status="*")
    assert late.ask(lambda session: session.userid) == 5
    assert browser.ask(lambda session: session.userid) == 5
    assert len({row.id for row in browser.application.rows()}) == 2


def test_a_form_that_is_sent_twice_at_once(engine):
    """Also when both had loaded the session before either of them logged in."""
    browser = visitor(engine, retry=True)
    attempts: list = []
    others: list = []

    def view(request):
        attempts.append(request.session.userid)
        if len(attempts) == 1:
            others.append(sent(elsewhere(lambda: twin(browser).visit(log_in))))
            browser.application.view = view
        log_in(request)

    browser.visit(view)
    assert len(attempts) == 2
    assert browser.ask(lambda session: session.userid) == 5
    assert twin(browser, others[0].value).ask(lambda session: session.userid) == 5


def test_login_in_an_exception_view_beside_a_rotation(engine):
    """It isn't dropped because another request rotated the session."""
    browser = visitor(engine, configure=exception_view(log_in))

    def view(request):
        assert request.session["a"] == 1
        elsewhere(lambda: twin(browser).visit(CHANGES["rotate"]))
        raise Failure

    browser.visit(view, status=500)
    assert browser.ask(lambda session: session.userid) == 5


def test_forty_rounds(engine):
    """A page is under way while the user logs in, again and again."""
    for _ in range(40):
        browser = visitor(engine)
        late = twin(browser)
        browser.visit(log_in)
        response = late.visit(CHANGES["token"])
        headers = set_cookies(response)
        if headers:
            use_cookie(browser, sent(response).value)
        assert browser.ask(lambda session: session.userid) == 5
