"""What the oracle's requests do to their sessions, and how they note it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response

from pyramid_sqlalchemy_sessions import (
    SessionStore,
    UserSessionAuthenticationHelper,
    UserSessionAuthenticationPolicy,
)
from stress.changes import Changes
from stress.histories import Part
from stress.notes import KEY, REGISTERS, WITHIN, Plan, version_in

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
    "flash_again": 20,
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
    "login": 30,
    "forget": 3,
    "policy_forget": 10,
    "invalidate": 1,
    "rotate": 20,
    "revoke": 2,
    "delete": 1,
    "look_at_other": 15,
    "subrequest": 15,
    "replay": 30,
}


#: Where the WSGI environment holds the deeds of the current attempt.
DEEDS = "oracle.deeds"


#: What keeps a session from being renewed. Every other browser doesn't do it.
UNSTEADY = (
    "login",
    "forget",
    "policy_forget",
    "invalidate",
    "rotate",
    "revoke",
    "delete",
)


class Failed(Exception):
    """What an exception view answers."""


class Crashed(Exception):
    """What no exception view answers, unless there is one for everything."""


class Deeds(Changes):
    """One attempt at a request."""

    def view(self) -> None:
        """Do what is planned."""
        self.op.is_late = getattr(self.session, "is_late", False)
        if self.plan.pause:
            time.sleep(self.plan.pause)
        getattr(self, self.plan.kind)()

    @property
    def is_committed(self) -> bool:
        """Whether pyramid_tm commits after an exception view, too."""
        return "tm.commit_veto" in self.request.registry.settings

    def answer(self) -> None:
        """Do something in an exception view, which starts from what's stored.

        If a veto has everything committed, it continues from where the view failed.
        """
        self.token += "h"
        deeds = [self.flash, self.read]
        if not self.is_committed:
            self.part = self.open_part(answers=True)
            deeds.append(self.bump)
            if self.plan.kind == "fail" and not self.plan.is_steady:
                deeds += [self.forget, self.login]
        # A part writes each register once.
        deeds += [self.append] if "box" not in self.part.writes else []
        deeds += [self.both] if "p" not in self.part.writes else []
        self.random.choice(deeds)()

    # Changes that shouldn't be stored.

    def savepoint(self) -> None:
        """Take some changes back with a savepoint, but not others."""
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
        weights = [6, 6, 6, 2, 2, *[0 if self.plan.is_steady else 1] * 3]
        # A login may or may not take along what was done to a late session.
        for _ in range(1 if self.op.is_late else 2):
            (deed,) = self.random.choices(deeds, weights)
            weights[deeds.index(deed)] = 0
            deed()
            if len(self.op.parts) > 1:
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
        self.part.changes_user = before != user
        if mark is None:  # new, or late
            self.start_again(self.token)
        elif before not in (None, user):
            self.part.clears = self.part.rotates = True
            self.start_again(f"{mark}+{self.token}")
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
        self.part.rotates = self.part.changes_user = self.session.userid is not None
        UserSessionAuthenticationPolicy().forget(self.request)
        self.part.user = "nobody"
        self._write_login(None)

    def _end_late(self) -> None:
        """End the session that a late cookie stood for."""
        if self.op.is_late:
            counts = self.plan.kind != "doom"
            self.part = Part(None, None, counts, self.part.answers, ends=True)
            self.op.parts.append(self.part)

    def forget(self) -> None:
        """Log the user out, and perhaps leave a message in another session."""
        UserSessionAuthenticationHelper().forget(self.request)
        self._end()

    def invalidate(self) -> None:
        """End the session."""
        self.session.invalidate()
        self._end()

    def _end(self) -> None:
        part = self.part
        part.ends = part.found is not None
        # What was done before goes with it.
        part.counts &= part.ends
        part.writes.clear()
        part.flashed.clear()
        part.peeked, part.popped = part.popped, None
        self._end_late()
        self.token += "f"
        self.part = Part(None, None, self.plan.kind != "doom", part.answers)
        self.op.parts.append(self.part)
        if self.random.random() < 0.5:
            self.flash()

    def rotate(self) -> None:
        """Change the cookie."""
        self.session.rotate()
        self.part.rotates = True

    # Other sessions.

    def _store(self) -> SessionStore:
        store = getattr(self.request, "session_store", None)
        if store is None:
            factory = self.request.registry.getUtility(ISessionFactory)
            store = SessionStore(self.request.dbsession, factory)
        return store

    def revoke(self) -> None:
        """End a user's sessions, except for this one."""
        self._store().revoke_user(self.plan.user, keep=self.session)
        # A late one isn't what its cookie stood for, so that isn't kept.
        self.part.revokes = (str(self.plan.user), self.part.lineage)
        self.part.counts = True

    def delete(self) -> None:
        """End a session by its id."""
        if self.plan.target and self._store().delete(uuid.UUID(self.plan.target)):
            self.part.deletes = self.plan.target
            self.part.counts = True

    def look_at_other(self) -> None:
        """Read another session by its id."""
        data = self.plan.target and self._store().get(uuid.UUID(self.plan.target))
        if data:
            part = Part(data.get("mark"), data.get("mark"), counts=False)
            part.reads = {each: version_in(data, each) for each in REGISTERS}
            self.op.parts.append(part)

    def subrequest(self) -> None:
        """Use the session in a subrequest, too."""
        self.own()
        self.write("a")
        if self.part.found is None:
            return
        request = Request.blank("/", headers={"Cookie": self.request.headers["Cookie"]})
        request.environ |= {
            "tm.active": True,
            "tm.manager": self.request.tm,
            "app.dbsession": self.request.dbsession,
            WITHIN: self,
        }
        self.request.invoke_subrequest(request)
        self.look("b")
        self.write("p")
        self.write("q")

    def within(self, request: Any) -> None:
        """Do the subrequest's part, which has its own session."""
        outer, self.session = self.session, request.session
        self.look("a")
        self.write("b")
        self.flash()
        self.session = outer


def view(request: Any) -> Response:
    """Do what the request was planned for."""
    if outer := request.environ.get(WITHIN):
        outer.within(request)
        return Response("within")
    plan: Plan = request.environ[KEY]
    op = plan.op
    op.attempts += 1
    op.parts.clear()
    op.logged.clear()
    op.told.clear()
    request.environ.pop(DEEDS, None)  # of the attempt before
    request.environ[DEEDS] = deeds = Deeds(request, plan)
    deeds.view()
    return Response("done")


def answer(request: Any) -> Response:
    """Answer an error that a view raised, or the commit."""
    # There are none if the session couldn't even be loaded.
    deeds = request.environ.get(DEEDS) or Deeds(request, request.environ[KEY])
    deeds.answer()
    return Response("caught", status=200 if deeds.is_committed else 500)
