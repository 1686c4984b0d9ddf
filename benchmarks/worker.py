"""A process for each contender, which waits for its turn."""

from __future__ import annotations

import gc
import io
import multiprocessing
import sys
import warnings
from collections.abc import Iterable
from multiprocessing.connection import Connection
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import make_url

from .contenders import contender_class
from .workloads import Workload

if TYPE_CHECKING:
    from .contenders.base import Contender

__all__ = ["Costs", "Worker"]

_CONTEXT = multiprocessing.get_context("spawn")


class Costs(NamedTuple):
    """What one request sends to the database, calls, and answers."""

    sql: list[str]
    calls: int
    body: bytes

    @property
    def statements(self) -> int:
        """The number of statements that deal with data."""
        return sum(word not in _OF_TRANSACTIONS for word in self.sql)

    @property
    def trips(self) -> int:
        """The number of round trips: the beginnings and ends of transactions, too."""
        return len(self.sql)


_OF_TRANSACTIONS = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")


class Worker:
    """One contender in its own process, which does nothing unless it's asked.

    That way, a contender's listeners and modules don't cost another one anything.
    """

    def __init__(self, contender: str, url: str):
        self._connection, connection = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_run, args=(connection, contender, url), daemon=True
        )
        self._process.start()
        connection.close()

    def prepare(self, workload: Workload) -> bool:
        """Make an application that does the workload, and a session for it.

        Return false if the contender can't do it.
        """
        can: bool = self._ask("prepare", workload)
        return can

    def costs(self) -> Costs:
        """Do one request, and count. The function calls are those of Python code."""
        costs: Costs = self._ask("costs")
        return costs

    def turn(self, number: int) -> float:
        """Do so many requests, after some more, and return the seconds of one."""
        seconds: float = self._ask("turn", number)
        return seconds

    def close(self) -> None:
        """Clean up, and end the process."""
        if self._process.is_alive():  # it has not failed
            self._ask("close")
        self._process.join()
        self._process.close()
        self._connection.close()

    def _ask(self, *question: Any) -> Any:
        self._connection.send(question)
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError("a worker failed; it has said why above") from None
        return answer


def _run(connection: Connection, contender: str, url: str) -> None:
    # What Pyramid's dependencies deprecate doesn't matter here.
    warnings.simplefilter("ignore")
    preparation: _Preparation | None = None
    kind = contender_class(contender)
    backend = make_url(url).get_backend_name()
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:  # the asking process was interrupted
            return
        answer = None
        if name in ("prepare", "close") and preparation is not None:
            preparation.contender.close()
            preparation = None
        if name == "prepare":
            (workload,) = arguments
            answer = kind.can(workload, backend)
            if answer:
                preparation = _Preparation(kind(url, workload))
        elif name != "close":
            answer = getattr(preparation, name)(*arguments)
        connection.send(answer)
        if name == "close":
            return


class _Preparation:
    """An application that does one workload, and the request that makes it do so."""

    def __init__(self, contender: Contender):
        self.contender = contender
        workload = contender.workload
        self._environ = _environ()
        if workload.cookie != "none":
            cookie = _cookie_of(self.contender.application("create"))
            if workload.cookie == "tampered":
                cookie = _tampered(cookie)
            self._environ["HTTP_COOKIE"] = cookie
        self._application = self.contender.application(workload.action)
        for _ in range(20):
            self._request()
        gc.collect()
        gc.freeze()

    def _request(self) -> bytes:
        return _body(self._application(self._environ.copy(), _start_response))

    def costs(self) -> Costs:
        with self.contender.sql() as sql:
            body = self._request()
        calls = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event == "call"

        gc.collect()
        gc.disable()  # what is collected may call something
        sys.setprofile(count)
        try:
            self._request()
        finally:
            sys.setprofile(None)
            gc.enable()
        return Costs(_sent(sql), calls, body)

    def turn(self, number: int) -> float:
        gc.collect()
        request = self._request
        request()
        request()
        start = perf_counter()
        for _ in range(number):
            request()
        return (perf_counter() - start) / number


def _body(answer: Iterable[bytes]) -> bytes:
    """Do what a server does with what the application returns."""
    try:
        return b"".join(answer)
    finally:
        close = getattr(answer, "close", None)
        if close is not None:
            close()


def _sent(words: list[str]) -> list[str]:
    """Leave out transactions without statements: drivers don't begin these."""
    sent: list[str] = []
    for word in words:
        if word in ("COMMIT", "ROLLBACK") and sent and sent[-1] == "BEGIN":
            sent.pop()
        else:
            sent.append(word)
    return sent


def _environ() -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def _start_response(
    status: str, headers: list[tuple[str, str]], exc_info: Any = None
) -> None:
    if not status.startswith("200"):
        raise RuntimeError(f"the response is {status}")


def _cookie_of(application: Any) -> str:
    """Return the Cookie header of a browser that has got a session."""
    cookies = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> None:
        cookies.extend(
            value.partition(";")[0]
            for name, value in headers
            if name.lower() == "set-cookie"
        )

    _body(application(_environ(), start_response))
    (cookie,) = cookies
    return cookie


def _tampered(cookie: str) -> str:
    """Replace one letter of the value, after what may be a nonce."""
    name, _, value = cookie.partition("=")
    letter = "A" if value[30] != "A" else "B"
    return f"{name}={value[:30]}{letter}{value[31:]}"
