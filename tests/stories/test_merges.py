"""Two requests write one session at once: both are stored, or one is tried again."""

from __future__ import annotations

import pytest
from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.interfaces import ICSRFStoragePolicy
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from tests.application import Application, Browser, Plain, statements
from tests.features.timed import (
    isolate_snapshots,
    sent,
    use_cookie,
    visit_meanwhile,
)


def begin(request):
    """Store a session with all that can be in the way."""
    request.session.update(a=1, b=2, nested=[0], word="x")
    request.session.flash("first")
    request.session.flash("other", "queue")


def visitor(engine, **kw) -> Browser:
    browser = Browser(Application(engine, **kw))
    browser.visit(begin)
    return browser


def put(**values):
    return lambda session: session.update(**values)


#: What two requests do, each in a line; what is stored then, but for what was before.
MERGED = {
    "different keys": (put(c=1), put(d=2), {"c": 1, "d": 2}),
    "an old and a new key": (put(a=9), put(d=2), {"a": 9, "d": 2}),
    "in place and a key": (
        lambda session: session["nested"].append(1),
        put(d=2),
        {"nested": [0, 1], "d": 2},
    ),
    "a key and in place": (
        put(d=2),
        lambda session: session["nested"].append(1),
        {"nested": [0, 1], "d": 2},
    ),
    "a deletion": (lambda session: session.pop("a"), put(d=2), {"a": None, "d": 2}),
    "an absent key": (lambda session: session.get("z"), put(d=2), {"d": 2}),
    "a flash and a key": (lambda session: session.flash("mine"), put(d=2), {"d": 2}),
    "a key and a flash": (put(d=2), lambda session: session.flash("theirs"), {"d": 2}),
    "a token and a key": (lambda session: session.new_csrf_token(), put(d=2), {"d": 2}),
    "a key and a rotation": (put(d=2), lambda session: session.rotate(), {"d": 2}),
    "a key and a value as it is": (put(d=2), put(a=1), {"d": 2}),
}


@pytest.mark.parametrize("kind", MERGED)
def test_both_succeed(engine, kind):
    """Neither is refused, and nothing of either is lost."""
    mine, theirs, expected = MERGED[kind]
    browser = visitor(engine)

    answers: list = []

    def view(request):
        mine(request.session)
        their = visit_meanwhile(browser, lambda request: theirs(request.session))
        answers.append(sent(their))

    assert sent(browser.visit(view)) is None
    if answers[0] is not None:
        use_cookie(browser, answers[0].value)
    found = browser.ask(dict)
    assert {key: found.get(key) for key in expected} == expected
    assert found["word"] == "x"


def test_two_flash_messages(engine):
    """Both are there, in the order in which they were stored."""
    browser = visitor(engine)

    def view(request):
        request.session.flash("mine")
        visit_meanwhile(browser, lambda request: request.session.flash("theirs"))

    browser.visit(view)
    messages = browser.ask(lambda session: session.pop_flash())
    assert messages == ["first", "theirs", "mine"]


def test_a_pop_takes_no_message_that_it_did_not_return(engine):
    """Popping one queue merges with a message in another one."""
    browser = visitor(engine)

    def view(request):
        assert request.session.pop_flash() == ["first"]
        visit_meanwhile(browser, lambda request: request.session.flash("new", "queue"))

    browser.visit(view)
    assert browser.ask(lambda session: session.pop_flash()) == []
    assert browser.ask(lambda session: session.pop_flash("queue")) == ["other", "new"]


def count(session):
    session["a"] += 1


