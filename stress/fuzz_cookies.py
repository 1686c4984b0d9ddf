"""Send a million broken Cookie headers; fail on the first one that does any harm.

Run ``python -m stress.fuzz_cookies [--count N] [--seed N]``. Headers are put together
at random from good, forged, altered and meaningless cookies, and then damaged. Reading
one must not raise anything, or yield any ticket that isn't in it. A whole application
that uses its session has to answer each of them; without a ticket, it must not even
take a connection from the pool.
"""

from __future__ import annotations

import argparse
import random
import secrets
import time
import uuid
from collections import Counter
from types import SimpleNamespace
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.pool import StaticPool

from pyramid_sqlalchemy_sessions.cookie import SessionCookie, Ticket
from pyramid_sqlalchemy_sessions.serializer import AESGCMSerializer
from tests.application import Application, Base, Plain

URLSAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
TICKETS = (
    Ticket(uuid.UUID(int=1)),
    Ticket(uuid.UUID(int=2), uuid.UUID(int=3)),
    Ticket(uuid.UUID(int=4), uuid.UUID(int=5)),
)


class Fuzzer:
    """Makes headers that a hostile or broken client might send."""

    def __init__(self, rng: random.Random, good: list[str], forged: list[str]) -> None:
        self.rng = rng
        self.good = good
        self.forged = forged

    def header(self) -> str:
        """Return a header of up to eight cookies, damaged in one case of three."""
        rng = self.rng
        pairs = (
            self.name() + self.equals() + self.value() for _ in range(rng.randrange(9))
        )
        header = rng.choice(("; ", ";", " ;\t", ",", "; ;")).join(pairs)
        return self.damaged(header) if rng.randrange(3) == 0 else header

    def name(self) -> str:
        if self.rng.randrange(2):
            return "session"
        return self.rng.choice(
            (
                "",
                " session",
                "session ",
                "Session",
                "session2",
                "xsession",
                "$Version",
                "\xff",
            )
        )

    def equals(self) -> str:
        return self.rng.choice(("=", "=", "=", "=", " = ", "", "==", '="'))

    def value(self) -> str:
        rng = self.rng
        kind = rng.randrange(7)
        if kind == 0:
            return rng.choice(self.good)
        if kind == 1:
            return rng.choice(self.forged)
        if kind == 2:
            return '"' + rng.choice(self.good) + '"'
        if kind == 3:
            return self.damaged(rng.choice(self.good))
        if kind == 4:
            return "".join(rng.choices(URLSAFE, k=rng.randrange(100)))
        if kind == 5:
            return self.noise(rng.randrange(60))
        return rng.choice(
            ("", '"', '""', "a=b", "session=", "A" * 5000, "\\073", "=" * 64)
        )

    def noise(self, length: int) -> str:
        """Return what any bytes look like after WSGI has decoded them."""
        return self.rng.randbytes(length).decode("latin-1")

    def damaged(self, text: str) -> str:
        """Return ``text`` with a piece of it cut out, replaced or doubled."""
        rng = self.rng
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.randrange(4))
        piece = rng.choice(
            ("", self.noise(end - start), text[start:end] * 2, ";", '"', "\0")
        )
        return text[:start] + piece + text[end:]


class Target:
    """An application that reads its session, and is watched while it does."""

    def __init__(self) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        Base.metadata.create_all(engine, [Plain.__table__])
        self.application = Application(engine, Plain)
        self.application.view = lambda request: request.session.get("a")
        self.asked: list[str] = []
        event.listen(engine, "checkout", lambda *_: self.asked.append("checkout"))
        event.listen(
            engine,
            "before_cursor_execute",
            lambda connection, cursor, statement, *_: self.asked.append(statement[:6]),
        )

    def answer(self, header: str) -> tuple[str, list[str], list[str]]:
        """Return the status, our Set-Cookie headers, and what the database was asked.

        The environ is what a server makes from the header, without WebTest's checks.
        """
        self.asked = []
        started: list[Any] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "HTTP_COOKIE": header,
        }
        b"".join(self.application.wsgi(environ, lambda *given: started.extend(given)))
        status, headers = started
        cookies = [text for name, text in headers if name == "Set-Cookie"]
        return status, cookies, self.asked


class Judge:
    """Knows which headers are authentic, and what has to happen to each."""

    def __init__(self, seed: int) -> None:
        self.cookie = SessionCookie("session", AESGCMSerializer(bytes(range(32))))
        stranger = SessionCookie("session", AESGCMSerializer(bytes(32)))
        self.sealed = {self.cookie.seal(ticket): ticket for ticket in TICKETS}
        forged = [stranger.seal(ticket) for ticket in TICKETS]
        self.fuzzer = Fuzzer(random.Random(seed), list(self.sealed), forged)
        self.target = Target()
        self.seen: Counter[str] = Counter()

    def try_one(self) -> str | None:
        """Send one header; say what was wrong with the outcome, or return None."""
        header = self.fuzzer.header()
        request = SimpleNamespace(environ={"HTTP_COOKIE": header}, scheme="http")
        tickets, error = self.cookie.read(request)
        present = {t for value, t in self.sealed.items() if value in header}
        status, cookies, asked = self.target.answer(header)
        self.seen["with tickets"] += bool(tickets)
        self.seen["with an error"] += error is not None
        if not present.issuperset(tickets) or (tickets and error):
            return f"{header!r} was read as {tickets!r}, {error!r}"
        # No session is stored, so there's nothing to find.
        expected = ["checkout", *["SELECT"] * len(tickets)] if tickets else []
        is_deleted = [text.startswith("session=;") for text in cookies]
        if (
            status != "200 OK"
            or asked != expected
            or is_deleted != [True] * (error is not None)
        ):
            return f"{header!r} was answered by {status}, {cookies}, {asked}"
        return None


def main() -> None:
    """Send the headers, and say how many of each sort there were."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10**6)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    arguments = parser.parse_args()
    print(f"{arguments.count} headers, seed {arguments.seed}", flush=True)

    judge = Judge(arguments.seed)
    start = time.perf_counter()
    for _ in range(arguments.count):
        wrong = judge.try_one()
        if wrong is not None:
            raise SystemExit(f"wrong: {wrong}")
    took = time.perf_counter() - start
    for what, number in judge.seen.items():
        print(f"{number} {what}")
    print(f"no exception, and no SQL without a ticket; {took:.0f} s")


if __name__ == "__main__":
    main()
