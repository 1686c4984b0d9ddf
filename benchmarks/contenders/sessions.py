"""This library."""

from __future__ import annotations

import time
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest import mock

from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy import ForeignKey, MetaData, String
from sqlalchemy.orm import (
    Mapped,
    Session,
    declarative_base,
    mapped_column,
    relationship,
)

from pyramid_sqlalchemy_sessions import (
    BaseMixin,
    CSRFMixin,
    EncryptedDataMixin,
    IdleMixin,
    UseridMixin,
    generate_secret_key,
)
from pyramid_sqlalchemy_sessions import session_config as sessions_config

from ..workloads import Workload
from .base import TIMEOUT, PyramidContender

__all__ = ["Encrypted", "ListeningOnce", "Sessions"]


class Sessions(PyramidContender):
    """The session of a request is this library's."""

    mixins: tuple[type, ...] = ()

    def __init__(self, url: str, workload: Workload):
        metadata = MetaData()
        self.model, user_class = _models(metadata, workload.model, self.mixins)
        super().__init__(url, workload, metadata)
        self.secret_key = generate_secret_key()
        # The clock advances by a second whenever it's read, so that each request has to
        # extend: the idle timeout is in whole seconds.
        hurried = SimpleNamespace(time=count(int(time.time())).__next__)
        self.clock = mock.patch.object(sessions_config, "time", hurried)
        if workload.model == "idle":
            self.clock.start()
        if user_class is not None:
            with Session(self.engine) as dbsession:
                dbsession.add(user_class(id=1, name="name"))
                dbsession.commit()

    def configure(self, config: Configurator) -> None:
        config.add_settings(
            {"session.secret_key": self.secret_key, "session.model_class": self.model}
        )
        if self.workload.model == "idle":
            config.add_settings({"session.idle_timeout": TIMEOUT})
        config.include("pyramid_sqlalchemy_sessions")

    def close(self) -> None:
        self.clock.stop()
        super().close()

    def untouched(self, request: Any) -> Response:
        return Response("ok")

    def read(self, request: Any) -> Response:
        return Response(request.session["key"])

    extend = read

    def read_missing(self, request: Any) -> Response:
        return Response(f"{request.session.get('key')}")

    def read_userid(self, request: Any) -> Response:
        return Response(f"{request.session.userid}")

    def read_user(self, request: Any) -> Response:
        session = request.session
        return Response(f"{session['key']} {session.instance.user.name}")

    def read_full(self, request: Any) -> Response:
        session = request.session
        token = session.get_csrf_token()
        return Response(f"{session['key']} {session.userid} {len(token)}")

    def write(self, request: Any) -> Response:
        request.session["counter"] = next(self.numbers)
        return Response("ok")

    def assign(self, request: Any) -> Response:
        request.session["key"] = "value"
        return Response("value")

    def create(self, request: Any) -> Response:
        session = request.session
        session.update(self.data)
        if self.workload.model not in ("plain", "idle"):
            session.userid = 1
        if self.workload.model == "full":
            session.new_csrf_token()
        return Response("ok")


class Encrypted(Sessions):
    """The table holds the data encrypted."""

    mixins = (EncryptedDataMixin,)

    @classmethod
    def can(cls, workload: Workload, backend: str) -> bool:
        return workload.model == "plain" and super().can(workload, backend)


class ListeningOnce(Sessions):
    """With the library's own ``request.dbsession``."""

    def add_dbsession(self, config: Configurator) -> None:
        config.add_settings(dbengine=self.engine)
        config.include("pyramid_sqlalchemy_sessions.dbsession")


def _models(
    metadata: MetaData, model: str, mixins: tuple[type, ...]
) -> tuple[type, type | None]:
    """Return the model of the session, and that of its user if it has one.

    The mixins are added to the plain one.
    """
    Base: Any = declarative_base(metadata=metadata)

    if model == "plain":
        body = {"__tablename__": "session"}
        return type("PlainSession", (*mixins, BaseMixin, Base), body), None

    if model == "userid":

        class UseridSession(UseridMixin, BaseMixin, Base):
            __tablename__ = "session"

        return UseridSession, None

    if model == "idle":

        class IdleSession(IdleMixin, BaseMixin, Base):
            __tablename__ = "session"

        return IdleSession, None

    if model == "full":

        class FullSession(UseridMixin, CSRFMixin, BaseMixin, Base):
            __tablename__ = "session"

        return FullSession, None

    class User(Base):
        __tablename__ = "user"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(40))

    class UserSession(UseridMixin, BaseMixin, Base):
        __tablename__ = "session"
        userid = mapped_column(ForeignKey(User.id))
        user = relationship(User, lazy="joined")

    return UserSession, User
