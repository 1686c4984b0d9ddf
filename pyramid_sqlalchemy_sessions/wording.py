"""What a trace says of a session and of what became of it, and what it must not say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

from pyramid.interfaces import IResponse
from sqlalchemy.orm.exc import StaleDataError

from .exceptions import InconsistentDataError
from .identifiers import token_text
from .outcome import Outcome
from .state import State
from .table import Row
from .trace import span

__all__ = ["age", "raised", "secrets_of", "sent", "written"]


def age(state: State, row: Row) -> str:
    """Return how old a session is, and what time it has left."""
    config, now = state.config, state.config.clock()
    text = f"started {span(now - row['created'])} ago, version {row['version']}"
    for each in config.timeouts:
        end = each.ends(row, state.settings)
        if end is not None:
            text += f", {each.cause} timeout in {span(end - now)}"
    return text


def written(outcome: Outcome) -> tuple[str, str]:
    """Return what was written, as label and text."""
    before, after = outcome.before, outcome.after
    if after is None:
        return "deleted", "the session has ended"
    if before is None:
        is_second = any(end.row is not None for end in outcome.ended)
        return "stored", "as a new session" + is_second * "; the one before has ended"
    columns = [n for n in after if after[n] != before[n] and n != "version"]
    if after["version"] == before["version"]:
        return "kept up", f"nothing was changed, but {', '.join(columns)} was due"
    text = f"{', '.join(columns) or 'nothing'} (version {after['version']})"
    if after["version"] > before["version"] + 1:
        text += "; merged with what another request has stored"
    return "stored", text


def raised(error: BaseException) -> str:
    """Return what an error is. Most messages can hold anything."""
    name = type(error).__qualname__
    if isinstance(error, (StaleDataError, InconsistentDataError)):
        return f"{name}: {error}"
    raised = "a response that was raised instead of returned"
    return f"{name}, {raised}" if IResponse.providedBy(error) else f"{name} was raised"


def sent(response: Any, cookie_name: str) -> str:
    """Return the headers that set the cookie, without the value."""
    if response is None:
        return "no response was made"
    name, texts = f"{cookie_name}=", list[str]()
    for header in response.headers.getall("Set-Cookie"):
        if header.startswith(name):
            value, _, attributes = header[len(name) :].partition(";")
            what = "a cookie" if value else "an order to delete the cookie"
            texts.append(f"{what}:{attributes}")
    return " and ".join(texts) or "no cookie: the browser keeps what it has"


def secrets_of(state: State, csrf_key: str | None) -> Iterator[str]:
    """Yield a session's ids and CSRF token as an application may write them."""
    for name, value in {**(state.loaded or {}), **state.values}.items():
        if name == "csrf_token":
            yield "" if value is None else token_text(value)
        elif isinstance(value, UUID) and name != "userid":
            yield from (str(value), value.hex, str(value.int))
    if csrf_key is not None:
        with suppress(InconsistentDataError):
            token = state.data.content.get(csrf_key)
            yield token if type(token) is str else ""
