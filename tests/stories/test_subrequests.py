"""A subrequest in the transaction of the outer request, with a dbsession of its own."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import Engine, event, text, update

from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin, RenewalMixin
from tests.application import Application, Base, Browser

IMPATIENCE = {
    "postgresql": "SET lock_timeout = '1s'",
    "mysql": "SET innodb_lock_wait_timeout = 1",
    "sqlite": "PRAGMA busy_timeout = 1000",
}


class Nested(IdleMixin, RenewalMixin, BaseMixin, Base):
    """A session of which much can be due."""

    __tablename__ = "nested_session"


#: What is due, and what becomes of the cookie.
DUE: dict[str, tuple[Callable[[], dict[str, Any]], bool]] = {
    "renewal": (lambda: {"renewed": Nested.renewed - 100}, True),
    "extension": (lambda: {"idle_expire": Nested.idle_expire - 100}, False),
    "deletion": (lambda: {"idle_expire": 1}, True),
}


@pytest.fixture
def browser(engine: Engine) -> Browser:
    """A browser with a session, on a database where nobody waits for ever."""
    event.listen(engine, "connect", _be_impatient)
    engine.dispose()
    browser = Browser(
        Application(engine, Nested, renewal_timeout=60, idle_timeout=1000)
    )
    browser.visit(lambda request: request.session.update(a=1))
    return browser


def _be_impatient(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    module = type(connection).__module__.partition(".")[0]
    kind = {"psycopg2": "postgresql", "pymysql": "mysql"}.get(module, "sqlite")
    cursor.execute(IMPATIENCE[kind])
    cursor.close()
    connection.commit()


@pytest.mark.parametrize("due", DUE)
@pytest.mark.parametrize("is_used", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("writes", [(), ("/",), ("/other",)], ids=str)
def test_two_connections_do_not_wait_for_each_other(
    browser, engine, due, is_used, writes
):
    """Both requests use the session, and each has a connection; something is due."""
    values, is_sent = DUE[due]
    with engine.begin() as connection:
        connection.execute(update(Nested).values(values()))

    def view(request: Any) -> None:
        request.session.get("a")
        if is_used:
            request.dbsession.execute(text("SELECT 1"))
        if request.path in writes:
            request.session["b"] = 1
        if request.path == "/":
            inner = Request.blank(
                "/other", headers={"Cookie": request.headers["Cookie"]}
            )
            inner.environ.update({"tm.active": True, "tm.manager": request.tm})
            request.invoke_subrequest(inner)

    response = browser.visit(view)
    assert ("Set-Cookie" in response.headers) is is_sent
    written = [pickle.loads(row.data).get("b") for row in browser.application.rows()]
    assert written == ([1] if writes else [] if due == "deletion" else [None])
