"""The mixins that a session model is made of, and functions that make one."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import JSON, BigInteger, Integer, LargeBinary, Uuid
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column, registry

from .exceptions import ConfigurationError
from .features.absolute import AbsoluteMixin, ConfigAbsoluteMixin
from .features.client_address import ClientAddressMixin
from .features.cookies import ConfigCookieMixin
from .features.csrf import CSRFMixin
from .features.idle import ConfigIdleMixin, IdleMixin
from .features.last_seen import LastSeenMixin
from .features.renewal import ConfigRenewalMixin, RenewalMixin
from .features.user_agent import UserAgentMixin
from .features.userid import UseridMixin

__all__ = [
    "BASE_COLUMNS",
    "AbsoluteMixin",
    "BaseMixin",
    "CSRFMixin",
    "ClientAddressMixin",
    "ConfigAbsoluteMixin",
    "ConfigCookieMixin",
    "ConfigIdleMixin",
    "ConfigRenewalMixin",
    "EncryptedDataMixin",
    "FullyFeaturedSession",
    "IdleMixin",
    "JSONDataMixin",
    "LastSeenMixin",
    "RenewalMixin",
    "UserAgentMixin",
    "UseridMixin",
    "create_session_model",
    "register_session_model",
]


#: The columns of BaseMixin.
BASE_COLUMNS = (
    "id",
    "created",
    "version",
    "data",
    "flash",
    "renewal_id",
    "rotated",
    "rotated_from",
    "sent",
)


class JSONDataMixin:
    """Store the session's dict as JSON instead of a pickle.

    Then other programs can read it. Keys must be strings; values can be JSON values,
    date, datetime, time, timedelta, Decimal, UUID, bytes and tuple.
    """


class EncryptedDataMixin:
    """Encrypt the session's dict and its flash messages in the table.

    Anyone who reads the table sees neither. Data that another program has written there
    is refused, and never unpickled. All other columns stay as they are.
    """


class BaseMixin:
    """The base of every session model.

    It adds the columns of a session that has an id, a dict, and flash messages. The
    other mixins of this module add features; their order doesn't matter.

    Rows are inserted without making an object of the class, so your own columns need a
    default or must be nullable.
    """

    if TYPE_CHECKING:
        id: Mapped[uuid.UUID]
        created: Mapped[int]
        version: Mapped[int]
        renewal_id: Mapped[uuid.UUID | None]
        rotated: Mapped[int | None]
        rotated_from: Mapped[uuid.UUID | None]
        sent: Mapped[int | None]

    id = mapped_column(Uuid, primary_key=True)
    #: When the session was made, in seconds since the epoch.
    created = mapped_column(BigInteger, nullable=False)
    #: How often the row was written: a write mustn't overwrite one that it hasn't seen.
    version = mapped_column(Integer, nullable=False)
    #: What the cookie carries besides the id; NULL until there is one.
    renewal_id = mapped_column(Uuid)
    #: When the cookie was last replaced by a rotation, in seconds since the epoch.
    rotated = mapped_column(BigInteger)
    #: The renewal id that this rotation replaced.
    rotated_from = mapped_column(Uuid)
    #: When a cookie with a max-age was last sent.
    sent = mapped_column(BigInteger)

    # SQLAlchemy would take an annotation for that of the attribute.
    @declared_attr
    def data(cls):  # type: ignore[no-untyped-def]
        """The session's dict: a pickle, or JSON with JSONDataMixin."""
        return _document(cls, JSONDataMixin)

    @declared_attr
    def flash(cls):  # type: ignore[no-untyped-def]
        """The flash messages: JSON, from names of queues to lists of messages."""
        return _document(cls, BaseMixin)


def _document(model_class: Any, in_json: type) -> Any:
    """Return a column: JSON for models with the mixin, and bytes for all others.

    Sealed columns are bytes, too.
    """
    if issubclass(model_class, in_json) and not issubclass(
        model_class, EncryptedDataMixin
    ):
        return mapped_column(JSON, nullable=False)
    # A plain BLOB of MariaDB and MySQL holds only 64 KiB.
    binary = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
    return mapped_column(binary, nullable=False)


class FullyFeaturedSession(
    ConfigCookieMixin,
    ConfigIdleMixin,
    ConfigAbsoluteMixin,
    ConfigRenewalMixin,
    UseridMixin,
    CSRFMixin,
    BaseMixin,
):
    """All features of version 0.1.0 together.

    It's convenient for trying things out. A model with just the mixins that it needs
    has fewer columns, and lets mistakes in the settings be found at start-up.
    """


def create_session_model(
    base: type[Any], *mixins: type[Any], table_name: str = "session"
) -> type[Any]:
    """Make a session model of the mixins, and map it.

    ``base`` is a declarative base. You don't have to give BaseMixin; your own mixins
    may add columns. The class is named after the table: ``AdminSession`` for
    ``admin_session``.

    Raises ConfigurationError if the base isn't a declarative base.
    """
    _registry_of(base)
    if isinstance(base, registry) or hasattr(base, "__mapper__"):
        raise ConfigurationError(
            f"base must be a declarative base to derive the model from, not {base!r}"
        )
    if not any(issubclass(mixin, BaseMixin) for mixin in mixins):
        mixins = (*mixins, BaseMixin)
    name = "".join(word.title() for word in re.split(r"[\W_]+", table_name))
    body = {"__tablename__": table_name, "__module__": base.__module__}
    return type(name, (*mixins, base), body)


_Model = TypeVar("_Model", bound=BaseMixin)


def register_session_model(
    base: registry | type[Any], model_class: type[_Model]
) -> type[_Model]:
    """Map a class that has BaseMixin, but no declarative base, among its bases.

    ``base`` is the registry to map it in, or a declarative base, which has one. The
    class needs a ``__tablename__``. Returns the class.

    Raises ConfigurationError if any of that is missing, or the class is already mapped.
    """
    mapped_in = _registry_of(base)
    what = getattr(model_class, "__qualname__", repr(model_class))
    if not (isinstance(model_class, type) and issubclass(model_class, BaseMixin)):
        raise ConfigurationError(f"{what} must have BaseMixin among its bases")
    if hasattr(model_class, "__mapper__"):
        raise ConfigurationError(f"{what} is already mapped")
    if not (hasattr(model_class, "__tablename__") or hasattr(model_class, "__table__")):
        raise ConfigurationError(f"{what} must have a __tablename__")
    mapped_in.map_declaratively(model_class)
    return model_class


def _registry_of(base: Any) -> registry:
    found = base if isinstance(base, registry) else getattr(base, "registry", None)
    if not isinstance(found, registry):
        raise ConfigurationError(
            f"base must be a declarative base or a registry of SQLAlchemy, not {base!r}"
        )
    return found
