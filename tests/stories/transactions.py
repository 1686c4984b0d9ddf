"""What the stories about transactions have in common."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyramid.response import Response
from sqlalchemy.orm import Session

from tests.application import Application, Browser, Failure


class Refusal(Exception):
    """What a data manager raises that does not let the transaction commit."""


class Refuser:
    """A data manager that raises in one phase of the commit.

    ``sort_key`` says when its turn is among the data managers: "" makes it the
    first, "~~" the last one.
    """

    def __init__(self, phase: str, sort_key: str = "", error: Any = Refusal):
        self._phase = phase
        self._sort_key = sort_key
        self._error = error
        self.transaction_manager = None

    def sortKey(self) -> str:
        return self._sort_key

    def _enter(self, phase: str) -> None:
        if phase == self._phase:
            raise self._error

    def tpc_begin(self, transaction: Any) -> None:
        self._enter("tpc_begin")

    def commit(self, transaction: Any) -> None:
        self._enter("commit")

    def tpc_vote(self, transaction: Any) -> None:
        self._enter("tpc_vote")

    def tpc_finish(self, transaction: Any) -> None:
        self._enter("tpc_finish")

    def tpc_abort(self, transaction: Any) -> None:
        pass

    def abort(self, transaction: Any) -> None:
        pass


def exception_view(view: Callable[[Any], Any], context: Any = Failure):
    """Return a ``configure`` that answers an exception with a view of the request."""

    def respond(exception: Any, request: Any) -> Response:
        result = view(request)
        if isinstance(result, Response):
            return result
        text = "" if result is None else str(result)
        return Response(text, status=500, charset="utf-8")

    def configure(config: Any) -> None:
        contexts = context if isinstance(context, tuple) else (context,)
        for each in contexts:
            config.add_exception_view(respond, context=each)

    return configure


def outer_tween_factory(handler: Any, registry: Any) -> Any:
    """Make a tween that calls what the test put into the settings."""

    def outer_tween(request: Any) -> Any:
        return registry.settings["tests.tween"](handler, request)

    return outer_tween


def tween_above(tween: Callable[[Any, Any], Any]):
    """Return a ``configure`` that puts a tween above pyramid_tm."""

    def configure(config: Any) -> None:
        config.registry.settings["tests.tween"] = tween
        config.add_tween(
            "tests.stories.transactions.outer_tween_factory",
            over="pyramid_tm.tm_tween_factory",
        )

    return configure


def all_of(*configures: Callable[[Any], None]):
    """Return a ``configure`` that does what all of these do."""

    def configure(config: Any) -> None:
        for each in configures:
            each(config)

    return configure


def plain_dbsession(engine):
    """Return a way to make dbsessions that nothing commits."""

    def make(request, manager):
        dbsession = Session(engine)
        request.add_finished_callback(lambda request: dbsession.close())
        return dbsession

    return make


def set_cookies(response: Any) -> list[str]:
    """Return the Set-Cookie headers of a response."""
    return list(response.headers.getall("Set-Cookie"))


def gives_access(application: Application, cookie: str | None) -> bool:
    """Tell whether a cookie still leads to a stored session."""
    another = Browser(application)
    another.set_cookie("session", cookie)
    return not another.ask(lambda session: session.new)


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """Call the function in another thread, as another request would, and wait."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


def logged(caplog: Any, level: str) -> list[str]:
    """Return the messages of that level that the library logged."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == level
        and record.name.startswith("pyramid_sqlalchemy_sessions")
    ]
