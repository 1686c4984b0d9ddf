"""What ``pyramid_session_check`` says about pyramid_tm and retries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyramid.interfaces import (
    IExceptionViewClassifier,
    IExecutionPolicy,
    IRequest,
    ITweens,
    IView,
)
from sqlalchemy.orm.exc import StaleDataError
from zope.interface import implementedBy

from .check_findings import Finding, hint, ok
from .columns import MYSQL
from .host import dbsession_of
from .retry import PYRAMID_TM, TWEEN
from .session_config import SessionConfig

__all__ = ["findings_of_transactions"]


def findings_of_transactions(request: Any, config: SessionConfig) -> Iterator[Finding]:
    """Look at pyramid_tm and pyramid_retry, as the application has included them."""
    tweens = request.registry.queryUtility(ITweens)
    names = {name for name, _ in tweens.explicit or tweens.implicit()}
    if PYRAMID_TM not in names:
        yield hint(
            "pyramid_tm",
            "isn't included: sessions are stored in transactions of their own,"
            " whatever happens to the application's",
        )
    elif getattr(request.tm, "explicit", False):
        yield ok("pyramid_tm", "has an explicit transaction manager")
    else:
        yield hint(
            "pyramid_tm",
            "has the thread's transaction manager, which can't tell when nothing"
            " is going to commit: set tm.manager_hook = pyramid_tm.explicit_manager",
        )
    if TWEEN in names:
        yield ok("retries", "requests are tried again after conflicts")
    else:
        yield hint("retries", f"{_missed(request, config)}: {_INCLUDE_RETRY}")


_INCLUDE_RETRY = 'config.include("pyramid_sqlalchemy_sessions.retry")'


def _missed(request: Any, config: SessionConfig) -> str:
    """Say what isn't tried again without the library's include."""
    registry = request.registry
    policy = registry.queryUtility(IExecutionPolicy)
    if not getattr(policy, "__module__", "").startswith("pyramid_retry"):
        return "a request that conflicts with another one fails"
    dbsession = dbsession_of(request, config.settings.dbsession_name)
    dialect = dbsession.get_bind(mapper=config.table.mapper).dialect
    kind = "mysql" if dialect.name in MYSQL else dialect.name
    missed = list(_MISSED.get(kind, ()))
    if missed and dialect.driver not in _KNOWN:
        missed[:0] = _MORE_MISSED.get(kind, ())
    required = (IExceptionViewClassifier, IRequest, implementedBy(StaleDataError))
    if registry.adapters.lookup(required, IView):
        missed.insert(0, "conflicts raised at the commit (an exception view answers)")
    if not missed:
        return "conflicts are tried again at once, not after a random delay"
    return f"pyramid_retry by itself doesn't try these again: {', '.join(missed)}"


#: By the name of the dialect.
_MISSED = {
    "postgresql": ("lock timeouts", "lost connections"),
    "mysql": (
        "lock timeouts",
        "changed records (innodb_snapshot_isolation)",
        "transactions that a cluster refuses",
        "lost connections",
    ),
    "sqlite": ("database is locked",),
}

#: With these drivers, zope.sqlalchemy has pyramid_retry try more errors again than with
#: others.
_KNOWN = ("psycopg2", "psycopg", "pymysql", "pysqlite", "aiosqlite")
_MORE_MISSED = {
    "postgresql": ("serialization failures", "deadlocks"),
    "mysql": ("deadlocks",),
}
