"""Values as the panel shows them: short, and without what must stay secret."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

__all__ = ["Showing"]

#: The longest text for a value, in characters.
LONGEST = 100

#: How many of the keys that an update changes are shown.
MOST_KEYS = 20

#: The shortest text that's hidden wherever it is.
SHORTEST = 16

_HIDDEN = "(hidden)"

#: Keys whose values are hidden.
_SECRET_KEY = re.compile("passw|secret|token|csrf|credential|api.?key", re.IGNORECASE)


class Showing(reprlib.Repr):
    """Shortens values, and hides secrets: these texts, and what some keys hold.

    It calls no code of the application, which might do anything: of other types than
    plain ones it shows the type.
    """

    def __init__(self, secrets: Iterable[str] = (), secret_key: str | None = None):
        super().__init__()
        self.maxstring = LONGEST
        # A forged cookie can be any short text.
        self._secrets = [each for each in secrets if len(each) >= SHORTEST]
        self._secret_key = secret_key

    def value(self, value: Any) -> str:
        """Return a short text for a value."""
        text = self.repr(value)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

    def value_of(self, key: Any, value: Any) -> str:
        """Return a short text for the value of a key."""
        return _HIDDEN if self._hides(key) else self.value(value)

    def pairs(self, values: Mapping[Any, Any]) -> str:
        """Return a short text for a dict that a session is updated with."""
        pairs = [
            f"{self.value(key)}: {self.value_of(key, value)}"
            for key, value in islice(values.items(), MOST_KEYS)
        ]
        return f"{{{', '.join(pairs + ['...'] * (len(values) > MOST_KEYS))}}}"

    def _hides(self, key: Any) -> bool:
        return type(key) is str and (
            key == self._secret_key or _SECRET_KEY.search(key) is not None
        )

    # What reprlib asks for.

    def repr1(self, x: Any, level: int) -> str:
        if type(x) in (str, int, list, tuple, dict, set, frozenset):
            return super().repr1(x, level)
        is_plain = type(x) in (bool, float, type(None))
        return repr(x) if is_plain else f"<{type(x).__qualname__}>"

    def repr_str(self, x: str, level: int) -> str:
        for each in self._secrets:
            x = x.replace(each, _HIDDEN)
        return super().repr_str(x, level)

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write thousands of digits.
        text = repr(x) if x.bit_length() <= 3 * LONGEST else "<int>"
        return _HIDDEN if text in self._secrets else text

    # It would sort these, which calls the methods of what is in them.

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0 and x:
            return "{...}"
        pairs = [
            f"{self.repr1(key, level - 1)}: "
            + (_HIDDEN if self._hides(key) else self.repr1(value, level - 1))
            for key, value in islice(x.items(), self.maxdict)
        ]
        return f"{{{', '.join(pairs + ['...'] * (len(x) > self.maxdict))}}}"

    def repr_set(self, x: set[Any] | frozenset[Any], level: int) -> str:
        texts = self.repr_list([*islice(x, self.maxset + 1)], level)
        return f"{{{texts[1:-1]}}}" if x else "set()"

    def repr_frozenset(self, x: frozenset[Any], level: int) -> str:
        return f"frozenset({self.repr_set(x, level) if x else ''})"
