"""The command ``pyramid_session_check``, which looks for mistakes in the setup."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from pyramid.authentication import (
    SessionAuthenticationHelper,
    SessionAuthenticationPolicy,
)
from pyramid.csrf import LegacySessionCSRFStoragePolicy
from pyramid.interfaces import (
    IAuthenticationPolicy,
    ICSRFStoragePolicy,
    ISecurityPolicy,
    ISessionFactory,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from .authn import UserSessionAuthenticationHelper, UserSessionAuthenticationPolicy
from .check_findings import Finding, error, hint, ok
from .check_transactions import findings_of_transactions
from .collector import can_expire
from .command import PREFIX, factory_of, make_parser, run, summary
from .features.csrf import CSRF
from .features.userid import Userid
from .host import dbsession_of
from .reseal import census_of
from .schema import findings_of_database
from .session import SessionFactory
from .session_config import TIMEOUTS, SessionConfig
from .settings import SETTINGS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments, by default those of the command line.

    Returns the exit status: 0, or 1 if something is wrong. Exits with 2 on wrong usage.
    """
    parser = make_parser(
        "pyramid_session_check",
        "Check an application's session setup: its settings, database and table, and"
        " what sessions need of Pyramid. Nothing is changed.",
    )
    return run(parser, argv, _check)


def _check(request: Any, arguments: argparse.Namespace) -> int:
    factory = factory_of(request, arguments.prefix)
    numbers: Counter[str] = Counter()
    for finding in _findings(request, factory, arguments.prefix):
        numbers[finding.level] += 1
        print(_shown(finding))
    print(f"errors: {numbers['error']}, hints: {numbers['hint']}")
    return 1 if numbers["error"] else 0


