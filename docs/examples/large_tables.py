"""A model whose table is made for many sessions."""

from sqlalchemy import Index
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin, UseridMixin


class Base(DeclarativeBase):
    pass


class Session(UseridMixin, IdleMixin, BaseMixin, Base):
    __tablename__ = "session"
    __table_args__ = (
        Index("ix_session_userid", "userid"),
        {"postgresql_with": {"fillfactor": 90}},
    )
