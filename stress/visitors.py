"""Browsers that use sessions at once, in threads of several processes, and keep notes.

The browsers' cookies are in another process. Each browser is used by all threads, as if
they were its tabs. Answers come late, in another order, or not at all.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

from pyramid.config import Configurator
from sqlalchemy import create_engine, event, select

from pyramid_sqlalchemy_sessions import AESGCMSerializer, RenewalViolationEvent
from pyramid_sqlalchemy_sessions.conflicts import can_be_tried_again
from stress import deeds
from stress.deeds import UNSTEADY, WEIGHTS, Crashed, Failed
from stress.histories import CAUGHT, CRASHED, DONE, ERROR, REFUSED, Cookie, Op
from stress.jars import Held
from stress.notes import KEY, Plan, Witnessed, WitnessedAsJSON
from stress.watching import trace_of, watch_commits, watched_log, watching
from tests.application import Application, environ_of_get
from tests.stories.parallel import engine_of

OURS = AESGCMSerializer(bytes(range(32)))

#: How late a request or an answer can be, in seconds.
DELAY = 0.05

#: How long a process waits for the others.
PATIENCE = 120


@dataclass(frozen=True)
class World:
    """What is played where. ``operations`` is the total number of requests."""

    url: str
    level: str
    seed: int
    operations: int
    processes: int = 2
    threads: int = 4
    browsers: int = 5
    #: How often a request is tried; with 0, pyramid_retry isn't included.
    attempts: int = 20
    #: Whether an exception view answers all errors.
    catch_all: bool = False
    #: Whether a veto lets pyramid_tm commit after an exception view.
    veto: bool = False
    #: Whether the data are stored as JSON.
    json: bool = False
    renewal_timeout: int | None = 1
    renewal_grace: int | None = None
    cookie_max_age: int | None = None
    #: What requests don't do.
    without: tuple[str, ...] = ()
    #: How many of a thousand answers are lost, and of requests and answers are late.
    lost: int = 20
    late: int = 200

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the sessions."""
        settings = {
            "idle_timeout": 1000,
            "renewal_timeout": self.renewal_timeout,
            "renewal_try_every": 1 if self.renewal_timeout else None,
            "renewal_grace": self.renewal_grace,
            "cookie_max_age": self.cookie_max_age,
        }
        return {name: value for name, value in settings.items() if value is not None}


