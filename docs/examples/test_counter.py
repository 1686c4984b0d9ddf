"""The tests of testing.rst."""

from myproject.models import MyModel, Session
from myproject.views.counter import counter
from pyramid.testing import DummyRequest

from pyramid_sqlalchemy_sessions.testing import DummySession


def test_counter(testapp, dbsession):
    dbsession.add(MyModel(name="one", value=1))
    dbsession.flush()
    assert testapp.get("/counter").text == "Visit number 1"
    assert testapp.get("/counter").text == "Visit number 2"
    assert dbsession.query(Session).count() == 1


def test_view():
    session = DummySession({"visits": 6}, userid=7)
    assert counter(DummyRequest(session=session)) == "Visit number 7"
    assert session["visits"] == 7
