"""The two documents of a session, its dict and its flash messages, as it uses them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

from .codec import Codec, copy_message
from .exceptions import InconsistentDataError

__all__ = ["MISSING", "Document", "DocumentPatch", "Entry", "Queues", "QueuesPatch"]

#: Stands for the value of a key that isn't there.
MISSING: Any = object()

#: Types whose values can't change.
_CONSTANT = frozenset({str, int, bool, bytes, float, type(None)})


class Entry(NamedTuple):
    """What becomes of one key; ``anew``: it goes to the end of the dict."""

    value: Any  # or MISSING
    anew: bool


class DocumentPatch(NamedTuple):
    """What was changed in a dict, and which keys were looked at.

    ``replaced``: the dict was emptied first, without a look at what was in it.
    """

    replaced: bool
    entries: dict[Any, Entry]
    seen: frozenset[Any]
    seen_all: bool


class Document:
    """The session's dict: decoded when it's used, encoded when it may differ.

    ``raw`` is what the column holds, None for a session that has no row, and is never
    changed. Values that can change are compared with what was stored at the end, so
    that changes in place are found.
    """

    def __init__(self, codec: Codec, raw: Any = None):
        self.codec: Codec = codec
        self.raw: Any = raw
        self._content: dict[Any, Any] | None = {} if raw is None else None
        self._replaced = False
        self._written: dict[Any, bool] = {}  # key -> whether it was removed meanwhile
        self._lent: set[Any] = set()  # keys whose values may be changed in place
        self._seen: set[Any] = set()
        self._seen_all = False

    def copy(self) -> Document:
        """Return a copy that shares nothing that can change."""
        twin = Document(self.codec, self.raw)
        twin.__dict__.update(vars(self))
        twin._written = dict(self._written)
        twin._lent = set(self._lent)
        twin._seen = set(self._seen)
        if self._content is not None:
            # Nothing was changed: it can be decoded anew.
            is_as_loaded = self.raw is not None and not self.may_differ
            twin._content = None if is_as_loaded else _all_copied(self._content)
        return twin

    def begun(self) -> Document:
        """Return a copy in which nothing was changed or looked at so far."""
        twin = self.copy()
        twin._replaced = twin._seen_all = False
        twin._written, twin._lent, twin._seen = {}, set(), set()
        return twin

    # Reading.

    @property
    def content(self) -> dict[Any, Any]:
        """The working copy, for looking only. The look itself isn't noted."""
        content = self._content
        if content is None:
            content = self._content = self.codec.loads(self.raw)
        return content

    def has(self, key: Any) -> bool:
        """Tell whether there is such a key."""
        self._seen.add(key)
        return key in self.content

    def get(self, key: Any) -> Any:
        """Return the value of a key. KeyError if there is none."""
        self._seen.add(key)
        value = self.content[key]
        if type(value) not in _CONSTANT:
            self._lent.add(key)
        return value

    def all(self) -> dict[Any, Any]:
        """Return the working copy, for looking at all keys."""
        self._seen_all = True
        return self.content

    # Changing.

    def set(self, key: Any, value: Any) -> None:
        """Give a key a value."""
        self._seen.add(key)
        self.content[key] = value
        self._written.setdefault(key, False)
        if type(value) not in _CONSTANT:
            self._lent.add(key)

    def pop(self, key: Any) -> Any:
        """Remove a key and return its value. KeyError if there is none."""
        self._seen.add(key)
        value = self.content.pop(key)
        self._written[key] = True
        return value

    def replace(self, content: Mapping[Any, Any]) -> None:
        """Hold this and nothing else. What was there isn't even decoded."""
        self.codec.check_keys(content)
        self._content = dict(content)
        self._replaced = self._seen_all = True
        self._written = dict.fromkeys(content, False)
        self._lent = set(content)

    # What became of it.

    @property
    def may_differ(self) -> bool:
        """Whether the column may have to hold anything else than it does."""
        return bool(self._replaced or self._written or self._lent)

    def encode(self) -> Any:
        """Return the working copy as the column takes it."""
        return self.codec.dumps(self.content)

    def difference(self) -> Any:
        """Return what the column is to hold, MISSING if that's what it holds.

        One dump tells. Only if it isn't the pickle that was stored, though no key was
        assigned, are values that may have been changed in place compared one by one.
        """
        if not self.may_differ:
            return MISSING
        encoded = self.encode()
        if isinstance(encoded, bytes):
            if encoded == self.raw:
                return MISSING
            if self._replaced or self._written:
                return encoded
        stored = {} if self.raw is None else self.codec.loads(self.raw)
        return encoded if self.changed_keys(stored) else MISSING

    def changed_keys(self, before: Mapping[Any, Any]) -> list[Any]:
        """Return the keys whose values differ from those before, in the dict's order.

        Those that were removed come first.
        """
        content, written = self.content, self._written
        keys = written.keys() | self._lent
        if self._replaced:
            keys = keys | before.keys()
        changed = [key for key in before if key in keys and key not in content]
        for key in content if keys else ():
            if key in keys and (
                key not in before
                or written.get(key)
                or not self._is_same(before[key], content[key])
            ):
                changed.append(key)
        return changed

    def clean(self, raw: Any) -> None:
        """Know that this is what the column holds now; values that were lent stay so."""
        self.raw = raw
        self._replaced = False
        self._written = {}

    def adopt(self, other: Document) -> None:
        """Hold the very values that another document has lent, which are equal."""
        for key in other._lent:
            if key in other.content and key in self.content:
                self.set(key, other.content[key])

    def patch(self, before: Document) -> DocumentPatch:
        """Return what was changed since the document was the one before."""
        seen = frozenset(self._seen)
        if self._replaced:
            copies = _all_copied(self.content)
            entries = {key: Entry(value, True) for key, value in copies.items()}
            return DocumentPatch(True, entries, seen, True)
        entries = {}
        if self.may_differ:
            for key in self.changed_keys(before.content):
                value = _copied(self.content.get(key, MISSING))
                entries[key] = Entry(value, self._written.get(key, False))
        return DocumentPatch(False, entries, seen | entries.keys(), self._seen_all)

    def apply(self, patch: DocumentPatch) -> None:
        """Do here what was done to another document."""
        if patch.replaced:
            self.replace({})
        for key, (value, anew) in patch.entries.items():
            if (anew or value is MISSING) and self.has(key):
                self.pop(key)
            if value is not MISSING:
                self.set(key, _copied(value))
        self._seen |= patch.seen
        self._seen_all |= patch.seen_all

    def clash(self, patch: DocumentPatch, now: Document) -> bool:
        """Tell whether anything that a patch of this looked at is another one now."""
        if not (patch.seen or patch.seen_all):
            return False  # so that what can't be read needn't be
        if isinstance(self.raw, bytes) and self.raw == now.raw:
            return False
        before, after = self.content, now.content
        if patch.seen_all and list(before) != list(after):
            return True
        keys = before.keys() | after.keys() if patch.seen_all else patch.seen
        return not all(
            self._is_same(before.get(key, MISSING), after.get(key, MISSING))
            for key in keys
        )

    def _is_same(self, one: Any, other: Any) -> bool:
        if one is MISSING or other is MISSING:
            return one is other
        if type(one) is type(other) and type(one) in _CONSTANT:
            # 0.0 equals -0.0.
            return bool(one == other) and (
                type(one) is not float or str(one) == str(other)
            )
        try:
            return bool(self.codec.form(one) == self.codec.form(other))
        except Exception:  # it can't be stored, as storing it will tell
            return False


