"""Fixtures for pytest that replace those of Pyramid's cookiecutter: requests commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy.engine import Engine
from webtest import TestApp

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
    return TestApp(app, extra_environ={"HTTP_HOST": "example.com"})
