"""What the oracle's requests do to their sessions, and how they note it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pyramid.interfaces import ISessionFactory
from pyramid.response import Response

from pyramid_sqlalchemy_sessions import (
    SessionStore,
    UserSessionAuthenticationHelper,
    UserSessionAuthenticationPolicy,
)
from stress.histories import Part
from stress.notes import KEY, REGISTERS, Notes, Plan

#: How many of a thousand requests do what.
WEIGHTS = {
    "read": 190,
    "read_all": 40,
    "bump": 130,
    "bump_in_place": 30,
    "both": 60,
    "skew": 90,
    "append": 80,
    "flash": 90,
    "flash_once": 15,
    "peek": 20,
    "pop": 40,
    "csrf": 30,
    "new_csrf": 10,
    "blind": 30,
    "announce": 10,
    "persist": 20,
    "savepoint": 35,
    "fail": 40,
    "doom": 20,
    "crash": 20,
    "login": 40,
    "forget": 7,
    "policy_forget": 12,
    "invalidate": 4,
    "rotate": 25,
    "revoke": 6,
    "replay": 30,
}


class Failed(Exception):
    """What an exception view answers."""


class Crashed(Exception):
    """What no exception view answers, unless there is one for everything."""


class Deeds(Notes):
    """One attempt at a request."""

    def view(self) -> None:
        """Do what is planned."""
        self.op.is_late = getattr(self.session, "is_late", False)
        if self.plan.pause:
            time.sleep(self.plan.pause)
        getattr(self, self.plan.kind)()

    def answer(self) -> None:
        """Do something in an exception view, which starts from what is stored."""
        self.token += "h"
        self.part = self.open_part(answers=True)
        deeds = [self.bump, self.flash, self.append, self.read, self.both]
        if self.plan.kind == "fail":
            deeds += [self.forget, self.login]
        self.random.choice(deeds)()

    # Reading.

    def read(self) -> None:
        """Read some registers."""
        for register in self.random.sample(REGISTERS, self.random.randint(1, 4)):
            self.look(register)

    replay = read

    def read_all(self) -> None:
        """Read everything there is."""
        everything = dict(self.session)
        for register in REGISTERS:
            self.look(register)
        self.part.items = list(everything.get("box", {}).get("items", []))
        self.part.values["blind"] = everything.get("blind")
        self.part.peeked = self.session.peek_flash()

    def peek(self) -> None:
        """Read the messages."""
        self.part.peeked = self.session.peek_flash()
        self.part.values["blind"] = self.session.get("blind")

    # Writing.

    def bump(self) -> None:
        """Count one register up."""
        self.own()
        self.write(self.random.choice("ab"))

    def bump_in_place(self) -> None:
        """Count one register up inside of the list that the session hands out."""
        self.own()
        n = self.look("a") + 1
        if n == 1:
            self.session["a"] = [0, None]
        value = self.session["a"]
        value[0] = n
        value[1] = self.token
        self.part.writes["a"] = (n, self.token)

    def both(self) -> None:
        """Write two registers that are never to be seen apart."""
        self.own()
        p, q = self.look("p") + 1, self.look("q") + 1
        self.session.update(p=[p, self.token], q=[q, self.token])
        self.part.writes.update(p=(p, self.token), q=(q, self.token))

    def skew(self) -> None:
        """Read one register and write the other."""
        self.own()
        read, written = self.random.sample("ab", 2)
        self.look(read)
        self.write(written)

    def append(self) -> None:
        """Append to a list inside of the session."""
        self.own()
        self.write("box")

    def flash(self) -> None:
        """Add a message."""
        self.own()
        self.session.flash(self.token)
        self.part.flashed.append(self.token)

    def flash_once(self) -> None:
        """Add a message unless it is there, twice."""
        self.own()
        for _ in range(2):
            self.session.flash(self.token, allow_duplicate=False)
        self.part.flashed.append(self.token)

    def pop(self) -> None:
        """Take all messages."""
        messages = self.session.pop_flash()
        if self.part.popped is None:
            self.part.popped = messages

    def csrf(self) -> None:
        """Read the CSRF token, which makes one if there is none."""
        self.own()
        self.part.values["csrf"] = self.session.get_csrf_token()

    def new_csrf(self) -> None:
        """Draw a new CSRF token."""
        self.own()
        self.part.values_written["csrf"] = self.session.new_csrf_token()

    def blind(self) -> None:
        """Overwrite a key without reading it."""
        self.own()
        self.session["blind"] = self.token
        self.part.values_written["blind"] = self.token

    def announce(self) -> None:
        """Say that something changed, which nothing did."""
        self.own()
        self.session.changed()
        self.look("a")

    def persist(self) -> None:
        """Write before the end of the request, and once more at its end."""
        self.own()
        self.write("a")
        if hasattr(self.session, "persist") and self.part.counts:
            self.session.persist()
        self.write("b")

    # Changes that aren't to be stored.

    def savepoint(self) -> None:
        """Take some changes back by a savepoint, others not."""
        self.own()
        self.write("a")
        dbsession = self.request.dbsession
        begin = [dbsession.begin_nested]
        if dbsession.get_bind().dialect.name != "sqlite":
            begin.append(self.request.tm.savepoint)
        before = self._all_but_a()
        savepoint = self.random.choice(begin)()
        outer = self.part
        self.part = Part(outer.mark, outer.mark, counts=False)
        self.op.parts.append(self.part)
        self.token += "s"
        for deed in (lambda: self.write("b"), self.append, self.flash, self.blind):
            if self.random.random() < 0.6:
                deed()
        savepoint.rollback()
        self.token, self.part = self.op.name, outer
        if (after := self._all_but_a()) != before:
            outer.wrong.append(f"{after} after a rollback to {before}")
        self.look("a")
        self.both()

    def _all_but_a(self) -> list[Any]:
        messages = self.session.peek_flash()
        blind = self.session.get("blind")
        return [self.version("b"), self.version("box"), blind, messages]

    def fail(self) -> None:
        """Change something, then fail; an exception view answers."""
        self._scatter()
        raise Failed

    def crash(self) -> None:
        """Change something, then fail without an answer."""
        self._scatter()
        raise Crashed

    def doom(self) -> None:
        """Change something, and have it all taken back."""
        self._scatter()
        self.request.tm.doom()

    def _scatter(self) -> None:
        deeds: list[Callable[[], None]] = [
            self.bump,
            self.append,
            self.flash,
            self.blind,
            self.pop,
            self.rotate,
            self.forget,
            self.login,
        ]
        weights = (6, 6, 6, 2, 2, 1, 1, 1)
        for deed in self.random.choices(deeds, weights, k=2):
            deed()
            if self.part.ends or len(self.op.parts) > 1:
                break

    # Users.

    def login(self) -> None:
        """Log a user in."""
        session, user = self.session, self.plan.user
        mark = self.part.mark
        before = session.userid if mark else None
        if mark:
            self.look("login")
        self._remember(user)
        if mark is None:  # new, or late
            self.begin_anew(self.token)
        elif before not in (None, user):
            self.part.clears = self.part.rotates = True
            self.begin_anew(f"{mark}+{self.token}")
        else:
            self.part.rotates = True
        self.part.user = str(user)
        if self.part.found is None:
            session["login"] = [1, self.token, user]
            self.part.writes["login"] = (1, self.token)
        else:
            self._write_login(user)

    def _remember(self, user: int) -> None:
        UserSessionAuthenticationHelper().remember(self.request, user)

    def _write_login(self, user: int | None) -> None:
        n = self.version("login")[0] + 1
        self.session["login"] = [n, self.token, user]
        self.part.writes["login"] = (n, self.token)

    def policy_forget(self) -> None:
        """Log the user out, but keep the data."""
        if self.part.mark is None:
            UserSessionAuthenticationPolicy().forget(self.request)
            self._end_late()
            return
        self.look("login")
        self.part.rotates = self.session.userid is not None
        UserSessionAuthenticationPolicy().forget(self.request)
        self.part.user = "nobody"
        self._write_login(None)

    def _end_late(self) -> None:
        """End the session that a late cookie stood for."""
        if self.op.is_late:
            self.part.counts = self.plan.kind != "doom"
            self.part.ends = True

    def forget(self) -> None:
        """Log the user out, and perhaps say farewell in another session."""
        UserSessionAuthenticationHelper().forget(self.request)
        self._end()

    def invalidate(self) -> None:
        """End the session."""
        self.session.invalidate()
        self._end()

    def _end(self) -> None:
        if self.part.found:
            self.part.ends = True
        self._end_late()
        if self.random.random() < 0.5:
            self.begin_anew(self.token + "f")
            self.token += "f"
            self.flash()

    def rotate(self) -> None:
        """Change the cookie."""
        self.session.rotate()
        self.part.rotates = True

    def revoke(self) -> None:
        """End a user's sessions but this one."""
        store = getattr(self.request, "session_store", None)
        if store is None:
            factory = self.request.registry.getUtility(ISessionFactory)
            store = SessionStore(self.request.dbsession, factory)
        store.revoke_user(self.plan.user, keep=self.session)
        # A late one is not what its cookie stood for, so that isn't kept.
        self.part.revokes = (str(self.plan.user), self.part.lineage)
        self.part.counts = self.plan.kind != "doom"


def view(request: Any) -> Response:
    """Do what the request was planned for."""
    plan: Plan = request.environ[KEY]
    op = plan.op
    op.attempts += 1
    op.parts.clear()
    op.logged.clear()
    request.environ["oracle.deeds"] = deeds = Deeds(request, plan)
    deeds.view()
    return Response("done")


def answer(request: Any) -> Response:
    """Answer what a view raised, or what the commit did."""
    request.environ["oracle.deeds"].answer()
    return Response("caught", status=500)