class QueuesPatch(NamedTuple):
    """What was done to the flash messages, and which queues were looked at.

    ``cleared``: all were removed first, without a look at them.
    """

    cleared: bool
    popped: frozenset[str]
    pushed: dict[str, list[Any]]
    seen: frozenset[str]


class Queues:
    """The flash messages of a session: a dict of queues.

    ``raw`` is what the column holds, and is never changed; nor are messages.
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
        """Return a copy in which nothing was changed or looked at so far."""
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
        """Add a message to the end of a queue, without a look at the others."""
        self._stored()  # they can be added to
        self._pushed.setdefault(queue, []).append(message)

    def clear(self) -> None:
        """Remove all queues, without a look at them."""
        self._cleared, self._pushed = True, {}

    @property
    def may_differ(self) -> bool:
        """Whether the column has to hold anything else than it does."""
        if self._cleared or self._pushed:
            return bool(self.raw != self.encode())
        return not self._popped.isdisjoint(self.raw)

    def encode(self) -> dict[str, list[Any]]:
        """Return the queues as the column takes them."""
        queues = {
            queue: list(messages)
            for queue, messages in self._stored().items()
            if queue not in self._popped
        }
        for queue, messages in self._pushed.items():
            queues[queue] = [*queues.get(queue, ()), *messages]
        return queues

    def clean(self, raw: Any) -> None:
        """Know that this is what the column holds now."""
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
        """Tell whether a queue that a patch of this looked at is another one now."""
        before, after = self._stored(), now._stored()
        return any(before.get(queue) != after.get(queue) for queue in patch.seen)

    def _stored(self) -> dict[str, list[Any]]:
        raw = {} if self._cleared else self.raw
        if not (
            isinstance(raw, dict) and all(type(each) is list for each in raw.values())
        ):
            raise InconsistentDataError(
                "the column 'flash' of a stored session holds something else than"
                " lists of messages: was it written by another program? Set it to {},"
                " or delete the row"
            )
        return raw


def _all_copied(content: dict[Any, Any]) -> dict[Any, Any]:
    return {key: _copied(value) for key, value in content.items()}


def _copied(value: Any) -> Any:
    """Copy a value that can change, whatever happens to the original."""
    if value is MISSING or type(value) in _CONSTANT:
        return value
    try:
        return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    except Exception:  # it can't be stored, as storing it will tell
        return value
