"""Makes ``request.dbsession`` as the cookiecutter does, with less work per request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.interfaces import IRequestExtensions, IRequestFactory
from sqlalchemy import Engine, engine_from_config, event
from sqlalchemy.orm import Session, sessionmaker
from zope.sqlalchemy import ZopeTransactionEvents

from .exceptions import ConfigurationError
from .host import ZOPE_EVENTS

__all__ = ["get_tm_session", "includeme"]

_NAME = "dbsession"
_FACTORY = "dbsession_factory"
#: The attribute of a sessionmaker whose dbsessions are listened to.
_LISTENS = "_pyramid_sqlalchemy_sessions_listens"

#: What ``zope.sqlalchemy.register`` listens to.
_LISTENERS = (
    "after_attach",
    "after_begin",
    "after_bulk_delete",
    "after_bulk_update",
    "after_flush",
    "before_commit",
    "do_orm_execute",
)


def includeme(config: Configurator) -> None:
    """Give every request a ``dbsession`` that pyramid_tm commits or rolls back.

    It's what Pyramid's cookiecutter makes: the engine is that of the setting
    ``dbengine``, or is made from the settings that begin with ``sqlalchemy.``; its
    sessionmaker is ``registry["dbsession_factory"]``, unless the application has
    already put its own there; a dbsession that a test has put into the environ as
    ``app.dbsession`` is used instead. pyramid_tm is included, with an explicit
    transaction manager unless ``tm.manager_hook`` says otherwise.

    Unlike there, zope.sqlalchemy's listeners are registered once, not for each request.
    A ``request.dbsession`` that the application makes itself is left alone.

    Raises ConfigurationError, when the configuration is committed, if there's no such
    ``request.dbsession``, no engine and no sessionmaker.
    """
    settings: dict[str, Any] = config.get_settings()
    settings.setdefault("tm.manager_hook", "pyramid_tm.explicit_manager")
    config.include("pyramid_tm")
    registry: Any = config.registry
    engine = _engine(settings)
    if engine is not None and _FACTORY not in registry:
        registry[_FACTORY] = sessionmaker(engine)
    # After all others have added their request methods.
    config.action(__name__, lambda: _add(registry), order=PHASE3_CONFIG + 1)


def get_tm_session(
    dbsession_factory: sessionmaker[Any],
    transaction_manager: Any,
    request: Any = None,
    *,
    keep_session: bool = False,
) -> Any:
    """Return a new dbsession that takes part in the manager's transactions.

    It's for scripts and tests, like the cookiecutter's function of this name. With
    ``keep_session``, its objects can be used after the transaction.
    """
    _listen(dbsession_factory)
    return _made(dbsession_factory, transaction_manager, request, keep_session)


def _made(factory: Any, manager: Any, request: Any, keep_session: bool = False) -> Any:
    events = ZopeTransactionEvents(
        transaction_manager=manager, keep_session=keep_session
    )
    return factory(info={"request": request, ZOPE_EVENTS: events})


def _engine(settings: Mapping[str, Any]) -> Engine | None:
    engine: Engine | None = settings.get("dbengine")
    if engine is None and "sqlalchemy.url" in settings:
        engine = engine_from_config(dict(settings), "sqlalchemy.")
    return engine


def _add(registry: Any) -> None:
    """Add ``request.dbsession`` unless the application has its own."""
    extensions = registry.getUtility(IRequestExtensions)  # pyramid_tm has some
    request_class = registry.queryUtility(IRequestFactory)
    if (
        _NAME in extensions.descriptors
        or _NAME in extensions.methods
        or hasattr(request_class, _NAME)
    ):
        return
    if _FACTORY not in registry:
        raise ConfigurationError(
            f"{__name__} needs the setting sqlalchemy.url, such as"
            " postgresql+psycopg2://user@/database, or dbengine, an Engine; or make"
            f" registry[{_FACTORY!r}] before you include it"
        )
    factory = registry[_FACTORY]
    _listen(factory)

    def dbsession(request: Any) -> Any:
        given = request.environ.get("app.dbsession")
        return _made(factory, request.tm, request) if given is None else given

    # This one acts at once: other actions of this kind have already been executed.
    now = Configurator(registry=registry, autocommit=True)
    now.add_request_method(dbsession, _NAME, reify=True)


def _listen(dbsession_factory: sessionmaker[Any]) -> None:
    """Let zope.sqlalchemy listen to all dbsessions of a sessionmaker, once."""
    # event.contains goes by id(), which may be that of a sessionmaker that's gone.
    if _LISTENS not in vars(dbsession_factory):
        vars(dbsession_factory)[_LISTENS] = True
        for name in _LISTENERS:
            event.listen(dbsession_factory, name, _PASS_ON[name])


def _passed_on(name: str) -> Callable[..., None]:
    def listener(subject: Any, *arguments: Any) -> None:
        dbsession = subject if isinstance(subject, Session) else subject.session
        events = dbsession.info.get(ZOPE_EVENTS)
        # A dbsession may be made without a transaction manager.
        if events is not None:
            getattr(events, name)(subject, *arguments)

    return listener


_PASS_ON = {name: _passed_on(name) for name in _LISTENERS}
