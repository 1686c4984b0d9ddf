"""A model whose table is made for many sessions."""

from sqlalchemy import DDL, Index, event
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import BaseMixin, IdleMixin, UseridMixin


class Base(DeclarativeBase):
    pass


class Session(UseridMixin, IdleMixin, BaseMixin, Base):
    __tablename__ = "session"
    __table_args__ = (Index("ix_session_userid", "userid"),)


leave_room = DDL("ALTER TABLE %(fullname)s SET (fillfactor = 90)")
event.listen(
    Session.__table__, "after_create", leave_room.execute_if(dialect="postgresql")
)
