"""The flash messages of a session, as it uses them."""

from __future__ import annotations

from typing import Any, NamedTuple

from .codec import copy_message
from .exceptions import InconsistentDataError
from .sealing import opened

__all__ = ["Queues", "QueuesPatch"]


class QueuesPatch(NamedTuple):
    """What was done to the flash messages, and which queues were read.

    If ``cleared``, all were removed first, without being read.
    """

    cleared: bool
    popped: frozenset[str]
    pushed: dict[str, list[Any]]
    seen: frozenset[str]


class Queues:
    """The flash messages of a session: a dict of queues.

    ``raw`` is what the column holds. Neither it nor a message is ever changed.
    """

    def __init__(self, raw: Any = None):
        self.raw: Any = {} if raw is None else raw
        self._cleared = False
        self._popped: set[str] = set()
        self._pushed: dict[str, list[Any]] = {}
        self._seen: set[str] = set()

    def copy(self) -> Queues:
        """Return a copy that shares nothing that can change."""
        twin = Queues(self.raw)
        twin.apply(self.patch())
        return twin

    def begun(self) -> Queues:
        """Return a copy in which nothing has been changed or read so far."""
        return Queues(self.encode() if self.may_differ else self.raw)

    def peek(self, queue: str) -> list[Any]:
        """Return copies of the messages of a queue."""
        self._seen.add(queue)
        kept = () if queue in self._popped else self._stored().get(queue, ())
        return [
            copy_message(message)
            for messages in (kept, self._pushed.get(queue, ()))
            for message in messages
        ]

    def pop(self, queue: str) -> list[Any]:
        """Remove a queue and return its messages."""
        messages = self.peek(queue)
        if messages:
            self._popped.add(queue)
            self._pushed.pop(queue, None)
        return messages

    def push(self, queue: str, message: Any) -> None:
        """Add a message to the end of a queue, without reading the others."""
        self._stored()  # an error if they can't be added to
        self._pushed.setdefault(queue, []).append(message)

    def clear(self) -> None:
        """Remove all queues, without reading them."""
        self._cleared, self._pushed = True, {}

    @property
    def may_differ(self) -> bool:
        """Whether the column has to be changed."""
        if self._cleared or self._pushed:
            return not self._is_stored(self.encode())
        return bool(self._popped) and not self._popped.isdisjoint(opened(self.raw))

    def _is_stored(self, encoded: dict[str, list[Any]]) -> bool:
        try:
            return bool(encoded == opened(self.raw))
        except InconsistentDataError:  # it was cleared without being read
            return False

    def encode(self) -> dict[str, list[Any]]:
        """Return the queues as the column takes them."""
        # Copies: an engine may read a number as what it can't write.
        queues = {
            queue: [copy_message(message) for message in messages]
            for queue, messages in self._stored().items()
            if queue not in self._popped
        }
        for queue, messages in self._pushed.items():
            queues[queue] = [*queues.get(queue, ()), *messages]
        return queues

    def clean(self, raw: Any) -> None:
        """Note that the column holds this now."""
        self.raw, self._cleared, self._popped, self._pushed = raw, False, set(), {}

    def patch(self) -> QueuesPatch:
        """Return what was done here."""
        pushed = {queue: list(each) for queue, each in self._pushed.items()}
        popped, seen = frozenset(self._popped), frozenset(self._seen)
        return QueuesPatch(self._cleared, popped, pushed, seen)

    def apply(self, patch: QueuesPatch) -> None:
        """Do here what was done to another session's queues."""
        if patch.cleared:
            self.clear()
        for queue in patch.popped:
            self._popped.add(queue)
            self._pushed.pop(queue, None)
        for queue, messages in patch.pushed.items():
            self._pushed.setdefault(queue, []).extend(messages)
        self._seen |= patch.seen

    def clash(self, patch: QueuesPatch, now: Queues) -> bool:
        """Tell whether a queue that a patch of this one read is different now."""
        before, after = self._stored(), now._stored()
        return any(before.get(queue) != after.get(queue) for queue in patch.seen)

    def _stored(self) -> dict[str, list[Any]]:
        raw = {} if self._cleared else opened(self.raw)
        if not (
            isinstance(raw, dict) and all(type(each) is list for each in raw.values())
        ):
            raise InconsistentDataError(
                "the column 'flash' of a stored session holds something other than"
                " lists of messages: was it written by another program? Set it to {},"
                " or delete the row"
            )
        return raw
