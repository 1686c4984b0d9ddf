"""Clients that write, remember what was acknowledged, and look it up afterwards.

Each write has its own number, which goes to the session and, in the same transaction,
to the application's table. It's sent once: clients don't try again to find out what
they don't know.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from urllib.parse import urlencode

from sqlalchemy import Engine, select

from stress.application import MODELS, TABLES, Entry
from stress.workers import ask

ACKNOWLEDGED = "acknowledged"
#: Answered with an error before the COMMIT, or never sent.
REFUSED = "refused"
#: Not answered, or an error of the COMMIT: it is stored or not.
UNKNOWN = "unknown"
#: The session wasn't there any more.
GONE = "gone"
#: Answered by another client's session.
FOREIGN = "foreign"


@dataclass(frozen=True)
class Attempt:
    """What a client knows of one request; ``number`` is None if it only read."""

    client: int
    number: int | None
    outcome: str
    #: When that was known, by ``time.monotonic()``.
    ended: float
    error: str = ""


@dataclass
class Outcome:
    """The results of the requests of all clients."""

    acknowledged: int = 0
    #: Acknowledged, and not in both places.
    lost: int = 0
    #: More than once in one place.
    duplicated: int = 0
    #: In the session and not in the table, or the other way round.
    half_done: int = 0
    #: Stored, although the answer was an error before the COMMIT.
    denied: int = 0
    #: Answered by another client's session, reads included.
    foreign: int = 0
    #: To a session that wasn't there any more, reads included.
    gone: int = 0
    #: Writes that weren't acknowledged.
    errors: int = 0
    #: How many of the errors leave open whether the write is stored.
    unknown: int = 0
    #: How many of those are stored.
    unknown_stored: int = 0
    reads: int = 0
    failed_reads: int = 0
    #: Seconds from the end of the fault to the first success, and to that of the
    #: last client, the worst of all faults.
    first_success: float | None = None
    all_succeed: float | None = None
    #: The errors that clients saw, and how often.
    kinds: Counter[str] = field(default_factory=Counter)

    #: Another promise that wasn't kept, in words.
    broken: str = ""

    @property
    def faults(self) -> int:
        """How often something happened that must not happen, whatever breaks."""
        wrong = (self.lost, self.duplicated, self.half_done, self.denied)
        return sum(wrong) + self.foreign + self.gone + bool(self.broken)

    def add(self, other: Outcome) -> None:
        """Add the results of other clients."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if mine is None or theirs is None:
                setattr(self, each.name, theirs if mine is None else mine)
            else:
                setattr(self, each.name, mine + theirs)


