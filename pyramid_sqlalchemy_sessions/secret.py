"""The secret key: a command that makes one, and settings that don't show it."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

from .config import generate_secret_key

__all__ = ["HiddenText", "hide_secret", "main"]


class HiddenText(str):
    """A text that hides itself from ``str()``, ``repr()`` and ``format()``.

    For code that uses its characters, such as the cipher, it's still the same text.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'(hidden)'"

    def __str__(self) -> str:
        return "(hidden)"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def hide_secret(settings: MutableMapping[str, Any], prefix: str = "session.") -> None:
    """Hide the key from tools that show the settings, such as pyramid_debugtoolbar."""
    name = prefix + "secret_key"
    settings[name] = HiddenText(settings[name])


def main(argv: Sequence[str] | None = None) -> int:
    """Print a new key for the setting ``secret_key``; return the exit status, 0.

    Exits with 2 on wrong usage.
    """
    import argparse  # only the command needs it

    parser = argparse.ArgumentParser(
        prog="pyramid_session_secret",
        description="Print a new random key for the setting session.secret_key.",
    )
    parser.add_argument(
        "--size",
        type=int,
        choices=(16, 24, 32),
        default=32,
        help="in bytes: for AES-128, AES-192 or AES-256 (default: %(default)s)",
    )
    print(generate_secret_key(parser.parse_args(argv).size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
