"""Rolling back to a savepoint takes the session back to what it was there."""

from __future__ import annotations

import pytest
from pyramid.response import Response
from sqlalchemy import Integer, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, mapped_column

from tests.application import Application, Browser, Failure, statements
from tests.stories.transactions import exception_view, gives_access, set_cookies


class Base(DeclarativeBase):
    """The declarative base of what is not a session here."""


class Thing(Base):
    """Something of the application's own."""

    __tablename__ = "savepoint_thing"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)


def of_transaction(request):
    """Make a savepoint of the transaction."""
    return request.tm.savepoint()


def of_dbsession(request):
    """Make a savepoint of the dbsession."""
    return request.dbsession.begin_nested()


#: Every database with every way to make savepoints there: zope.sqlalchemy has none on
#: SQLite.
everywhere = pytest.mark.parametrize(
    ("engine", "savepoint"),
    [
        ("sqlite", of_dbsession),
        ("postgresql", of_dbsession),
        ("postgresql", of_transaction),
        ("mariadb", of_dbsession),
        ("mariadb", of_transaction),
    ],
    indirect=["engine"],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)

new_and_stored = pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])


def begin(request):
    """Store a session."""
    request.session.update(a=1, nested=[0])
    request.session.flash("first")


def visitor(engine, stored: bool = True) -> Browser:
    """Return a browser, which has a stored session or none."""
    browser = Browser(Application(engine))
    if stored:
        browser.visit(begin)
    return browser


def contents(browser) -> dict:
    """Return what is stored, as the next request sees it."""
    return browser.ask(dict)


@everywhere
@new_and_stored
def test_what_follows_the_savepoint_is_gone(engine, savepoint, stored):
    """Rolled back to a savepoint, the session has what was written before it, only."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 1
        before = dict(request.session)
        point = savepoint(request)
        request.session["inside"] = 2
        request.session["before"] = 2
        request.session.pop("a", None)
        point.rollback()
        assert dict(request.session) == before

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1}


@everywhere
@new_and_stored
def test_work_goes_on_after_the_rollback(engine, savepoint, stored):
    """What is written after the rollback is stored with what was written before."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 1
        point = savepoint(request)
        request.session["inside"] = 2
        point.rollback()
        request.session["after"] = 3

    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1, "after": 3}


@everywhere
@new_and_stored
def test_first_used_after_the_savepoint(engine, savepoint, stored):
    """First used after the savepoint, the session is as it is in the database."""
    browser = visitor(engine, stored)

    def view(request):
        request.dbsession.connection()
        point = savepoint(request)
        request.session["inside"] = 2
        request.session.flash("inside")
        point.rollback()
        assert request.session.new == (not stored)
        assert "inside" not in request.session

    response = browser.visit(view)
    assert set_cookies(response) == []
    assert len(browser.application.rows()) == stored
    assert contents(browser) == ({"a": 1, "nested": [0]} if stored else {})
    assert browser.ask(lambda session: session.peek_flash()) == ["first"] * stored


@everywhere
@new_and_stored
def test_first_used_after_the_savepoint_and_again(engine, savepoint, stored):
    """First used after the savepoint, the session can be used after the rollback."""
    browser = visitor(engine, stored)

    def view(request):
        request.dbsession.connection()
        point = savepoint(request)
        request.session["inside"] = 2
        point.rollback()
        request.session["after"] = 3

    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "after": 3}


@new_and_stored
def test_a_savepoint_before_anything_else(engine, stored):
    """Before the dbsession joins, the transaction's savepoints work on SQLite too."""
    browser = visitor(engine, stored)

    def view(request):
        point = request.tm.savepoint()
        request.session["inside"] = 2
        point.rollback()
        assert "inside" not in request.session
        request.session["after"] = 3

    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "after": 3}


@new_and_stored
def test_nothing_but_a_rolled_back_use(engine, stored):
    """Used between a savepoint and the rollback only, the session is not stored."""
    browser = visitor(engine, stored)

    def view(request):
        point = request.tm.savepoint()
        request.session["inside"] = 2
        request.session.rotate()
        request.session.invalidate()
        request.session["inside"] = 3
        point.rollback()

    with statements(engine) as executed:
        response = browser.visit(view)
    assert set_cookies(response) == []
    assert not [each for each in executed if not each.startswith("SELECT")]
    assert contents(browser) == ({"a": 1, "nested": [0]} if stored else {})


