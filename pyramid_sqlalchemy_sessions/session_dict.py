"""The methods of a dict that a session has, and where it's read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NoReturn, Protocol

from .feature import Due
from .session_config import SessionConfig
from .setting_kinds import shown
from .state import State

__all__ = ["SessionDict", "Visitor"]

#: Types whose values can't change, and are equal only if they are stored alike.
_PLAIN = frozenset({str, int, bool, bytes, type(None)})

#: Types that aren't mapped classes.
_HARMLESS = _PLAIN | {float, list, dict, tuple}


class Visitor(Protocol):
    """What the session needs to know where to read and to write."""

    @property
    def request(self) -> Any: ...
    @property
    def dbsession(self) -> Any: ...
    def read(self) -> State: ...
    def touch(self, state: State) -> State: ...
    def lend(self, state: State, value: Any) -> Any: ...
    def instance(self) -> Any: ...
    def persist(self) -> None: ...
    def due(self, is_write: bool) -> Due | None: ...


class SessionDict(MutableMapping[Any, Any]):
    """A mapping with a dict's methods, whose keys are stored each by itself."""

    __slots__ = ("_config", "_visit", "_visitor")

    def __init__(self, config: SessionConfig, visitor: Callable[[], Visitor]):
        self._config = config
        self._visitor = visitor
        self._visit: Visitor | None = None

    def _begin(self) -> Visitor:
        """The only lazy point: here the cookie is read and the row is loaded."""
        visit = self._visit
        if visit is None:
            visit = self._visit = self._visitor()
        return visit

    def _read(self) -> State:
        return self._begin().read()

    def _write(self) -> State:
        visit = self._begin()
        return visit.touch(visit.read())

    def __getitem__(self, key: Any) -> Any:
        state = self._read()
        value = state.data.get(key)
        return value if type(value) in _PLAIN else self._begin().lend(state, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        visit, state = self._begin(), self._read()
        state.data.codec.check_keys((key,))
        if state.data.has(key) and _is_same(state.data.content[key], value):
            state.is_used = True
        else:
            visit.touch(state).data.set(key, value)
            self._warn_of_objects({key: value})

    def __delitem__(self, key: Any) -> None:
        visit, state = self._begin(), self._read()
        if not state.data.has(key):
            state.is_used = True
            raise KeyError(key)
        visit.touch(state).data.pop(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read().data.all())

    def __len__(self) -> int:
        return len(self._read().data.all())

    def __contains__(self, key: object) -> bool:
        return self._read().data.has(key)

    def __reversed__(self) -> Iterator[Any]:
        return iter(reversed(self._read().data.all()))

    def __bool__(self) -> bool:
        return bool(self._read().data.all())

    def __repr__(self) -> str:
        return f"<session of {self._config.table.model_class.__qualname__}>"

    def __or__(self, other: Any) -> dict[Any, Any]:
        return (
            self.copy() | dict(other) if isinstance(other, Mapping) else NotImplemented
        )

    def __ror__(self, other: Any) -> dict[Any, Any]:
        return (
            dict(other) | self.copy() if isinstance(other, Mapping) else NotImplemented
        )

    def __ior__(self, other: Any) -> SessionDict:
        self.update(other)
        return self

    def __json__(self, request: Any = None) -> dict[Any, Any]:
        """Return what Pyramid's JSON renderer shows."""
        return self.copy()

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise TypeError(
            "a session can't be copied; copy what it holds:"
            " copy.deepcopy(dict(session))"
        )

    def copy(self) -> dict[Any, Any]:
        """Return a dict with the same keys and values."""
        return dict(self)

    def update(self, *args: Any, **kw: Any) -> None:
        """Take over all pairs of a mapping, or of an iterable of pairs."""
        changes = dict(*args, **kw)
        visit, state = self._begin(), self._read()
        state.data.codec.check_keys(changes)
        present = state.data.look(changes)
        differing = {
            key: value
            for key, value in changes.items()
            if not (key in present and _is_same(present[key], value))
        }
        if not differing:
            state.is_used = True
            return
        visit.touch(state).data.update(differing)
        self._warn_of_objects(differing)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove a key and return its value, or the default if it's missing."""
        visit, state = self._begin(), self._read()
        if state.data.has(key):
            return visit.touch(state).data.pop(key)
        state.is_used = True
        return {}.pop(key, *default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key, which becomes the default if it's missing."""
        state = self._read()
        if state.data.has(key):
            state.is_used = True
        else:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Remove all keys. Flash messages, user and CSRF token stay."""
        state = self._read()
        if state.data.all():
            self._write().data.replace({})
        else:
            state.is_used = True

    def popitem(self) -> tuple[Any, Any]:
        """Remove and return the pair that was added last."""
        visit, state = self._begin(), self._read()
        content = state.data.all()
        if not content:
            state.is_used = True
            raise KeyError("the session is empty")
        key = next(reversed(content))
        return key, visit.touch(state).data.pop(key)

    def _warn_of_objects(self, values: Mapping[Any, Any]) -> None:
        """Warn of objects of the database among the values, or in them."""
        for key, value in values.items():
            kind = type(value)
            if kind in _PLAIN:
                continue
            kinds = {kind}
            if issubclass(kind, (list, tuple, set, frozenset)):
                kinds = set(map(type, value))
            elif issubclass(kind, dict):
                kinds = set(map(type, value.values()))
            for kind in kinds - _HARMLESS:
                if hasattr(kind, "_sa_class_manager"):
                    self._config.warn_once(
                        f"The session's value for {shown(key)} is or holds an object of"
                        f" the mapped class {kind.__name__}. What comes back in later"
                        " requests is a copy from now, in no dbsession: it isn't up to"
                        " date, and lazy attributes of it fail. Store its primary key,"
                        " and load it with dbsession.get()."
                    )


def _is_same(present: Any, value: Any) -> bool:
    """Tell whether this is the very value that is there, as far as a glance tells."""
    kind: type[Any] = type(value)
    return kind in _PLAIN and type(present) is kind and bool(present == value)
