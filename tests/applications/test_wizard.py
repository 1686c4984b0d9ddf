"""A form in several steps: nested data, keys of all sorts, uploads, tabs, conflicts."""

from __future__ import annotations

import datetime
import enum
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response
from sqlalchemy import Integer, LargeBinary, String, select
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from pyramid_sqlalchemy_sessions import BaseMixin, UseridMixin
from tests.application import Application, Browser
from tests.stories.transactions import all_of, elsewhere, exception_view, set_cookies


class Base(DeclarativeBase):
    """The base of the application's models."""


class WebSession(UseridMixin, BaseMixin, Base):
    """The session, with the answers that were given so far."""

    __tablename__ = "session"


class Upload(Base):
    """A file that somebody sent."""

    __tablename__ = "upload"
    id = mapped_column(Integer, primary_key=True)
    content = mapped_column(LargeBinary, nullable=False)


class Booking(Base):
    """What comes of a form that was filled in to the end."""

    __tablename__ = "booking"
    id = mapped_column(Integer, primary_key=True)
    summary = mapped_column(String(200), nullable=False)


class Step(enum.Enum):
    """The steps of the form."""

    WHO = 1
    WHEN = 2
    FILES = 3


@dataclass(frozen=True)
class File:
    """What the session keeps of a file: not the file."""

    name: str
    size: int
    upload_id: int


class PaymentFailed(Exception):
    """Raised by the last step of whoever cannot pay."""


def wizard(request):
    """Do one step, of the tab that the form tells."""
    tabs = request.session.setdefault("tabs", {})
    if request.path == "/begin":
        number = max(tabs, default=0) + 1
        tabs[number] = {}
        return str(number)
    answers = tabs.get(int(request.POST["tab"]))
    if answers is None:
        request.session.flash("This form was sent already.")
        return HTTPSeeOther("/")
    STEPS[request.path](request, answers)
    return Response("go on")


def who(request, answers):
    """Take the names of all travellers."""
    name, *others = request.POST.getall("name")
    answers[Step.WHO] = {"name": name, "others": {i: x for i, x in enumerate(others)}}


def when(request, answers):
    """Take two dates."""
    for end in ("from", "to"):
        day = datetime.date.fromisoformat(request.POST[end])
        answers[Step.WHEN, end] = day


def send_file(request, answers):
    """Take one file, of several."""
    sent = request.POST["file"]
    upload = Upload(content=sent.file.read())
    request.dbsession.add(upload)
    request.dbsession.flush()
    file = File(sent.filename, len(upload.content), upload.id)
    answers.setdefault(Step.FILES, []).append(file)


def finish(request, answers):
    """Book, and pay."""
    travellers = answers[Step.WHO]
    days = answers[Step.WHEN, "to"] - answers[Step.WHEN, "from"]
    summary = f"{travellers['name']} and {len(travellers['others'])}, {days.days} days"
    request.dbsession.add(Booking(summary=summary))
    del request.session["tabs"][int(request.POST["tab"])]
    request.session.flash("Have a good trip!")
    request.dbsession.flush()
    if "broke" in request.POST:
        raise PaymentFailed


STEPS = {"/who": who, "/when": when, "/file": send_file, "/finish": finish}


class Traveller(Browser):
    """Fills in forms, in several tabs."""

    def __init__(self, application, cookie=None):
        super().__init__(application)
        if cookie is not None:
            self.set_cookie("session", cookie)

    def begin(self) -> int:
        """Open a tab with a new form, and return its number."""
        self.application.view = wizard
        return int(self.post("/begin").text)

    def who(self, tab, *names):
        """Fill in the first step."""
        return self.post("/who", [("tab", tab), *(("name", name) for name in names)])

    def when(self, tab, first="2030-02-01", last="2030-02-08"):
        """Fill in the second step."""
        return self.post("/when", {"tab": tab, "from": first, "to": last})

    def send(self, tab, name, content):
        """Send a file."""
        return self.post("/file", {"tab": tab}, upload_files=[("file", name, content)])

    def finish(self, tab, **kw):
        """Send the form."""
        return self.post("/finish", {"tab": tab, **kw})

    def tabs(self):
        """Return what is in the session."""
        found = self.ask(lambda session: session["tabs"])
        self.application.view = wizard
        return found

    def messages(self):
        """Take the flash messages."""
        found = self.ask(lambda session: session.pop_flash())
        self.application.view = wizard
        return found

    def stored(self, model):
        """Return the rows of a model."""
        with Session(self.application.engine) as dbsession:
            return list(dbsession.scalars(select(model).order_by(model.id)))


def retrying(config):
    """Include what the documentation says of conflicts."""
    config.include("pyramid_sqlalchemy_sessions.retry")


#: Many requests at once take some attempts, which need not wait for long.
RETRY = {"retry.attempts": 20, "retry.delay": 0.01}


@pytest.fixture
def application(engine):
    """An application with an exception view for everything."""
    Base.metadata.create_all(engine)
    sorry = exception_view(lambda request: "sorry", Exception)
    configure = all_of(retrying, sorry)
    return Application(engine, WebSession, configure=configure, settings=RETRY)


@pytest.fixture
def traveller(application):
    """Somebody who fills in forms."""
    return Traveller(application)


DAYS = {
    (Step.WHEN, "from"): datetime.date(2030, 2, 1),
    (Step.WHEN, "to"): datetime.date(2030, 2, 8),
}


