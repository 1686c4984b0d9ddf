"""Fixtures for pytest that replace those of Pyramid's cookiecutter: requests commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import transaction
from pyramid.interfaces import ISessionFactory
from sqlalchemy.engine import Engine
from webtest import TestApp

from .session import SessionFactory
from .testing import rolled_back

__all__ = ["testapp", "tm"]


@pytest.fixture
def tm(app: Any, dbengine: Engine) -> Iterator[Any]:
    """A transaction for the test's own work; everything is rolled back at the end."""
    with rolled_back(dbengine, app.registry["dbsession_factory"]):
        tm = transaction.TransactionManager(explicit=True)
        tm.begin()
        yield tm
        tm.abort()


@pytest.fixture
def testapp(app: Any, tm: Any) -> TestApp:
    """A browser, each of whose requests has a transaction of its own."""
    environ = {"HTTP_HOST": "example.com"}
    factory = app.registry.queryUtility(ISessionFactory)
    if isinstance(factory, SessionFactory) and factory.settings.cookie_secure:
        environ["wsgi.url_scheme"] = "https"  # or it would keep the cookie back
    return TestApp(app, extra_environ=environ)
