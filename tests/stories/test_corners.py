"""Corners of the heart that no other story passes."""

from __future__ import annotations

import copy
import pickle
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Column, String, create_engine, text
from sqlalchemy.types import NullType

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    BaseMixin,
    ConfigurationError,
    get_session_factory,
)
from pyramid_sqlalchemy_sessions.features.userid import userid_for
from tests.application import Application, Base, Browser, Failure, Full, Plain
from tests.features.timed import sent, twin
from tests.stories.transactions import elsewhere, exception_view, logged, tween_above


def test_rotating_beside_data_that_cannot_be_read(engine):
    """A token in a dict that can't be read is no reason not to rotate."""
    browser = Browser(Application(engine, Plain))
    browser.visit(lambda request: request.session.update(a=1))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE plain_session SET data = :data"), {"data": b"?"}
        )
    before = browser.cookie
    browser.visit(lambda request: request.session.rotate())
    assert browser.cookie != before


@pytest.mark.parametrize("use", [copy.deepcopy, pickle.dumps])
def test_a_session_is_not_copied_with_all_it_refers_to(engine, use):
    """That says what to copy, or to pickle, instead."""
    browser = Browser(Application(engine))

    def view(request):
        request.session["list"] = [1]
        with pytest.raises(TypeError, match="dict"):
            use(request.session)
        taken = copy.deepcopy(dict(request.session))
        taken["list"].append(2)

    browser.visit(view)
    assert browser.ask(dict) == {"list": [1]}


def test_a_copy_is_a_dict(engine):
    """A change of it isn't one of the session."""
    browser = Browser(Application(engine))

    def view(request):
        request.session["a"] = 1
        taken = copy.copy(request.session)
        taken["b"] = 2
        assert taken == {"a": 1, "b": 2}

    browser.visit(view)
    assert browser.ask(dict) == {"a": 1}


def test_a_session_is_not_stored_in_itself(engine):
    """The error says which key holds it, and what to store instead."""
    browser = Browser(Application(engine))

    def view(request):
        request.session["mine"] = [request.session]

    with pytest.raises(TypeError, match=r"'mine'.*dict\(session\)"):
        browser.visit(view)


def test_values_that_are_read_too_late_are_ordinary_ones(engine):
    """They equal what they stand for, and can be copied and pickled."""
    value = {"list": [1, {2}], "tuple": ([3],)}
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(value=value))
    seen: list = []

    def callback(request):
        late = request.session["value"]
        seen.extend([late, copy.copy(late), pickle.loads(pickle.dumps(late))])

    browser.visit(lambda request: request.add_finished_callback(callback))
    assert seen == [value] * 3
    assert type(seen[2]["list"]) is list
    seen[2]["list"].append(1)


class Name(str):
    """A text with something to it, as Markup is."""


def test_a_userid_of_a_type_of_the_application_s_own():
    """What the column holds is up to its type; a subclass will do."""
    for column_type, userid in ((NullType(), 7.5), (String(), Name("alice"))):
        table: Any = SimpleNamespace(columns={"userid": Column("userid", column_type)})
        assert userid_for(table, userid, pytest.fail) == userid


def test_authenticating_nobody_is_logging_out(engine):
    """authenticate(None) is userid = None."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.authenticate(5))
    assert browser.ask(lambda session: session.is_fresh(100))
    browser.visit(lambda request: request.session.authenticate(None))
    assert browser.ask(lambda session: (session.userid, session.authenticated)) == (
        None,
        None,
    )


def test_an_id_of_another_type():
    """The column id must be a Uuid."""

    class Odd(BaseMixin, Base):
        __tablename__ = "odd_session"
        id = Column("id", NullType(), primary_key=True)

    with pytest.raises(ConfigurationError, match="Uuid"):
        get_session_factory(AESGCMSerializer(bytes(range(32))), Odd)
    Base.metadata.remove(Odd.__table__)


def test_others_are_always_in_the_way(tmp_path, caplog):
    """After a few attempts the log tells that an exception view's change is lost."""
    path = tmp_path / "locked.sqlite"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    Full.__table__.create(engine)
    rival = sqlite3.connect(path, isolation_level=None)

    def answer(request):
        request.session.flash("lost")
        rival.execute("BEGIN IMMEDIATE")

    browser = Browser(Application(engine, configure=exception_view(answer)))
    browser.visit(lambda request: request.session.update(a=1))

    def view(request):
        raise Failure

    response = browser.visit(view, status=500)
    rival.close()
    assert "Set-Cookie" not in response.headers
    assert any("lost" in each for each in logged(caplog, "ERROR"))
    assert browser.ask(lambda session: session.peek_flash()) == []
    engine.dispose()


def test_an_exception_view_ends_a_session_that_was_logged_in_meanwhile(engine):
    """The end holds, and what comes after it is in a session of its own."""

    def answer(request):
        request.session.invalidate()
        request.session["after"] = 1
        logged_in.append(
            sent(elsewhere(lambda: twin(browser).visit(log_in))),
        )

    def log_in(request):
        request.session.userid = 5

    def view(request):
        raise Failure

    logged_in: list = []
    browser = Browser(Application(engine, configure=exception_view(answer)))
    browser.visit(lambda request: request.session.update(a=1))
    browser.visit(view, status=500)
    assert browser.ask(dict) == {"after": 1}
    other = twin(browser, logged_in[0].value)
    assert other.ask(lambda session: session.userid) is None
    assert len(browser.application.rows()) == 1


def test_two_stretches_above_pyramid_tm(engine):
    """A session object that was read before the view is the same after it."""
    seen: list = []

    def tween(handler, request):
        session = request.session
        seen.append(session.get("a"))
        response = handler(request)
        if request.path == "/tween":
            seen.append(session.get("a"))
            session["b"] = seen[-1]
        return response

    browser = Browser(Application(engine, configure=tween_above(tween)))
    browser.visit(lambda request: request.session.update(a=1))
    browser.visit(lambda request: request.session.update(a=2), "/tween")
    assert seen[-2:] == [1, 2]
    assert browser.ask(lambda session: session["b"]) == 2


def test_a_message_that_is_pushed_and_popped(engine):
    """Nothing is left of it, and nothing is written."""
    browser = Browser(Application(engine))
    browser.visit(lambda request: request.session.update(a=1))
    version = browser.application.row().version

    def view(request):
        request.session.flash("now")
        assert request.session.pop_flash() == ["now"]
        assert request.session.pop_flash() == []

    browser.visit(view)
    assert browser.application.row().version == version
