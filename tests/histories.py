"""Whole histories of sessions, which every model must be able to serve."""

from __future__ import annotations

from typing import Any

from pyramid_sqlalchemy_sessions import UseridMixin
from tests.application import Application, Browser


def check_history(
    application: Application, alice: Any = 1, bob: Any = 2, **environ: Any
) -> None:
    """Play all that can happen to a session, and check what becomes of it."""
    browser = Browser(application, **environ)

    def create(request: Any) -> None:
        assert request.session.new
        request.session["cart"] = ["book"]

    def add(request: Any) -> None:
        request.session["cart"].append("pen")

    def log_in(request: Any) -> None:
        request.session.userid = alice
        assert request.session.get_csrf_token() == request.session.get_csrf_token()

    def switch(request: Any) -> None:
        assert request.session.userid == alice
        request.session.userid = bob

    browser.visit(create)
    assert browser.visit(lambda r: r.session["cart"]).text == "['book']"
    browser.visit(add)
    assert browser.visit(lambda r: r.session["cart"]).text == "['book', 'pen']"
    cookie, key = browser.cookie, application.row().id
    if issubclass(application.model, UseridMixin):
        browser.visit(log_in)
        assert browser.cookie != cookie
        assert application.row().id == key
        assert browser.visit(lambda r: r.session["cart"]).text == "['book', 'pen']"
        token = browser.visit(lambda r: r.session.get_csrf_token()).text
        of_alice = browser.cookie
        browser.visit(switch)
        assert browser.cookie != of_alice
        assert application.row().id == key
        assert application.row().userid == bob
        assert browser.visit(lambda r: r.session.get_csrf_token()).text != token
        # One user finds nothing of another's.
        assert browser.visit(lambda r: dict(r.session)).text == "{}"
        browser.visit(lambda r: r.session.update(cart=["book"]))
    browser.visit(lambda r: r.session.flash("saved"))
    assert browser.visit(lambda r: r.session.pop_flash()).text == "['saved']"
    assert browser.visit(lambda r: r.session.pop_flash()).text == "[]"
    browser.visit(lambda r: r.session.instance.id)
    assert application.row().version > 3
    browser.visit(lambda r: r.session.invalidate())
    assert browser.cookie is None
    assert application.rows() == []
