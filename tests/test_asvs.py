"""The table of OWASP ASVS in the documentation names tests that are there.

And what it says that no other test proves.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, Integer, delete, event
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    BaseMixin,
    ConfigAbsoluteMixin,
    UseridMixin,
)
from pyramid_sqlalchemy_sessions.identifiers import new_id
from tests.application import Application, Browser
from tests.test_docs import table

ROOT = Path(__file__).resolve().parent.parent

#: What the table says where the library has nothing to offer.
NOTHING = "\N{EN DASH}"

#: How a requirement can be met.
MET = {"By default", "By a setting", "By you", "Not"}

#: Section V3.3 and chapter V7 of version 5.0.
REQUIREMENTS = [
    *("7.1.1", "7.1.2", "7.1.3"),
    *("7.2.1", "7.2.2", "7.2.3", "7.2.4"),
    *("7.3.1", "7.3.2"),
    *("7.4.1", "7.4.2", "7.4.3", "7.4.4", "7.4.5"),
    *("7.5.1", "7.5.2", "7.5.3"),
    *("7.6.1", "7.6.2"),
    *("3.3.1", "3.3.2", "3.3.3", "3.3.4", "3.3.5"),
]


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class User(Models):
    """A user."""

    __tablename__ = "user_of_session"

    id = mapped_column(Integer, primary_key=True)


class Owned(UseridMixin, ConfigAbsoluteMixin, BaseMixin, Models):
    """A session that ends with its user, and when it was told to."""

    __tablename__ = "owned_session"

    userid = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))


def rows() -> list[list[str]]:
    """Return the rows of the table: number, how it's met, requirement, how, tests."""
    return table("security", "7.1.1")


def named_tests(cell: str) -> list[str]:
    """Return the tests that a cell of the last column names, as pytest knows them."""
    names = re.findall(r"``([\w/]+)::([\w:]+)``", cell)
    assert len(names) == cell.count("``") // 2, cell
    return [f"tests/{module}.py::{name}" for module, name in names]


def test_every_requirement_has_its_row() -> None:
    """The table has each requirement once, in order, and no cell is empty."""
    assert [row[0] for row in rows()] == REQUIREMENTS
    assert all(len(row) == 5 and all(row) for row in rows())


def test_what_the_library_does_is_tested() -> None:
    """Each row says how it's met, and names a test if the library has a part in it."""
    for number, met, _, how, tests in rows():
        assert met in MET, number
        assert (how == NOTHING) is (tests == NOTHING), number
        assert how != NOTHING or met == "By you", number
        assert (tests == NOTHING) is (named_tests(tests) == []), number


def test_named_tests_exist(request: pytest.FixtureRequest) -> None:
    """Pytest finds each test that the table names."""
    named = {test for row in rows() for test in named_tests(row[4])}
    assert len(named) > 30
    found = {item.nodeid.partition("[")[0] for item in request.session.items}
    # When all tests run, that is all of them. Otherwise let pytest look for the others.
    missing = sorted(named - found)
    if missing:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0"]
        command += ["-p", "no:cacheprovider", *missing]
        collected = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert collected.returncode == 0, collected.stdout[-2000:] + collected.stderr
        found |= {line.partition("[")[0] for line in collected.stdout.splitlines()}
    assert named <= found


def test_what_is_met_by_default(sqlite_engine: Engine) -> None:
    """Without a setting there's no timeout, no limit, and no prefix of the cookie."""
    Models.metadata.create_all(sqlite_engine)
    browser = Browser(Application(sqlite_engine, Owned))
    browser.visit(lambda r: setattr(r.session, "userid", 1))
    assert browser.ask(lambda session: session.expires) is None
    assert list(browser.cookies) == ["session"]
    by_a_setting = [row[0] for row in rows() if row[1] == "By a setting"]
    assert by_a_setting == ["7.3.1", "7.3.2", "3.3.1", "3.3.3"]


def test_ids_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bits of an id but one are those that the system's generator has drawn."""
    monkeypatch.setattr("secrets.token_bytes", lambda size: b"\xff" * size)
    assert new_id().int.bit_count() == 127
    monkeypatch.undo()
    ids = [new_id().int for _ in range(1000)]
    assert len(set(ids)) == 1000
    for bit in range(128):
        ones = sum(each >> bit & 1 for each in ids)
        assert 300 < ones < 700 or (bit == 128 - 49 and ones == 0), bit


def test_sessions_of_a_deleted_user(engine: Engine) -> None:
    """With ON DELETE CASCADE the sessions of a user end with the user."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _check_foreign_keys)
    Models.metadata.create_all(engine)
    with Session(engine) as dbsession, dbsession.begin():
        dbsession.add_all([User(id=1), User(id=2)])
    application = Application(engine, Owned)
    alice, bob = Browser(application), Browser(application)
    alice.visit(lambda r: setattr(r.session, "userid", 1))
    bob.visit(lambda r: setattr(r.session, "userid", 2))
    with engine.begin() as connection:
        connection.execute(delete(User).where(User.id == 1))
    assert alice.ask(lambda session: session.userid) is None
    assert bob.ask(lambda session: session.userid) == 2


def _check_foreign_keys(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def test_session_ends_with_that_of_the_provider(sqlite_engine: Engine) -> None:
    """A login can give the session the lifetime that an identity provider gave it."""
    Models.metadata.create_all(sqlite_engine)
    browser = Browser(Application(sqlite_engine, Owned, absolute_timeout=1000))

    def log_in(request: Any) -> None:
        with request.session.settings as settings:
            settings.absolute_timeout = 300
        request.session["login"] = "by the provider"

    browser.visit(log_in)
    row = browser.application.row()
    assert row.absolute_expire == row.created + 300
    with sqlite_engine.begin() as connection:
        past = {"created": row.created - 301, "absolute_expire": row.created - 1}
        connection.execute(Owned.__table__.update().values(past))
    assert browser.ask(lambda session: session.new)


def test_lengths_of_the_cookie() -> None:
    """The value has 64 characters, and 88 with a renewal id."""
    serializer = AESGCMSerializer(bytes(32))
    assert len(serializer.dumps(new_id().bytes)) == 64
    assert len(serializer.dumps(new_id().bytes + new_id().bytes)) == 88
