"""The Session panel of pyramid_debugtoolbar looks at sessions, and changes nothing.

It reads the session before the transaction and after it: from a tween above pyramid_tm.
"""

from __future__ import annotations

import re

import pytest
from pyramid.httpexceptions import HTTPForbidden, HTTPSeeOther
from pyramid.response import Response
from webtest.app import AppError

from tests.application import Application, Browser, Full, statements
from tests.stories.transactions import all_of, exception_view, logged, set_cookies


def page(text: object) -> Response:
    """Make a page of HTML: others get no toolbar."""
    return Response(f"<html><body>{text}</body></html>")


def count(request):
    """Count the visits."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return page(request.session["visits"])


def include(config):
    """Include the toolbar."""
    config.include("pyramid_debugtoolbar")


class Developer(Browser):
    """A browser on the machine of the application, with the toolbar."""

    def __init__(self, application, active):
        super().__init__(application, REMOTE_ADDR="127.0.0.1")
        if active:
            self.set_cookie("pdtb_active", "session")

    def panel(self) -> list[str]:
        """Return what the Session panel tells of the data in the last request."""
        ((request_id, _),) = self.application.registry.pdtb_history.last(1)
        heading = self.get(f"/_debug_toolbar/{request_id}").html.find(
            "h5", string="Session Data"
        )
        table = heading.find_next("table")
        return table.tbody.get_text(" ").split()


@pytest.fixture(params=[True, False], ids=["explicit", "thread-local"])
def make_application(request, sqlite_engine):
    """Make applications with each kind of transaction manager."""
    Full.__table__.create(sqlite_engine)

    def make(configure=include, **kw):
        return Application(
            sqlite_engine, configure=configure, explicit=request.param, **kw
        )

    return make


@pytest.fixture(params=[True, False], ids=["active", "inactive"])
def developer(request, make_application):
    """Use the panel, or have it idle beside the request."""
    return Developer(make_application(), request.param)


def test_counter(developer, caplog):
    """The session goes on, with one cookie for all requests, and nothing is logged."""
    responses = [developer.visit(count) for _ in range(3)]
    shown = [re.search("<body>(.)", response.text)[1] for response in responses]
    assert shown == ["1", "2", "3"]
    assert [len(set_cookies(response)) for response in responses] == [1, 0, 0]
    assert "toolbar" in responses[0].text
    assert logged(caplog, "WARNING") == logged(caplog, "ERROR") == []


def test_panel(developer):
    """The panel shows what was there before and after."""
    developer.visit(count)
    developer.visit(count)
    assert developer.panel() == ["!", "visits", "1", "2"]


def test_untouched(developer):
    """What the view does not use is not changed, and an idle panel does not load it."""
    developer.visit(count)
    with statements(developer.application.engine) as executed:
        developer.visit(lambda request: page("hello"))
    reads = ["SELECT"] if "pdtb_active" in developer.cookies else []
    assert {statement.split()[0] for statement in executed} == set(reads)


def test_costs_no_write(developer):
    """Looking at a session that is only read writes nothing."""
    developer.visit(lambda request: request.session.update(cart=[{"lamp": 1}]))
    with statements(developer.application.engine) as executed:
        developer.visit(lambda request: page(request.session["cart"]))
    assert {statement.split()[0] for statement in executed} == {"SELECT"}


def test_stranger(developer):
    """Who comes without a session gets none."""
    response = developer.visit(lambda request: page(len(request.session)))
    assert set_cookies(response) == []
    assert developer.application.rows() == []


def test_login_and_logout(developer):
    """A login changes the cookie, a logout deletes it, in one Set-Cookie each."""
    developer.visit(count)
    before = developer.cookie
    response = developer.visit(lambda r: setattr(r.session, "userid", 1))
    assert len(set_cookies(response)) == 1
    assert developer.cookie not in (None, before)
    assert developer.ask(lambda session: session.userid) == 1
    response = developer.visit(lambda request: request.session.invalidate())
    assert len(set_cookies(response)) == 1
    assert developer.cookie is None
    assert developer.application.rows() == []


def test_redirect(developer):
    """A message survives a redirect."""

    def view(request):
        request.session.flash("Saved.")
        return HTTPSeeOther("/")

    developer.visit(view)
    assert developer.ask(lambda session: session.pop_flash()) == ["Saved."]


def test_failure(developer, caplog):
    """What a view does that fails is not stored, and the toolbar shows its debugger."""
    developer.visit(count)

    def view(request):
        request.session["visits"] = 100
        raise ZeroDivisionError

    with pytest.raises(AppError, match="ZeroDivisionError"):
        developer.visit(view)
    assert developer.ask(dict) == {"visits": 1}
    assert logged(caplog, "WARNING") == logged(caplog, "ERROR") == []


@pytest.mark.parametrize("active", [True, False], ids=["active", "inactive"])
def test_exception_view(make_application, active, caplog):
    """What an exception view tells the session is stored."""

    def forbidden(request):
        request.session.flash("Please log in.")
        return HTTPSeeOther("/login")

    view = exception_view(forbidden, HTTPForbidden)
    developer = Developer(make_application(all_of(include, view)), active)
    developer.visit(count)

    def secret(request):
        request.session["visits"] = 100
        raise HTTPForbidden

    developer.visit(secret)
    assert developer.ask(dict) == {"visits": 1}
    assert developer.ask(lambda s: s.pop_flash()) == ["Please log in."]
    assert logged(caplog, "WARNING") == logged(caplog, "ERROR") == []
