"""State: one row as the session works with it, and what it was changed from."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

from .document import MISSING, Document
from .features.cookies import ConfigCookie
from .identifiers import new_id
from .objects import warn_of_objects
from .queues import Queues
from .session_config import SessionConfig
from .settings import DefaultSettings
from .table import Row

__all__ = ["End", "State"]


class End(NamedTuple):
    """A session that was ended."""

    #: What has to be deleted, or None for a session that wasn't stored.
    row: Row | None
    #: The request that ended it, None outside of one.
    request: Any
    #: Why, for events; None for a logout.
    cause: str | None


class State:
    """What a session holds in the current transaction, and what it was loaded with.

    ``loaded`` is the row as the database has it, never changed, None for a new session.
    ``found`` is the one that this transaction found: cookies are judged by it.
    ``values`` are the current values of the columns that the application can change,
    and of ``id`` and ``created``. All other columns are changed by ``settle`` alone.

    A state can be copied; the copy shares nothing that can change. That's all there is
    to a savepoint.
    """

    def __init__(
        self, config: SessionConfig, loaded: Row | None, late: Row | None = None
    ):
        self.config: SessionConfig = config
        self._begin(loaded)
        self.found: Row | None = loaded
        self.ended: tuple[End, ...] = ()
        #: The row that the request's cookie stood for, if that came too late.
        self.late: Row | None = late

    def _begin(self, loaded: Row | None) -> None:
        config, table = self.config, self.config.table
        self.loaded: Row | None = loaded
        self._settings: DefaultSettings | None = (
            None if config.own_settings else config.settings
        )
        if loaded is None:
            self.values: dict[str, Any] = dict.fromkeys(config.own_columns)
            self.values.update(id=None, created=config.clock())
            self.data: Document = Document(table.codec)
            self.flash: Queues = Queues()
            if config.own_settings:
                self.change_settings(config.settings, config.own_settings)
        else:
            self.values = {name: loaded[name] for name in config.own_columns}
            self.values.update(id=loaded["id"], created=loaded["created"])
            self.data = Document(table.codec, loaded["data"])
            self.flash = Queues(loaded["flash"])
        self.seen: set[str] = set()  # columns that were read
        self.by: Any = None  # the request that made or rotated it
        self.is_rotated: bool = False
        self.is_forced: bool = False  # to be stored, even if nothing differs
        self.is_used: bool = False  # a method was called that changes something

    def copy(self) -> State:
        """Return a copy that shares nothing that can change."""
        twin = object.__new__(State)
        for name, value in vars(self).items():
            is_own = name == "values" or isinstance(value, (set, Document, Queues))
            setattr(twin, name, value.copy() if is_own else value)
        return twin

    def become(self, other: State) -> None:
        """Hold what another state holds, which isn't used any more."""
        vars(self).update(vars(other))

    def begun(self) -> State:
        """Return a copy in which nothing has been changed or read so far."""
        twin = self.copy()
        twin.data = self.data.begun()
        twin.start_anew()
        return twin

    def start_anew(self) -> None:
        """Forget what was changed and read, but not which values were lent."""
        self.data.clean(self.data.raw)
        self.flash = self.flash.begun()
        self.seen, self.ended = set(), ()
        self.is_rotated = self.is_forced = self.is_used = False

    @property
    def id(self) -> Any:
        """The id of the session, drawn when it's first asked for."""
        if self.values["id"] is None:
            self.values["id"] = new_id()
        return self.values["id"]

    @property
    def settings(self) -> DefaultSettings:
        """The settings of this session: the factory's, with its own in their place."""
        settings = self._settings
        if settings is None:
            settings = self._settings = self.config.settings_of(self.values)
        return settings

    def change_settings(self, settings: DefaultSettings, names: Container[str]) -> None:
        """Use the settings with these names.

        Timeouts of a stored session count from now. Settings are valid only together,
        so all the others count as read.
        """
        since = self.values["created"]
        if self.loaded is not None:
            since = max(since, self.config.clock())  # a clock may have been set back
            self.seen.update(self.config.setting_columns)
        self.assign(self.config.columns_for(settings, names, since))

    def assign(self, values: Row) -> None:
        """Set columns that the application can change."""
        self.values.update(values)
        self._settings = None

    def get(self, column: str) -> Any:
        """Return the value of a column that the application can change."""
        self.seen.add(column)
        return self.values[column]

    def end(self, request: Any, cause: str | None = None) -> None:
        """End the session. From now on this is another, new one."""
        self.ended = (*self.ended, End(self.loaded or self.late, request, cause))
        self.late = None
        self._begin(None)
        self.is_used = True

    def forget(self) -> None:
        """Empty the dict and the flash messages, without reading them."""
        self.data.replace({})
        self.flash.clear()

    def rotate(self, request: Any) -> None:
        """Have the cookie replaced, if the session has one."""
        if self.loaded is not None:
            self.is_rotated = True
        self.by = request

    def clean(self, row: Row) -> None:
        """Treat a row that has just been written as what the state was loaded with."""
        self.loaded = row
        self.values["id"] = row["id"]
        self.data.clean(row["data"])
        self.flash.clean(row["flash"])
        self.is_rotated = self.is_forced = self.is_used = False

    def keep_up(self, changes: Row, extend_to: int | None) -> None:
        """Take note of upkeep that was done to the row."""
        assert self.loaded is not None
        self.loaded = {**self.loaded, **changes}
        if extend_to is not None:
            expire = self.loaded["idle_expire"]
            self.loaded["idle_expire"] = max(extend_to, expire or 0)

    def restarts(self, now: int) -> Row:
        """Return what changes because settings of a stored session have changed."""
        changes: Row = {}
        for feature in self.config.restarters:
            assert self.loaded is not None
            changes.update(feature.restart(self.loaded, self.settings, now))
        return changes

    @property
    def has_new_attributes(self) -> bool:
        """Whether the cookie of a stored session gets other attributes."""
        loaded = self.loaded
        return loaded is not None and any(
            self.values[name] != loaded[name]
            for name in ConfigCookie.own_columns
            if name in self.values
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing worth storing in a new session."""
        return not (self.data.content or self.flash.may_differ) and all(
            feature.is_empty(self.values) for feature in self.config.features
        )

    @property
    def is_stored(self) -> bool:
        """Whether a new session is going to be stored.

        After a late cookie, only a login is worth it.
        """
        if self.late is not None and self.values.get("userid") is None:
            return False
        return not self.is_empty

    def encoded_data(self) -> Any:
        """Return the dict as its column takes it."""
        encoded = self.data.encode()
        warn_of_objects(self.config, self.data.content, encoded)
        return encoded

    def changes(self) -> Row:
        """Return the columns that the application has changed, as they are stored."""
        loaded, values = self.loaded, self.values
        assert loaded is not None
        changes = {
            n: values[n] for n in self.config.own_columns if values[n] != loaded[n]
        }
        data = self.data.difference()
        if data is not MISSING:
            warn_of_objects(self.config, self.data.content, data)
            changes["data"] = data
        if self.flash.may_differ:
            changes["flash"] = self.flash.encode()
        return changes

    @property
    def may_differ(self) -> bool:
        """Whether, at a glance, there may be something to store."""
        if self.loaded is None:
            return bool(self.ended) or self.is_used
        return bool(
            self.is_forced
            or self.is_rotated
            or self.ended
            or self.data.may_differ
            or self.flash.may_differ
            or any(self.values[n] != self.loaded[n] for n in self.config.own_columns)
        )
