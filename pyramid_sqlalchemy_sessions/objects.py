"""Warns of objects of the database among what a session holds."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

from .codec import PICKLE_PROTOCOL
from .session_config import SessionConfig
from .setting_kinds import shown

__all__ = ["warn_of_objects"]

#: The attribute that SQLAlchemy gives to objects of mapped classes, so it's in the
#: pickle of each.
_MARK = b"_sa_instance_state"


def warn_of_objects(
    config: SessionConfig, content: Mapping[Any, Any], encoded: Any
) -> None:
    """Warn of them, once for each key and class. ``encoded`` is the content's pickle.

    JSON can't hold any.
    """
    if not (isinstance(encoded, bytes) and _MARK in encoded):
        return
    for key, value in content.items():
        for kind in _mapped_classes_in((key, value)):
            config.warn_once(
                f"The session's value for {shown(key)} is or holds an object of the"
                f" mapped class {kind.__name__}. Later requests get a copy as it is"
                " now, without a dbsession: it isn't up to date, and its lazy"
                " attributes fail. Store its primary key instead, and load it with"
                " dbsession.get()."
            )


class _Searcher(pickle.Pickler):
    """Takes note of the mapped classes of what it pickles."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), PICKLE_PROTOCOL)
        self.found: dict[type[Any], None] = {}

    def persistent_id(self, obj: Any) -> None:
        kind = type(obj)
        if hasattr(kind, "_sa_class_manager"):
            self.found[kind] = None


def _mapped_classes_in(value: Any) -> list[type[Any]]:
    searcher = _Searcher()
    searcher.dump(value)
    return list(searcher.found)