def _shown(finding: Finding) -> str:
    margin = f"{finding.level:7}{finding.subject:14}"
    text = textwrap.fill(
        finding.text,
        width=88,
        initial_indent=margin,
        subsequent_indent=" " * len(margin),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join([text, *(" " * 7 + line for line in finding.sql.splitlines())])


def _findings(request: Any, factory: SessionFactory, prefix: str) -> Iterator[Finding]:
    config = factory.config
    yield from _of_settings(factory, request.registry.settings, prefix)
    if prefix == PREFIX:
        yield from _of_factory(request.registry)
    yield from _of_cookie(config)
    yield from _of_timeouts(config)
    yield from _of_csrf(config, request.registry)
    yield from _of_logins(config, request.registry)
    yield from findings_of_transactions(request, config)
    yield from _of_database(request, config)


# The application.


def _of_settings(
    factory: SessionFactory, settings: Mapping[str, Any], prefix: str
) -> Iterator[Finding]:
    mixins = ", ".join(factory.mixins) or "no mixins except BaseMixin"
    yield ok("settings", f"{factory.model_class.__qualname__}, with {mixins}")
    ours = [prefix + setting.name for setting in SETTINGS]
    ours += [prefix + "model_class", prefix + "secret_key"]
    for name in settings:
        head = name.partition(".")[0]
        is_others = name.startswith(prefix) or f"{head}.model_class" in settings
        for similar in get_close_matches(name, ours, n=1, cutoff=0.9):
            if not is_others:
                yield hint("settings", f"{name} isn't read: did you mean {similar}?")


def _of_factory(registry: Any) -> Iterator[Finding]:
    used = registry.queryUtility(ISessionFactory)
    if used is None:
        yield error(
            "settings",
            "request.session has no factory: call"
            ' config.include("pyramid_sqlalchemy_sessions")',
        )
    elif not isinstance(used, SessionFactory):
        maker = getattr(used, "__module__", type(used).__module__)
        yield hint(
            "settings",
            f"request.session is made by {maker}: the application has called"
            " config.set_session_factory()",
        )


def _of_cookie(config: SessionConfig) -> Iterator[Finding]:
    settings = config.settings
    name = settings.cookie_name
    if settings.cookie_secure is None:
        yield hint(
            "cookie",
            f"{name} is Secure only if the request came over https. In production, set"
            " cookie_secure = true: behind a proxy, the application may not know",
        )
    elif not settings.cookie_secure:
        yield hint("cookie", "cookie_secure = false: it's also sent without https")
    elif not name.lower().startswith(("__host-", "__secure-")):
        is_free = settings.cookie_path == "/" and settings.cookie_domain is None
        better = "__Host-" if is_free else "__Secure-"
        yield hint(
            "cookie",
            f"a cookie_name that starts with {better} would keep others from setting"
            f" {name}",
        )
    else:
        yield ok("cookie", f"{name}, Secure")
    if not settings.cookie_httponly:
        yield hint("cookie", "scripts can read it: cookie_httponly = false")
    if settings.cookie_samesite is None:
        yield hint(
            "cookie", "cookie_samesite is empty: each browser uses its own default"
        )
    if settings.cookie_partitioned and settings.cookie_samesite != "None":
        yield hint(
            "cookie",
            "cookie_partitioned = true only matters in frames on other sites, where the"
            " cookie is sent only with cookie_samesite = None",
        )


def _of_timeouts(config: SessionConfig) -> Iterator[Finding]:
    mixins = {each.__name__ for each in config.table.model_class.__mro__}
    for setting in SETTINGS:
        if setting.name not in TIMEOUTS or setting.mixin not in mixins:
            continue
        value = getattr(config.settings, setting.name)
        if value is not None:
            yield ok("timeouts", f"{setting.name} is {value} seconds")
        elif setting.runtime in mixins:
            yield ok("timeouts", f"{setting.name} is up to each session")
        else:
            yield hint(
                "timeouts",
                f"the model has {setting.mixin}, but {setting.name} isn't set",
            )
    if not can_expire(config):
        yield hint(
            "timeouts",
            "sessions never expire: their rows stay, and users stay logged in",
        )


def _of_csrf(config: SessionConfig, registry: Any) -> Iterator[Finding]:
    policy = registry.queryUtility(ICSRFStoragePolicy)
    if config.has(CSRF) or not isinstance(policy, LegacySessionCSRFStoragePolicy):
        yield ok("CSRF", f"tokens are kept by {type(policy).__name__}")
    else:
        yield error(
            "CSRF",
            "Pyramid's policy asks the session for tokens, but the model lacks"
            " CSRFMixin: add it, or call"
            " config.set_csrf_storage_policy(SessionCSRFStoragePolicy())",
        )


def _of_logins(config: SessionConfig, registry: Any) -> Iterator[Finding]:
    """Look at the registered policies, at their attributes, and at views."""
    lacks_user, needs_user = not config.has(Userid), set[str]()
    for policy in (
        registry.queryUtility(IAuthenticationPolicy),
        registry.queryUtility(ISecurityPolicy),
    ):
        held = {**vars(type(policy)), **getattr(policy, "__dict__", {})}
        for each in (policy, *held.values()):
            name = type(each).__name__
            if getattr(type(each), "remember", None) in _WITHOUT_ROTATION:
                yield hint(
                    "logins",
                    f"Pyramid's {name} doesn't replace the session's"
                    " cookie at login (session fixation), unless your login view"
                    " calls request.session.rotate(). Use"
                    " UserSessionAuthenticationHelper",
                )
                break
            if isinstance(each, _WITH_USER):
                needs_user.add(name)
    for view in registry.introspector.get_category("views", ()) if lacks_user else ():
        if view["introspectable"].get("fresh"):
            needs_user.add("the view option fresh")
    if lacks_user and needs_user:
        yield error(
            "logins", f"{', '.join(sorted(needs_user))}: {config.lacking(Userid)}"
        )


#: What logs in by the session's user.
_WITH_USER = (UserSessionAuthenticationHelper, UserSessionAuthenticationPolicy)

#: How Pyramid logs in, by a key of the session's dict.
_WITHOUT_ROTATION = (
    SessionAuthenticationHelper.remember,
    SessionAuthenticationPolicy.remember,
)


# The database.


def _of_database(request: Any, config: SessionConfig) -> Iterator[Finding]:
    manager = getattr(request, "tm", None)
    dbsession = dbsession_of(request, config.settings.dbsession_name)
    with _transaction(manager):
        try:
            connection = config.table.connection(dbsession)
            yield from findings_of_database(config, connection)
            yield from _of_encryption(config, connection)
        except SQLAlchemyError as exc:
            yield error("database", summary(exc))
            return
    is_joined = not dbsession.in_transaction()
    dbsession.rollback()
    if manager is not None and not is_joined:
        yield error(
            "dbsession",
            "hasn't joined the request's transaction: call"
            " zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)",
        )


def _of_encryption(config: SessionConfig, connection: Connection) -> Iterator[Finding]:
    seal = config.table.seal
    if seal is None:
        return
    found = census_of(connection, config)
    if found.lost:
        yield error(
            "encryption",
            f"{found.lost} sessions can't be read: their key isn't in secret_key."
            " Add the key to the ring, or delete the sessions",
        )
    if found.plain and not seal.accepts_plain:
        yield error(
            "encryption",
            f"{found.plain} sessions can't be read: they aren't encrypted. Set"
            " encrypted_accept_plain, and run pyramid_session_gc --reseal",
        )
    elif found.stale:
        yield hint(
            "encryption",
            f"{found.stale} sessions aren't encrypted with the first key yet: run"
            " pyramid_session_gc --reseal",
        )
    if not found.stale:
        yield ok("encryption", "all sessions are encrypted with the first key")
    if seal.accepts_plain and not found.plain:
        yield hint("encryption", "encrypted_accept_plain isn't needed any more")


@contextmanager
def _transaction(manager: Any) -> Generator[None]:
    """Begin a transaction, and roll it back at the end."""
    if manager is None:
        yield
        return
    manager.begin()
    try:
        yield
    finally:
        manager.abort()


if __name__ == "__main__":
    sys.exit(main())