def test_back_to_the_same_savepoint_again(engine):
    """A savepoint of the transaction from before the first use can be used twice."""
    browser = visitor(engine)

    def view(request):
        point = request.tm.savepoint()
        for _ in range(3):
            request.session["inside"] = 2
            point.rollback()
            assert "inside" not in request.session
        request.session["after"] = 3

    browser.visit(view)
    assert contents(browser) == {"a": 1, "nested": [0], "after": 3}


@everywhere
def test_one_savepoint_after_another(engine, savepoint):
    """Each of several savepoints takes back what followed it."""
    browser = visitor(engine)

    def view(request):
        for number in range(3):
            request.session[f"before{number}"] = number
            point = savepoint(request)
            request.session[f"inside{number}"] = number
            request.session["a"] += 1
            point.rollback()

    browser.visit(view)
    assert contents(browser) == {
        "a": 1,
        "nested": [0],
        "before0": 0,
        "before1": 1,
        "before2": 2,
    }


@everywhere
@new_and_stored
def test_the_inner_one_of_two(engine, savepoint, stored):
    """Rolling back the inner savepoint leaves what the outer one had."""
    browser = visitor(engine, stored)

    def view(request):
        savepoint(request)
        request.session["outer"] = 1
        inner = savepoint(request)
        request.session["inner"] = 2
        inner.rollback()

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "outer": 1}


@everywhere
@new_and_stored
def test_both_of_two(engine, savepoint, stored):
    """Rolling back first the inner and then the outer one leaves nothing of either."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 1
        outer = savepoint(request)
        request.session["outer"] = 1
        inner = savepoint(request)
        request.session["inner"] = 2
        inner.rollback()
        assert request.session["outer"] == 1
        outer.rollback()
        assert "outer" not in request.session

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1}


@everywhere
@new_and_stored
def test_the_outer_one_of_two(engine, savepoint, stored):
    """Rolling back the outer savepoint takes back what followed the inner one."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 1
        outer = savepoint(request)
        request.session["outer"] = 1
        savepoint(request)
        request.session["inner"] = 2
        outer.rollback()
        assert "inner" not in request.session
        assert "outer" not in request.session

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1}


@new_and_stored
def test_a_released_savepoint(engine, stored):
    """What was written in a savepoint that was released is stored."""
    browser = visitor(engine, stored)

    def view(request):
        with request.dbsession.begin_nested():
            request.session["inside"] = 1
        request.session["after"] = 2

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "inside": 1, "after": 2}


@new_and_stored
def test_a_released_savepoint_in_one_that_is_rolled_back(engine, stored):
    """What a released savepoint had goes when the outer one is rolled back."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 0
        outer = request.dbsession.begin_nested()
        with request.dbsession.begin_nested():
            request.session["inner"] = 1
        request.session["outer"] = 2
        outer.rollback()

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 0}


@new_and_stored
def test_first_used_in_a_released_savepoint(engine, stored):
    """First used in a released savepoint, the session goes with the outer one."""
    browser = visitor(engine, stored)

    def view(request):
        outer = request.dbsession.begin_nested()
        with request.dbsession.begin_nested():
            request.session["inner"] = 1
        request.session["outer"] = 2
        outer.rollback()
        assert "inner" not in request.session
        request.session["after"] = 3

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "after": 3}


@new_and_stored
def test_a_released_savepoint_and_a_second_one(engine, stored):
    """A savepoint that follows a released one takes back what is its own."""
    browser = visitor(engine, stored)

    def view(request):
        with request.dbsession.begin_nested():
            request.session["first"] = 1
        point = request.dbsession.begin_nested()
        request.session["second"] = 2
        point.rollback()

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "first": 1}


@new_and_stored
def test_an_exception_in_the_savepoint(engine, stored):
    """An exception that leaves the savepoint takes back what was written there."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 1
        try:
            with request.dbsession.begin_nested():
                request.session["inside"] = 2
                raise Failure
        except Failure:
            request.session["after"] = 3

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1, "after": 3}


