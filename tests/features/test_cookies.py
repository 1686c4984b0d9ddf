"""With ConfigCookieMixin the cookie of each session has attributes of its own."""

from __future__ import annotations

import pytest

from pyramid_sqlalchemy_sessions import InconsistentDataError
from tests.features.timed import (
    Attributed,
    Own,
    Timed,
    age,
    forged,
    read,
    row,
    sent,
    twin,
    write,
)

OTHERS = {
    "cookie_max_age": "500",
    "cookie_path": "/shop",
    "cookie_domain": "example.com",
    "cookie_secure": "true",
    "cookie_httponly": "false",
}
MINE = ["Domain=example.com", "Max-Age=500", "Path=/shop", "SameSite=Lax", "secure"]


def attributes(response):
    """Return the attributes of the cookie in the response, without the date."""
    return sorted(
        each for each in sent(response).attributes if not each.startswith("expires")
    )


def visit_with(browser, value, view, **kw):
    """Visit with this cookie, whatever path or domain it is for."""
    return browser.visit(view, headers={"Cookie": f"session={value}"}, **kw)


def rotate(request):
    """Let the cookie be sent again."""
    request.session.rotate()


def invalidate(request):
    """Let the cookie be deleted."""
    request.session.invalidate()


def test_new_session_has_the_attributes_of_the_application(open_browser):
    """A new session takes the settings of the application for its own."""
    browser = open_browser(Attributed, **OTHERS)
    assert attributes(browser.visit(write)) == MINE
    session = row(browser)
    assert session.cookie_max_age == 500
    assert session.cookie_path == "/shop"
    assert session.cookie_domain == "example.com"
    assert session.cookie_secure is True
    assert session.cookie_httponly is False


def test_attributes_by_default(open_browser):
    """By default there is no age, no domain, and Secure is decided at each sending."""
    browser = open_browser(Attributed)
    assert attributes(browser.visit(write)) == ["HttpOnly", "Path=/", "SameSite=Lax"]
    session = row(browser)
    assert (session.cookie_max_age, session.cookie_domain) == (None, None)
    assert (session.cookie_secure, session.cookie_httponly) == (None, True)


@pytest.mark.parametrize("view", [rotate, invalidate])
def test_session_keeps_its_attributes(open_browser, view):
    """A session is not concerned by settings that change while it lives."""
    cookie = sent(open_browser(Attributed, **OTHERS).visit(write)).value
    later = open_browser(Attributed)
    present = attributes(visit_with(later, cookie, view))
    assert [each for each in present if not each.startswith("Max-Age")] == [
        each for each in MINE if not each.startswith("Max-Age")
    ]
    assert ("Max-Age=500" in present) == (view is rotate)


@pytest.mark.parametrize("view", [rotate, invalidate])
def test_session_without_attributes_keeps_to_that(open_browser, view):
    """NULL is a value of the session's own, too."""
    cookie = sent(open_browser(Attributed).visit(write)).value
    later = open_browser(Attributed, **OTHERS)
    present = attributes(visit_with(later, cookie, view))
    assert {"HttpOnly", "Path=/", "SameSite=Lax"} <= set(present)
    assert not {"Domain=example.com", "Max-Age=500", "secure"} & set(present)


@pytest.mark.parametrize("view", [rotate, invalidate])
def test_samesite_is_that_of_the_application(open_browser, view):
    """SameSite is no setting of a session, but that of the application at present."""
    cookie = sent(open_browser(Attributed, cookie_samesite="Lax").visit(write)).value
    later = open_browser(Attributed, cookie_samesite="Strict")
    assert "SameSite=Strict" in attributes(visit_with(later, cookie, view))


@pytest.mark.parametrize("view", [rotate, invalidate])
def test_secure_is_decided_at_each_sending(open_browser, view):
    """With cookie_secure=auto it depends on the request that sends the cookie."""
    browser = open_browser(Attributed)
    cookie = sent(browser.visit(write)).value
    response = visit_with(
        browser, cookie, view, extra_environ={"wsgi.url_scheme": "https"}
    )
    assert "secure" in attributes(response)


@pytest.mark.parametrize("view", [rotate, invalidate])
def test_secure_by_itself(open_browser, view):
    """A session whose cookie_secure is true is not concerned by the scheme."""
    browser = open_browser(Attributed, cookie_secure="true")
    cookie = sent(browser.visit(write)).value
    assert "secure" in attributes(visit_with(browser, cookie, view))


@pytest.mark.parametrize("view", [rotate, invalidate])
def test_not_secure_by_itself(open_browser, view):
    """And so it is where it is false."""
    browser = open_browser(Attributed, cookie_secure="false")
    cookie = sent(browser.visit(write)).value
    response = visit_with(
        browser, cookie, view, extra_environ={"wsgi.url_scheme": "https"}
    )
    assert "secure" not in attributes(response)


