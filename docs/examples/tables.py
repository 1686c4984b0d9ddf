"""The samples of table.rst."""

from sqlalchemy import (
    DateTime,
    ForeignKey,
    Index,
    Integer,
    String,
    Uuid,
    func,
)
from sqlalchemy.orm import DeclarativeBase, mapped_column

from pyramid_sqlalchemy_sessions import BaseMixin, UseridMixin


class Base(DeclarativeBase):
    pass


class Session(UseridMixin, BaseMixin, Base):
    __tablename__ = "session"
    __table_args__ = (Index("ix_session_userid", "userid"),)


class OwnColumnsSession(BaseMixin, Base):
    __tablename__ = "own_columns_session"

    country = mapped_column(String(2))
    theme = mapped_column(String(20), nullable=False, default="light")
    seen = mapped_column(DateTime, nullable=False, server_default=func.now())


class Upload(Base):
    __tablename__ = "upload"

    id = mapped_column(Integer, primary_key=True)
    session_id = mapped_column(
        Uuid,
        ForeignKey("session.id", ondelete="CASCADE"),
        nullable=False,
    )


def upload(request):
    session = request.session
    session.persist()
    request.dbsession.add(Upload(session_id=session.id))
