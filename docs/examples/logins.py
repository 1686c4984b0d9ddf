"""The samples of logging-in.rst: logins and new passwords at the same moment."""

from pyramid.httpexceptions import HTTPForbidden, HTTPSeeOther
from pyramid.security import remember
from sqlalchemy import Integer, String, select, update
from sqlalchemy.orm import DeclarativeBase, mapped_column

from pyramid_sqlalchemy_sessions import BaseMixin, UseridMixin


class Base(DeclarativeBase):
    pass


class WebSession(UseridMixin, BaseMixin, Base):
    __tablename__ = "session"

    userid = mapped_column(Integer, index=True)


class User(Base):
    __tablename__ = "users"

    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String(50), unique=True, nullable=False)
    password_hash = mapped_column(String(200), nullable=False)


def is_right(dbsession, user, password):
    if user is None or not user.has_password(password):
        return False
    known = user.password_hash
    # The lock: an UPDATE of any column, because SQLite has no FOR UPDATE.
    dbsession.execute(update(User).where(User.id == user.id).values(name=User.name))
    query = select(User.password_hash).where(User.id == user.id)
    return dbsession.scalar(query.with_for_update(key_share=True)) == known


def log_in(request):
    dbsession, form = request.dbsession, request.POST
    user = dbsession.scalar(select(User).where(User.name == form["name"]))
    if not is_right(dbsession, user, form["password"]):
        raise HTTPForbidden
    remember(request, user.id)
    request.session_store.limit_user(user.id, 3, keep=request.session)
    return HTTPSeeOther("/")


def change_password(request):
    dbsession, form = request.dbsession, request.POST
    user = dbsession.scalar(select(User).where(User.id == request.session.userid))
    if not is_right(dbsession, user, form["old"]):
        raise HTTPForbidden
    user.set_password(form["new"])
    remember(request, user.id)
    request.session_store.revoke_user(user.id, keep=request.session)
    return HTTPSeeOther("/")
