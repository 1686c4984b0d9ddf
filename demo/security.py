"""Who is who: a security policy on top of the session's ``userid``."""

from __future__ import annotations

import re
from typing import Any

from pyramid.request import RequestLocalCache
from pyramid.security import Allowed, Denied
from sqlalchemy import select, update

from pyramid_sqlalchemy_sessions import UserSessionAuthenticationHelper

from .models import User


class SecurityPolicy:
    """Let anyone who is logged in see everything.

    The helper keeps the user's id in the session. Logging in replaces the session's
    cookie, logging out deletes the session.
    """

    def __init__(self) -> None:
        self._helper = UserSessionAuthenticationHelper()
        self._identities = RequestLocalCache(self._load_identity)

    def _load_identity(self, request: Any) -> User | None:
        userid = self._helper.authenticated_userid(request)
        return None if userid is None else request.dbsession.get(User, userid)

    def identity(self, request: Any) -> User | None:
        return self._identities.get_or_create(request)

    def authenticated_userid(self, request: Any) -> int | None:
        user = self.identity(request)
        return None if user is None else user.id

    def permits(self, request: Any, context: Any, permission: str) -> Allowed | Denied:
        if self.identity(request) is None:
            return Denied("No user is logged in.")
        return Allowed("A user is logged in.")

    def remember(self, request: Any, userid: int, **kw: Any) -> list[Any]:
        return self._helper.remember(request, userid, **kw)

    def forget(self, request: Any, **kw: Any) -> list[Any]:
        return self._helper.forget(request, **kw)


#: Its password is checked when there's no user with a name, so that the time a login
#: takes doesn't tell which names exist.
_NOBODY = User(name="nobody")
_NOBODY.set_password("nobody")


def find_user(dbsession: Any, name: str, password: str) -> User | None:
    """Return the user with this name and password, or None."""
    user = dbsession.scalars(select(User).where(User.name == name)).one_or_none()
    is_right = (user or _NOBODY).has_password(password)
    if user is None or not is_right or not is_unchanged(dbsession, user):
        return None
    return user


def is_unchanged(dbsession: Any, user: User) -> bool:
    """Lock the user's row, and tell whether the password is still the one checked.

    A login that has checked the old password waits for a change, and then fails. The
    lock is an UPDATE because SQLite has no FOR UPDATE.
    """
    known = user.password_hash
    dbsession.execute(update(User).where(User.id == user.id).values(name=User.name))
    query = select(User.password_hash).where(User.id == user.id)
    return dbsession.scalar(query.with_for_update(key_share=True)) == known


def path_of_this_site(url: str | None, default: str) -> str:
    """Return ``url`` if it's a path of this site, else ``default``.

    A login page that redirects wherever its ``next`` says helps phishers. ``//host``
    and, in browsers, ``/\\host`` lead to another site, too.
    """
    if url and re.fullmatch(r"/(?!/)[!-\[\]-~]*", url):
        return url
    return default
