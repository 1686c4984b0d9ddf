"""The command ``pyramid_session_gc``, which deletes the sessions that have expired."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import delete
from sqlalchemy.engine import Engine
from tqdm import tqdm  # type: ignore[import-untyped]

from .after_commit import send
from .collector import Report, can_expire, count_expired, delete_expired
from .command import factory_of, make_parser, run
from .host import dbsession_of
from .reseal import census_of, reseal
from .session_config import SessionConfig

__all__ = ["main"]

log: logging.Logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments, by default those of the process.

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
        help="show neither progress nor result; one line is logged all the same",
    )
    anew = parser.add_mutually_exclusive_group()
    anew.add_argument(
        "--reseal",
        action="store_true",
        help="instead, encrypt with the first key what isn't (EncryptedDataMixin)",
    )
    anew.add_argument(
        "--unseal",
        action="store_true",
        help="instead, decrypt what is encrypted, before EncryptedDataMixin is removed",
    )
    return run(parser, argv, _collect)


def _positive(argument: str) -> int:
    number = int(argument)
    if number < 1:
        raise ValueError
    return number


def _collect(request: Any, arguments: argparse.Namespace) -> int:
    factory = factory_of(request, arguments.prefix)
    config = factory.config
    name = factory.model_class.__qualname__
    say = _be_silent if arguments.quiet else print
    if arguments.reseal or arguments.unseal:
        return _reseal(_engine_of(request, config), config, arguments, say)
    if not can_expire(config):
        say(f"No timeout is set: no {name} can expire.")
        log.info("No timeout is set: no %s can expire.", name)
        return 0
    engine = _engine_of(request, config)
    started = time.monotonic()
    if arguments.dry_run:
        number = count_expired(engine, config)
        say(f"{number} of {name} have expired.")
        log.info("%d of %s have expired; none was deleted.", number, name)
        return 0
    number = 0
    report = Report.wanted(config, send)
    with _bar(engine, config, arguments.quiet) as bar:
        for batch in delete_expired(
            engine, config, arguments.batch_size, report=report
        ):
            number += batch
            bar.update(batch)
    seconds = time.monotonic() - started
    log.info("Deleted %d expired of %s in %.1f s.", number, name, seconds)
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
        with tqdm(disable=arguments.quiet or not sys.stderr.isatty()) as bar:
            for batch in reseal(engine, config, arguments.batch_size, arguments.unseal):
                number += batch
                bar.update(batch)
    left = census_of(engine, config)
    remaining = left.sealed if arguments.unseal else left.stale
    done = "decrypted" if arguments.unseal else "encrypted anew"
    text = f"{number} of {name} {done}, {remaining} are left"
    if left.lost:
        text += f", {left.lost} of them with a key that is not in the ring"
    say(f"{text}.")
    log.info("%s.", text)
    return 1 if remaining and not arguments.dry_run else 0


def _be_silent(message: str) -> None:
    pass


def _bar(engine: Engine, config: SessionConfig, quiet: bool) -> Any:
    """Return a progress bar, which nobody sees unless there is a terminal."""
    if quiet or not sys.stderr.isatty():
        return tqdm(disable=True)
    return tqdm(
        total=count_expired(engine, config), desc="Expired sessions", unit=" sessions"
    )


def _engine_of(request: Any, config: SessionConfig) -> Engine:
    """Return the engine on which the application deletes sessions."""
    dbsession = dbsession_of(request, config.settings.dbsession_name)
    mapper = config.table.mapper
    table: Any = mapper.local_table
    # An application that reads from other engines chooses by the statement.
    return dbsession.get_bind(mapper, clause=delete(table)).engine


if __name__ == "__main__":
    sys.exit(main())