class Load:
    """Clients, each with one worker and one session, who write until told to stop.

    ``sessions`` is how many sessions the clients share. Every ``new_every``-th write
    starts a new session instead. After each write there are ``reads`` requests that
    only read. ``pause`` is what the view of a write takes, in seconds, ``padding`` the
    length of what it writes to the table. ``prefix`` is where the application is,
    ``cookie`` one that is sent besides that of the session, ``first_number`` the number
    of the first write.
    """

    def __init__(
        self,
        ports: Sequence[int],
        *,
        clients: int = 8,
        sessions: int = 4,
        new_every: int = 10,
        reads: int = 0,
        pause: float = 0.005,
        padding: int = 100,
        prefix: str = "",
        cookie: str = "",
        first_number: int = 1,
    ):
        self.ports = ports
        self.clients = clients
        self.sessions = sessions
        self.new_every = new_every
        self.reads = reads
        self.prefix = prefix
        self.cookie = cookie
        self.cookies: list[str] = []
        self.attempts: list[Attempt] = []
        self.fault_ends: list[float] = []
        self._more = {"pause": pause, "padding": padding}
        self._numbers = itertools.count(first_number)
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """Begin the sessions that the clients share."""
        for place in range(self.sessions):
            attempt, cookie = self._write(-1, "/begin", f"session-{place}", "")
            if cookie is None:
                raise RuntimeError(f"no session began: {attempt}")
            self.attempts.append(attempt)
            self.cookies.append(cookie)

    def go(self) -> None:
        """Let the clients go."""
        self._stopped.clear()
        self._threads = [
            threading.Thread(target=self._run, args=(client,), daemon=True)
            for client in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()

    def rest(self) -> None:
        """Let the clients finish what they're doing, and wait for that."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def fault_ended(self) -> None:
        """Note that from now on everything could work again."""
        self.fault_ends.append(time.monotonic())

    def wait_for_success(
        self, patience: float = 60, of: Sequence[int] | None = None
    ) -> None:
        """Wait until each client has had a success since the last fault.

        Or each of those whose places ``of`` has.
        """
        end = time.monotonic() + patience
        while time.monotonic() < end:
            successes = self._successes(self.fault_ends[-1])
            if None not in (successes if of is None else [successes[i] for i in of]):
                return
            time.sleep(0.05)
        raise RuntimeError(f"not all clients had a success within {patience} s")

    def _run(self, client: int) -> None:
        place = client % self.sessions
        owner = f"session-{place}"
        for turn in itertools.count(1):
            if self._stopped.is_set():
                return
            if turn % self.new_every == 0:
                attempt, _ = self._write(client, "/begin", f"client-{client}", "")
            else:
                cookie = self.cookies[place]
                attempt, renewed = self._write(client, "/write", owner, cookie)
                self.cookies[place] = renewed or self.cookies[place]
            self.attempts.append(attempt)
            if attempt.outcome != ACKNOWLEDGED:
                time.sleep(0.02)
            for _ in range(self.reads):
                cookie = self.cookies[place]
                attempt, renewed = self._send(client, None, "/read", owner, cookie)
                self.cookies[place] = renewed or self.cookies[place]
                self.attempts.append(attempt)

    def _write(
        self, client: int, path: str, owner: str, cookie: str
    ) -> tuple[Attempt, str | None]:
        number = next(self._numbers)
        query = urlencode({"number": number, "owner": owner, **self._more})
        return self._send(client, number, f"{path}?{query}", owner, cookie)

    def _send(
        self, client: int, number: int | None, path: str, owner: str, cookie: str
    ) -> tuple[Attempt, str | None]:
        """Make one request; return its result, and the cookie of the answer."""
        port = self.ports[client % len(self.ports)]
        cookies = "; ".join(filter(None, (self.cookie, cookie)))
        answered = None
        error = ""
        try:
            status, headers, body = ask(port, self.prefix + path, cookies)
        except ConnectionRefusedError as exc:
            outcome, error = REFUSED, type(exc).__name__
        except (OSError, http.client.HTTPException) as exc:
            outcome, error = UNKNOWN, type(exc).__name__
        else:
            answered = headers.get("Set-Cookie")
            if status == 200:
                outcome = ACKNOWLEDGED if body == owner else FOREIGN
            elif status == 410:
                outcome = GONE
            else:
                outcome = REFUSED if headers.get("X-Phase") == "before" else UNKNOWN
                error = body.partition("\n")[0]
        attempt = Attempt(client, number, outcome, time.monotonic(), error)
        return attempt, answered and answered.partition(";")[0]

    def _successes(self, moment: float) -> list[float | None]:
        """Return for each client when it had a success after the moment."""
        first: dict[int, float] = {}
        for attempt in self.attempts[:]:
            if attempt.outcome == ACKNOWLEDGED and attempt.ended >= moment:
                first.setdefault(attempt.client, attempt.ended)
        return [first.get(client) for client in range(self.clients)]

    def audit(self, engine: Engine) -> Outcome:
        """Compare what the clients know with what is in the database."""
        writes = [each for each in self.attempts if each.number is not None]
        reads = [each for each in self.attempts if each.number is None]
        sent = {
            outcome: {each.number for each in writes if each.outcome == outcome}
            for outcome in (ACKNOWLEDGED, REFUSED, UNKNOWN, GONE, FOREIGN)
        }
        in_sessions, in_table = stored_numbers(engine)
        stored = in_sessions.keys() | in_table.keys()
        complete = in_sessions.keys() & in_table.keys()
        everywhere = Counter(each.outcome for each in self.attempts)
        outcome = Outcome(
            acknowledged=len(sent[ACKNOWLEDGED]),
            lost=len(sent[ACKNOWLEDGED] - complete),
            duplicated=sum(
                max(in_sessions[number], in_table[number]) > 1 for number in stored
            ),
            half_done=len(stored - complete),
            denied=len(stored & sent[REFUSED]),
            foreign=everywhere[FOREIGN],
            gone=everywhere[GONE],
            errors=len(writes) - len(sent[ACKNOWLEDGED]),
            unknown=len(sent[UNKNOWN]),
            unknown_stored=len(sent[UNKNOWN] & stored),
            reads=len(reads),
            failed_reads=sum(each.outcome != ACKNOWLEDGED for each in reads),
            kinds=Counter(
                f"{each.outcome}: {each.error}"
                for each in self.attempts
                if each.outcome != ACKNOWLEDGED
            ),
        )
        for moment in self.fault_ends:
            successes = [each for each in self._successes(moment) if each is not None]
            if successes:
                first, last = min(successes) - moment, max(successes) - moment
                outcome.first_success = max(outcome.first_success or 0, first)
                outcome.all_succeed = max(outcome.all_succeed or 0, last)
        return outcome


def make_tables(engine: Engine) -> None:
    """Make the tables of the application, empty."""
    metadata = Entry.metadata
    metadata.drop_all(engine, tables=TABLES)
    metadata.create_all(engine, tables=TABLES)


def stored_numbers(engine: Engine) -> tuple[Counter[int], Counter[int]]:
    """Return the numbers in the sessions, and those in the table."""
    in_sessions: Counter[int] = Counter()
    with engine.connect() as connection:
        for model in MODELS:
            for data in connection.scalars(select(model.data)):
                in_sessions.update(pickle.loads(data)["numbers"])
        in_table = Counter(connection.scalars(select(Entry.number)))
    return in_sessions, in_table


@contextlib.contextmanager
def running(load: Load) -> Iterator[Load]:
    """Let the clients write as long as the context lasts."""
    load.begin()
    load.go()
    try:
        yield load
    finally:
        load.rest()
