"""The session's dict as it's used: decoded late, and compared with what was stored."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .codec import Codec
from .exceptions import InconsistentDataError
from .sealing import opened

__all__ = ["MISSING", "Document", "DocumentPatch", "Entry"]

#: Stands for the value of a key that isn't there.
MISSING: Any = object()

#: Types whose values can't change.
_CONSTANT = frozenset({str, int, bool, bytes, float, type(None)})


class Entry(NamedTuple):
    """What happens to one key; if ``anew``, it goes to the end of the dict."""

    value: Any  # or MISSING
    anew: bool


class DocumentPatch(NamedTuple):
    """What was changed in a dict, and which keys were read.

    If ``replaced``, the dict was emptied first, without reading what was in it.
    """

    replaced: bool
    entries: dict[Any, Entry]
    seen: frozenset[Any]
    seen_all: bool


class Document:
    """The session's dict: decoded when it's used, encoded when it may differ.

    ``raw`` is what the column holds, None for a session that has no row, and is never
    changed. In the end, mutable values are compared with what was stored, so that
    changes in place are found.
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
            # Nothing was changed, so it can be decoded again.
            is_as_loaded = self.raw is not None and not self.may_differ
            twin._content = None if is_as_loaded else _all_copied(self._content)
        return twin

    def begun(self) -> Document:
        """Return a copy in which nothing has been changed or read so far."""
        twin = self.copy()
        if self.may_differ:
            twin.raw = None  # it's not what the copy holds
        twin._replaced = twin._seen_all = False
        twin._written, twin._lent, twin._seen = {}, set(), set()
        return twin

    # Reading.

    @property
    def content(self) -> dict[Any, Any]:
        """The working copy, for reading only. The reading isn't noted."""
        content = self._content
        if content is None:
            content = self._content = self.codec.loads(opened(self.raw))
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

    def look(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return the working copy, for reading these keys."""
        self._seen.update(keys)
        return self.content

    def all(self) -> dict[Any, Any]:
        """Return the working copy, for reading all keys."""
        self._seen_all = True
        return self.content

    # Changing.

    def set(self, key: Any, value: Any) -> None:
        """Give a key a value."""
        self.update({key: value})

    def update(self, values: Mapping[Any, Any]) -> None:
        """Give keys values."""
        self._seen.update(values)
        self.content.update(values)
        for key, value in values.items():
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
        """Hold only this content. What was there before isn't even decoded."""
        self.codec.check_keys(content)
        self._content = dict(content)
        self._replaced = self._seen_all = True
        self._written = dict.fromkeys(content, False)
        self._lent = set(content)

    # What has changed.

    @property
    def may_differ(self) -> bool:
        """Whether the column may have to be changed."""
        return bool(self._replaced or self._written or self._lent)

    def encode(self) -> Any:
        """Return the working copy as the column takes it."""
        return self.codec.dumps(self.content)

    def difference(self) -> Any:
        """Return what the column should hold, or MISSING if it already does.

        Bytes are compared with those that were stored. If they differ though no key was
        assigned, and always if the column holds JSON itself, the values are compared
        one by one.
        """
        if not self.may_differ:
            return MISSING
        encoded = self.encode()
        if isinstance(encoded, bytes):
            if self._is_stored(encoded):
                return MISSING
            if self._replaced or self._written:
                return encoded
        stored = {} if self.raw is None else self.codec.loads(opened(self.raw))
        return encoded if self.changed_keys(stored) else MISSING

    def _is_stored(self, encoded: bytes) -> bool:
        try:
            return bool(encoded == opened(self.raw))
        except InconsistentDataError:  # it was replaced without being read
            return False

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
        """Note that the column holds this now. Values that are lent stay so."""
        self.raw = raw
        self._replaced = False
        self._written = {}

    def adopt(self, other: Document) -> None:
        """Hold the same objects that another document has lent; they're equal."""
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
        """Tell whether anything that a patch of this document read is different now."""
        if not (patch.seen or patch.seen_all):
            return False  # so unreadable data isn't touched
        stored = opened(self.raw)
        if isinstance(stored, bytes) and stored == opened(now.raw):
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
        except Exception:  # storing it will say that it can't be stored
            return False


def _all_copied(content: dict[Any, Any]) -> dict[Any, Any]:
    return {key: _copied(value) for key, value in content.items()}


def _copied(value: Any) -> Any:
    """Return a copy of a mutable value, which changes of the original don't affect."""
    if value is MISSING or type(value) in _CONSTANT:
        return value
    try:
        return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    except Exception:  # storing it will say that it can't be stored
        return value
