"""The errors can be caught as what they are."""

import pyramid.exceptions
import pytest

from pyramid_sqlalchemy_sessions import exceptions


def test_pyramid_shows_our_configuration_errors_as_its_own():
    """A ConfigurationError of ours is one of Pyramid's."""
    assert issubclass(
        exceptions.ConfigurationError, pyramid.exceptions.ConfigurationError
    )


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("CookieCryptoError", ValueError),
        ("InvalidCookieError", ValueError),
        ("TransactionRequiredError", RuntimeError),
    ],
)
def test_errors_keep_their_builtin_base(name, base):
    """Code that catches the builtin error catches ours."""
    assert issubclass(getattr(exceptions, name), base)


@pytest.mark.parametrize("name", exceptions.__all__)
def test_every_error_says_when_it_is_raised(name):
    """The docstring of an error begins with the occasion."""
    assert getattr(exceptions, name).__doc__.startswith("Raised ")
