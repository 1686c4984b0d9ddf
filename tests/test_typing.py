"""The types that users of the library see: mypy and pyright read this file, too."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import ForeignKey, String, Uuid
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    configure_mappers,
    mapped_column,
    relationship,
)
from typing_extensions import assert_type

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    BaseMixin,
    CSRFMixin,
    DummySession,
    IdleMixin,
    Session,
    SessionFactory,
    UserAgentMixin,
    UseridMixin,
    generate_secret_key,
    get_session_factory,
)


class Base(DeclarativeBase):
    """A declarative base."""


class DataclassBase(MappedAsDataclass, DeclarativeBase):
    """A declarative base whose models are dataclasses."""


class User(Base):
    """A user with a key that is no integer."""

    __tablename__ = "typed_users"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)


class WebSession(UseridMixin, CSRFMixin, IdleMixin, UserAgentMixin, BaseMixin, Base):
    """A model that declares columns of the library anew."""

    __tablename__ = "typed_session"
    userid: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("typed_users.id"))
    user: Mapped[User | None] = relationship(lazy="joined")
    user_agent = mapped_column(String(500))


class Untyped(UseridMixin, BaseMixin, Base):
    """A model that does so without types."""

    __tablename__ = "typed_untyped"
    userid = mapped_column(Uuid)


class Themed(UseridMixin, BaseMixin, DataclassBase):
    """A model with a column of its own, which its constructor takes."""

    __tablename__ = "typed_themed"
    theme: Mapped[str] = mapped_column(default="light")


def test_columns() -> None:
    """Columns have the types of their values, and may be declared with others."""
    configure_mappers()
    row = WebSession()
    assert_type(row.id, uuid.UUID)
    assert_type(row.idle_expire, "int | None")
    assert_type(row.csrf_token, "bytes | None")
    assert_type(row.userid, "uuid.UUID | None")
    assert_type(Untyped().userid, Any)
    assert isinstance(WebSession.userid.type, Uuid)
    assert Themed(theme="dark").theme == "dark"


def test_session() -> None:
    """A session tells what its properties and methods return."""
    session = DummySession({"visits": 1}, userid=7)
    assert_type(session.created, int)
    assert_type(session.new, bool)
    assert_type(session.get_csrf_token(), str)
    assert_type(session.settings.idle_timeout, "int | None")
    assert session["visits"] == 1


def test_factory() -> None:
    """The types of factory and session are there for annotations and isinstance."""
    factory = get_session_factory(AESGCMSerializer([generate_secret_key()]), Untyped)
    assert_type(factory, SessionFactory)
    session = factory(None)
    assert_type(session, Session)
    assert isinstance(session, Session)
