"""The values of one row, as a session works with them."""

from __future__ import annotations

import json
import pickle
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection
from sqlalchemy.orm.exc import StaleDataError

from .exceptions import InconsistentDataError
from .settings import shown

if TYPE_CHECKING:
    from .config import SessionConfig
    from .host import Phase
    from .settings import DefaultSettings

__all__ = ["Document", "MergeConflict", "Record", "json_text", "new_id"]

#: The protocol of stored pickles: every supported Python reads and writes it.
PICKLE_PROTOCOL = 4


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, PICKLE_PROTOCOL)


def json_text(value: Any) -> str:
    """Return the value as JSON that every database takes.

    TypeError or ValueError for what is no JSON value, or a text that has no UTF-8.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    text.encode()
    return text


class Document:
    """A dict that lives in one column: decoded when touched, stored when it differs.

    ``raw`` is what the column holds and is never changed: a pickle, or the object
    that a JSON column returns, or None for a session that has no row yet.
    """

    __slots__ = (
        "_baseline",
        "_exposed",
        "_touched",
        "_value",
        "is_json",
        "name",
        "raw",
    )

    def __init__(self, name: str, raw: Any, is_json: bool):
        self.name: str = name
        self.raw: Any = raw
        self.is_json: bool = is_json
        self._value: dict[Any, Any] | None = None
        self._touched = False
        self._exposed = False
        self._baseline: bytes | None = None  # the pickle before it was exposed

    def read(self) -> dict[Any, Any]:
        """Return the working copy."""
        value = self._value
        if value is None:
            value = self._value = self.original()
        return value

    def write(self) -> dict[Any, Any]:
        """Return the working copy in order to change it."""
        self._touched = True
        return self.read()

    def copy(self) -> dict[Any, Any]:
        """Return a copy of the working copy, whose changes nobody notices."""
        return dict(_copy(self.read()))

    def replace(self, content: Mapping[Any, Any]) -> None:
        """Make the working copy hold this and nothing else."""
        self.check_keys(content)
        value = self.write()
        value.clear()
        value.update(content)

    def expose(self) -> None:
        """Expect changes that nobody reports: a mutable value is being handed out."""
        if not (self._touched or self._exposed):
            self._exposed = True
            if not self.is_json:
                self._baseline = _pickled(self.read())

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse a key that would come back as another one: JSON has but strings."""
        if not self.is_json:
            return
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(
                    "the keys of a session that is stored as JSON are strings, not"
                    f" {key!r}"
                )

    def original(self) -> dict[Any, Any]:
        """Return a fresh copy of what the column holds."""
        raw = self.raw
        if raw is None:
            return {}
        try:
            value: Any = pickle.loads(_pickled(raw) if self.is_json else raw)
        except Exception as exc:
            # These tell which class is gone. All others may quote what is in the row.
            is_gone = isinstance(exc, (AttributeError, ImportError))
            reason = shown(str(exc)) if is_gone else type(exc).__name__
            raise InconsistentDataError(
                f"the column {self.name!r} of a stored session cannot be read"
                f" ({reason}): was it written by another program, or does its pickle"
                " name a class that is gone? Restore the class, or delete the row"
            ) from None
        if not isinstance(value, dict):
            raise InconsistentDataError(
                f"the column {self.name!r} of a stored session holds a"
                f" {type(value).__name__} instead of a dict: delete the row"
            )
        if self.name == "flash" and not all(
            type(each) is list for each in value.values()
        ):
            raise InconsistentDataError(
                "the column 'flash' of a stored session holds a queue that is no list:"
                " delete the row"
            )
        # Version 0.1.0 pickled SQLAlchemy's MutableDict.
        decoded: dict[Any, Any] = value if type(value) is dict else dict(value)
        return decoded

    def may_differ(self) -> bool:
        """Tell, without looking closely, whether the working copy was changed."""
        if self._touched or not self._exposed:
            return self._touched
        try:
            return self.difference()[0]
        except TypeError:  # storing it will tell
            return True

    def difference(self) -> tuple[bool, Any]:
        """Tell whether the column is to hold anything else than it does, and what.

        Pickles that differ in nothing but the identity of equal strings count as
        different: then an UPDATE is made that was not needed, and nothing is lost.
        """
        if not (self._touched or self._exposed):
            return False, None
        form = self._form()
        if isinstance(form, str):
            # Not json_text: there may be what the library would not store, such as NaN.
            raw = {} if self.raw is None else self.raw
            is_same = form == json.dumps(raw, ensure_ascii=False)
            return not is_same, None if is_same else json.loads(form)
        return form not in (self.raw, self._baseline), form

    def encode(self) -> Any:
        """Return the working copy as the column takes it."""
        if self.is_json and not self.read():  # the usual case of flash messages
            return {}
        form = self._form()
        return json.loads(form) if isinstance(form, str) else form

    def _form(self) -> bytes | str:
        """Dump the working copy. A TypeError names the value that cannot be stored."""
        dump: Callable[[Any], bytes | str] = json_text if self.is_json else _pickled
        value = self.read()
        try:
            return dump(value)
        except Exception as exc:
            what = "JSON value" if self.is_json else "picklable object"
            for key, each in value.items():
                try:
                    dump(each)
                except Exception as culprit:
                    raise TypeError(
                        f"the session cannot be stored: its value for {key!r} is no"
                        f" {what}: {culprit}"
                    ) from culprit
            raise TypeError(
                f"the session cannot be stored: a key of it is no {what}: {exc}"
            ) from exc

    def snapshot(self) -> tuple[Any, ...]:
        """Return the state of the working copy, for ``restore``."""
        try:
            form: Any = None if self._value is None else _pickled(self._value)
        except Exception:  # what cannot be stored need not be restored to the letter
            form = dict(self.read())
        return form, self._baseline, self._touched, self._exposed

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Go back to what was when the snapshot was taken."""
        form, self._baseline, self._touched, self._exposed = snapshot
        self._value = pickle.loads(form) if isinstance(form, bytes) else form


class Record:
    """The values of one row: as they are stored, and as the session has them now.

    ``loaded`` maps every column of the library to what the database held when the
    row was read, None if there was no row; ``stored`` to what it holds since the
    record was stored in the present transaction. ``values`` are the present values
    of all columns but the two documents, ``data`` and ``flash``.
    """

    __slots__ = (
        "_settings",
        "active",
        "cause",
        "config",
        "data",
        "dbsession",
        "deleted",
        "extension",
        "flash",
        "forced",
        "instance",
        "is_extended",
        "loaded",
        "origin",
        "pending",
        "phase",
        "rotated",
        "stored",
        "successor",
        "values",
    )

    def __init__(
        self,
        config: SessionConfig,
        loaded: dict[str, Any] | None,
        dbsession: Any = None,
        instance: Any = None,
    ):
        self.config: SessionConfig = config
        self.dbsession: Any = dbsession  # the one to store it with
        # What the row was before changes that are in ``loaded``, but may be taken back.
        self.origin: dict[str, Any] | None = None
        self.phase: Phase | None = None  # when it was changed, outside of a transaction
        self.instance: Any = instance  # the mapped object, if that was loaded with it
        self.loaded: dict[str, Any] | None = loaded
        self.stored: dict[str, Any] | None = loaded
        table = config.table
        values: dict[str, Any]
        if loaded is None:
            values = dict.fromkeys(table.scalars)
            values["created"] = config.clock()
            values["version"] = 0
            self.data: Document = Document("data", None, table.data_is_json)
            self.flash: Document = Document("flash", None, True)
        else:
            values = {name: loaded[name] for name in table.scalars}
            self.data = Document("data", loaded["data"], table.data_is_json)
            self.flash = Document("flash", loaded["flash"], True)
        self.values: dict[str, Any] = values
        self.deleted: bool = False
        self.cause: str | None = None  # of that, for events, if it was no logout
        self.successor: Record | None = None  # of the new session, after invalidate()
        self.rotated: set[str] = set()  # columns with new secrets, if there is a new id
        self.forced: bool = False
        self.pending: bool = False  # there may be something to store
        self.active: bool = False  # somebody called a method that changes something
        self.extension: int | None = None  # what idle_expire is to become
        self.is_extended: bool = False
        self._settings: DefaultSettings | None = None
        if not config.own_settings:
            self._settings = config.settings
        elif loaded is None:
            self.settings = config.settings

    @property
    def key(self) -> uuid.UUID | None:
        """The id of the row, None if there is none yet."""
        return None if self.loaded is None else self.loaded["id"]

    @property
    def settings(self) -> DefaultSettings:
        """The settings of this session: the factory's, and its own in their place."""
        settings = self._settings
        if settings is None:
            settings = self._settings = self.config.settings_of(self.values)
        return settings

    @settings.setter
    def settings(self, settings: DefaultSettings) -> None:
        self._settings = settings
        for feature in self.config.features:
            feature.keep_settings(self.values, settings)

    def is_empty(self) -> bool:
        """Tell whether there is nothing worth storing in a new session."""
        return not (self.data.read() or self.flash.read()) and all(
            feature.is_empty(self) for feature in self.config.features
        )

    def changes_hands(self) -> bool:
        """Tell whether the session is new, or has another user than it had."""
        before = self.loaded
        return before is None or self.values.get("userid") != before.get("userid")

    def may_differ(self) -> bool:
        """Tell, without looking closely, whether there may be something to store."""
        if not self.pending:
            return False
        if self.loaded is None:
            return not (self.deleted or self.is_empty())
        return (
            (self.deleted and self.key is not None)
            or self.forced
            or self.extension is not None
            or self.data.may_differ()
            or self.flash.may_differ()
            or any(self.loaded[name] != now for name, now in self.values.items())
        )

    def rotate(self) -> None:
        """Draw a new id and new secrets for a session that has a row."""
        if self.key is not None:
            self.values["id"] = new_id()
            for feature in self.config.features:
                values = feature.rotate(self)
                self.values.update(values)
                self.rotated.update(values)

    def current(self) -> dict[str, Any]:
        """Return all columns as they would be stored now."""
        return {
            **self.values,
            "data": self.data.encode(),
            "flash": self.flash.encode(),
        }

    def store(self, connection: Connection) -> None:
        """Bring the row up to date, with the one statement that this takes, or none.

        Raises StaleDataError if another transaction wrote the row meanwhile.
        """
        table, stored = self.config.table, self.stored
        if self.deleted:
            if stored is not None:
                table.delete(connection, stored)
                self.stored = None
        elif stored is None:
            if not self.is_empty():
                row = self.begin()
                table.insert(connection, row)
                self.stored = row
        elif changes := self._changes(stored):
            table.update(connection, stored, changes, self.extension)
            self.stored = {**stored, **changes}
            self.is_extended = self.extension is not None
        elif self.extension is not None:
            self.is_extended = table.extend(connection, stored["id"], self.extension)

    def begin(self) -> dict[str, Any]:
        """Give a new session its id and all that it begins with; return its row."""
        self.values.update(id=new_id(), version=1)
        now = self.config.clock()
        for feature in self.config.features:
            feature.begin(self, now)
        return self.current()

    def _changes(self, stored: dict[str, Any]) -> dict[str, Any]:
        values = self.values
        changes = {name: now for name, now in values.items() if now != stored[name]}
        if values["id"] != stored["id"]:
            changes.update((name, values[name]) for name in self.rotated)
        for document in (self.data, self.flash):
            changed, raw = document.difference()
            if changed:
                changes[document.name] = raw
        if self.forced:
            changes.setdefault("data", self.data.encode())
        if changes:
            changes["version"] = stored["version"] + 1
        return changes

    def merge(self, patch: Record) -> None:
        """Do here what was done to another record of the same row, or to a new one.

        Raises MergeConflict if the same value was changed here, too: one of the changes
        would be lost.
        """
        before = patch.loaded or self.values
        origin = patch.origin or before
        for name, value in patch.values.items():
            if name == "version" or (name == "id" and value is None):
                continue
            if name == "created" and self.key is not None:
                continue
            if value != before[name]:
                if self.values[name] not in (before[name], origin[name]):
                    raise MergeConflict(_CONFLICT.format(name))
                self.values[name] = value
        _merge_data(self.data, patch.data, patch.original_data())
        _merge_flash(self.flash, patch.flash)
        self._settings = None
        self.pending = self.active = True
        self.rotated |= patch.rotated
        self.deleted |= patch.deleted
        self.forced |= patch.forced

    def original_data(self) -> dict[Any, Any]:
        """Return what the session's dict was before changes that may be taken back."""
        if self.origin is None:
            return self.data.original()
        return Document("data", self.origin["data"], self.data.is_json).original()

    def snapshot(self) -> tuple[Any, ...]:
        """Return all that can change, for ``restore``."""
        return (
            dict(self.values),
            self.data.snapshot(),
            self.flash.snapshot(),
            self.deleted,
            self.cause,
            self.forced,
            self.active,
            self.pending,
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Go back to what was when the snapshot was taken."""
        values, data, flash, *flags = snapshot
        self.deleted, self.cause, self.forced, self.active, self.pending = flags
        self.values = dict(values)
        self._settings = None
        self.data.restore(data)
        self.flash.restore(flash)


def new_id() -> uuid.UUID:
    """Draw an id: 127 random bits.

    The first bit of the seventh byte is 0: MariaDB's type UUID refuses half of the
    others, those that it could not tell from the time-ordered ids that it stores with
    their bytes swapped.
    """
    drawn = bytearray(secrets.token_bytes(16))
    drawn[6] &= 0x7F
    return uuid.UUID(bytes=bytes(drawn))


class MergeConflict(StaleDataError):
    """Raised when two requests changed the same value of a session."""


_CONFLICT = (
    "another request changed {!r} of this session while this one did, outside of its"
    " transaction; the change of this one is not stored"
)
_MISSING = object()


def _merge_data(target: Document, patch: Document, origin: dict[Any, Any]) -> None:
    if not patch.may_differ():
        return
    before, now = patch.original(), patch.read()
    data = target.write()
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key, _MISSING), now.get(key, _MISSING)
        if _alike(old, new):
            continue
        present = data.get(key, _MISSING)
        if not (_alike(present, old) or _alike(present, origin.get(key, _MISSING))):
            raise MergeConflict(_CONFLICT.format(key))
        if new is _MISSING:
            data.pop(key, None)
        else:
            data[key] = _copy(new)


def _alike(one: Any, other: Any) -> bool:
    if one is _MISSING or other is _MISSING:
        return one is other
    try:
        return _pickled(one) == _pickled(other)
    except Exception:  # it cannot be stored, which storing it will tell
        return False


def _copy(value: Any) -> Any:
    """Copy a value: the patch stays what it is, whatever happens to the target."""
    try:
        return pickle.loads(_pickled(value))
    except Exception:  # it cannot be stored, which storing it will tell
        return value


def _merge_flash(target: Document, patch: Document) -> None:
    """Take away the messages that were popped, and add those that were pushed."""
    if not patch.may_differ():
        return
    before, now = patch.original(), patch.read()
    flash = target.write()
    for queue in {**before, **now}:
        old, new = before.get(queue, []), now.get(queue, [])
        present = list(flash.pop(queue, ()))
        if new[: len(old)] == old:
            pushed = new[len(old) :]
        else:  # popped, and perhaps pushed afterwards
            pushed = new
            for message in old:
                if message in present:
                    present.remove(message)
        if present or pushed:
            flash[queue] = present + _copy(pushed)
