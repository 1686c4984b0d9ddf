"""The clock of testing.rst."""

from pyramid_sqlalchemy_sessions.testing import later


def test_timeout(testapp):
    testapp.get("/counter")
    with later(seconds=3601):
        assert testapp.get("/counter").text == "Visit number 1"
