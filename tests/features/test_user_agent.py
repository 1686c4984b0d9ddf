"""A session tells in which browser it began."""

from __future__ import annotations

import pytest
from sqlalchemy import String
from sqlalchemy.orm import mapped_column

from pyramid_sqlalchemy_sessions import BaseMixin, UserAgentMixin
from tests.application import statements
from tests.features.timed import Models, Traced, row, write
from tests.stories.transactions import exception_view


class Terse(UserAgentMixin, BaseMixin, Models):
    """A session with a shorter name of the browser."""

    __tablename__ = "terse_session"

    user_agent = mapped_column(String(5))


def visit(browser, user_agent, view=write):
    """Visit the application in a browser of this name."""
    browser.visit(view, headers={"User-Agent": user_agent})


def log_in(request):
    """Log somebody in."""
    request.session.userid = 7


@pytest.mark.parametrize(
    ("given", "noted"),
    [
        ("Lynx/2.9", "Lynx/2.9"),
        ("é" * 201, "é" * 200),
        ("a\x00b\x01c\x7fd\x85", "a b c d"),
        (" ", None),
        ("", None),
        (None, None),
    ],
)
def test_is_noted_when_a_session_begins(open_browser, given, noted):
    """It is cut to the length of the column, and what cannot be shown is a space."""
    browser = open_browser(Traced)
    environ = {} if given is None else {"HTTP_USER_AGENT": given}
    with statements(browser.application.engine) as made:
        browser.visit(write, extra_environ=environ)
    assert len(made) == 1
    assert row(browser).user_agent == noted


def test_is_noted_when_the_user_changes(open_browser):
    """A login in another browser is noted with the login; other visits are not."""
    browser = open_browser(Traced)
    visit(browser, "one")
    visit(browser, "two")
    assert row(browser).user_agent == "one"
    with statements(browser.application.engine) as made:
        visit(browser, "three", log_in)
    assert [each.split()[0] for each in made] == ["SELECT", "UPDATE"]
    assert row(browser).user_agent == "three"
    visit(browser, "four", log_in)
    assert row(browser).user_agent == "three"


def test_login_in_an_exception_view(open_lite_browser):
    """It is noted there, too."""
    browser = open_lite_browser(
        Traced, configure=exception_view(log_in, ZeroDivisionError)
    )
    browser.application.view = lambda request: 1 / 0
    browser.get("/", headers={"User-Agent": "one"}, status=500)
    assert (row(browser).userid, row(browser).user_agent) == (7, "one")


def test_alone_it_makes_no_session(open_lite_browser):
    """Who has nothing in the session has none, whatever the browser says."""
    browser = open_lite_browser(Traced)
    visit(browser, "one", lambda request: request.session.get("a"))
    assert browser.application.rows() == []


def test_the_length_is_that_of_the_column(open_lite_browser):
    """A model that declares the column anew decides how much there is of it."""
    browser = open_lite_browser(Terse)
    visit(browser, "Netscape")
    assert row(browser).user_agent == "Netsc"
