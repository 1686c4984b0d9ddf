"""The settings of one session that can differ from session to session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .exceptions import SettingsError
from .session_dict import Visitor
from .settings import SETTINGS, check_combination, shown, suggest
from .state import State

__all__ = ["SessionSettings"]

log: logging.Logger = logging.getLogger(__name__)


class SessionSettings(Mapping[str, Any]):
    """The settings of one session that can differ from session to session.

    They're read as attributes or as a mapping. Change them between `edit()` and
    `save()` (or `discard()`), or in a `with` block, which saves unless there's an
    exception::

        with request.session.settings as settings:
            settings.idle_timeout = 600

    That needs the Config mixin that the setting belongs to, and raises `SettingsError`
    without it. A bad value or combination raises ValueError when it's saved. Edits that
    aren't saved can be read back, but have no effect; the log says so if they're still
    there when the request ends.

    If the session is already stored, each timeout that gets another value counts from
    now: `idle_timeout`, `absolute_timeout` (which then reads as the seconds from
    ``created`` to the end) and `renewal_timeout`. New cookie settings send the cookie
    again, and delete the old one if they move it to another path or domain.
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

    __slots__ = ("_begin", "_edited", "_edits", "_is_watched", "_rotate")

    _begin: Callable[[], Visitor]
    _rotate: Callable[[State], None]
    _edits: dict[str, Any] | None
    _edited: Any
    _is_watched: bool

    def __init__(
        self, begin: Callable[[], Visitor], rotate: Callable[[State], None]
    ) -> None:
        self._set(_begin=begin, _rotate=rotate, _is_watched=False)
        self.discard()

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def _state(self) -> State:
        """Return the session's state; edits of another one are discarded."""
        state = self._begin().read()
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
        raise TypeError(
            "a setting can't be deleted; set it to None where None is valid"
        )

    def update(
        self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), **kw: Any
    ) -> None:
        """Change several at once. Raises the same errors as changing each of them."""
        edits = dict(values, **kw)
        for name in edits:
            if name not in _RUNTIME:
                raise KeyError(name)
        for name, value in edits.items():
            self[name] = value

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
        """Allow changes, until `save()` or `discard()`."""
        state = self._state()
        if self._edits is None:
            self._set(_edits={}, _edited=(state, state.ended))
        request = self._begin().request
        if request is not None and not self._is_watched:
            self._set(_is_watched=True)
            request.add_finished_callback(self._look_for_edits)

    def save(self) -> None:
        """Check the changes and let them take effect.

        Raises ValueError for a bad value or combination; the changes are then still
        there, to be corrected or discarded. Raises `SettingsError` without `edit()`.
        """
        state = self._state()
        if self._edits is None:
            raise SettingsError("there's nothing to save: edit() wasn't called")
        edits = {
            name: _RUNTIME[name].parse(value) for name, value in self._edits.items()
        }
        settings = replace(state.settings, **edits)
        check_combination(settings)
        if edits:
            visit = self._begin()
            state = visit.touch(state)
            begins_to_renew = (
                state.loaded is not None
                and state.settings.renewal_timeout is None
                and settings.renewal_timeout is not None
            )
            state.change_settings(settings, edits)
            if begins_to_renew:  # its cookie may have no renewal id
                self._rotate(state)
        self.discard()

    def discard(self) -> None:
        """Forget changes that aren't saved."""
        self._set(_edits=None, _edited=None)

    def _look_for_edits(self, request: Any) -> None:
        if self._edits:
            log.warning(
                "Settings of a session were edited, but neither saved nor discarded, so"
                " they have no effect: %s. Call save(), or use 'with"
                " request.session.settings as settings:'",
                ", ".join(sorted(self._edits)),
            )

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
