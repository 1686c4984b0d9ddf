"""A session tells from which network it began."""

from __future__ import annotations

import pytest

from tests.application import statements
from tests.features.timed import Traced, row, write


def visit(browser, address, view=write, **headers):
    """Visit the application from an address."""
    environ = {} if address is None else {"REMOTE_ADDR": address}
    browser.visit(view, extra_environ=environ, headers=headers)


@pytest.mark.parametrize(
    ("address", "noted"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:5:6::7", "2001:db8:5::/48"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("fe80::1%eth0", "fe80::/48"),
        ("", None),
        ("/run/app.sock", None),
        ("192.0.2.777", None),
        (None, None),
    ],
)
def test_is_noted_when_a_session_begins(open_lite_browser, address, noted):
    """It is cut, and what is no address is none."""
    browser = open_lite_browser(Traced)
    visit(browser, address)
    assert row(browser).client_address == noted


@pytest.mark.parametrize(
    ("prefixes", "address", "noted"),
    [
        ((32, 128), "192.0.2.77", "192.0.2.77/32"),
        ((32, 128), "1111:" * 7 + "2222", "1111:" * 7 + "2222/128"),
        ((0, 0), "192.0.2.77", "0.0.0.0/0"),
        ((0, 0), "2001:db8::7", "::/0"),
    ],
)
def test_how_much_of_it_is_a_setting(open_browser, prefixes, address, noted):
    """All of it, or nothing but its kind."""
    names = ("client_address_prefix4", "client_address_prefix6")
    browser = open_browser(Traced, **dict(zip(names, prefixes, strict=True)))
    visit(browser, address)
    assert row(browser).client_address == noted


def test_is_noted_when_the_user_changes(open_browser):
    """A login from elsewhere is noted with the login; other visits are not."""
    browser = open_browser(Traced)
    visit(browser, "192.0.2.1")
    visit(browser, "198.51.100.1")
    assert row(browser).client_address == "192.0.2.0/24"
    with statements(browser.application.engine) as made:
        visit(browser, "203.0.113.1", lambda r: setattr(r.session, "userid", 7))
    assert len(made) == 2
    assert row(browser).client_address == "203.0.113.0/24"


def test_headers_are_not_believed(open_lite_browser):
    """What the client says of its address does not count."""
    browser = open_lite_browser(Traced)
    visit(browser, "192.0.2.1", **{"X-Forwarded-For": "203.0.113.1"})
    assert row(browser).client_address == "192.0.2.0/24"
