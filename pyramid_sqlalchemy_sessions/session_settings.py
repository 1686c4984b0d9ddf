"""The settings of one session that can differ from session to session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .exceptions import SettingsError
from .settings import SETTINGS, check_combination, shown, suggest
from .state import State

__all__ = ["SessionSettings"]


class SessionSettings(Mapping[str, Any]):
    """The settings of one session that can differ from session to session.

    They are read as attributes or as a mapping. To change some, between `edit()` and
    `save()` (or `discard()`), or in a `with` block, which saves unless an exception
    leaves it::

        with request.session.settings as settings:
            settings.idle_timeout = 600

    That is possible for a new session, and for settings for which the model has the
    Config mixin: `SettingsError` otherwise. A bad value or combination raises
    ValueError when it is saved. Edits that are not saved can be read back, but have no
    effect.
    """

    cookie_max_age: int | None
    cookie_path: str
    cookie_domain: str | None
    cookie_secure: bool | None
    cookie_httponly: bool
    idle_timeout: int | None
    absolute_timeout: int | None
    renewal_timeout: int | None
    renewal_try_every: int
    extension_delay: int | None
    extension_chance: int
    extension_deadline: int

    __slots__ = ("_edited", "_edits", "_read", "_write")

    _read: Callable[[], State]
    _write: Callable[[], State]
    _edits: dict[str, Any] | None
    _edited: Any

    def __init__(self, read: Callable[[], State], write: Callable[[], State]):
        object.__setattr__(self, "_read", read)
        object.__setattr__(self, "_write", write)
        self.discard()

    def _state(self) -> State:
        """Return the session's state; edits of another one are discarded."""
        state = self._read()
        if (state, state.ended) != self._edited:
            self.discard()
        return state

    def __getitem__(self, name: str) -> Any:
        if name not in _RUNTIME:
            raise KeyError(name)
        settings = self._state().settings
        if self._edits is not None and name in self._edits:
            return self._edits[name]
        return getattr(settings, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_RUNTIME)

    def __len__(self) -> int:
        return len(_RUNTIME)

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in _RUNTIME:
            raise KeyError(name)
        state = self._state()
        if self._edits is None:
            raise SettingsError(
                f"{name} cannot be changed before edit() is called; or use"
                " 'with request.session.settings as settings:'"
            )
        if name not in state.config.own_settings:
            raise SettingsError(
                f"{name} cannot be changed: the model lacks {_RUNTIME[name].runtime}"
            )
        self._edits[name] = value

    def __delitem__(self, name: str) -> None:
        raise SettingsError(
            "a setting cannot be deleted; set it to None where None is valid"
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            self[name] = value
        except KeyError:
            raise AttributeError(
                f"{shown(name)} is not a setting of a session;"
                f" {suggest(name, [*_RUNTIME])}"
            ) from None

    def __delattr__(self, name: str) -> None:
        del self[name]

    def edit(self) -> None:
        """Allow changes. Raises `SettingsError` if the session is not new."""
        state = self._state()
        if state.loaded is not None:
            raise SettingsError(
                "the settings of a session can be changed only while it is new"
            )
        if self._edits is None:
            object.__setattr__(self, "_edits", {})
            object.__setattr__(self, "_edited", (state, state.ended))

    def save(self) -> None:
        """Check the changes and let them take effect.

        Raises ValueError for a bad value or combination; the changes are then still
        there, to be corrected or discarded. Raises `SettingsError` without `edit()`.
        """
        state = self._state()
        edits = self._edits
        if edits is None:
            raise SettingsError("there is nothing to save: edit() was not called")
        settings = replace(
            state.settings,
            **{name: _RUNTIME[name].parse(value) for name, value in edits.items()},
        )
        check_combination(settings)
        self._write().settings = settings
        self.discard()

    def discard(self) -> None:
        """Forget changes that are not saved."""
        object.__setattr__(self, "_edits", None)
        object.__setattr__(self, "_edited", None)

    def __enter__(self) -> SessionSettings:
        self.edit()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None:
                self.save()
        finally:
            self.discard()


_RUNTIME = {
    setting.name: setting for setting in SETTINGS if setting.runtime is not None
}
