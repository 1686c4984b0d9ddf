"""The sample of testing.rst: the last line of the cookiecutter's tests/conftest.py."""

from pyramid_sqlalchemy_sessions.pytest_fixtures import testapp, tm  # noqa: F401