#: What can't be one after the other: the first read or wrote what the second changed.
REFUSED = {
    "one key": (put(a=5), put(a=6)),
    "one counter": (count, count),
    "what was read": (lambda s: s.update(d=s["b"]), put(b=9)),
    "what was not there": (lambda s: s.update(d=s.get("z")), put(z=9)),
    "what was looked for": (lambda s: s.update(d="z" in s), put(z=9)),
    "the number": (lambda s: s.update(d=len(s)), put(z=9)),
    "all keys": (lambda s: s.update(d=list(s)), put(z=9)),
    "a copy": (lambda s: s.update(d=str(dict(s))), put(b=9)),
    "a comparison": (lambda s: s.update(d=s == {}), put(z=9)),
    "its truth": (lambda s: s.update(d=bool(s)), put(z=9)),
    "clearing": (lambda s: s.clear(), put(z=9)),
    "the last pair": (lambda s: s.popitem(), put(z=9)),
    "a default": (lambda s: s.setdefault("z", 1), put(z=9)),
    "two items of a list": (
        lambda s: s["nested"].append(1),
        lambda s: s["nested"].append(2),
    ),
    "popped messages": (lambda s: s.pop_flash(), lambda s: s.flash("new")),
    "messages that were read": (
        lambda s: s.update(d=s.peek_flash()),
        lambda s: s.flash("new"),
    ),
    "no duplicates": (
        lambda s: s.flash("new", allow_duplicate=False),
        lambda s: s.flash("new"),
    ),
    "the user": (put(d=1), lambda s: setattr(s, "userid", 5)),
    "the token": (
        lambda s: s.update(d=s.get_csrf_token()),
        lambda s: s.new_csrf_token(),
    ),
    "two tokens": (lambda s: s.new_csrf_token(), lambda s: s.new_csrf_token()),
    "two rotations": (lambda s: s.rotate(), lambda s: s.rotate()),
    "changed()": (lambda s: s.changed(), put(d=1)),
    "a pair": (lambda s: s.update(a=s["b"]), lambda s: s.update(b=s["a"] + 9)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_one_is_refused(engine, kind):
    """A request that read or wrote what another one changed is a conflict."""
    mine, theirs = REFUSED[kind]
    browser = visitor(engine)

    def view(request):
        mine(request.session)
        visit_meanwhile(browser, lambda request: theirs(request.session))

    before = browser.ask(dict)
    with pytest.raises(StaleDataError):
        browser.visit(view)
    fresh = dict(before)
    for row in browser.application.rows():
        assert row.version == 2
    # As if only the other request had been.
    assert set(browser.ask(dict)) - set(fresh) <= {"z", "d"}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_tried_again(engine, kind):
    """With pyramid_retry the refused request runs again, on top of the other one."""
    mine, theirs = REFUSED[kind]
    attempts: list = []
    browser = visitor(
        engine,
        configure=lambda config: config.include("pyramid_sqlalchemy_sessions.retry"),
    )

    def view(request):
        attempts.append(request.session.is_late)
        mine(request.session)
        if len(attempts) == 1:
            visit_meanwhile(browser, lambda request: theirs(request.session))

    browser.visit(view)
    assert len(attempts) == 2
    # After a login or a rotation the cookie came too late.
    assert attempts[1] == (kind in ("the user", "two rotations"))
    if kind == "one counter":
        assert browser.ask(lambda session: session["a"]) == 3


def test_no_write_skew(engine):
    """Of two requests that each read what the other writes only one succeeds."""
    browser = visitor(engine)

    def view(request):
        if request.session["a"] + request.session["b"] == 3:
            request.session["a"] = 0
        visit_meanwhile(browser, other)

    def other(request):
        if request.session["a"] + request.session["b"] == 3:
            request.session["b"] = 0

    with pytest.raises(StaleDataError):
        browser.visit(view)
    assert browser.ask(lambda session: (session["a"], session["b"])) == (1, 0)


def test_a_merge_costs_two_statements(engine):
    """Only a write that meets another one reads the row again, and locks it."""
    browser = visitor(engine)

    def view(request):
        request.session["c"] = 1
        visit_meanwhile(browser, lambda request: request.session.update(d=2))
        executed.clear()

    with statements(engine) as executed:
        browser.visit(view)
    kinds = [each.split()[0] for each in executed]
    assert kinds == ["UPDATE", "SELECT", "UPDATE"]
    assert ("FOR UPDATE" in executed[1]) == (engine.dialect.name != "sqlite")


def test_the_order_of_the_keys(engine):
    """A key that was removed and set again is the last one, merged or not."""
    browser = visitor(engine)

    def view(request):
        request.session["a"] = request.session.pop("a")
        visit_meanwhile(browser, lambda request: request.session.update(d=2))

    browser.visit(view)
    assert browser.ask(list) == ["b", "nested", "word", "d", "a"]


@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_where_the_database_refuses(make_story_engine):
    """With innodb_snapshot_isolation MariaDB refuses, and it's tried again."""
    attempts: list = []
    engine = isolate_snapshots(make_story_engine())
    browser = visitor(
        engine,
        configure=lambda config: config.include("pyramid_sqlalchemy_sessions.retry"),
    )

    def view(request):
        attempts.append(1)
        request.session["c"] = 1
        if len(attempts) == 1:
            visit_meanwhile(browser, lambda request: request.session.update(d=2))

    browser.visit(view)
    assert len(attempts) == 2
    assert browser.ask(lambda session: (session["c"], session["d"])) == (1, 2)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_at_higher_levels(make_story_engine, level):
    """There the database refuses by itself; nothing is lost, and it's tried again."""
    attempts: list = []
    engine = make_story_engine(isolation_level=level)
    browser = visitor(
        engine,
        configure=lambda config: config.include("pyramid_sqlalchemy_sessions.retry"),
    )

    def view(request):
        attempts.append(1)
        request.session["c"] = 1
        if len(attempts) == 1:
            visit_meanwhile(browser, lambda request: request.session.update(d=2))

    browser.visit(view)
    assert len(attempts) == 2
    assert browser.ask(lambda session: (session["c"], session["d"])) == (1, 2)
    bare = visitor(engine)

    def alone(request):
        request.session["c"] = 1
        visit_meanwhile(bare, lambda request: request.session.update(d=2))

    with pytest.raises(DBAPIError):
        bare.visit(alone)


# Rotation and users.


def test_rotation_renews_the_token_in_the_dict(engine):
    """Where the CSRF token is kept in the dict, a rotation draws another one, too."""
    browser = Browser(Application(engine, Plain))

    def token(request):
        policy = request.registry.getUtility(ICSRFStoragePolicy)
        assert isinstance(policy, SessionCSRFStoragePolicy)
        return policy.get_csrf_token(request)

    before = browser.visit(token).text
    assert browser.visit(token).text == before
    browser.visit(lambda request: request.session.rotate())
    assert browser.visit(token).text != before


def test_switching_users(engine):
    """One user after another finds nothing of the first one's; a login keeps all."""
    browser = visitor(engine)
    browser.visit(lambda request: setattr(request.session, "userid", 5))
    assert browser.ask(lambda session: session["a"]) == 1
    assert browser.ask(lambda session: session.peek_flash()) == ["first"]

    def switch(request):
        request.session.userid = 6
        request.session["new"] = 1

    browser.visit(switch)
    assert browser.ask(dict) == {"new": 1}
    assert browser.ask(lambda session: session.peek_flash()) == []
    assert browser.ask(lambda session: session.peek_flash("queue")) == []


def test_the_id_is_for_life(engine):
    """Login, logout and rotation change the cookie, and never the id."""
    browser = visitor(engine)
    key = browser.ask(lambda session: session.id)
    cookies = {browser.cookie}
    for deed in (
        lambda request: setattr(request.session, "userid", 5),
        lambda request: request.session.authenticate(5),
        lambda request: setattr(request.session, "userid", 6),
        lambda request: request.session.rotate(),
        lambda request: setattr(request.session, "userid", None),
    ):
        response = browser.visit(deed)
        assert sent(response).id == key
        cookies.add(browser.cookie)
        assert browser.ask(lambda session: (session.new, session.id)) == (False, key)
    assert len(cookies) == 6


def test_the_id_of_a_new_session(engine):
    """It's drawn when it's asked for, and is that of the row."""
    browser = Browser(Application(engine))
    ids: list = []

    def view(request):
        ids.append(request.session.id)
        request.session["a"] = 1
        ids.append(request.session.id)

    browser.visit(view)
    assert ids == [browser.application.row().id] * 2
    assert browser.ask(lambda session: session.id) == ids[0]
