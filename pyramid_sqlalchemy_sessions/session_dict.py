"""The methods of a dict that a session has, and where it's read and written."""

from __future__ import annotations

from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from typing import Any, NoReturn, Protocol

from .feature import Due
from .session_config import SessionConfig
from .state import State

__all__ = ["SessionDict", "Visitor"]

#: Types whose values can't change, and are equal only if they are stored alike.
_PLAIN = frozenset({str, int, bool, bytes, type(None)})


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
    def foresee(self, state: State) -> Due | None: ...


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

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be pickled, or copied by ``copy.deepcopy()``."""
        raise TypeError(
            "a session can't be pickled, nor copied with what's in it; take what it"
            " holds: dict(session), or copy.deepcopy(dict(session))"
        )

    def copy(self) -> dict[Any, Any]:
        """Return a dict with the same keys and values."""
        return dict(self)

    __copy__ = copy

    def keys(self) -> KeysView[Any]:
        return _Keys(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def items(self) -> ItemsView[Any, Any]:
        return _Items(self)

    def update(self, *args: Any, **kw: Any) -> None:
        """Set all pairs of a mapping, or of an iterable of pairs."""
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


class _Reversible(Iterable[Any]):
    """What the views of a dict have, and those of a Mapping lack."""

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self)[::-1])


class _Keys(_Reversible, KeysView[Any]):
    pass


class _Values(_Reversible, ValuesView[Any]):
    pass


class _Items(_Reversible, ItemsView[Any, Any]):
    pass


def _is_same(present: Any, value: Any) -> bool:
    """Tell whether this value is already there, as far as a quick look can tell."""
    kind: type[Any] = type(value)
    return kind in _PLAIN and type(present) is kind and bool(present == value)