def test_from_begin_to_end(traveller):
    """Each step finds what the ones before it left, in the types that it had."""
    tab = traveller.begin()
    traveller.who(tab, "Ann", "Bob", "Cid")
    traveller.when(tab)
    traveller.send(tab, "pass.pdf", b"%PDF")
    traveller.send(tab, "photo.png", b"\x89PNG\0")
    first, second = traveller.stored(Upload)
    assert traveller.tabs() == {
        1: {
            Step.WHO: {"name": "Ann", "others": {0: "Bob", 1: "Cid"}},
            **DAYS,
            Step.FILES: [
                File("pass.pdf", 4, first.id),
                File("photo.png", 5, second.id),
            ],
        }
    }
    traveller.finish(tab)
    assert traveller.messages() == ["Have a good trip!"]
    assert traveller.tabs() == {}
    assert [each.summary for each in traveller.stored(Booking)] == ["Ann and 2, 7 days"]


def test_one_cookie(traveller):
    """The cookie of the first step serves to the end."""
    traveller.application.view = wizard
    assert len(set_cookies(traveller.post("/begin"))) == 1
    for response in (traveller.who(1, "Ann"), traveller.when(1), traveller.finish(1)):
        assert set_cookies(response) == []


def test_back_button(traveller):
    """A step that is sent again replaces its answers, and no others."""
    tab = traveller.begin()
    traveller.who(tab, "Ann", "Bob")
    traveller.when(tab)
    traveller.who(tab, "Ann")
    assert traveller.tabs() == {1: {Step.WHO: {"name": "Ann", "others": {}}, **DAYS}}
    traveller.finish(tab)
    assert [each.summary for each in traveller.stored(Booking)] == ["Ann and 0, 7 days"]


def test_sent_twice(traveller):
    """Whoever goes back behind the end, and sends again, books once."""
    tab = traveller.begin()
    traveller.who(tab, "Ann")
    traveller.when(tab)
    traveller.finish(tab)
    traveller.finish(tab)
    assert traveller.messages() == ["Have a good trip!", "This form was sent already."]
    assert len(traveller.stored(Booking)) == 1


def test_failed_payment(traveller):
    """After a failure there is no booking, and the form is as it was."""
    tab = traveller.begin()
    traveller.who(tab, "Ann")
    traveller.when(tab)
    before = traveller.tabs()
    assert traveller.post("/finish", {"tab": tab, "broke": "1"}, status=500)
    assert traveller.stored(Booking) == traveller.messages() == []
    assert traveller.tabs() == before
    traveller.finish(tab)
    assert len(traveller.stored(Booking)) == 1


def test_tabs(traveller):
    """Two forms in two tabs do not know of each other."""
    one, two = traveller.begin(), traveller.begin()
    traveller.who(one, "Ann")
    traveller.who(two, "Bob", "Cid")
    traveller.when(two, "2031-01-01", "2031-01-02")
    traveller.when(one)
    traveller.finish(two)
    assert traveller.tabs() == {1: {Step.WHO: {"name": "Ann", "others": {}}, **DAYS}}
    traveller.finish(one)
    summaries = [each.summary for each in traveller.stored(Booking)]
    assert summaries == ["Bob and 1, 1 days", "Ann and 0, 7 days"]


def let_overtake(traveller, tab):
    """Let a rival fill in a tab during the next step; return the list of attempts."""
    # In an application of its own, as another process would have.
    rival = Application(traveller.application.engine, WebSession)
    rival.view = wizard
    attempts = []

    def overtaken(request):
        response = wizard(request)
        attempts.append(request.environ["retry.attempt"])
        if len(attempts) == 1:
            elsewhere(Traveller(rival, traveller.cookie).who, tab, "Bob")
        return response

    traveller.application.view = overtaken
    return attempts


def test_overtaken(traveller):
    """A step that another tab overtakes is done again: nothing is lost."""
    one, two = traveller.begin(), traveller.begin()
    attempts = let_overtake(traveller, two)
    traveller.who(one, "Ann")
    assert attempts == [0, 1]
    assert traveller.tabs() == {
        1: {Step.WHO: {"name": "Ann", "others": {}}},
        2: {Step.WHO: {"name": "Bob", "others": {}}},
    }


# SQLite lets nobody write beside a transaction that has written.
@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
def test_overtaken_upload(traveller):
    """A file that has to be taken twice is stored once."""
    one, two = traveller.begin(), traveller.begin()
    attempts = let_overtake(traveller, two)
    traveller.send(one, "pass.pdf", b"%PDF")
    assert attempts == [0, 1]
    (upload,) = traveller.stored(Upload)
    assert upload.content == b"%PDF"
    assert traveller.tabs() == {
        1: {Step.FILES: [File("pass.pdf", 4, upload.id)]},
        2: {Step.WHO: {"name": "Bob", "others": {}}},
    }


@pytest.mark.parametrize("isolation_level", [None, "SERIALIZABLE"])
def test_all_tabs_at_once(make_engine, isolation_level):
    """Six tabs that are sent at the same time are all stored."""
    options = {"isolation_level": isolation_level} if isolation_level else {}
    engine = make_engine(**options)
    Base.metadata.create_all(engine)
    application = Application(engine, WebSession, configure=retrying, settings=RETRY)
    traveller = Traveller(application)
    tabs = [traveller.begin() for _ in range(6)]
    start = threading.Barrier(len(tabs))

    def send(tab):
        browser = Traveller(application, traveller.cookie)
        start.wait()
        return browser.who(tab, f"Traveller {tab}").status_int

    with ThreadPoolExecutor(len(tabs)) as pool:
        assert list(pool.map(send, tabs)) == [200] * len(tabs)
    names = {
        tab: answers[Step.WHO]["name"] for tab, answers in traveller.tabs().items()
    }
    assert names == {tab: f"Traveller {tab}" for tab in tabs}
