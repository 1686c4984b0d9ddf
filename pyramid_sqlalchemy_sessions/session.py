"""The session, and the factory that makes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from pyramid.interfaces import ISession, ISessionFactory
from zope.interface import implementer

from .config import SessionConfig, factory_args_from_settings
from .exceptions import InconsistentDataError
from .features.csrf import CSRF, TOKEN_SIZE, new_token
from .features.userid import Userid
from .record import Record, json_text
from .serializer import Serializer
from .settings import DefaultSettings, SessionSettings
from .unit import watch_dbsessions
from .visit import Visit

__all__ = [
    "Session",
    "SessionFactory",
    "get_session_factory",
    "session_factory_from_settings",
]

#: Types whose values cannot change, and are equal only if they are stored alike.
_PLAIN = frozenset({str, int, bool, bytes, type(None)})


@implementer(ISession)
class Session(MutableMapping[Any, Any]):
    """A web session: a dict that is stored with the request's transaction.

    Nothing happens before the first use, and nothing is written before the commit.
    A mutable value may be changed in place: that is noticed.

    Any use raises ConfigurationError if there is no dbsession, InconsistentDataError if
    the row contradicts the settings. A change raises TransactionRequiredError where
    nothing can store it any more. The commit raises TypeError for a value that cannot
    be stored, ValueError for too much of it, and SQLAlchemy's StaleDataError if another
    request has written meanwhile.
    """

    __slots__ = ("_config", "_request", "_settings", "_visit")

    def __init__(self, config: SessionConfig, request: Any):
        self._config = config
        self._request = request
        self._visit: Visit | None = None
        self._settings: SessionSettings | None = None

    def _read(self) -> Record:
        """The only lazy point: here the cookie is read and the row is loaded."""
        visit = self._visit
        if visit is None:
            visit = self._visit = Visit(self._config, self._request)
        return visit.read()

    def _write(self) -> Record:
        record = self._read()
        assert self._visit is not None
        self._visit.touch(record)
        return record

    # The dict.

    def __getitem__(self, key: Any) -> Any:
        record = self._read()
        value = record.data.read()[key]
        if type(value) not in _PLAIN:
            self._expose(record)
        return value

    def _expose(self, record: Record) -> None:
        """Look for changes later: somebody gets hold of a value that can change."""
        assert self._visit is not None
        self._visit.expose(record)

    def __setitem__(self, key: Any, value: Any) -> None:
        record = self._read()
        document = record.data
        document.check_keys((key,))
        data = document.read()
        assert self._visit is not None
        if key in data and _is_same(data[key], value):
            self._visit.use(record)
        else:
            self._visit.touch(record)
            document.write()[key] = value

    def __delitem__(self, key: Any) -> None:
        record = self._write()
        del record.data.read()[key]
        record.data.write()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read().data.read())

    def __len__(self) -> int:
        return len(self._read().data.read())

    def __contains__(self, key: object) -> bool:
        return key in self._read().data.read()

    def __reversed__(self) -> Iterator[Any]:
        return iter(reversed(self._read().data.read()))

    def __bool__(self) -> bool:
        return bool(self._read().data.read())

    def __repr__(self) -> str:
        return f"<session of {self._config.table.model_class.__qualname__}>"

    def update(self, *args: Any, **kw: Any) -> None:
        """Take over all pairs of a mapping, or of an iterable of pairs."""
        changes = dict(*args, **kw)
        document = self._write().data
        document.check_keys(changes)
        data = document.read()
        differing = {
            key: value
            for key, value in changes.items()
            if not (key in data and _is_same(data[key], value))
        }
        if differing:
            document.write().update(differing)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove a key and return its value, or the default if it is missing."""
        record = self._read()
        assert self._visit is not None
        if key in record.data.read():
            self._visit.touch(record)
            return record.data.write().pop(key)
        self._visit.use(record)
        return {}.pop(key, *default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key, which becomes the default if it is missing."""
        record = self._read()
        assert self._visit is not None
        if key in record.data.read():
            self._visit.use(record)
        else:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Remove all keys. Flash messages, user and CSRF token stay."""
        if self._write().data.read():
            self._read().data.write().clear()

    def popitem(self) -> tuple[Any, Any]:
        """Remove and return the pair that was added last."""
        document = self._write().data
        pair = document.read().popitem()
        document.write()
        return pair

    # ISession.

    @property
    def created(self) -> int:
        """When the session was made, in seconds since the epoch."""
        created: int = self._read().values["created"]
        return created

    @property
    def new(self) -> bool:
        """Whether the session is not stored yet."""
        return self._read().key is None

    def changed(self) -> None:
        """Store the session even if no difference can be seen."""
        self._write().forced = True

    def invalidate(self) -> None:
        """Delete the session and all it holds, with its cookie, when this commits.

        From now on this is another, new session.
        """
        self._write().deleted = True
        self._read()
        if self._settings is not None:
            self._settings.discard()

    def rotate(self) -> None:
        """Give the session a new id and a new CSRF token, keeping its data.

        The old id is dead after the commit, and the response carries the new one.
        Do it whenever the rights of the session grow; a change of ``userid`` does it
        by itself. A new session has nothing to rotate. (OWASP ASVS 5.0, 7.2.4: the
        application generates a new session token on user authentication, including
        re-authentication, and terminates the current session token.)
        """
        self._write().rotate()

    @property
    def settings(self) -> SessionSettings:
        """The settings of this session: attributes, and a mapping.

        A new session may change those for which the model has a Config mixin. Times
        are in seconds.
        """
        if self._settings is None:
            self._settings = SessionSettings(self._read, self._write)
        return self._settings

    @property
    def instance(self) -> Any:
        """The mapped object of the session, None while the session is new.

        The library's columns on it are for reading; the model's own may be edited.
        """
        self._read()
        assert self._visit is not None
        return self._visit.instance()

    # Flash messages.

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Add a message, any JSON value, to the end of a queue.

        Without ``allow_duplicate`` a message that is in the queue is not added again.
        TypeError for what is no JSON value.
        """
        if not isinstance(queue, str):
            raise TypeError(f"the name of a flash queue is a str, not {queue!r}")
        msg, queue = _json_value(msg), _json_value(queue)
        document = self._write().flash
        if allow_duplicate or msg not in document.read().get(queue, ()):
            document.write().setdefault(queue, []).append(msg)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Remove a queue and return its messages."""
        record = self._read()
        if queue not in record.flash.read():
            return []
        messages: list[Any] = self._write().flash.write().pop(queue)
        return messages

    def peek_flash(self, queue: str = "") -> list[Any]:
        """Return the messages of a queue and leave them there."""
        messages = self._read().flash.read().get(queue, ())
        return [_json_value(message) for message in messages]

    # CSRF token and user.

    def new_csrf_token(self) -> str:
        """Draw a new CSRF token: 20 random bytes as padded urlsafe base64.

        NotImplementedError without CSRFMixin.
        """
        self._require(CSRF)
        token = self._write().values["csrf_token"] = new_token()
        return _token_text(token)

    def get_csrf_token(self) -> str:
        """Return the CSRF token, a new one if there is none.

        NotImplementedError without CSRFMixin.
        """
        self._require(CSRF)
        token = self._read().values["csrf_token"]
        if token is None:
            return self.new_csrf_token()
        if len(token) != TOKEN_SIZE:
            raise InconsistentDataError(
                f"the column 'csrf_token' of a stored session holds no {TOKEN_SIZE}"
                " bytes: was it written by another program? Set it to NULL"
            )
        return _token_text(token)

    @property
    def userid(self) -> Any:
        """The id of the user who is logged in, or None.

        Setting another one rotates the session (see ``rotate``), the cure for session
        fixation. NotImplementedError without UseridMixin.
        """
        self._require(Userid)
        return self._read().values["userid"]

    @userid.setter
    def userid(self, userid: Any) -> None:
        self._require(Userid)
        record = self._write()
        if record.values["userid"] != userid:
            record.values["userid"] = userid
            record.rotate()

    def _require(self, feature: type[CSRF] | type[Userid]) -> None:
        if not self._config.has(feature):
            raise NotImplementedError(self._config.lacking(feature))


def _is_same(present: Any, value: Any) -> bool:
    """Tell whether this is the very value that is there, as far as a glance tells."""
    kind: type[Any] = type(value)
    return kind in _PLAIN and type(present) is kind and bool(present == value)


def _json_value(message: Any) -> Any:
    """Return a copy of the message, as it will come back from the database."""
    try:
        if type(message) is str:
            message.encode()
            return message
        return json.loads(json_text(message))
    except (TypeError, ValueError, RecursionError) as exc:
        raise TypeError(f"a flash message must be a JSON value: {exc}") from exc


def _token_text(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).decode("ascii")


@implementer(ISessionFactory)
class SessionFactory:
    """Makes the session of a request.

    ``model_class`` is the model, ``settings`` are the settings, ``mixins`` the names of
    the features; other add-ons read the name of the cookie from ``_cookie_name``.
    """

    def __init__(self, config: SessionConfig):
        self._config = config
        self.model_class: type[Any] = config.table.model_class
        self.settings: DefaultSettings = config.settings
        self._cookie_name = config.settings.cookie_name

    @property
    def mixins(self) -> tuple[str, ...]:
        """The names of the mixins that give features to the model."""
        return tuple(each.mixin.__name__ for each in self._config.features)

    def __call__(self, request: Any) -> Session:
        return Session(self._config, request)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} of {self.model_class.__qualname__}>"


def get_session_factory(
    serializer: Serializer, model_class: type, **kw: Any
) -> SessionFactory:
    """Make a session factory, for ``config.set_session_factory``.

    ``serializer`` encrypts the cookie: an AESGCMSerializer. ``model_class`` is the
    model. The other arguments are settings, as text or as Python values. Raises
    ConfigurationError, which names the setting, its value and what would be valid.
    """
    watch_dbsessions()
    return SessionFactory(SessionConfig.make(serializer, model_class, kw))


def session_factory_from_settings(
    settings: Mapping[str, Any],
    maybe_dotted: Callable[[Any], Any],
    prefix: str = "session.",
) -> SessionFactory:
    """Make a session factory from the settings of an application.

    The arguments are those of ``factory_args_from_settings``. Names that begin with the
    prefix and are no settings are passed over. Raises ConfigurationError for a setting
    that is missing or invalid.
    """
    return get_session_factory(
        **factory_args_from_settings(settings, maybe_dotted, prefix)
    )
