"""Another request changes the cookie while an exception view is at work.

The oracle found these: ``python -m stress oracle``.
"""

from __future__ import annotations

import contextlib
import logging
import threading

import pytest
from pyramid.response import Response
from sqlalchemy import text
from sqlalchemy.orm.exc import StaleDataError

from tests.application import Application, Browser, Failure
from tests.stories.transactions import Refuser, elsewhere, exception_view, logged


def rotate(request):
    """Change the cookie."""
    request.session.rotate()


def log_in(request):
    """Log a user in."""
    request.session.userid = 6


class Overtaken:
    """A browser whose view fails, and what another request does meanwhile."""

    def __init__(self, engine, answer, meanwhile):
        self.rival = Browser(Application(engine))
        self.rival.visit(lambda request: request.session.update(n=1))
        browser = Browser(
            Application(engine, configure=exception_view(self._answer, Failure))
        )
        browser.set_cookie("session", self.rival.cookie)
        self.browser = browser
        self.answer = answer
        self.meanwhile = meanwhile

    def _answer(self, request):
        self.answer(request)
        elsewhere(self.rival.visit, self.meanwhile)

    def visit(self):
        """Let the view fail."""

        def view(request):
            request.session["view"] = 1
            raise Failure

        self.browser.visit(view, status=500)


def message(session):
    """Return the messages, which stay there."""
    return session.peek_flash()


@pytest.mark.parametrize("meanwhile", [rotate, log_in])
def test_a_message_is_stored_or_logged_as_lost(engine, meanwhile, caplog):
    """A message of an exception view does not get lost in silence.

    After a login the request came too late, which the log tells, too.
    """
    caplog.set_level(logging.INFO)
    story = Overtaken(engine, lambda request: request.session.flash("!"), meanwhile)
    story.visit()
    is_stored = story.rival.ask(message) == ["!"]
    assert is_stored == (meanwhile is rotate)
    assert is_stored or logged(caplog, "INFO")


@pytest.mark.parametrize("meanwhile", [rotate, log_in])
def test_an_increment_is_stored_or_logged_as_lost(engine, meanwhile, caplog):
    """An increment of an exception view does not get lost in silence."""
    caplog.set_level(logging.INFO)

    def increment(request):
        request.session["n"] += 1

    story = Overtaken(engine, increment, meanwhile)
    story.visit()
    is_stored = story.rival.ask(lambda session: session["n"]) == 2
    assert is_stored == (meanwhile is rotate)
    assert is_stored or logged(caplog, "INFO")


@pytest.mark.parametrize("meanwhile", [rotate, log_in])
def test_a_login_takes_nothing_along(engine, meanwhile):
    """A login in an exception view copies nothing into a session of its own."""

    def answer(request):
        request.session["n"] += 1
        request.session.userid = 5

    story = Overtaken(engine, answer, meanwhile)
    story.visit()
    is_another = len(story.rival.application.rows()) == 2
    counted = story.browser.ask(lambda session: session.get("n"))
    assert counted is None or not is_another


def test_what_an_exception_view_read_counts_if_it_is_committed(engine):
    """No write skew: with a veto that commits, the exception view's reads count."""

    def answer(request):
        response = Response(f"{request.session['b']} are left there")
        elsewhere(rival.visit, take_from_both)
        return response

    def take_from_both(request):
        session = request.session
        if session["a"] + session["b"] >= 1:
            session["b"] -= 1

    def view(request):
        session = request.session
        if session["a"] >= 1:
            session["a"] -= 1
        raise Failure

    rival = Browser(Application(engine))
    rival.visit(lambda request: request.session.update(a=1, b=0))
    configure = exception_view(answer, Failure)
    settings = {"tm.commit_veto": "pyramid_tm.default_commit_veto"}
    browser = Browser(Application(engine, configure=configure, settings=settings))
    browser.set_cookie("session", rival.cookie)
    with contextlib.suppress(StaleDataError):
        browser.visit(view)
    taken = rival.ask(lambda session: session["a"] + session["b"])
    assert taken == 0


def test_a_late_request_stores_nothing_when_the_session_ends(engine):
    """What a late request's exception view wrote isn't stored in a new session."""

    def answer(request):
        assert request.session.is_late
        request.session["answer"] = 1

    def end(request):
        request.session.invalidate()

    story = Overtaken(engine, answer, end)
    story.rival.visit(rotate)
    story.visit()
    assert story.rival.application.rows() == []


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_an_exception_view_after_a_failed_commit_waits_for_no_lock(
    engine, make_story_engine
):
    """A retried request is tried again when its exception view meets another one."""
    strict = make_story_engine(isolation_level="REPEATABLE READ")
    attempts = []

    def view(request):
        attempts.append(request)
        request.session["n"] += 1
        if len(attempts) == 1:
            raise StaleDataError
        if len(attempts) == 2:
            request.tm.get().join(Refuser("tpc_vote", error=StaleDataError))

    def answer(request):
        if len(attempts) < 2:
            return "conflict"
        rival = engine.connect()
        rival.execute(text("UPDATE full_session SET version = version + 1"))
        timer = threading.Timer(0.3, lambda: (rival.commit(), rival.close()))
        timer.start()
        try:
            return str(request.session["n"])
        finally:
            timer.join()

    def configure(config):
        config.include("pyramid_sqlalchemy_sessions.retry")
        exception_view(answer, Exception)(config)

    browser = Browser(
        Application(strict, configure=configure, settings={"retry.attempts": 3})
    )
    browser.visit(lambda request: request.session.update(n=1))
    browser.visit(view)
    assert len(attempts) == 3
    assert browser.ask(lambda session: session["n"]) == 2