@new_and_stored
@pytest.mark.parametrize("explicitly", [False, True], ids=["at-exit", "explicitly"])
def test_a_flush_fails_in_the_savepoint(engine, stored, explicitly):
    """A constraint violation in a savepoint leaves what was written before it."""
    Base.metadata.create_all(engine)
    browser = visitor(engine, stored)

    def view(request):
        request.dbsession.add(Thing(id=1))
        request.session["before"] = 1
        try:
            with request.dbsession.begin_nested():
                request.session["inside"] = 2
                request.dbsession.add(Thing(id=1))
                if explicitly:
                    request.dbsession.flush()
        except IntegrityError:
            request.session["after"] = 3

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1, "after": 3}


@new_and_stored
def test_a_statement_fails_in_the_savepoint(engine, stored):
    """A failing Core statement in a savepoint leaves what was written before it."""
    Base.metadata.create_all(engine)
    browser = visitor(engine, stored)

    def view(request):
        request.dbsession.execute(Thing.__table__.insert(), {"id": 1})
        request.session["before"] = 1
        try:
            with request.dbsession.begin_nested():
                request.session["inside"] = 2
                request.dbsession.execute(Thing.__table__.insert(), {"id": 1})
        except IntegrityError:
            request.session["after"] = 3

    browser.visit(view)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1, "after": 3}


@everywhere
def test_rolled_back_twice_over(engine, savepoint):
    """A failed flush in the inner savepoint leaves what the outer one had."""
    Base.metadata.create_all(engine)
    browser = visitor(engine)

    def view(request):
        request.session["before"] = 1
        outer = savepoint(request)
        request.session["outer"] = 2
        try:
            with request.dbsession.begin_nested():
                request.session["inner"] = 3
                for _ in range(2):
                    request.dbsession.execute(Thing.__table__.insert(), {"id": 1})
        except IntegrityError:
            pass
        assert "inner" not in request.session
        assert request.session["outer"] == 2
        outer.rollback()
        assert "outer" not in request.session

    browser.visit(view)
    assert contents(browser) == {"a": 1, "nested": [0], "before": 1}


@everywhere
def test_invalidated_inside(engine, savepoint):
    """A session that is invalidated inside lives on after the rollback."""
    browser = visitor(engine)
    before = browser.application.row().id

    def view(request):
        point = savepoint(request)
        request.session.invalidate()
        request.session["new"] = 1
        point.rollback()
        assert not request.session.new
        assert "new" not in request.session

    response = browser.visit(view)
    assert set_cookies(response) == []
    assert browser.application.row().id == before
    assert contents(browser) == {"a": 1, "nested": [0]}


@everywhere
def test_invalidated_before(engine, savepoint):
    """A session that was invalidated before the savepoint stays dead."""
    browser = visitor(engine)
    before = browser.application.row().id

    def view(request):
        request.session.invalidate()
        request.session["farewell"] = 1
        point = savepoint(request)
        request.session["inside"] = 1
        point.rollback()

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    assert browser.application.row().id != before
    assert contents(browser) == {"farewell": 1}


@everywhere
def test_invalidated_before_and_not_used_again(engine, savepoint):
    """Invalidated before the savepoint and then left alone, the session is deleted."""
    browser = visitor(engine)

    def view(request):
        request.session.invalidate()
        point = savepoint(request)
        request.session["inside"] = 1
        point.rollback()

    browser.visit(view)
    assert browser.application.rows() == []
    assert not browser.cookie


@everywhere
def test_rotated_inside(engine, savepoint):
    """A rotation inside is taken back: the cookie stays, and none is sent."""
    browser = visitor(engine)

    def view(request):
        request.session["before"] = 1
        point = savepoint(request)
        request.session.rotate()
        point.rollback()

    response = browser.visit(view)
    assert set_cookies(response) == []
    row = browser.application.row()
    assert (row.renewal_id, row.rotated, row.version) == (None, None, 2)
    assert contents(browser) == {"a": 1, "nested": [0], "before": 1}


