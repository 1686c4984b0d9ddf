"""What production.rst says about reading from a replica."""

from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql import Delete, Insert, Update

from pyramid_sqlalchemy_sessions import BaseMixin


def make_dbsession_factory(primary, replica):
    class RoutingSession(Session):
        def get_bind(self, mapper=None, clause=None, **kw):
            is_session = mapper is not None and issubclass(mapper.class_, BaseMixin)
            is_write = isinstance(clause, (Insert, Update, Delete)) or self._flushing
            return primary if is_session or is_write else replica

    return sessionmaker(class_=RoutingSession)
