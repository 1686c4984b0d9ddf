"""What was found out about cookies: expired, stolen, malformed; and what's deferred."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from pyramid.interfaces import IResponse
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session as DBSession

from .after_commit import tell
from .callers import line_of_error, view_of_error
from .events import RenewalViolationEvent, SessionExpiredEvent, SessionRevokedEvent
from .exceptions import InconsistentDataError
from .feature import Due
from .host import commits_after_exception_view, csrf_key_of, error_of, will_be_retried
from .patch import Patch
from .session_config import SessionConfig
from .settings import DefaultSettings
from .state import State
from .table import Row
from .upkeep import expiry_of

__all__ = ["Findings"]

log: logging.Logger = logging.getLogger(__name__)


class Findings:
    """What a visit has found, and what has to be done about it."""

    def __init__(self, config: SessionConfig, request: Any):
        self._config = config
        self._request = request
        self._events: list[Any] = []  # to be sent as soon as there is a state
        self.expired: dict[uuid.UUID, tuple[int, SessionExpiredEvent, Row]] = {}
        self.violated: dict[uuid.UUID, RenewalViolationEvent] = {}
        #: What's due after the commit: for which session, and with which settings.
        self.deferred: tuple[uuid.UUID, Due, DefaultSettings] | None = None
        self.is_end_expected: bool = False  # whether a finished callback waits for it
        self._has_warned = False

    def __bool__(self) -> bool:
        return bool(self.expired or self.violated or self.deferred)

    def notify(self, event: Any) -> None:
        """Send an event as soon as the session can be used."""
        self._events.append(event)

    def send(self) -> None:
        """Send the events that are waiting."""
        while self._events:
            self._request.registry.notify(self._events.pop(0))

    def warn_once(self, message: str) -> None:
        """Log one warning in a request, the first."""
        if not self._has_warned:
            self._has_warned = True
            log.warning(message)

    def roll_back(self, state: State, is_doomed: bool) -> None:
        """Forget what waited for the commit of a transaction that was rolled back.

        Warn if that's because a view raised a response, which is easy to do unawares.
        """
        self.deferred = None
        self.expired.clear()
        request, error = self._request, error_of(self._request)
        if (
            is_doomed
            or not IResponse.providedBy(error)
            or will_be_retried(request)
            or commits_after_exception_view(request)
            or not _has_changed(state, csrf_key_of(request))
        ):
            return
        response: Any = error
        view, line = view_of_error(response), line_of_error(response)
        # An error may be raised in order to roll everything back, but a redirect isn't.
        self._config.warn_once(
            f"{view and view.module}.{view and view.function}() changed its session"
            f" and then raised {type(error).__name__} ({line}), which rolled the change"
            " back. Return the response instead of raising it, or set tm.commit_veto ="
            " pyramid_tm.default_commit_veto, which lets raised redirects be"
            " committed.",
            logging.WARNING if response.status_int < 400 else logging.INFO,
        )

    def warn_of_doom(self) -> None:
        """Warn that the transaction can't be committed any more."""
        self.warn_once(
            "Nothing of this session will be stored: the transaction was doomed before"
            " the session was first used. If this is a test, its fixture dooms the"
            " transaction: see the documentation on testing."
        )

    def found_expired(self, row: Row, now: int) -> None:
        """Note a session that has expired."""
        cause = expiry_of(self._config, row, now) or ""
        fingerprint = self._config.cookie.fingerprint(row["id"])
        event = SessionExpiredEvent(
            self._request, fingerprint, row.get("userid"), cause
        )
        self.expired[row["id"]] = (now, event, row)

    def found_violated(self, row: Row) -> None:
        """Note a session whose cookie was copied."""
        if row["id"] not in self.violated:
            event = RenewalViolationEvent(self._request, userid=row.get("userid"))
            self.violated[row["id"]] = event
            self._events.append(event)

    def acquit(self, key: uuid.UUID) -> None:
        """Forget a violation: the request has the good cookie, too."""
        mistaken = self.violated.pop(key, None)
        if mistaken in self._events:
            self._events.remove(mistaken)

    def delete_expired(
        self, connection: Connection, dbsession: DBSession
    ) -> DefaultSettings | None:
        """Delete what's still expired; return the settings of one of the sessions."""
        settings = None
        for key, (now, event, row) in self.expired.items():
            if self._config.table.delete_expired(connection, key, now):
                tell(dbsession, self._request.registry, event)
                settings = settings or self._config.settings_of(row)
        self.expired.clear()
        return settings

    def delete_violated(self, connection: Connection, dbsession: DBSession) -> None:
        """Delete the sessions whose cookies were copied."""
        for key, violation in self.violated.items():
            if self._config.table.delete(connection, key):
                fingerprint = self._config.cookie.fingerprint(key)
                event = SessionRevokedEvent(
                    self._request, fingerprint, violation.userid, "renewal violation"
                )
                tell(dbsession, self._request.registry, event)


def _has_changed(state: State, csrf_key: str | None) -> bool:
    """Tell whether anything but the CSRF token differs, which a mere check creates."""
    if not state.may_differ:
        return False
    try:
        patch = Patch.between(State(state.config, state.loaded), state)
    except InconsistentDataError:
        return False  # what can't be read was not changed
    patch.values.pop("csrf_token", None)
    patch.data.entries.pop(csrf_key, None)
    return patch.is_change