@everywhere
def test_rotated_before(engine, savepoint):
    """A rotation before the savepoint survives the rollback."""
    browser = visitor(engine)
    before, cookie = browser.application.row(), browser.cookie

    def view(request):
        request.session.rotate()
        point = savepoint(request)
        request.session.rotate()
        request.session["inside"] = 1
        point.rollback()

    response = browser.visit(view)
    assert len(set_cookies(response)) == 1
    row = browser.application.row()
    assert row.id == before.id
    assert row.renewal_id is not None
    assert contents(browser) == {"a": 1, "nested": [0]}
    assert not gives_access(browser.application, cookie)


@everywhere
@new_and_stored
def test_logged_in_inside(engine, savepoint, stored):
    """A login inside is taken back, rotation and all."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 1
        point = savepoint(request)
        request.session.userid = 5
        point.rollback()
        assert request.session.userid is None

    browser.visit(view)
    row = browser.application.row()
    assert (row.userid, row.renewal_id, row.rotated) == (None, None, None)
    assert contents(browser)["before"] == 1


@everywhere
@new_and_stored
def test_persisted_inside(engine, savepoint, stored):
    """What was written at once inside is taken back, and can be written again."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 1
        point = savepoint(request)
        request.session["inside"] = 1
        request.session.persist()
        assert not request.session.new
        point.rollback()
        assert request.session.new is not stored
        assert "inside" not in request.session
        request.session["after"] = 1

    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1, "after": 1}
    assert browser.application.row().version == 1 + stored


@everywhere
@new_and_stored
def test_persisted_before(engine, savepoint, stored):
    """What was written at once before stays, and what changed inside is taken back."""
    browser = visitor(engine, stored)

    def view(request):
        request.session["before"] = 1
        request.session.persist()
        point = savepoint(request)
        request.session["inside"] = 1
        request.session.userid = 5
        point.rollback()
        assert not request.session.new
        assert request.session.userid is None

    response = browser.visit(view)
    assert len(set_cookies(response)) == (not stored)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert contents(browser) == {**base, "before": 1}
    assert browser.application.row().version == 1 + stored


@everywhere
@pytest.mark.parametrize("persists", [False, True], ids=["write", "persist"])
def test_id_that_was_asked_for_before(engine, savepoint, persists):
    """A new session keeps its id, also if it was first changed inside."""
    browser = Browser(Application(engine))

    def view(request):
        session = request.session
        key, created = session.id, session.created
        request.dbsession.connection()
        point = savepoint(request)
        session["inside"] = 1
        if persists:
            session.persist()
        point.rollback()
        assert session.new
        assert dict(session) == {}
        assert (session.id, session.created) == (key, created)
        point = savepoint(request)
        session.invalidate()
        session["inside"] = 2
        assert session.id != key
        point.rollback()
        session["after"] = 1
        return key

    response = browser.visit(view)
    assert contents(browser) == {"after": 1}
    assert response.text == str(browser.application.row().id)


@everywhere
def test_another_user_inside(engine, savepoint):
    """Dict and messages are back when a switch of users is taken back."""
    browser = visitor(engine)

    def log_in(request):
        request.session.userid = 1
        request.session.flash("one")

    def view(request):
        point = savepoint(request)
        request.session.userid = 2
        assert not dict(request.session)
        assert request.session.peek_flash() == []
        request.session["two"] = 2
        point.rollback()
        assert request.session.userid == 1

    browser.visit(log_in)
    assert set_cookies(browser.visit(view)) == []
    assert contents(browser) == {"a": 1, "nested": [0]}
    assert browser.ask(lambda session: session.pop_flash()) == ["first", "one"]


@everywhere
@new_and_stored
def test_flashed_inside(engine, savepoint, stored):
    """Messages that were flashed inside are gone, those that were popped are back."""
    browser = visitor(engine, stored)

    def view(request):
        request.session.flash("before")
        point = savepoint(request)
        request.session.pop_flash()
        request.session.flash("inside")
        request.session.flash("inside", "other")
        point.rollback()

    browser.visit(view)
    first = ["first"] if stored else []
    assert browser.ask(lambda session: session.peek_flash()) == [*first, "before"]
    assert browser.ask(lambda session: session.peek_flash("other")) == []


