"""The recipe of logging-in.rst: logins and new passwords at the same moment.

On SQLite the UPDATE of the recipe takes the write lock, on PostgreSQL it locks the row
and fails where a snapshot is too old, on MariaDB it locks the row, and the locking read
after it sees what a snapshot doesn't.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, TimeoutError

import pytest
from sqlalchemy.orm import Session

from pyramid_sqlalchemy_sessions import UserSessionAuthenticationHelper
from tests.application import Application, Browser
from tests.stories.transactions import elsewhere
from tests.test_docs import load

#: How long a test waits for what must not happen, in seconds.
MOMENT = 0.5

#: None is the default: REPEATABLE READ on MariaDB, READ COMMITTED on PostgreSQL.
pytestmark = pytest.mark.parametrize(
    ("database_url", "level"),
    [
        ("sqlite", None),
        ("postgresql", None),
        ("postgresql", "REPEATABLE READ"),
        ("postgresql", "SERIALIZABLE"),
        ("mariadb", None),
        ("mariadb", "READ COMMITTED"),
    ],
    indirect=["database_url"],
    ids=lambda value: str(value or "default").lower().replace(" ", "-"),
)


class Policy(UserSessionAuthenticationHelper):
    """A security policy that permits everything."""

    def permits(self, request, context, permission):
        return True


def configure(config):
    """Let conflicts be tried again, and users log in."""
    config.include("pyramid_sqlalchemy_sessions.retry")
    config.set_security_policy(Policy())


@pytest.fixture
def samples():
    """The samples, with passwords that need no time."""
    samples = load("logins")
    samples.User.has_password = lambda user, password: user.password_hash == password
    samples.User.set_password = lambda user, password: setattr(
        user, "password_hash", password
    )
    return samples


@pytest.fixture
def application(samples, make_engine, database_url, level):
    """An application with a user, for many requests at once."""
    options = {} if level is None else {"isolation_level": level}
    if database_url.startswith("sqlite"):
        options["connect_args"] = {"timeout": 60}
    engine = make_engine(pool_size=20, max_overflow=0, pool_timeout=60, **options)
    samples.Base.metadata.create_all(engine)
    with Session(engine) as dbsession, dbsession.begin():
        for id, name in [(7, "alice"), (8, "bob")]:
            user = samples.User(id=id, name=name, password_hash="old")
            dbsession.add(user)
    return Application(
        engine,
        samples.WebSession,
        settings={"retry.attempts": 100, "retry.max_delay": 0.2},
        configure=configure,
    )


class View:
    """The views of the samples, by path, for requests at the same moment."""

    def __init__(self, samples):
        self._samples = samples

    def __call__(self, request):
        if request.path == "/login":
            # What a page with a form has done: the transaction has a snapshot.
            assert request.session.userid is None
            return self._samples.log_in(request)
        if request.path == "/password":
            return self._samples.change_password(request)
        return str(request.session.userid)


@pytest.fixture
def browser(samples, application):
    """Make browsers of the application."""
    application.view = View(samples)
    return lambda: Browser(application)


def log_in(browser, name="alice", password="old"):
    """Log in; return the status."""
    form = {"name": name, "password": password}
    return browser.post("/login", form, status="*").status_int


def change_password(browser):
    """Change the password; return the status."""
    form = {"old": "old", "new": "new"}
    return browser.post("/password", form, status="*").status_int


def users(*browsers):
    """Return who is logged in where."""
    return [browser.get("/").text for browser in browsers]


@pytest.mark.slow
def test_fifty_logins(application, browser):
    """However many log in at once, exactly as many sessions as allowed are left."""
    bob = browser()
    log_in(bob, "bob")
    everyone = [browser() for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(log_in, everyone)) == {303}
    assert sorted(row.userid for row in application.rows()) == [7, 7, 7, 8]
    assert sorted(users(*everyone)) == ["7"] * 3 + ["None"] * 47
    assert users(bob) == ["8"]


def after_the_check(samples, monkeypatch, work):
    """Let something happen, once, when a password was checked, before the lock."""
    check = samples.User.has_password
    pending = [work]

    def has_password(user, password):
        is_right = check(user, password)
        if pending:
            elsewhere(pending.pop())
        return is_right

    monkeypatch.setattr(samples.User, "has_password", has_password)


def test_login_that_a_change_overtakes(samples, application, browser, monkeypatch):
    """A login whose old password was right before the change is refused."""
    owner, other = browser(), browser()
    log_in(owner)
    after_the_check(samples, monkeypatch, lambda: change_password(owner))
    assert log_in(other) == 403
    assert users(owner, other) == ["7", "None"]
    assert log_in(other) == 403
    assert log_in(other, password="new") == 303


def test_change_that_a_login_overtakes(samples, application, browser, monkeypatch):
    """A login that came just before the change is ended by it."""
    owner, other = browser(), browser()
    log_in(owner)
    after_the_check(samples, monkeypatch, lambda: log_in(other))
    assert change_password(owner) == 303
    assert users(owner, other) == ["7", "None"]
    assert len(application.rows()) == 1


def test_change_that_a_change_overtakes(samples, application, browser, monkeypatch):
    """Of two who change the old password at the same moment, one is refused."""
    owner, other = browser(), browser()
    log_in(owner)
    log_in(other)
    after_the_check(samples, monkeypatch, lambda: change_password(owner))
    assert change_password(other) == 403
    assert users(owner, other) == ["7", "None"]


@pytest.mark.parametrize("first", [log_in, change_password])
def test_the_second_one_waits(samples, application, browser, monkeypatch, first):
    """Whoever has the lock goes first, and a login by the old password is no more."""
    owner, other = browser(), browser()
    log_in(owner)
    doers = {log_in: other, change_password: owner}
    (second,) = {*doers} - {first}
    remember, waiting = samples.remember, []

    def remember_slowly(request, userid):
        if not waiting:
            waiting.append(pool.submit(second, doers[second]))
            with pytest.raises(TimeoutError):
                waiting[0].result(MOMENT)
        remember(request, userid)

    monkeypatch.setattr(samples, "remember", remember_slowly)
    with ThreadPoolExecutor(1) as pool:
        assert first(doers[first]) == 303
        assert waiting[0].result(60) == (303 if first is log_in else 403)
    assert users(owner, other) == ["7", "None"]
