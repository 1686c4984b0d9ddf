"""The requirements of OWASP ASVS in the documentation, and the tests of each.

And what no other test proves of them. They are section V3.3 and chapter V7 of version
5.0.
"""

from __future__ import annotations

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

#: How a requirement can be met.
MET = {"By default", "By a setting", "By you", "Not"}

#: The tests of each requirement, by its number. Where there are none, the library has
#: no part in it.
TESTS = {
    "7.1.1": (
        "test_docs.py::test_settings",
        "test_settings.py::test_idle_timeout_is_less_than_the_absolute_one",
    ),
    "7.1.2": (
        "test_store.py::test_limit_user",
        "test_logins.py::test_fifty_logins",
    ),
    "7.1.3": (),
    "7.2.1": (
        "test_cookies_on_the_wire.py::test_no_sql_for_a_cookie_that_is_not_authentic",
        "test_serializer.py::TestTampering::test_any_flipped_bit_is_noticed",
        "test_hostile_input.py::test_fuzzed_cookies",
    ),
    "7.2.2": (
        "test_cookies_on_the_wire.py::test_two_new_sessions_have_different_cookies",
        "test_authn.py::test_attacker_cannot_choose_the_id",
    ),
    "7.2.3": (
        "test_asvs.py::test_ids_are_random",
        "test_serializer.py::TestWireFormat::test_every_value_has_its_own_nonce",
    ),
    "7.2.4": (
        "test_authn.py::test_login_rotates",
        "test_authn.py::test_cookie_from_before_the_login_is_dead",
        "test_authn.py::test_session_fixation",
        "test_session.py::test_rotate_kills_the_old_cookie",
        "features/test_rotation.py::test_cookie_before_and_after",
        "features/test_rotation.py::test_late_cookie",
        "test_threats.py::test_copy_dies_when_the_password_is_given_again",
    ),
    "7.3.1": (
        "features/test_idle.py::test_session_is_dead_one_second_later",
        "features/test_idle.py::test_every_use_postpones_the_end",
        "features/test_idle.py::test_expiry_before_the_timeout_was_used",
    ),
    "7.3.2": (
        "features/test_absolute.py::test_session_is_dead_one_second_later",
        "features/test_absolute.py::test_activity_does_not_extend",
    ),
    "7.4.1": (
        "test_session.py::test_old_cookie_is_dead_after_invalidate",
        "test_authn.py::test_forget_of_the_helper_invalidates",
        "stories/test_no_lost_update.py::test_what_has_ended_stays_dead",
        "features/test_idle.py::test_nothing_of_an_expired_session_is_left",
        "features/test_rotation.py::test_end_in_a_late_session",
    ),
    "7.4.2": (
        "test_store.py::test_revoke_user",
        "test_outside_requests.py::test_ban",
        "test_asvs.py::test_sessions_of_a_deleted_user",
    ),
    "7.4.3": (
        "test_logins.py::test_change_that_a_login_overtakes",
        "test_logins.py::test_login_that_a_change_overtakes",
    ),
    "7.4.4": (),
    "7.4.5": (
        "test_store.py::test_delete_all",
        "test_outside_requests.py::test_ban",
    ),
    "7.5.1": (
        "test_docs.py::TestFeatures::test_step_up",
        "test_authn.py::test_time_of_the_login",
        "test_threats.py::test_copy_is_as_fresh_as_the_login",
    ),
    "7.5.2": (
        "test_outside_requests.py::test_devices",
        "test_store.py::test_delete",
        "features/test_user_agent.py::test_is_noted_when_the_user_changes",
        "features/test_last_seen.py::test_is_noted_after_the_delay",
    ),
    "7.5.3": ("test_docs.py::TestFeatures::test_step_up",),
    "7.6.1": ("test_asvs.py::test_session_ends_with_that_of_the_provider",),
    "7.6.2": (
        "test_cookies_on_the_wire.py::test_new_session_without_data_sends_no_cookie",
    ),
    "3.3.1": (
        "test_cookies_on_the_wire.py::test_secure",
        "test_cookies_on_the_wire.py::test_cookie_of_another_name",
        "test_settings.py::test_host_prefix_demands_secure_root_path_and_no_domain",
        "test_threats.py::test_forwarded_header_is_not_believed",
    ),
    "3.3.2": (
        "test_cookies_on_the_wire.py::test_attributes_by_default",
        "test_cookies_on_the_wire.py::test_samesite_none",
    ),
    "3.3.3": (
        "test_cookies_on_the_wire.py::test_cookie_of_another_name",
        "test_cookies_on_the_wire.py::test_deletion_repeats_the_attributes",
    ),
    "3.3.4": (
        "test_cookies_on_the_wire.py::test_attributes_by_default",
        "test_secrets.py::test_nothing_is_told",
        "test_secrets.py::test_what_repr_shows",
    ),
    "3.3.5": (
        "test_hostile_input.py::test_cookie_is_short",
        "test_hostile_input.py::test_cookie_that_browsers_would_drop",
    ),
}


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
    """Return the rows of the table: number, how it's met, and by what."""
    return table("security", "7.1.1")


def test_every_requirement_has_its_row() -> None:
    """The table has each requirement once, in order, and no cell is empty."""
    assert [row[0] for row in rows()] == list(TESTS)
    assert all(len(row) == 3 and all(row) for row in rows())


def test_what_the_library_does_is_tested() -> None:
    """Each row says how it's met, and has a test if that isn't left to you."""
    for number, met, _ in rows():
        assert met in MET, number
        assert TESTS[number] or met == "By you", number


def test_named_tests_exist(request: pytest.FixtureRequest) -> None:
    """Pytest finds each test that is named above."""
    named = {f"tests/{test}" for tests in TESTS.values() for test in tests}
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
