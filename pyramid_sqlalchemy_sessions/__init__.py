"""Server-side sessions for Pyramid, in the application's database and transaction."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyramid.csrf import LegacySessionCSRFStoragePolicy, SessionCSRFStoragePolicy
from pyramid.interfaces import (
    IApplicationCreated,
    ICSRFStoragePolicy,
    ISessionFactory,
)

from .authn import UserSessionAuthenticationHelper, UserSessionAuthenticationPolicy
from .config import (
    factory_args_from_settings,
    generate_secret_key,
    refuse_unknown_settings,
)
from .events import (
    CookieCryptoErrorEvent,
    InvalidCookieErrorEvent,
    RenewalViolationEvent,
    SessionCreatedEvent,
    SessionEvent,
    SessionExpiredEvent,
    SessionRevokedEvent,
    SessionRotatedEvent,
    SessionsCollectedEvent,
)
from .exceptions import (
    ConfigurationError,
    CookieCryptoError,
    InconsistentDataError,
    InvalidCookieError,
    SettingsError,
    TransactionRequiredError,
)
from .host import dbsession_of
from .model import (
    AbsoluteMixin,
    BaseMixin,
    ClientAddressMixin,
    ConfigAbsoluteMixin,
    ConfigCookieMixin,
    ConfigIdleMixin,
    ConfigRenewalMixin,
    CSRFMixin,
    EncryptedDataMixin,
    FullyFeaturedSession,
    IdleMixin,
    JSONDataMixin,
    LastSeenMixin,
    RenewalMixin,
    UserAgentMixin,
    UseridMixin,
    create_session_model,
    register_session_model,
)
from .serializer import AESGCMSerializer, Serializer
from .session import (
    Session,
    SessionFactory,
    get_session_factory,
    session_factory_from_settings,
)

if TYPE_CHECKING:
    from .store import AsyncSessionStore, SessionStore, StoredSession
    from .testing import DummySession, later, rolled_back
    from .view_options import FreshLoginRequired

__all__ = [
    "AESGCMSerializer",
    "AbsoluteMixin",
    "AsyncSessionStore",
    "BaseMixin",
    "CSRFMixin",
    "ClientAddressMixin",
    "ConfigAbsoluteMixin",
    "ConfigCookieMixin",
    "ConfigIdleMixin",
    "ConfigRenewalMixin",
    "ConfigurationError",
    "CookieCryptoError",
    "CookieCryptoErrorEvent",
    "DummySession",
    "EncryptedDataMixin",
    "FreshLoginRequired",
    "FullyFeaturedSession",
    "IdleMixin",
    "InconsistentDataError",
    "InvalidCookieError",
    "InvalidCookieErrorEvent",
    "JSONDataMixin",
    "LastSeenMixin",
    "RenewalMixin",
    "RenewalViolationEvent",
    "Serializer",
    "Session",
    "SessionCreatedEvent",
    "SessionEvent",
    "SessionExpiredEvent",
    "SessionFactory",
    "SessionRevokedEvent",
    "SessionRotatedEvent",
    "SessionStore",
    "SessionsCollectedEvent",
    "SettingsError",
    "StoredSession",
    "TransactionRequiredError",
    "UserAgentMixin",
    "UserSessionAuthenticationHelper",
    "UserSessionAuthenticationPolicy",
    "UseridMixin",
    "create_session_model",
    "factory_args_from_settings",
    "generate_secret_key",
    "get_session_factory",
    "includeme",
    "later",
    "register_session_model",
    "rolled_back",
    "session_factory_from_settings",
]

#: The version, which is written here only: setup.cfg and the documentation read it.
__version__ = "1.0.0"

#: The modules of names that are imported on first use, as requests don't need them.
_LATER = {
    "AsyncSessionStore": "store",
    "DummySession": "testing",
    "FreshLoginRequired": "view_options",
    "SessionStore": "store",
    "StoredSession": "store",
    "later": "testing",
    "rolled_back": "testing",
}


def _import_later(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return value


# A type checker that sees a __getattr__ accepts any name at all.
if not TYPE_CHECKING:  # pragma: no branch
    __getattr__ = _import_later


#: After everything that an application configures.
_LAST = 1_000_000


def includeme(config: Any) -> None:
    """Set up the sessions of an application from its ``session.*`` settings.

    Requests get ``session`` and ``session_store``, a SessionStore on their dbsession.

    ``session.secret_key`` and ``session.model_class`` are required. Raises
    ConfigurationError for a setting that is unknown, missing or invalid.

    Two things change in Pyramid. ``tm.annotate_user`` becomes false unless the
    application has set it, because annotation would load the session in every request.
    And if the model has no CSRFMixin, Pyramid's default CSRF storage policy, which
    needs it, is replaced by Pyramid's SessionCSRFStoragePolicy, which keeps the token
    in the session's dict; any other policy stays.

    ``session.secret_key`` keeps its value, but shows as "(hidden)" from now on.
    Pyramid's introspection has the sessions in its category "sessions".
    """
    # If the package itself imported it, "python -m pyramid_sqlalchemy_sessions.secret"
    # would start with a RuntimeWarning.
    from .secret import hide_secret

    settings = config.get_settings()
    refuse_unknown_settings(settings)
    factory = session_factory_from_settings(settings, config.maybe_dotted)
    hide_secret(settings)
    config.set_session_factory(factory)
    config.add_request_method(_session_store, "session_store", reify=True)
    config.include(".view_options")
    config.action(None, introspectables=(_introspectable(config, factory),))
    settings.setdefault("tm.annotate_user", False)
    if not issubclass(factory.model_class, CSRFMixin):
        registry = config.registry
        config.action(None, _keep_token_in_dict, (registry,), order=_LAST)
        registry.registerHandler(_on_application_created, (IApplicationCreated,))


def _session_store(request: Any) -> SessionStore:
    """Return a store for the sessions that ``request.session`` is one of."""
    from .store import SessionStore
    from .store_base import config_of

    factory = request.registry.queryUtility(ISessionFactory)
    config = config_of(factory)
    dbsession = dbsession_of(request, config.settings.dbsession_name)
    return SessionStore(dbsession, factory)


def _introspectable(config: Any, factory: SessionFactory) -> Any:
    """Return what Pyramid's introspection says about the sessions."""
    model, settings = factory.model_class, factory.settings
    told = config.introspectable(
        "sessions", model, f"{model.__qualname__} in {settings.cookie_name}", "sessions"
    )
    told.update(
        factory=factory,
        model_class=model,
        cookie_name=settings.cookie_name,
        mixins=factory.mixins,
        settings=settings,
    )
    return told


def _on_application_created(event: Any) -> None:
    """Replace the policy that was set after the actions were executed.

    The handler removes itself. A registry with any handler makes every request slower,
    so ``has_listeners`` becomes what it would be without this one.
    """
    registry = event.app.registry
    _keep_token_in_dict(registry)
    registry.unregisterHandler(_on_application_created, (IApplicationCreated,))
    registry.has_listeners = any(registry.registeredHandlers()) or any(
        registry.registeredSubscriptionAdapters()
    )


def _keep_token_in_dict(registry: Any) -> None:
    policy = registry.queryUtility(ICSRFStoragePolicy)
    if type(policy) is LegacySessionCSRFStoragePolicy:
        registry.registerUtility(SessionCSRFStoragePolicy(), ICSRFStoragePolicy)