@everywhere
def test_a_csrf_token_from_inside(engine, savepoint):
    """A CSRF token that was drawn inside is no more after the rollback."""
    browser = visitor(engine)

    def view(request):
        token = request.session.get_csrf_token()
        point = savepoint(request)
        assert request.session.new_csrf_token() != token
        point.rollback()
        assert request.session.get_csrf_token() == token
        return token

    assert browser.visit(view).text == browser.ask(
        lambda session: session.get_csrf_token()
    )


@everywhere
@new_and_stored
def test_a_value_from_before_is_changed_inside(engine, savepoint, stored):
    """A mutable value that was handed out before and changed inside is what it was."""
    browser = visitor(engine, stored)

    def view(request):
        value = request.session.setdefault("nested", [0])
        point = savepoint(request)
        value.append("inside")
        point.rollback()
        assert request.session["nested"] == [0]

    browser.visit(view)
    assert contents(browser).get("nested") == [0]


@everywhere
@new_and_stored
def test_a_value_is_changed_before_and_inside(engine, savepoint, stored):
    """What was changed in a mutable value before the savepoint is kept."""
    browser = visitor(engine, stored)

    def view(request):
        value = request.session.setdefault("nested", [0])
        value.append("before")
        point = savepoint(request)
        value.append("inside")
        point.rollback()
        request.session["nested"].append("after")

    browser.visit(view)
    assert contents(browser)["nested"] == [0, "before", "after"]


@everywhere
def test_a_value_is_handed_out_inside(engine, savepoint):
    """A change of a value that was first handed out inside is taken back."""
    browser = visitor(engine)

    def view(request):
        request.session["before"] = 1
        point = savepoint(request)
        request.session["nested"].append("inside")
        point.rollback()

    browser.visit(view)
    assert contents(browser) == {"a": 1, "nested": [0], "before": 1}


@everywhere
def test_a_change_that_is_announced_inside(engine, savepoint):
    """After changed() inside and a rollback nothing is written."""
    browser = visitor(engine)

    def view(request):
        assert request.session["a"] == 1
        point = savepoint(request)
        request.session.changed()
        point.rollback()

    with statements(engine) as executed:
        browser.visit(view)
    assert not [each for each in executed if each.startswith("UPDATE")]


@everywhere
def test_an_exception_after_the_rollback(engine, savepoint):
    """A request that fails after the rollback stores nothing at all."""
    browser = visitor(engine)

    def view(request):
        request.session["before"] = 1
        point = savepoint(request)
        request.session["inside"] = 1
        point.rollback()
        request.session["after"] = 1

    browser.fail(view)
    assert contents(browser) == {"a": 1, "nested": [0]}


@everywhere
def test_the_application_s_data_goes_with_it(engine, savepoint):
    """The session and the application's objects go back to the same point."""
    Base.metadata.create_all(engine)
    browser = visitor(engine)

    def view(request):
        request.dbsession.add(Thing(id=1))
        request.session["thing"] = 1
        request.dbsession.flush()
        point = savepoint(request)
        request.dbsession.add(Thing(id=2))
        request.session["thing"] = 2
        request.dbsession.flush()
        point.rollback()

    browser.visit(view)
    assert contents(browser)["thing"] == 1
    with engine.connect() as connection:
        assert connection.scalars(select(Thing.id)).all() == [1]


@everywhere
def test_the_savepoint_costs_no_write(engine, savepoint):
    """Savepoints alone, rolled back or not, make no session be written."""
    browser = visitor(engine)

    def view(request):
        assert request.session["a"] == 1
        savepoint(request).rollback()
        savepoint(request)
        assert request.session["a"] == 1

    with statements(engine) as executed:
        browser.visit(view)
    assert not [each for each in executed if each.startswith(("UPDATE", "INSERT"))]


