"""The samples of settings.rst."""

from pyramid.csrf import SessionCSRFStoragePolicy

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    get_session_factory,
    session_factory_from_settings,
)
from pyramid_sqlalchemy_sessions.secret import hide_secret


def with_prefix(config):
    settings = config.get_settings()
    factory = session_factory_from_settings(
        settings, config.maybe_dotted, prefix="websession."
    )
    hide_secret(settings, "websession.")
    config.set_session_factory(factory)
    finish(config)


def by_hand(config, keys, model):
    factory = get_session_factory(AESGCMSerializer(keys), model, idle_timeout=1200)
    config.set_session_factory(factory)
    finish(config)


def finish(config):
    config.include("pyramid_sqlalchemy_sessions.view_options")
    config.get_settings().setdefault("tm.annotate_user", False)
    # If the model has no CSRFMixin:
    config.set_csrf_storage_policy(SessionCSRFStoragePolicy())
