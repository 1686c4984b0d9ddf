"""What takes part in a transaction: a request's visit to its session."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from .feature import Due
from .outcome import Outcome
from .state import State

__all__ = ["Participant"]


class Participant(Protocol):
    """What a unit asks of those that take part in its transaction."""

    @property
    def request(self) -> Any: ...
    @property
    def state(self) -> State | None:
        """The state that it works on in this transaction."""
        ...

    @property
    def dbsession(self) -> Session: ...
    def bring_in(self) -> None:
        """Bring the changes that were made outside of any transaction into this one."""
        ...

    def clear_away(self) -> bool:
        """Delete what was found expired; tell whether a statement was executed."""
        ...

    def due(self, is_write: bool) -> Due | None:
        """Return what's due for the state."""
        ...

    def defers(self, due: Due, error: DBAPIError | None) -> bool:
        """Tell whether that waits until after the commit."""
        ...

    def stage(self, outcome: Outcome) -> None:
        """Note what the commit makes of the state."""
        ...

    def leave(self, committed: bool) -> None:
        """Note how the transaction has ended."""
        ...

    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any, wholly: bool = False) -> None: ...
