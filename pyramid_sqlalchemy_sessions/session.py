"""The session, and the factory that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from uuid import UUID

from pyramid.interfaces import ISession, ISessionFactory
from zope.interface import implementer

from .codec import copy_message
from .config import factory_args_from_settings
from .exceptions import InconsistentDataError
from .features.csrf import CSRF
from .features.userid import Userid, userid_for
from .host import csrf_key_of
from .identifiers import TOKEN_SIZE, new_token, token_text
from .serializer import Serializer
from .session_config import SessionConfig
from .session_dict import SessionDict, Visitor
from .session_settings import SessionSettings
from .settings import DefaultSettings
from .state import State
from .traced_visit import visit_for
from .upkeep import end_of
from .watch import watch_dbsessions

__all__ = [
    "Session",
    "SessionFactory",
    "get_session_factory",
    "session_factory_from_settings",
]


@implementer(ISession)
class Session(SessionDict):
    """A web session: a mapping, not a dict, stored in the request's transaction.

    Nothing happens before the first use, and nothing is written before the commit.
    Mutable values may be changed in place: that's noticed.

    Any use raises ConfigurationError if there is no dbsession, InconsistentDataError if
    what it needs of the row can't be read. A change raises TransactionRequiredError
    where nothing can store it any more. The commit raises TypeError for a value that
    can't be stored, ValueError for one that's too large, and SQLAlchemy's
    StaleDataError if another request has changed what this one has read or changed.
    """

    __slots__ = ("_settings",)

    def __init__(self, config: SessionConfig, visitor: Callable[[], Visitor]):
        super().__init__(config, visitor)
        self._settings: SessionSettings | None = None

    @property
    def model_class(self) -> type[Any]:
        """The model that the session is stored with."""
        return self._config.table.model_class

    # ISession.

    @property
    def id(self) -> UUID:
        """The session's id, the same for its whole life.

        A new session gets its id when it's first asked for. It isn't the secret in the
        cookie, but there's no reason to show it to anyone.
        """
        key: UUID = self._read().id
        return key

    @property
    def created(self) -> int:
        """When the session was made, in seconds since the epoch."""
        created: int = self._read().values["created"]
        return created

    @property
    def new(self) -> bool:
        """Whether the session isn't stored yet."""
        return self._read().loaded is None

    @property
    def is_late(self) -> bool:
        """Whether the request's cookie was replaced while it was on its way.

        Then the session is empty, and only a login or a logout has any effect.
        """
        return self._read().late is not None

    def changed(self) -> None:
        """Store the session even if no difference can be seen."""
        self._write().is_forced = True

    def persist(self) -> None:
        """Flush the dbsession and write the session now, so that its row is there.

        Then rows can refer to ``session.id``. The session's row is locked until the
        transaction ends. Raises TransactionRequiredError without a transaction.
        """
        self._begin().persist()

    def invalidate(self) -> None:
        """Delete the session and all its data, with its cookie, when this commits.

        From now on, this is another, new session. (OWASP ASVS 5.0, 7.4.1.)
        """
        self._write().end(self._begin().request)
        if self._settings is not None:
            self._settings.discard()

    def rotate(self) -> None:
        """Replace the cookie and the CSRF token; the session keeps id and data.

        Once this has committed, the old cookie gives no access, and the response
        carries the new one. Call it whenever the session's rights grow; changing
        ``userid`` does it by itself. A new session has nothing to rotate. (OWASP ASVS
        5.0, 7.2.4: the application generates a new session token on user
        authentication, including re-authentication, and terminates the current one.)
        """
        self._rotate(self._write())

    def _rotate(self, state: State) -> None:
        request = self._begin().request
        state.rotate(request)
        if state.loaded is None:
            return
        if state.values.get("csrf_token") is not None:
            state.assign({"csrf_token": new_token()})
        key = csrf_key_of(request)
        if key is not None:
            try:
                if state.data.has(key):
                    state.data.set(key, token_text(new_token()))
            except InconsistentDataError:  # then the token can't be read either
                pass

    @property
    def settings(self) -> SessionSettings:
        """The settings of this session: attributes, and a mapping.

        Those for which the model has a Config mixin can be changed. Times are in
        seconds.
        """
        if self._settings is None:
            self._settings = SessionSettings(self._begin, self._rotate)
        return self._settings

    @property
    def instance(self) -> Any:
        """The mapped object of the session, or None while the session is new.

        It's one object for the whole transaction. The library's columns on it are
        read-only: changing them is refused at the flush. You can change your own.
        """
        return self._begin().instance()

    # Flash messages.

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Add a message, any JSON value, to the end of a queue.

        Without ``allow_duplicate``, a message that's already in the queue isn't added
        again. Raises TypeError for anything that isn't a JSON value.
        """
        if not isinstance(queue, str):
            raise TypeError(f"the name of a flash queue must be a str, not {queue!r}")
        message, queue = copy_message(msg), copy_message(queue)
        flash = self._write().flash
        if allow_duplicate or message not in flash.peek(queue):
            flash.push(queue, message)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Remove a queue and return its messages."""
        return self._write().flash.pop(queue) if self.peek_flash(queue) else []

    def peek_flash(self, queue: str = "") -> list[Any]:
        """Return the messages of a queue and leave them there."""
        return self._read().flash.peek(queue)

    # CSRF token and user.

    def new_csrf_token(self) -> str:
        """Draw a new CSRF token: 20 random bytes as padded urlsafe base64.

        Raises NotImplementedError without CSRFMixin.
        """
        self._require(CSRF)
        token = new_token()
        self._write().assign({"csrf_token": token})
        return token_text(token)

    def get_csrf_token(self) -> str:
        """Return the CSRF token, or a new one if there isn't one yet.

        Raises NotImplementedError without CSRFMixin.
        """
        self._require(CSRF)
        token = self._read().get("csrf_token")
        if token is None:
            return self.new_csrf_token()
        if len(token) != TOKEN_SIZE:
            raise InconsistentDataError(
                "the column 'csrf_token' of a stored session doesn't hold"
                f" {TOKEN_SIZE} bytes: was it written by another program? Set it"
                " to NULL"
            )
        return token_text(token)

    @property
    def userid(self) -> Any:
        """The id of the user who is logged in, or None.

        Setting another one rotates the session (see ``rotate``), which prevents session
        fixation. When one user replaces another, the dict and the flash messages are
        emptied. Text is converted if the column is an integer or a UUID; anything else
        that isn't of the column's type raises TypeError. Raises NotImplementedError
        without UseridMixin.
        """
        self._require(Userid)
        return self._read().get("userid")

    @userid.setter
    def userid(self, userid: Any) -> None:
        self._require(Userid)
        userid = userid_for(self._config.table, userid, lambda: self._begin().dbsession)
        state = self._write()
        was = state.get("userid")
        if state.late is not None and userid is None:
            state.end(self._begin().request)
        elif was != userid:
            if was is not None and userid is not None:
                state.forget()
            state.assign({"userid": userid, "authenticated": None})
            self._rotate(state)

    @property
    def authenticated(self) -> int | None:
        """When the user last proved who they are, in seconds since the epoch.

        It's None if no user is logged in, or ``remember`` wasn't called. Raises
        NotImplementedError without UseridMixin.
        """
        self._require(Userid)
        authenticated: int | None = self._read().get("authenticated")
        return authenticated

    def authenticate(self, userid: Any) -> None:
        """Log a user in who has just proved who they are; ``remember`` calls this.

        It also rotates the session if it's the same user again. (OWASP ASVS 5.0,
        7.2.4.) Raises NotImplementedError without UseridMixin.
        """
        was = self.userid
        self.userid = userid
        state = self._write()
        if state.get("userid") is not None:
            if state.get("userid") == was:
                self._rotate(state)
            state.assign({"authenticated": self._config.clock()})

    def is_fresh(self, seconds: int) -> bool:
        """Tell whether the user has proved who they are in the last ``seconds``.

        (OWASP ASVS 5.0, 7.5.1: full re-authentication before sensitive changes.) Raises
        NotImplementedError without UseridMixin.
        """
        authenticated = self.authenticated
        return authenticated is not None and (
            abs(self._config.clock() - authenticated) <= seconds
        )

    @property
    def expires(self) -> int | None:
        """When the session ends if it isn't used again, in seconds since the epoch.

        It's None if the session never ends, and for a new session.
        """
        state = self._read()
        if state.loaded is None:
            return None
        return end_of(state, self._begin().foresee(state))

    def _require(self, feature: type[CSRF] | type[Userid]) -> None:
        if not self._config.has(feature):
            raise NotImplementedError(self._config.lacking(feature))


