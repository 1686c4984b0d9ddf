"""A process of its own for each contender, which waits until it is its turn."""

from __future__ import annotations

import gc
import io
import multiprocessing
import sys
import warnings
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, NamedTuple

from .contenders import make
from .workloads import Workload

__all__ = ["Costs", "Worker"]

_CONTEXT = multiprocessing.get_context("spawn")


class Costs(NamedTuple):
    """What one request sends to the database, calls, and answers."""

    sql: list[str]
    calls: int
    body: bytes

    @property
    def statements(self) -> int:
        """The number of statements, without the ends of transactions."""
        return sum(word not in ("COMMIT", "ROLLBACK") for word in self.sql)


class Worker:
    """One contender in a process of its own. It does nothing unless it is asked.

    Neither the listeners of one contender nor its modules cost another one anything.
    """

    def __init__(self, contender: str, url: str):
        self._connection, connection = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_run, args=(connection, contender, url), daemon=True
        )
        self._process.start()
        connection.close()

    def prepare(self, workload: Workload) -> None:
        """Make an application that does the workload, and a session for it."""
        self._ask("prepare", workload)

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
    # Not the place to hear of what Pyramid's dependencies deprecate.
    warnings.simplefilter("ignore")
    preparation: _Preparation | None = None
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:  # the process that asks was interrupted
            return
        answer = None
        if name in ("prepare", "close") and preparation is not None:
            preparation.contender.close()
        if name == "prepare":
            preparation = _Preparation(contender, url, *arguments)
        elif name != "close":
            answer = getattr(preparation, name)(*arguments)
        connection.send(answer)
        if name == "close":
            return


class _Preparation:
    """An application that does one workload, and the request that makes it do so."""

    def __init__(self, name: str, url: str, workload: Workload):
        self.contender = make(name, url, workload)
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
        return b"".join(self._application(self._environ.copy(), _start_response))

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
        return Costs(sql, calls, body)

    def turn(self, number: int) -> float:
        gc.collect()
        request = self._request
        request()
        request()
        start = perf_counter()
        for _ in range(number):
            request()
        return (perf_counter() - start) / number


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

    list(application(_environ(), start_response))
    (cookie,) = cookies
    return cookie


def _tampered(cookie: str) -> str:
    """Replace one letter of the value, after what may be a nonce."""
    name, _, value = cookie.partition("=")
    letter = "A" if value[30] != "A" else "B"
    return f"{name}={value[:30]}{letter}{value[31:]}"
