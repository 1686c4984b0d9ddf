"""The applications that are compared: one line here and one small class each."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..workloads import Workload
    from .base import Contender

__all__ = ["CONTENDERS", "make"]


class _Entry(NamedTuple):
    place: str
    without: tuple[str, ...] = ()


#: Where the class of each is, and the packages that it must not find.
CONTENDERS = {
    "floor": _Entry("floor.Floor", without=("cryptography",)),
    "sessions": _Entry("sessions.Sessions", without=("cryptography",)),
    "sessions-cryptography": _Entry("sessions.Sessions"),
}


def make(name: str, url: str, workload: Workload) -> Contender:
    """Make a contender: in a process of its own, as it may hide packages."""
    entry = CONTENDERS[name]
    for package in entry.without:
        sys.modules[package] = None  # type: ignore[assignment]
    module, _, name = entry.place.partition(".")
    contender_class = getattr(import_module(f".{module}", __name__), name)
    contender: Contender = contender_class(url, workload)
    return contender
