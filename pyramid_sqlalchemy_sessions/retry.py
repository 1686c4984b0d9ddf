"""Lets pyramid_retry see the conflicts that it misses, and wait between attempts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from pyramid.config import Configurator
from pyramid.settings import aslist
from pyramid.tweens import EXCVIEW
from zope.interface import directlyProvidedBy, noLongerProvides

from .conflicts import (
    WAS_LOST,
    can_be_tried_again,
    may_have_committed,
    was_lost_before_commit,
)
from .exceptions import ConfigurationError

try:
    import pyramid_retry
except ImportError:  # pragma: no cover - depends on what is installed
    pyramid_retry = None

__all__ = ["includeme"]

PYRAMID_TM = "pyramid_tm.tm_tween_factory"
TWEEN = f"{__name__}.retry_tween_factory"


def includeme(config: Configurator) -> None:
    """Include pyramid_retry, and let it retry everything that was a conflict.

    pyramid_tm tells pyramid_retry which errors can be retried. It doesn't know all of
    them, and it doesn't get to say so if an exception view answers an error of the
    commit. A tween around pyramid_tm marks those too: conflicts of sessions, of
    PostgreSQL, of MariaDB and MySQL with any driver and with Galera, SQLite's "database
    is locked", and connections that were lost before the commit. It removes the mark
    from errors that have to do with a commit that may have succeeded.

    Between attempts, a random time passes, up to ``retry.delay`` seconds (0.05) before
    the second attempt and twice as long before each following one, but never more than
    ``retry.max_delay`` seconds (1). Requests conflict less if they don't all come back
    at once. See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    The next attempt reads the body of the request, and the files in it, from the
    beginning. Without this, files that the first attempt has read would be empty.

    Raises ConfigurationError if one of these settings isn't a number of seconds, or if
    pyramid_retry isn't installed.
    """
    if pyramid_retry is None:
        raise ConfigurationError(
            "pyramid_sqlalchemy_sessions.retry needs pyramid_retry, which is not"
            ' installed: pip install "pyramid_sqlalchemy_sessions[retry]>=1.0"'
        )
    config.include("pyramid_retry")
    settings: dict[str, Any] = config.get_settings()
    delay = _seconds(settings, "retry.delay", 0.05)
    max_delay = _seconds(settings, "retry.max_delay", 1.0)
    config.add_subscriber(_BackOff(delay, max_delay), pyramid_retry.IBeforeRetry)
    config.add_subscriber(_rewind, pyramid_retry.IBeforeRetry)
    config.add_tween(TWEEN, over=(PYRAMID_TM, EXCVIEW))
    explicit = aslist(settings.get("pyramid.tweens") or [])
    if explicit and TWEEN not in explicit:
        raise ConfigurationError(
            f"pyramid.tweens must list {TWEEN}, before {PYRAMID_TM}, or the"
            " conflicts that pyramid_retry misses aren't retried"
        )


def retry_tween_factory(
    handler: Callable[[Any], Any], registry: Any
) -> Callable[[Any], Any]:
    """Make the tween that marks errors that can be retried."""

    def retry_tween(request: Any) -> Any:
        try:
            response = handler(request)
        except Exception as exc:
            _mark(request, exc)
            raise
        # An exception view has answered it.
        _mark(request, request.exception)
        return response

    return retry_tween


def _mark(request: Any, error: BaseException | None) -> None:
    if can_be_tried_again(error):
        assert pyramid_retry is not None
        pyramid_retry.mark_error_retryable(error)
        request.environ[WAS_LOST] = was_lost_before_commit(error)
    elif may_have_committed(error):
        _unmark(error)


def _unmark(error: BaseException | None) -> None:
    # pyramid_tm has asked zope.sqlalchemy, which only looks at the driver's error.
    assert pyramid_retry is not None
    if pyramid_retry.IRetryableError in directlyProvidedBy(error):
        noLongerProvides(error, pyramid_retry.IRetryableError)


class _BackOff:
    """Waits before the next attempt: for a random time, longer on average each time."""

    def __init__(self, delay: float, max_delay: float):
        self.delay = delay
        self.max_delay = max_delay

    def __call__(self, event: Any) -> None:
        longest = self.delay * 2 ** event.environ["retry.attempt"]
        time.sleep(random.uniform(0, min(longest, self.max_delay)))


def _rewind(event: Any) -> None:
    event.request.make_body_seekable()
    # The form as WebOb has parsed it, with files that were read to their ends.
    event.environ.pop("webob._parsed_post_vars", None)


def _seconds(settings: dict[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    try:
        seconds = float(value)
    except (TypeError, ValueError) as exc:
        raise _no_seconds(name, value) from exc
    if not 0 <= seconds < float("inf"):
        raise _no_seconds(name, value)
    return seconds


def _no_seconds(name: str, value: object) -> ConfigurationError:
    return ConfigurationError(
        f"{name} = {value!r}: it must be a number of seconds, such as 0.05"
    )