class Visitors:
    """One process's application, and the threads that visit it."""

    def __init__(self, world: World, jars: Any, place: int):
        self.world = world
        self.jars = jars
        self.place = place
        self.model = WitnessedAsJSON if world.json else Witnessed
        columns = self.model.__table__.columns
        names = ("id", "renewal_id", "renewal_next", "renewal_previous")
        self._ids = [columns[name] for name in names if name in columns]
        self.engine = engine_of(world.url, world.level)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _wait_long)
        watch_commits(self.engine)
        settings: dict[str, Any] = {}
        if world.attempts:
            settings["retry.attempts"] = world.attempts
        if world.veto:
            settings["tm.commit_veto"] = "pyramid_tm.default_commit_veto"
        application = Application(
            self.engine,
            self.model,
            settings=settings,
            configure=self._configure,
            **world.settings,
        )
        application.view = deeds.view
        self.wsgi = application.wsgi
        #: Looks at rows between requests, at its own isolation level.
        self.watcher = create_engine(world.url, isolation_level="AUTOCOMMIT")
        if self.engine.dialect.name == "sqlite":
            event.listen(self.watcher, "connect", _wait_long)

    def _configure(self, config: Configurator) -> None:
        if self.world.attempts:
            config.include("pyramid_sqlalchemy_sessions.retry")
        config.add_subscriber(_note_violation, RenewalViolationEvent)
        context = Exception if self.world.catch_all else Failed
        config.add_exception_view(deeds.answer, context=context)

    def run(self, wait: Callable[[], Any]) -> list[Op]:
        """Make this process's share of the requests, and return the results."""
        world = self.world
        share, rest = divmod(world.operations, world.processes * world.threads)
        notes: list[list[Op]] = [[] for _ in range(world.threads)]
        failures: list[BaseException] = []

        def play(place: int, number: int) -> None:
            try:
                wait()
                for _ in range(number):
                    self._visit(notes[place], f"{self.place}.{place}")
            except BaseException as exc:
                failures.append(exc)

        threads = [
            threading.Thread(
                target=play,
                args=(n, share + (self.place * world.threads + n < rest)),
            )
            for n in range(world.threads)
        ]
        with watched_log():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.close()
        if failures:
            raise failures[0]
        return [op for ops in notes for op in ops]

    def _visit(self, notes: list[Op], thread: str) -> None:
        name = f"{thread}.{len(notes)}"
        seed = f"{self.world.seed}/{name}"
        chance = random.Random(f"{seed}/visit")
        browser: int | None = chance.randrange(self.world.browsers)
        is_steady = browser % 2 == 1
        without = {*self.world.without, *(UNSTEADY if is_steady else ())}
        kinds = [kind for kind in WEIGHTS if kind not in without]
        (kind,) = chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        own = browser % 3 + 1
        user = own if chance.random() < 0.8 else chance.randint(1, 3)
        if kind == "replay":
            browser = None
            held = self.jars.dig_up(chance.random(), time.monotonic())
        else:
            if chance.random() < 0.003:
                self.jars.put(browser, Held())
            held = self.jars.take(browser)
        cookie = Cookie.open(OURS, held.value) if held.value else None
        op = Op(name, kind, browser, cookie, held.brought_by, time.monotonic())
        pause = chance.choice((0, 0, 0, 0.002, 0.01))
        target = None
        if kind in ("delete", "look_at_other"):
            others = range(0, self.world.browsers, 2 if kind == "delete" else 1)
            other = self.jars.take(chance.choice(others)).value
            target = other and Cookie.open(OURS, other)
        op.taken = time.monotonic()
        if chance.randrange(1000) < self.world.late:
            time.sleep(chance.uniform(0, DELAY))
        target_id = target.id if target else None
        plan = Plan(op, kind, user, seed, pause, target_id, is_steady)
        sent = self.request(op, plan, held.value)
        notes.append(op)
        self._bury(op, held)
        if browser is not None:
            self._arrive(op, browser, held, sent, chance)

    def _arrive(
        self, op: Op, browser: int, held: Held, sent: str | None, chance: random.Random
    ) -> None:
        if chance.randrange(1000) < self.world.late:
            time.sleep(chance.uniform(0, DELAY))
        if chance.randrange(1000) < self.world.lost:
            return
        # A session without a mark would be useless here.
        if sent is not None and not op.strays:
            self.jars.put(browser, Held(sent or None, op.name))
        op.arrived = time.monotonic()
        if op.is_late and chance.random() < 0.2:
            # An answer was lost. Only a new session helps.
            self.jars.drop(browser, held.value)

    def _bury(self, op: Op, held: Held) -> None:
        if held.value is None or op.kind == "replay":
            return
        if any(part.ends for part in op.stored):
            self.jars.bury(held, float("inf"))
        elif any(part.rotates and part.found for part in op.stored):
            grace = self.world.renewal_grace
            grace = 60 if grace is None else grace
            self.jars.bury(held, op.start + grace / 2)

    def request(self, op: Op, plan: Plan, value: str | None) -> str | None:
        """Make a request; return the value of the cookie that is set, "" for none."""
        watching.op = op
        sent = None
        op.start = time.monotonic()
        try:
            status, sent = self._call(plan, value)
            op.status = DONE if status.startswith("200") else CAUGHT
        except Crashed:
            op.status = CRASHED
        except Exception as exc:
            op.status = REFUSED if can_be_tried_again(exc) else ERROR
            op.error = f"{type(exc).__name__}: {exc}".splitlines()[0][:300]
            if op.status == ERROR:
                op.trace = list(trace_of(exc))
        finally:
            watching.op = None
        op.end = time.monotonic()
        if sent == "":
            op.deletes_cookie = True
        elif sent is not None:
            op.sent = Cookie.open(OURS, sent)
            self._look_up(op)
        op.settle()
        return sent

    def _call(self, plan: Plan, value: str | None) -> tuple[str, str | None]:
        cookie = None if value is None else f"session={value}"
        environ = environ_of_get(cookie, **{KEY: plan})
        answer: list[Any] = []
        body = self.wsgi(
            environ, lambda status, headers, exc=None: answer.extend((status, headers))
        )
        b"".join(body)
        status, headers = answer
        cookies = [value for name, value in headers if name == "Set-Cookie"]
        if len(cookies) > 1:
            raise AssertionError(f"{len(cookies)} cookies in one answer")
        if not cookies:
            return status, None
        (morsel,) = SimpleCookie(cookies[0]).values()
        return status, morsel.value

    def _look_up(self, op: Op) -> None:
        """Look for the row that a cookie names."""
        assert op.sent is not None
        statement = select(*self._ids).where(self.model.id == uuid.UUID(op.sent.id))
        with self.watcher.connect() as connection:
            row = connection.execute(statement).one_or_none()
        op.checked = time.monotonic()
        op.names_row = row is not None
        if row is not None:
            ids = [value.hex for value in row[1:] if value]
            op.accepts_renewal_id = op.sent.renewal_id in (*ids, None)

    def look_at_all(self) -> list[Op]:
        """Look at every session, with a cookie made from its row."""
        ops = []
        with self.watcher.connect() as connection:
            rows = connection.execute(select(*self._ids)).all()
        for number, row in enumerate(rows):
            raw = row[0].bytes + (row[1].bytes if row[1] else b"")
            value = OURS.dumps(raw).decode("ascii")
            name = f"{self.place}.0.{number}"
            op = Op(name, "final", None, Cookie.open(OURS, value), None, 0)
            self.request(op, Plan(op, "read_all", 0, name, 0), value)
            ops.append(op)
        self.close()
        return ops

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()
        self.watcher.dispose()


def _wait_long(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA busy_timeout = 20000")


def _note_violation(event: RenewalViolationEvent) -> None:
    event.request.environ[KEY].op.violation = True
