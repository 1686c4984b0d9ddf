"""Samples of using-the-session.rst and logging-in.rst: other sessions."""

from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.paster import get_appsettings
from pyramid.path import DottedNameResolver
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    LastSeenMixin,
    SessionStore,
    UserAgentMixin,
    UseridMixin,
    session_factory_from_settings,
)


class Base(DeclarativeBase):
    pass


class WebSession(LastSeenMixin, UserAgentMixin, UseridMixin, BaseMixin, Base):
    __tablename__ = "session"


def devices(request):
    session = request.session
    return [
        {
            "id": each.id,
            "name": each.user_agent,
            "since": each.created,
            "last_seen": each.last_seen,
            "is_this": each is session.instance,
        }
        for each in request.session_store.of_user(session.userid)
    ]


def log_out_device(request):
    for each in request.session_store.of_user(request.session.userid):
        if str(each.id) == request.POST["id"]:
            request.session_store.delete(each.id)
            return HTTPSeeOther("/devices")
    raise HTTPNotFound


def users_who_are_here(request):
    query = select(func.count(WebSession.userid.distinct()))
    return request.dbsession.scalar(query.where(~request.session_store.expired))


def ban(env, userid):
    request = env["request"]
    with request.tm:
        request.session_store.revoke_user(userid)


def make_factory():
    settings = get_appsettings("production.ini")
    resolver = DottedNameResolver()
    return session_factory_from_settings(settings, resolver.maybe_resolve)


def finish_report(make_dbsession, factory, session_id, path):
    with make_dbsession.begin() as dbsession:
        # Who else wants to write to it has to wait, and then to try again.
        dbsession.get(WebSession, session_id, with_for_update={"of": WebSession})
        store = SessionStore(dbsession, factory)
        data = store.get(session_id)
        if data is not None:
            store.set(session_id, {**data, "report": path})
