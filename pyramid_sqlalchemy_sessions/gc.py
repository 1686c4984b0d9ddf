"""The command ``pyramid_session_gc``, which deletes the sessions that have expired."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import delete
from sqlalchemy.engine import Engine

from .after_commit import send
from .collector import Report, can_expire, count_expired, delete_expired
from .command import factory_of, make_parser, run
from .host import dbsession_of
from .reseal import census_of, reseal
from .session_config import SessionConfig

__all__ = ["main"]

log: logging.Logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments, by default those of the command line.

    Returns the exit status: 0, or 1 on failure. Exits with 2 on wrong usage.
    """
    parser = make_parser(
        "pyramid_session_gc",
        "Delete the sessions that have expired, in small batches, while the application"
        " is running.",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=_positive,
        help="delete up to N sessions in one transaction (default: what suits the"
        " database)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="delete nothing, only say how many sessions have expired",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="don't print progress or the result, which is only logged",
    )
    anew = parser.add_mutually_exclusive_group()
    anew.add_argument(
        "--reseal",
        action="store_true",
        help="instead, encrypt the sessions that the first key hasn't encrypted yet"
        " (EncryptedDataMixin)",
    )
    anew.add_argument(
        "--unseal",
        action="store_true",
        help="instead, decrypt all sessions, before EncryptedDataMixin is removed",
    )
    return run(parser, argv, _collect)


def _positive(argument: str) -> int:
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"{argument!r} isn't a whole number above 0")
    return int(argument)


def _collect(request: Any, arguments: argparse.Namespace) -> int:
    factory = factory_of(request, arguments.prefix)
    config = factory.config
    name = factory.model_class.__qualname__
    say = _be_silent if arguments.quiet else print
    if arguments.reseal or arguments.unseal:
        return _reseal(_engine_of(request, config), config, arguments, say)
    if not can_expire(config):
        say(f"No timeout is set, so no {name} can expire.")
        log.info("No timeout is set, so no %s can expire.", name)
        return 0
    engine = _engine_of(request, config)
    started = time.monotonic()
    if arguments.dry_run:
        number = count_expired(engine, config)
        say(f"{number} rows of {name} have expired.")
        log.info("%d rows of %s have expired; none were deleted.", number, name)
        return 0
    number = 0
    report = Report.wanted(config, send)
    count = partial(count_expired, engine, config)
    with _progress("Expired sessions", count, arguments.quiet) as show:
        for batch in delete_expired(
            engine, config, arguments.batch_size, report=report
        ):
            number += batch
            show(batch)
    seconds = time.monotonic() - started
    text = f"Deleted {number} expired rows of {name} in {seconds:.1f} s."
    say(text)
    log.info("%s", text)
    return 0


def _reseal(
    engine: Engine,
    config: SessionConfig,
    arguments: argparse.Namespace,
    say: Callable[[str], None],
) -> int:
    """Seal or unseal all rows; the exit status is 1 if some of them can't be opened."""
    name, number = config.table.model_class.__qualname__, 0
    if not arguments.dry_run:
        with _progress("Sessions", None, arguments.quiet) as show:
            for batch in reseal(engine, config, arguments.batch_size, arguments.unseal):
                number += batch
                show(batch)
    left = census_of(engine, config)
    remaining = left.sealed if arguments.unseal else left.stale
    done = "decrypted" if arguments.unseal else "encrypted with the first key"
    text = f"{number} rows of {name} {done}, {remaining} are left"
    if left.lost:
        text += f", {left.lost} of them with a key that isn't in the ring"
    say(f"{text}.")
    log.info("%s.", text)
    return 1 if remaining and not arguments.dry_run else 0


def _be_silent(message: str) -> None:
    pass


@contextmanager
def _progress(
    what: str, count: Callable[[], int] | None, quiet: bool
) -> Generator[Callable[[int], object]]:
    """Yield a function that shows progress on a terminal, by a number of sessions.

    It's a progress bar if tqdm is installed, and otherwise a line every two seconds.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda number: None
        return
    total = count() if count else None
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        lines = _Lines(what, total)
        yield lines.add
        lines.show()
    else:
        with tqdm(total=total, desc=what, unit=" sessions") as bar:
            yield bar.update


class _Lines:
    def __init__(self, what: str, total: int | None):
        self.what = what
        self.of = "" if total is None else f"/{total}"
        self.done = 0
        self.due = time.monotonic()

    def add(self, number: int) -> None:
        self.done += number
        if time.monotonic() >= self.due:
            self.show()

    def show(self) -> None:
        print(f"{self.what}: {self.done}{self.of}", file=sys.stderr)
        self.due = time.monotonic() + 2


def _engine_of(request: Any, config: SessionConfig) -> Engine:
    """Return the engine on which the application deletes sessions."""
    dbsession = dbsession_of(request, config.settings.dbsession_name)
    mapper = config.table.mapper
    table: Any = mapper.local_table
    # Applications that read from other engines choose the engine by the statement.
    return dbsession.get_bind(mapper, clause=delete(table)).engine


if __name__ == "__main__":
    sys.exit(main())