@new_and_stored
def test_a_rollback_to_the_root_from_inside(engine, stored):
    """The application's rollback of everything from inside a savepoint is one, too."""
    browser = visitor(engine, stored)

    def view(request):
        request.dbsession.connection()
        request.session["before"] = 1
        request.dbsession.begin_nested()
        request.session["inside"] = 1
        request.dbsession.rollback()  # of the savepoint
        request.dbsession.rollback()  # of everything
        return sorted(request.session)

    text = browser.visit(view).text
    assert text == ("['a', 'nested']" if stored else "[]")


@everywhere
def test_a_second_session_inside(engine, savepoint):
    """A second session object, first used inside, goes back with the first one."""
    from pyramid.interfaces import ISessionFactory

    browser = visitor(engine)

    def view(request):
        request.session["before"] = 1
        point = savepoint(request)
        second = request.registry.getUtility(ISessionFactory)(request)
        second["inside"] = 1
        point.rollback()
        assert "inside" not in second
        assert second["before"] == 1
        second["after"] = 2
        assert request.session["after"] == 2

    browser.visit(view)
    assert contents(browser) == {"a": 1, "nested": [0], "before": 1, "after": 2}


@everywhere
def test_a_value_is_changed_after_the_rollback(engine, savepoint):
    """A mutable value taken after the rollback can be changed as usual."""
    browser = visitor(engine)

    def view(request):
        assert request.session["nested"] == [0]
        savepoint(request).rollback()
        request.session["nested"].append(1)

    browser.visit(view)
    assert contents(browser)["nested"] == [0, 1]


def answered(engine, view, stored: bool) -> Browser:
    """Return a browser, whose failing requests an exception view answers."""
    configure = exception_view(view)
    browser = Browser(Application(engine, configure=configure))
    if stored:
        browser.visit(begin)
    return browser


def failing(view):
    """Return a view that raises when it has done its work."""

    def fails(request):
        view(request)
        raise Failure

    return fails


@new_and_stored
def test_in_an_exception_view(engine, stored):
    """What an exception view did after its savepoint is gone, the rest is stored."""

    def view(request):
        session = request.session
        session["before"] = nested = [1]
        session.flash("before")
        point = request.dbsession.begin_nested()
        session["inside"] = 1
        session.flash("inside")
        nested.append(2)
        session.invalidate()
        point.rollback()
        session["after"] = 1

    browser = answered(engine, view, stored)
    browser.visit(failing(lambda r: r.session.update(failed=1)), status=500)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "before": [1], "after": 1}
    messages = ["first", "before"] if stored else ["before"]
    assert browser.ask(lambda session: session.peek_flash()) == messages


@new_and_stored
def test_first_used_after_the_savepoint_of_an_exception_view(engine, stored):
    """It's as if the session had not been used."""

    def view(request):
        point = request.dbsession.begin_nested()
        request.session["inside"] = 1
        point.rollback()
        request.session["after"] = 1

    browser = answered(engine, view, stored)
    browser.visit(failing(lambda request: None), status=500)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "after": 1}


@new_and_stored
def test_a_savepoint_of_the_failed_view(engine, stored):
    """An exception view that rolls it back, or all, loses nothing of its own."""

    def view(request):
        request.session["answer"] = 1
        request.environ["tests.point"].rollback()
        request.session["again"] = 1
        request.dbsession.rollback()

    def before(request):
        request.session["before"] = 1
        request.environ["tests.point"] = request.dbsession.begin_nested()
        request.session["inside"] = 1

    browser = answered(engine, view, stored)
    browser.visit(failing(before), status=500)
    base = {"a": 1, "nested": [0]} if stored else {}
    assert browser.ask(dict) == {**base, "answer": 1, "again": 1}


def test_an_exception_view_that_may_be_committed(engine):
    """It's back at what the failed view left, and not at what's stored."""
    browser = Browser(
        Application(
            engine,
            configure=exception_view(lambda request: answer(request)),
            settings={"tm.commit_veto": "pyramid_tm.default_commit_veto"},
        )
    )
    browser.visit(begin)
    seen = []

    def answer(request):
        len(request.session)
        point = request.dbsession.begin_nested()
        request.session["inside"] = 1
        point.rollback()
        seen.append(dict(request.session))
        return Response(status=303)

    browser.visit(failing(lambda request: request.session.clear()))
    assert seen == [{}]
    assert contents(browser) == {}
