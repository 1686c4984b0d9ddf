"""What the commands share: starting the application of a configuration."""

from __future__ import annotations

import argparse
import configparser
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import plaster
from pyramid.interfaces import ISessionFactory
from pyramid.paster import bootstrap, setup_logging
from pyramid.path import DottedNameResolver
from pyramid.scripts.common import parse_vars
from sqlalchemy.exc import DBAPIError, StatementError

from .exceptions import ConfigurationError
from .session import SessionFactory, session_factory_from_settings

__all__ = ["PREFIX", "factory_of", "make_parser", "run", "summary"]

log: logging.Logger = logging.getLogger(__name__)

PREFIX = "session."


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that every command has."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument(
        "config_uri",
        metavar="CONFIG_URI",
        help="the application's configuration, such as production.ini",
    )
    parser.add_argument(
        "variables",
        metavar="key=value",
        nargs="*",
        default=[],  # without it argparse claims that one is required
        help="a variable that the configuration uses, such as http_port=8080",
    )
    parser.add_argument(
        "--prefix",
        default=PREFIX,
        help="what the names of the session settings start with (default: %(default)s)",
    )
    return parser


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[Any, argparse.Namespace], int],
) -> int:
    """Do the work with a request of the application, and return the exit status.

    That is 1, with one line on standard error, if anything fails. Exits with 2 on wrong
    usage.
    """
    # Otherwise variables couldn't follow an option.
    arguments = parser.parse_intermixed_args(argv)
    try:
        arguments.variables = parse_vars(arguments.variables)
    except ValueError as exc:
        parser.error(str(exc))
    _check_uri(parser, arguments.config_uri)
    try:
        setup_logging(arguments.config_uri, arguments.variables)
        with bootstrap(arguments.config_uri, options=arguments.variables) as env:
            return work(env["request"], arguments)
    except configparser.Error as exc:
        # The traceback isn't logged: the error quotes lines of the ini file in it, and
        # one of them may be the key.
        print(f"{parser.prog}: {_without_value(exc)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 1
    except Exception as exc:
        print(f"{parser.prog}: {summary(exc)}", file=sys.stderr)
        log.debug("This is where it failed:", exc_info=True)
        return 1


def _check_uri(parser: argparse.ArgumentParser, config_uri: str) -> None:
    """Exit with 2 if the configuration is a file that isn't there."""
    try:
        uri = plaster.parse_uri(config_uri)
    except plaster.InvalidURI:
        parser.error(f"{config_uri} isn't a configuration, such as production.ini")
    if uri.scheme.startswith("file") and not Path(uri.path).is_file():
        parser.error(f"there is no file {uri.path}")


def _without_value(error: configparser.Error) -> str:
    """Say what's wrong with an ini file without quoting a value.

    configparser itself quotes the value if it can't make sense of a % in it.
    """
    if not isinstance(error, configparser.InterpolationError):
        return summary(error)
    where = f"{error.option} in the section [{error.section}]"
    if isinstance(error, configparser.InterpolationMissingOptionError):
        return (
            f"{where} uses the variable %({error.reference})s, which isn't given:"
            f" add {error.reference}=value to the command line, or write %% for each %"
        )
    return f"{where} has a % in its value: write %% for each % (the value isn't shown)"


def factory_of(request: Any, prefix: str) -> SessionFactory:
    """Return the session factory of the application.

    Raises ConfigurationError if it has none of this library's.
    """
    registry = request.registry
    factory = registry.queryUtility(ISessionFactory)
    if prefix == PREFIX and isinstance(factory, SessionFactory):
        return factory
    if prefix + "model_class" not in registry.settings:
        raise ConfigurationError(
            f"there is no setting {prefix}model_class"
            + (
                ", and the application's session factory doesn't come from"
                " pyramid_sqlalchemy_sessions"
                if prefix == PREFIX
                else ""
            )
            + "; which prefix do the settings have? Give it with --prefix"
        )
    maybe_dotted = DottedNameResolver().maybe_resolve
    return session_factory_from_settings(registry.settings, maybe_dotted, prefix)


def summary(error: Exception) -> str:
    """Say in one line what's wrong, without revealing anything of the sessions."""
    if isinstance(error, StatementError):
        error.hide_parameters = True
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).strip().splitlines()
    return ": ".join([type(cause).__name__, *lines[:1]])