@implementer(ISessionFactory)
class SessionFactory:
    """Makes the session of a request.

    It has ``model_class``, ``settings``, and the names of the model's ``mixins``. Other
    add-ons read the cookie's name from ``_cookie_name``.
    """

    def __init__(self, config: SessionConfig):
        #: For the library's own modules.
        self.config: SessionConfig = config
        self.model_class: type[Any] = config.table.model_class
        self.settings: DefaultSettings = config.settings
        self._cookie_name = config.settings.cookie_name

    @property
    def mixins(self) -> tuple[str, ...]:
        """The names of the mixins that give features to the model."""
        return tuple(each.mixin.__name__ for each in self.config.features)

    def __call__(self, request: Any) -> Session:
        return Session(self.config, partial(visit_for, self.config, request))

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} of {self.model_class.__qualname__}>"


def get_session_factory(
    serializer: Serializer, model_class: type, **kw: Any
) -> SessionFactory:
    """Make a session factory, for ``config.set_session_factory``.

    ``serializer``, an AESGCMSerializer, encrypts the cookie. ``model_class`` is the
    model; with EncryptedDataMixin, ``data_keys`` is what AESGCMSerializer takes. All
    other arguments are settings, as text or Python values. Raises ConfigurationError,
    which spells settings like your ini file if you pass ``prefix="session."``.
    """
    watch_dbsessions()
    return SessionFactory(SessionConfig.make(serializer, model_class, kw))


def session_factory_from_settings(
    settings: Mapping[str, Any],
    maybe_dotted: Callable[[Any], Any],
    prefix: str = "session.",
) -> SessionFactory:
    """Make a session factory from the settings of an application.

    The arguments are those of ``factory_args_from_settings``, which says what
    ``prefix`` does. Names that aren't settings are ignored. Raises ConfigurationError
    for a setting that is missing or invalid.
    """
    args = factory_args_from_settings(settings, maybe_dotted, prefix)
    return get_session_factory(**args)
