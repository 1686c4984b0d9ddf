"""Turn an application's settings into the arguments of a session factory."""

from __future__ import annotations

import secrets
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any

from .exceptions import ConfigurationError
from .model import EncryptedDataMixin
from .serializer import (
    KEY_SIZES,
    AESGCMSerializer,
    can_be_guessed,
    key_from_text,
)
from .settings import (
    SETTINGS,
    shown,
    suggest,
)

__all__ = (
    "factory_args_from_settings",
    "generate_secret_key",
    "refuse_unknown_settings",
)

_REMEDY = "make one with the command pyramid_session_secret"


def factory_args_from_settings(
    settings: Mapping[str, Any],
    maybe_dotted: Callable[[Any], Any],
    prefix: str = "session.",
) -> dict[str, Any]:
    """Return an application's settings as arguments for `get_session_factory`.

    `settings` is what `config.get_settings()` returns, `maybe_dotted` is
    `config.maybe_dotted`: it turns a dotted name into what it names and returns
    anything else unchanged. The result has `serializer`, `model_class`, `prefix`, and
    the other settings that are given, as they are given. A setting that isn't given is
    not in the result (version 0.1.0 put its default there): the factory adds the
    defaults, and refuses what is given for a mixin that the model lacks. A model with
    `EncryptedDataMixin` gets the keys of `secret_key` as `data_keys`.

    Only names that start with `prefix` are read, and unknown ones are ignored. The
    prefix is in the result so that the factory's errors name a setting as your ini file
    does.

    Raises `ConfigurationError` if the secret key or the model class is missing or
    invalid. Nothing else is checked here: `get_session_factory` does that.
    """
    keys = _keys(settings, prefix)
    model_class = _model_class(settings, maybe_dotted, prefix)
    is_encrypted = issubclass(model_class, EncryptedDataMixin)
    return {
        "serializer": AESGCMSerializer(keys),
        "model_class": model_class,
        "prefix": prefix,
        **({"data_keys": keys} if is_encrypted else {}),
        **{
            setting.name: settings[prefix + setting.name]
            for setting in SETTINGS
            if prefix + setting.name in settings
        },
    }


def refuse_unknown_settings(
    settings: Mapping[str, Any], prefix: str = "session."
) -> None:
    """Raise `ConfigurationError` for a name with the prefix that isn't a setting."""
    if prefix + "serializer" in settings:
        raise ConfigurationError(
            f"{prefix}serializer cannot be given as a setting; give {prefix}secret_key,"
            " or make the factory by hand with get_session_factory(serializer,"
            " model_class)"
        )
    known = ["secret_key", "model_class", *(setting.name for setting in SETTINGS)]
    for name in settings:
        bare_name = name.removeprefix(prefix)
        if name.startswith(prefix) and bare_name not in known:
            raise ConfigurationError(
                f"{shown(name)} is not a setting; {suggest(bare_name, known, prefix)}"
                " (if another library reads it, make the factory by hand with"
                " session_factory_from_settings() and another prefix)"
            )


def generate_secret_key(size: int = 32) -> str:
    """Return a random key for the setting `secret_key`, as padded urlsafe base64 text.

    `size` is in bytes: 16, 24 or 32 for AES-128, AES-192 or AES-256. Raises ValueError
    for any other size.
    """
    if size not in KEY_SIZES:
        raise ValueError(f"size must be 16, 24 or 32 bytes, not {shown(size)}")
    return urlsafe_b64encode(secrets.token_bytes(size)).decode("ascii")


def _keys(settings: Mapping[str, Any], prefix: str) -> list[str]:
    """Return the keys as text. No error ever shows one."""
    text = settings.get(prefix + "secret_key")
    if text is None or text == "":
        raise ConfigurationError(f"{prefix}secret_key is missing; {_REMEDY}")
    keys = text.split() if isinstance(text, str) else []
    wrong = [n for n, key in enumerate(keys, 1) if key_from_text(key) is None]
    if not keys or wrong:
        where = "" if len(keys) < 2 else f", and part {wrong[0]} of {len(keys)} isn't"
        raise ConfigurationError(
            f"{prefix}secret_key must be the urlsafe base64 text of 16, 24 or 32 bytes,"
            f" or several such keys separated by white space{where}; {_REMEDY}"
            + (". In an ini file, comments need lines of their own" if where else "")
        )
    if any(map(can_be_guessed, keys)):
        raise ConfigurationError(
            f"{prefix}secret_key must be random, but repeats a few characters over and"
            f" over, so that it can be guessed; {_REMEDY}"
        )
    return keys


def _model_class(
    settings: Mapping[str, Any], maybe_dotted: Callable[[Any], Any], prefix: str
) -> type[Any]:
    rule = f"{prefix}model_class must be the session model or its dotted name"
    given = settings.get(prefix + "model_class")
    if isinstance(given, str):
        given = given.strip()
    if given is None or given == "":
        raise ConfigurationError(f"{prefix}model_class is missing; {rule}")
    try:
        model_class = maybe_dotted(given)
    except Exception as error:
        # Pyramid raises ValueError and IndexError too, and a module that is imported
        # here may raise anything.
        raise ConfigurationError(
            f"{rule}; {shown(given)} cannot be imported: {_cause(given, error)}"
        ) from error
    if not isinstance(model_class, type):
        raise ConfigurationError(f"{rule}; {shown(given)} is not a class")
    return model_class


def _cause(dotted: object, error: Exception) -> str:
    """Say why a dotted name can't be imported.

    If only its last part is missing, Python talks about a module of that name, although
    the application means a class.
    """
    module_name, _, name = str(dotted).replace(":", ".").rpartition(".")
    module = sys.modules.get(module_name)
    if module is None or hasattr(module, name):
        return str(error)
    if not hasattr(module, "__path__"):
        return f"the module {module_name} has no {name}"
    return (
        f"the package {module_name} has no {name}: import the class in its __init__.py,"
        f" or give the name of its module, too, as in {module_name}.MODULE.{name}"
    )
