"""Find the line of the application that called the library, or raised an error."""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NamedTuple

__all__ = ["Line", "line_of_call", "line_of_error", "present_calls", "view_of_error"]

_OURS = __name__.partition(".")[0]
_STDLIB = os.path.join(sysconfig.get_path("stdlib"), "")
_INSTALLED = {"site-packages", "dist-packages"}
#: Calls tweens and views, so its own callers don't matter.
_ROUTER = "pyramid.router"
#: Calls views.
_VIEWS = "pyramid.viewderivers"


class Line(NamedTuple):
    """One line of code, and the function that it's in."""

    file: str
    line: int
    module: str
    function: str

    def __str__(self) -> str:
        """Return the line with its file, whose path is relative to ``sys.path``."""
        above = [os.path.join(each, "") for each in sys.path if each]
        start = max((e for e in above if self.file.startswith(e)), key=len, default="")
        return f"{self.file[len(start) :]}:{self.line} in {self.function}"


def present_calls() -> list[FrameType]:
    """Return the calls inside of this library that led here, the first one last."""
    calls: list[FrameType] = []
    running = inspect.currentframe()
    while running is not None and _top(running) == _OURS:
        calls.append(running)
        running = running.f_back
    return calls


def line_of_call(frame: FrameType | None) -> Line | None:
    """Return the line of the application that led to a call.

    If only other packages led to it, such as Pyramid when it checks a CSRF token, it's
    one of theirs.
    """
    running = [
        (each, number)
        for each, number in traceback.walk_stack(frame)
        if _top(each) != _OURS
    ]
    names = [_module(each) for each, _ in running]
    return _first_own(running[: names.index(_ROUTER)] if _ROUTER in names else running)


def line_of_error(error: BaseException) -> Line | None:
    """Return the line of the application that raised an error, or led to it."""
    return _first_own(reversed([*traceback.walk_tb(error.__traceback__)]))


def view_of_error(error: BaseException) -> Line | None:
    """Return the line of the view that raised an error, or called what raised it."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    names = [_module(frame) for frame, _ in frames]
    return _first_own(frames[names.index(_VIEWS) :] if _VIEWS in names else frames)


def _first_own(frames: Iterable[tuple[FrameType, int]]) -> Line | None:
    """Return the first line of the application, or else what comes closest to it."""
    lines = [*_lines(frames)]
    foreign = [each for each in lines if each.module.partition(".")[0] != "pyramid"]
    own = [each for each in lines if _is_own(each)]
    return next(iter(own or foreign or lines), None)


def _lines(frames: Iterable[tuple[FrameType, int]]) -> Iterator[Line]:
    for frame, number in frames:
        code, template = frame.f_code, frame.f_globals.get("__jinja_template__")
        if template is not None:  # the number is that of a line made by Jinja2
            number = template.get_corresponding_lineno(number)
        yield Line(code.co_filename, number, _module(frame), code.co_name)


def _is_own(line: Line) -> bool:
    """Tell whether the line belongs to the application, not to an installed package."""
    parts = line.file.replace("\\", "/").split("/")
    return not (line.file.startswith(("<", _STDLIB)) or _INSTALLED.intersection(parts))


def _top(frame: FrameType) -> str:
    return _module(frame).partition(".")[0]


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