def test_extension_sends_the_attributes(open_browser, clock):
    """A cookie that goes out again with an extension has the session's attributes."""
    browser = open_browser(Attributed, idle_timeout=1000, cookie_path="/shop")
    cookie = sent(browser.visit(write)).value
    age(browser, cookie_max_age=500)
    clock.shift(10)
    present = attributes(visit_with(browser, cookie, read))
    assert {"Max-Age=500", "Path=/shop"} <= set(present)


def test_age_of_its_own_decides_about_the_extension(open_browser, clock):
    """A session without an age does not send its cookie again, whatever others do."""
    cookie = sent(open_browser(Attributed, idle_timeout=1000).visit(write)).value
    later = open_browser(Attributed, idle_timeout=1000, cookie_max_age=500)
    clock.shift(10)
    assert sent(visit_with(later, cookie, read)) is None


def test_renewal_sends_the_attributes(open_browser, clock):
    """So has one with a candidate."""
    browser = open_browser(Own, renewal_timeout=100, **OTHERS)
    cookie = sent(browser.visit(write)).value
    later = open_browser(Own, renewal_timeout=100)
    clock.shift(101)
    assert attributes(visit_with(later, cookie, read)) == MINE


def test_violation_deletes_with_the_attributes(open_browser):
    """The deletion after a violation has them as well."""
    browser = open_browser(Own, renewal_timeout=100, **OTHERS)
    browser.visit(write)
    later = open_browser(Own)
    response = visit_with(later, forged(later), read)
    assert sent(response).is_deletion
    assert {"Path=/shop", "Domain=example.com", "secure"} <= set(attributes(response))


def test_session_that_replaces_another_one(open_browser):
    """A session that starts anew has the attributes of the application again.

    The cookie of the one before is deleted where that was.
    """

    def begin_anew(request):
        request.session.invalidate()
        write(request)

    cookie = sent(open_browser(Attributed, **OTHERS).visit(write)).value
    later = open_browser(Attributed, cookie_path="/new")
    response = visit_with(later, cookie, begin_anew)
    gone, present = (
        set(header.split("; ")) for header in response.headers.getall("Set-Cookie")
    )
    assert {"Path=/new", "HttpOnly"} <= present
    assert "secure" not in present
    assert {"session=", "Path=/shop", "Domain=example.com", "Max-Age=0"} <= gone
    assert row(later).cookie_path == "/new"


def test_cookie_of_a_browser_is_for_its_path(open_browser):
    """A browser sends the cookie where its attributes say."""
    browser = open_browser(Attributed, cookie_path="/shop")
    browser.visit(write, "/shop/cart")
    assert browser.ask(lambda session: session.new, url="/elsewhere")
    assert not browser.ask(lambda session: session.new, url="/shop/cart")


def test_browser_forgets_a_cookie_with_an_age(open_browser, clock):
    """A browser keeps a cookie as long as its age says after its last use."""
    browser = open_browser(Attributed, cookie_max_age=500)
    browser.visit(write)
    for _ in range(3):
        clock.shift(499)
        assert not browser.ask(lambda session: session.new)
    clock.shift(501)
    assert browser.ask(lambda session: session.new)


@pytest.mark.parametrize(
    "columns",
    [
        {"cookie_max_age": 0},
        {"cookie_max_age": 100_000_001},
        {"cookie_path": ""},
        {"cookie_path": "shop"},
        {"cookie_path": "/; HttpOnly"},
        {"cookie_path": "/\r\nX-Evil: 1"},
        {"cookie_domain": "example.com; HttpOnly"},
        {"cookie_domain": "example.com\r\nX-Evil: 1"},
    ],
    ids=str,
)
def test_bad_attributes_in_the_row(open_lite_browser, columns):
    """What never was a setting is an error that names it, and in no header."""
    browser = open_lite_browser(Attributed)
    browser.visit(write)
    age(browser, **columns)
    with pytest.raises(InconsistentDataError, match=next(iter(columns))):
        browser.visit(rotate)


def test_attributes_that_the_row_is_older_than(open_browser):
    """NULL is that of the application where it is no value of the session's."""
    cookie = sent(open_browser(Attributed).visit(write)).value
    later = open_browser(Attributed, **OTHERS)
    age(later, cookie_path=None, cookie_httponly=None)
    present = attributes(visit_with(later, cookie, rotate))
    assert present == ["Path=/shop", "SameSite=Lax"]
    assert (row(later).cookie_path, row(later).cookie_httponly) == (None, None)


def test_plain_model_follows_the_application(open_browser):
    """Without the mixin the cookie has the attributes that the application has now."""
    browser = open_browser(Timed, cookie_path="/old")
    cookie = sent(browser.visit(write)).value
    later = twin(open_browser(Timed, cookie_path="/new"), cookie)
    assert "Path=/new" in attributes(later.visit(rotate))
