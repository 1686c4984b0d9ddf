"""Which cookies and headers go out, which SQL runs, and when nothing does."""

import uuid

import pytest
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from sqlalchemy import ForeignKey, Integer, String, event, update
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from pyramid_sqlalchemy_sessions import (
    AbsoluteMixin,
    AESGCMSerializer,
    BaseMixin,
    ConfigCookieMixin,
    CookieCryptoErrorEvent,
    IdleMixin,
    InvalidCookieErrorEvent,
    RenewalMixin,
    RenewalViolationEvent,
    UseridMixin,
)
from tests.application import Application, Browser, Failure, Full, statements

OURS = AESGCMSerializer(bytes(range(32)))
THEIRS = AESGCMSerializer(bytes(32))


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class Account(Models):
    """A user of the application."""

    __tablename__ = "account"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)
    name = mapped_column(String(50), unique=True)


class Owned(UseridMixin, BaseMixin, Models):
    """A session that belongs to an account."""

    __tablename__ = "owned_session"
    userid = mapped_column(ForeignKey(Account.id))


class Timed(
    IdleMixin, AbsoluteMixin, RenewalMixin, ConfigCookieMixin, BaseMixin, Models
):
    """A session that may end by itself, with a cookie of its own."""

    __tablename__ = "timed_session"


def sealed(session_id, serializer=OURS):
    """Return the value of an authentic cookie."""
    return serializer.dumps(session_id.bytes).decode("ascii")


def render_failure(request):
    """Answer a failure as an exception view."""
    return Response("failed", status=500)


def add_exception_view(config):
    """Let the application answer failures."""
    config.add_view(render_failure, context=Failure)


def create_tables(model, engine):
    """Create the table of a model, and the one that it refers to."""
    tables = [model.__table__]
    if model is Owned:
        tables.append(Account.__table__)
    model.metadata.create_all(engine, tables)


@pytest.fixture
def make_browser(engine):
    """Make browsers of applications on each kind of database."""

    def make(model=Full, **kw):
        create_tables(model, engine)
        return Browser(Application(engine, model, **kw))

    return make


@pytest.fixture
def make_lite_browser(sqlite_engine):
    """Make browsers of applications on SQLite, where the database does not matter."""

    def make(model=Full, **kw):
        create_tables(model, sqlite_engine)
        return Browser(Application(sqlite_engine, model, **kw))

    return make


@pytest.fixture
def browser(make_browser):
    """Return a browser on each kind of database."""
    return make_browser()


@pytest.fixture
def lite_browser(make_lite_browser):
    """Return a browser on SQLite."""
    return make_lite_browser()


def touch_nothing(request):
    """Leave the session alone."""


def read(request):
    """Read the session."""
    request.session.get("a")


def write(request):
    """Write the session."""
    request.session["a"] = request.session.get("a", 0) + 1


def write_and_fail(request):
    """Write the session, then fail."""
    write(request)
    raise Failure


def set_cookies(response):
    """Return the Set-Cookie headers, each as name, value and the attributes."""
    found = []
    for header in response.headers.getall("Set-Cookie"):
        pair, *attributes = header.split("; ")
        name, _, value = pair.partition("=")
        found.append((name, value, attributes))
    return found


def names_of(attributes):
    """Return the names of the attributes, in the order of the alphabet."""
    return sorted(attribute.partition("=")[0] for attribute in attributes)


def visit_with(browser, header, view, **kw):
    """Visit with this Cookie header, whatever cookies the browser has."""
    browser.reset()
    return browser.visit(view, headers={"Cookie": header}, **kw)


# 1. Nothing without use.


def test_unused_session_touches_nothing(make_lite_browser):
    """A request that does not use the session runs no SQL and makes no dbsession."""
    made = []

    def make_dbsession(request, manager):
        made.append(request)

    browser = make_lite_browser(make_dbsession=make_dbsession)
    engine = browser.application.engine
    with statements(engine) as collected:
        response = visit_with(browser, "session=bad", lambda request: request.session)
    assert (made, collected) == ([], [])
    assert "Vary" not in response.headers
    assert "Set-Cookie" not in response.headers
    assert "Cache-Control" not in response.headers


def test_unused_session_fires_no_event(make_lite_browser):
    """A bad cookie in a request that does not use the session is nobody's affair."""
    events = []
    browser = make_lite_browser(configure=collecting(events))
    visit_with(browser, "session=bad", touch_nothing)
    assert events == []


def test_without_a_cookie_reading_runs_no_sql(lite_browser):
    """There is nothing to look for when the browser sends no cookie."""
    with statements(lite_browser.application.engine) as collected:
        lite_browser.visit(read)
    assert collected == []


# 2. Vary.


@pytest.mark.parametrize("view", [read, write, lambda request: request.session.new])
def test_used_session_varies(lite_browser, view):
    """A response of a request that used the session depends on the cookie."""
    assert lite_browser.visit(view).headers["Vary"] == "Cookie"
    assert lite_browser.visit(view).headers["Vary"] == "Cookie"


def test_vary_of_the_application_stays(lite_browser):
    """What else the response depends on is kept."""

    def view(request):
        read(request)
        return Response(vary="Accept")

    assert lite_browser.visit(view).headers["Vary"] == "Accept, Cookie"


def test_failed_request_varies_too(make_lite_browser):
    """The answer of an exception view depends on the cookie as any other."""
    browser = make_lite_browser(configure=add_exception_view)
    response = browser.visit(write_and_fail, status=500)
    assert response.headers["Vary"] == "Cookie"


# How many statements a request takes.


def counted(browser, view):
    """Return the first words of the statements that a request executes."""
    with statements(browser.application.engine) as collected:
        browser.visit(view)
    return [statement.split()[0] for statement in collected]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        pytest.param(touch_nothing, [], id="untouched"),
        pytest.param(read, ["SELECT"], id="read"),
        pytest.param(write, ["SELECT", "UPDATE"], id="write"),
        pytest.param(
            lambda request: request.session.update(b=1), ["SELECT"], id="equal"
        ),
        pytest.param(
            lambda request: request.session.invalidate(),
            ["SELECT", "DELETE"],
            id="invalidate",
        ),
        pytest.param(
            lambda request: (request.session.invalidate(), write(request)),
            ["SELECT", "DELETE", "INSERT"],
            id="invalidate and write",
        ),
        pytest.param(
            lambda request: request.session.rotate(), ["SELECT", "UPDATE"], id="rotate"
        ),
        pytest.param(
            lambda request: (write(request), request.session.flash("x")),
            ["SELECT", "UPDATE"],
            id="write and flash",
        ),
        pytest.param(
            lambda request: setattr(request.session, "userid", 1),
            ["SELECT", "UPDATE"],
            id="log in",
        ),
    ],
)
def test_statements_of_a_stored_session(browser, view, expected):
    """A request that finds its session takes one SELECT, and one statement to write."""
    browser.visit(lambda request: request.session.update(a=1, b=1))
    assert counted(browser, view) == expected


def test_statements_of_a_new_session(browser):
    """A request that makes a session takes one INSERT."""
    assert counted(browser, write) == ["INSERT"]


@pytest.mark.parametrize("view", [read, write])
def test_statements_of_a_cookie_without_a_row(browser, view):
    """A cookie whose session has gone costs one SELECT."""
    browser.set_cookie("session", sealed(uuid.uuid4()))
    expected = ["SELECT"] if view is read else ["SELECT", "INSERT"]
    assert counted(browser, view) == expected


def tampered():
    """Return Cookie headers that are not authentic."""
    good = sealed(uuid.UUID(int=1))
    return {
        "altered": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "of another key": sealed(uuid.UUID(int=1), THEIRS),
        "cut": good[:40],
        "longer": good + "AAAA",
        "text": "hello",
        "empty": "",
        "not ASCII": "\xe9\xff",
        "quoted": '"' + good[:-1] + '"',
        "percent": "%00%ff",
        "huge": "A" * 60000,
        "padding": "====",
    }


@pytest.mark.parametrize("value", tampered().values(), ids=tampered())
def test_no_sql_for_a_cookie_that_is_not_authentic(lite_browser, value):
    """Only an authentic cookie makes the library ask the database."""
    with statements(lite_browser.application.engine) as collected:
        response = visit_with(lite_browser, f"session={value}", read)
    assert collected == []
    assert [(name, value) for name, value, _ in set_cookies(response)] == [
        ("session", "")
    ]


def test_no_connection_for_a_cookie_that_is_not_authentic(lite_browser):
    """Nor is a connection taken from the pool."""
    taken = []
    engine = lite_browser.application.engine
    event.listen(engine, "checkout", lambda *arguments: taken.append(arguments))
    visit_with(lite_browser, "session=bad", read)
    assert taken == []


HEADERS = [
    "",
    ";",
    "=",
    "session",
    "session=",
    "session==",
    "; session=x;;; =;",
    "session=x, session=y",
    "\xff\xfe=\xfd; session=\xe9",
    'other="unclosed; session=x',
    "a=1; " * 2000 + "session=x",
    "session=x; " * 2000,
    "SESSION=x",
    "$Version=1; session=x; $Path=/",
    "session=\tx",
    "session='; DROP TABLE full_session --",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
@pytest.mark.parametrize("view", [read, write])
def test_no_cookie_header_makes_an_error(lite_browser, header, view):
    """Whatever the Cookie header is, the request is answered with a new session."""
    answers = []
    visit_with(
        lite_browser, header, lambda request: answers.append(request.session.new)
    )
    assert answers == [True]
    visit_with(lite_browser, header, view)
    assert len(lite_browser.application.rows()) == (view is write)


@pytest.mark.parametrize(
    "foreign",
    [
        "\xff\xfe=\xfd",
        'other="unclosed',
        "=",
        "x" * 5000,
        "a b=c d",
        "sessio=x",
        "ession=1",
        "xsession=1",
        "session2=1",
        "session.a=1",
        "Session=1",
    ],
)
def test_broken_foreign_cookie_does_not_hide_ours(lite_browser, foreign):
    """Our cookie is found beside whatever other cookies there are."""
    lite_browser.visit(write)
    cookie = lite_browser.cookie
    answers = []

    def view(request):
        answers.append(request.session["a"])

    visit_with(lite_browser, f"{foreign}; session={cookie}", view)
    visit_with(lite_browser, f"session={cookie}; {foreign}", view)
    assert answers == [1, 1]


# 3. and 4. When a cookie is sent.


def test_new_session_sends_its_cookie(browser):
    """The response that stores a new session has exactly one cookie, for its row."""
    response = browser.visit(write)
    ((name, value, _),) = set_cookies(response)
    assert name == "session"
    assert OURS.loads(value) == browser.application.row().id.bytes


@pytest.mark.parametrize("view", [read, write])
def test_stored_session_sends_no_cookie(browser, view):
    """The browser has the cookie, so that it is not sent again."""
    browser.visit(write)
    assert set_cookies(browser.visit(view)) == []


@pytest.mark.parametrize(
    "view",
    [
        read,
        lambda request: request.session.pop_flash(),
        lambda request: request.session.changed(),
        lambda request: request.session.rotate(),
        lambda request: request.session.invalidate(),
        lambda request: request.session.clear(),
        lambda request: setattr(request.session, "userid", None),
    ],
)
def test_new_session_without_data_sends_no_cookie(lite_browser, view):
    """A session without data is neither stored nor sent."""
    assert set_cookies(lite_browser.visit(view)) == []
    assert lite_browser.application.rows() == []


def test_two_new_sessions_have_different_cookies(browser):
    """No two sessions have an id in common."""
    cookies = {
        set_cookies(Browser(browser.application).visit(write))[0][1] for _ in "123"
    }
    assert len(cookies) == 3


@pytest.mark.parametrize(
    "view",
    [
        lambda request: request.session.rotate(),
        lambda request: (request.session.invalidate(), write(request)),
        lambda request: setattr(request.session, "userid", 5),
    ],
)
def test_changed_ids_are_one_new_cookie(browser, view):
    """When an id changes the response has exactly one cookie, with the new one."""
    browser.visit(write)
    before = browser.cookie
    ((_, value, _),) = set_cookies(browser.visit(view))
    row = browser.application.row()
    ids = [each.bytes for each in (row.id, row.renewal_id) if each]
    assert OURS.loads(value) == b"".join(ids) != OURS.loads(before)


def test_cookie_set_by_the_application_is_not_touched(lite_browser):
    """Other cookies go out beside ours, as the application set them."""

    def view(request):
        write(request)
        response = Response()
        response.headers.add("Set-Cookie", 'odd="a b"; Path=/x')
        return response

    headers = lite_browser.visit(view).headers.getall("Set-Cookie")
    assert headers[0] == 'odd="a b"; Path=/x'
    assert headers[1].startswith("session=")
    assert len(headers) == 2


# 4. The application's own changes come first.


def test_user_who_signs_up_is_logged_in(make_browser):
    """The session's row may refer to a row that the same request adds."""
    browser = make_browser(Owned)

    def sign_up(request):
        request.dbsession.add(Account(id=7, name="jo"))
        request.session.userid = 7

    browser.visit(sign_up)
    assert browser.ask(lambda session: session.userid) == 7


def test_nothing_is_sent_to_the_database_in_the_view(browser):
    """The session is written just before the commit, not when the view changes it."""
    browser.visit(write)
    engine = browser.application.engine
    words = []

    def view(request):
        with statements(engine) as collected:
            write(request)
            request.session.flash("x")
            request.session.userid = 5
            request.dbsession.flush()
        words.extend(statement.split()[0] for statement in collected)

    browser.visit(view)
    assert words == ["SELECT"]


# 7. Nothing without a successful commit.


class FailingManager:
    """A data manager that keeps the transaction from being committed."""

    transaction_manager = None

    def __init__(self, moment, sort_key):
        self.moment = moment
        self.sort_key = sort_key

    def sortKey(self):
        return self.sort_key

    def _at(self, moment):
        if moment == self.moment:
            raise Failure

    def abort(self, transaction):
        pass

    def tpc_begin(self, transaction):
        self._at("tpc_begin")

    def commit(self, transaction):
        self._at("commit")

    def tpc_vote(self, transaction):
        self._at("tpc_vote")

    def tpc_finish(self, transaction):
        pass

    def tpc_abort(self, transaction):
        pass


def catching(config):
    """Let the application answer failures of the commit, and of views."""
    config.add_exception_view(lambda request: Response("failed", status=503), Failure)


def write_for_a_commit_that_fails(moment, sort_key):
    """Return a view whose transaction cannot be committed."""

    def view(request):
        write(request)
        request.tm.get().join(FailingManager(moment, sort_key))

    return view


def abort_by_header(request):
    """Write the session, and ask for an abort."""
    write(request)
    return Response(headers={"X-Tm": "abort"})


def write_and_doom(request):
    """Write the session in a transaction that is then doomed."""
    write(request)
    request.tm.doom()


def doom_and_write(request):
    """Write the session in a transaction that is doomed already."""
    read(request)
    request.tm.doom()
    write(request)


def write_and_raise_a_redirect(request):
    """Write the session, then leave the view by an exception that is a response."""
    write(request)
    raise HTTPFound("/")


VETO = {"tm.commit_veto": "pyramid_tm.default_commit_veto"}

FAILURES = {
    "exception": (write_and_fail, {}),
    "redirect": (write_and_raise_a_redirect, {}),
    "doom": (write_and_doom, {}),
    "doomed before": (doom_and_write, {}),
    "veto": (abort_by_header, VETO),
    **{
        f"{moment} {when}": (write_for_a_commit_that_fails(moment, sort_key), {})
        for moment in ("tpc_begin", "commit", "tpc_vote")
        for when, sort_key in (("early", "a"), ("late", "~q"))
    },
}


@pytest.fixture(params=FAILURES.values(), ids=FAILURES)
def failure(request):
    """Return a view whose transaction is not committed, and settings."""
    return request.param


def test_failed_request_stores_no_new_session(make_browser, failure):
    """A new session of a request that is not committed is neither stored nor sent."""
    view, settings = failure
    browser = make_browser(settings=settings, configure=catching)
    assert set_cookies(browser.visit(view, status="*")) == []
    assert browser.application.rows() == []


def test_failed_request_changes_no_stored_session(make_browser, failure):
    """A stored session is as it was after a request that is not committed."""
    view, settings = failure
    browser = make_browser(settings=settings, configure=catching)
    browser.visit(write)
    assert set_cookies(browser.visit(view, status="*")) == []
    assert browser.ask(dict) == {"a": 1}


def test_failed_commit_of_the_database(make_browser):
    """If the database refuses the application's changes, the session is not stored."""
    browser = make_browser(Owned)
    browser.visit(write)

    def view(request):
        write(request)
        request.session.rotate()
        request.dbsession.add_all([Account(id=1, name="jo"), Account(id=2, name="jo")])

    cookie = browser.cookie
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        browser.visit(view)
    assert browser.cookie == cookie
    assert browser.ask(dict) == {"a": 1}


# SQLite does not check foreign keys by default.
@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
def test_user_who_is_not_there(make_browser):
    """If the database refuses the session's row, nothing of the request is stored."""
    browser = make_browser(Owned)

    def view(request):
        request.dbsession.add(Account(id=1, name="jo"))
        request.session.userid = 8

    with pytest.raises(Exception, match=r"(?i)foreign key"):
        browser.visit(view)
    assert browser.cookie is None
    with Session(browser.application.engine) as dbsession:
        assert dbsession.query(Account).all() == []


# 8. Bad cookies.


def collecting(events, then=lambda event: None):
    """Return what configures an application to collect the events."""

    def subscriber(event):
        events.append(event)
        then(event)

    def configure(config):
        config.add_subscriber(subscriber, InvalidCookieErrorEvent)
        config.add_subscriber(subscriber, CookieCryptoErrorEvent)
        config.add_exception_view(
            lambda request: Response("failed", status=503), Failure
        )

    return configure


BAD = {
    "malformed": ("hello", InvalidCookieErrorEvent),
    "empty": ("", InvalidCookieErrorEvent),
    "altered": (tampered()["altered"], CookieCryptoErrorEvent),
    "of another key": (tampered()["of another key"], CookieCryptoErrorEvent),
}


@pytest.mark.parametrize(("value", "kind"), BAD.values(), ids=BAD)
def test_bad_cookie_is_an_event(make_lite_browser, value, kind):
    """A bad cookie fires one event, with the request and the error."""
    events = []
    browser = make_lite_browser(configure=collecting(events))
    requests = []

    def view(request):
        requests.append(request)
        read(request)
        write(request)

    visit_with(browser, f"session={value}", view)
    (event_,) = events
    assert type(event_) is kind
    assert event_.request is requests[0]
    assert isinstance(event_.exception, ValueError)


def test_good_cookie_is_no_event(make_lite_browser):
    """An authentic cookie fires nothing, whether its session is there or not."""
    events = []
    browser = make_lite_browser(configure=collecting(events))
    browser.visit(write)
    browser.visit(read)
    visit_with(browser, f"session={sealed(uuid.uuid4())}", read)
    visit_with(browser, "other=1", read)
    assert events == []


def test_subscriber_may_use_the_session(make_lite_browser):
    """A subscriber that uses request.session gets the new session, and no recursion."""
    events = []

    def count(event_):
        session = event_.request.session
        session["bad cookies"] = session.get("bad cookies", 0) + 1

    browser = make_lite_browser(configure=collecting(events, count))
    response = visit_with(browser, "session=bad", write)
    assert len(events) == 1
    ((_, value, _),) = set_cookies(response)
    browser.set_cookie("session", value)
    assert browser.ask(dict) == {"bad cookies": 1, "a": 1}


def test_subscriber_that_fails(make_lite_browser):
    """An error of a subscriber reaches the view, and the cookie is deleted."""

    def fail(event_):
        raise Failure

    browser = make_lite_browser(configure=collecting([], fail))
    response = visit_with(browser, "session=bad", read, status=503)
    ((_, value, _),) = set_cookies(response)
    assert value == ""


@pytest.mark.parametrize("value", [value for value, _ in BAD.values()], ids=BAD)
def test_bad_cookie_starts_a_new_session(lite_browser, value):
    """After a bad cookie the session is new and can be stored, with one new cookie."""
    response = visit_with(lite_browser, f"session={value}", write)
    ((_, sent, _),) = set_cookies(response)
    assert OURS.loads(sent) == lite_browser.application.row().id.bytes


@pytest.mark.parametrize("value", [value for value, _ in BAD.values()], ids=BAD)
def test_bad_cookie_is_deleted(lite_browser, value):
    """A bad cookie is deleted by the response of a request that used the session."""
    lite_browser.visit(write)
    for cookie in lite_browser.cookiejar:
        cookie.value = value
    response = lite_browser.visit(read)
    ((_, sent, attributes),) = set_cookies(response)
    assert sent == ""
    assert "Max-Age=0" in attributes
    assert lite_browser.cookie is None


def test_bad_cookie_is_deleted_also_by_a_failed_request(make_lite_browser, failure):
    """A bad cookie is deleted even if the transaction is not committed."""
    view, settings = failure
    browser = make_lite_browser(settings=settings, configure=catching)
    response = visit_with(browser, "session=bad", view, status="*")
    assert [value for _, value, _ in set_cookies(response)] == [""]
    assert browser.application.rows() == []


def closed_tween(handler, registry):
    """Answer without the application, above pyramid_tm."""

    def tween(request):
        read(request)
        return Response("closed", status=503)

    return tween


def test_bad_cookie_is_deleted_above_the_transaction(make_lite_browser):
    """A bad cookie is deleted even by a tween that runs without a transaction."""
    browser = make_lite_browser(
        configure=lambda config: config.add_tween(
            f"{__name__}.closed_tween", over="pyramid_tm.tm_tween_factory"
        )
    )
    response = visit_with(browser, "session=bad", read, status=503)
    assert [value for _, value, _ in set_cookies(response)] == [""]


# 8. Authentic cookies without a row, and several cookies.


def test_cookie_without_a_row_is_left_alone(browser):
    """An authentic cookie whose session has gone is not deleted."""
    browser.set_cookie("session", sealed(uuid.uuid4()))
    cookie = browser.cookie
    response = browser.visit(lambda request: str(request.session.new))
    assert response.text == "True"
    assert set_cookies(response) == []
    assert browser.cookie == cookie


def test_cookie_without_a_row_is_replaced_by_that_of_a_new_session(browser):
    """A new session gets an id of its own: the client cannot choose it."""
    chosen = uuid.uuid4()
    browser.set_cookie("session", sealed(chosen))
    ((_, value, _),) = set_cookies(browser.visit(write))
    row = browser.application.row()
    assert OURS.loads(value) == row.id.bytes
    assert row.id != chosen


def test_invalidate_of_a_session_that_has_gone(browser):
    """Invalidating where nothing is stored is no error."""
    browser.set_cookie("session", sealed(uuid.uuid4()))
    browser.visit(lambda request: request.session.invalidate())
    assert browser.application.rows() == []


def ask_with(browser, values, view=lambda request: request.session.get("a")):
    """Visit with several cookies of our name; return the answer and the response."""
    answers = []
    response = visit_with(
        browser,
        "; ".join(f"session={value}" for value in values),
        lambda request: answers.append(view(request)),
    )
    return answers[0], response


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    "other",
    ["bad", sealed(uuid.UUID(int=1), THEIRS), "gone"],
    ids=["bad", "theirs", "gone"],
)
def test_good_cookie_among_others(make_lite_browser, place, other):
    """Of up to four cookies of our name the one that loads a session counts."""
    events = []
    browser = make_lite_browser(configure=collecting(events))
    browser.visit(write)
    values = [sealed(uuid.uuid4()) if other == "gone" else other for _ in range(3)]
    values.insert(place, browser.cookie)
    answer, response = ask_with(browser, values)
    assert answer == 1
    assert events == []
    assert set_cookies(response) == []


def test_four_cookies_are_tried_at_most(make_lite_browser):
    """A fifth cookie of our name is not looked at."""
    events = []
    browser = make_lite_browser(configure=collecting(events))
    browser.visit(write)
    answer, response = ask_with(browser, ["bad"] * 4 + [browser.cookie])
    assert answer is None
    assert len(events) == 1
    assert [value for _, value, _ in set_cookies(response)] == [""]


def test_statements_of_several_cookies(lite_browser):
    """Only authentic cookies are looked for, one after the other, each once."""
    gone = sealed(uuid.uuid4())
    with statements(lite_browser.application.engine) as collected:
        ask_with(lite_browser, ["bad", gone, gone, sealed(uuid.uuid4())])
    assert [statement.split()[0] for statement in collected] == ["SELECT", "SELECT"]


def test_change_of_a_session_among_several_cookies(lite_browser):
    """The session that was found is the one that is changed and deleted."""
    lite_browser.visit(write)
    values = [sealed(uuid.uuid4()), lite_browser.cookie]
    ask_with(lite_browser, values, write)
    assert ask_with(lite_browser, values)[0] == 2
    _, response = ask_with(
        lite_browser, values, lambda request: request.session.invalidate()
    )
    assert lite_browser.application.rows() == []
    assert [value for _, value, _ in set_cookies(response)] == [""]


# 9. Sessions that have ended, or are in violation.

LONG_AGO = 1_000_000


def age(browser, **columns):
    """Change the columns of the only session, behind the application's back."""
    with browser.application.engine.begin() as connection:
        connection.execute(update(browser.application.model).values(columns))


IDLE = {"idle_timeout": 1000}
ABSOLUTE = {"absolute_timeout": 1000}
RENEWAL = {"renewal_timeout": 1000}
BOTH = {"idle_timeout": 1000, "absolute_timeout": 2000}

ENDED = {
    "idle": (IDLE, {"idle_expire": LONG_AGO}),
    "absolute": (ABSOLUTE, {"created": LONG_AGO}),
    "idle of both": (BOTH, {"idle_expire": LONG_AGO}),
    "absolute of both": (BOTH, {"created": LONG_AGO}),
}


@pytest.fixture(params=ENDED.values(), ids=ENDED)
def ended(make_browser, request):
    """Return a browser whose session has expired."""
    settings, columns = request.param
    browser = make_browser(Timed, configure=catching, **settings)
    browser.visit(write)
    age(browser, **columns)
    return browser


def test_expired_session_is_new(ended):
    """Nothing of an expired session is seen."""
    assert ended.ask(lambda session: (dict(session), session.new)) == ({}, True)


def test_expired_session_is_deleted_with_its_cookie(ended):
    """Whoever finds a session expired deletes row and cookie, in two statements."""
    with statements(ended.application.engine) as collected:
        response = ended.visit(read)
    assert [each.split()[0] for each in collected] == ["SELECT", "DELETE"]
    assert [value for _, value, _ in set_cookies(response)] == [""]
    assert ended.application.rows() == []
    assert ended.cookie is None


def test_expired_session_is_replaced(ended):
    """A request that writes gets a session with another id, and one cookie for it."""
    old = ended.application.row().id
    ((_, value, _),) = set_cookies(ended.visit(write))
    row = ended.application.row()
    assert row.id != old
    assert OURS.loads(value) == row.id.bytes
    assert ended.ask(dict) == {"a": 1}


def test_expired_session_of_a_failed_request_stays(ended):
    """A request that is not committed does not delete an expired session."""
    cookie = ended.cookie
    response = ended.visit(write_and_fail, status=503)
    assert set_cookies(response) == []
    assert ended.cookie == cookie
    assert ended.ask(dict) == {}
    assert ended.application.rows() == []


def test_session_that_is_extended_meanwhile_is_not_deleted(make_browser):
    """A session that was found expired is left alone if it is no more at commit."""
    browser = make_browser(Timed, **IDLE)
    browser.visit(write)
    cookie, expire = browser.cookie, browser.application.row().idle_expire
    age(browser, idle_expire=LONG_AGO)

    def view(request):
        read(request)
        age(browser, idle_expire=expire)
        return str(request.session.new)

    response = browser.visit(view)
    assert response.text == "True"
    assert set_cookies(response) == []
    assert browser.cookie == cookie
    assert browser.ask(dict) == {"a": 1}


@pytest.fixture
def violated(make_browser):
    """Return a browser whose cookie's renewal id is wrong, and the list of events."""
    events = []

    def configure(config):
        catching(config)
        config.add_subscriber(events.append, RenewalViolationEvent)

    browser = make_browser(Timed, configure=configure, **RENEWAL)
    browser.visit(write)
    session_id = browser.application.row().id
    wrong = OURS.dumps(session_id.bytes + uuid.uuid4().bytes).decode("ascii")
    for cookie in browser.cookiejar:
        cookie.value = wrong
    return browser, events


def test_violation_deletes_row_and_cookie(violated):
    """A session whose renewal id is wrong is deleted with its cookie, with an event."""
    browser, events = violated
    response = browser.visit(lambda request: str(request.session.new))
    assert response.text == "True"
    assert [type(each) for each in events] == [RenewalViolationEvent]
    assert [value for _, value, _ in set_cookies(response)] == [""]
    assert browser.application.rows() == []


def test_violation_in_a_failed_request(violated):
    """A thief cannot keep a session by making the request fail."""
    browser, events = violated
    response = browser.visit(write_and_fail, status=503)
    assert len(events) == 1
    assert [value for _, value, _ in set_cookies(response)] == [""]
    assert browser.application.rows() == []


def test_violation_in_a_request_without_an_answer(violated):
    """Nor by making it fail in such a way that there is no response at all."""
    browser, events = violated

    def view(request):
        read(request)
        raise LookupError

    with pytest.raises(LookupError):
        browser.visit(view)
    assert len(events) == 1
    assert browser.application.rows() == []


def test_violation_and_a_new_session(violated):
    """After a violation the session is usable as a new one, with one new cookie."""
    browser, _ = violated
    ((_, value, _),) = set_cookies(browser.visit(write))
    row = browser.application.row()
    assert OURS.loads(value) == row.id.bytes + row.renewal_id.bytes
    assert browser.ask(dict) == {"a": 1}


# 10. The cookie of a session that is extended, or has attributes of its own.


def test_cookie_with_an_age_is_sent_again(make_browser):
    """When a tenth of its age has passed the cookie goes out again."""
    browser = make_browser(Timed, cookie_max_age=500, **IDLE)
    browser.visit(write)
    row = browser.application.row()
    expire = row.idle_expire
    age(browser, idle_expire=expire - 100, sent=row.sent - 50)
    response = browser.visit(read)
    ((_, value, attributes),) = set_cookies(response)
    assert OURS.loads(value) == browser.application.row().id.bytes
    assert "Max-Age=500" in attributes
    assert browser.application.row().idle_expire >= expire
    assert browser.application.row().sent >= row.sent


def test_cookie_with_an_age_is_not_sent_again_for_nothing(make_browser):
    """Before that it does not, whatever is extended."""
    browser = make_browser(Timed, cookie_max_age=500, **IDLE)
    browser.visit(write)
    row = browser.application.row()
    age(browser, idle_expire=row.idle_expire - 100, sent=row.sent - 40)
    assert set_cookies(browser.visit(read)) == []
    assert browser.application.row().idle_expire >= row.idle_expire
    assert browser.application.row().sent == row.sent - 40


def test_cookie_with_an_age_is_not_sent_again_by_a_failed_request(make_browser):
    """Where that is not committed the cookie does not go out."""
    browser = make_browser(Timed, configure=catching, cookie_max_age=500, **IDLE)
    browser.visit(write)
    row = browser.application.row()
    age(browser, idle_expire=row.idle_expire - 100, sent=row.sent - 100)
    assert set_cookies(browser.visit(write_and_fail, status=503)) == []


def test_cookie_without_an_age_is_not_sent_again(make_browser):
    """A cookie that lasts as long as the browser need not be sent again."""
    browser = make_browser(Timed, **IDLE)
    browser.visit(write)
    age(browser, idle_expire=browser.application.row().idle_expire - 100)
    assert set_cookies(browser.visit(read)) == []


OWN = {
    "cookie_path": "/own",
    "cookie_domain": "own.example.com",
    "cookie_secure": True,
    "cookie_httponly": False,
}


@pytest.mark.parametrize(
    "view",
    [
        lambda request: request.session.invalidate(),
        lambda request: request.session.rotate(),
    ],
    ids=["invalidate", "rotate"],
)
def test_attributes_of_the_session_itself(make_browser, view):
    """The cookie of a session with attributes of its own goes and comes with them."""
    browser = make_browser(Timed, cookie_path="/global")
    browser.visit(write)
    cookie = sealed(browser.application.row().id)
    age(browser, **OWN)
    ((_, _, attributes),) = set_cookies(visit_with(browser, f"session={cookie}", view))
    assert {"Path=/own", "Domain=own.example.com", "secure", "SameSite=Lax"} <= set(
        attributes
    )
    assert "HttpOnly" not in attributes


def test_attributes_of_an_expired_session(make_browser):
    """The cookie of an expired session is deleted with the session's own attributes."""
    browser = make_browser(Timed, cookie_path="/global", **IDLE)
    browser.visit(write)
    cookie = sealed(browser.application.row().id)
    age(browser, idle_expire=LONG_AGO, **OWN)
    ((_, value, attributes),) = set_cookies(
        visit_with(browser, f"session={cookie}", read)
    )
    assert value == ""
    assert {"Path=/own", "Domain=own.example.com", "secure"} <= set(attributes)


def test_attributes_of_a_violated_session(make_browser):
    """The cookie of a violated session is deleted with the session's own attributes."""
    browser = make_browser(Timed, cookie_path="/global", **RENEWAL)
    browser.visit(write)
    wrong = browser.application.row().id.bytes + uuid.uuid4().bytes
    cookie = OURS.dumps(wrong).decode("ascii")
    age(browser, **OWN)
    ((_, value, attributes),) = set_cookies(
        visit_with(browser, f"session={cookie}", read)
    )
    assert value == ""
    assert {"Path=/own", "Domain=own.example.com", "secure"} <= set(attributes)


def test_attributes_of_a_session_that_was_not_loaded(make_browser):
    """A bad cookie is deleted with the attributes of the settings."""
    browser = make_browser(Timed, cookie_path="/global")
    assert "Path=/global" in deleted(browser)


# 10. The attributes.


def sent(browser):
    """Return the attributes with which a new session's cookie is set."""
    browser.reset()
    ((_, value, attributes),) = set_cookies(browser.visit(write))
    assert value
    return sorted(attributes)


def deleted(browser, view=read, cookie="bad", name="session"):
    """Return the attributes with which a cookie is deleted."""
    response = visit_with(browser, f"{name}={cookie}", view)
    ((sent_name, value, attributes),) = set_cookies(response)
    assert (sent_name, value) == (name, "")
    assert "Max-Age=0" in attributes
    assert any(each.startswith("expires=") for each in map(str.lower, attributes))
    return sorted(
        each
        for each in attributes
        if not each.lower().startswith(("max-age=", "expires="))
    )


def test_attributes_by_default(lite_browser):
    """By default the cookie is HttpOnly and SameSite=Lax, and lasts as the browser."""
    assert sent(lite_browser) == ["HttpOnly", "Path=/", "SameSite=Lax"]


@pytest.mark.parametrize(
    ("scheme", "setting", "secure"),
    [
        ("http", "auto", False),
        ("https", "auto", True),
        ("http", "true", True),
        ("https", "true", True),
        ("http", "false", False),
        ("https", "false", False),
    ],
)
def test_secure(make_lite_browser, scheme, setting, secure):
    """cookie_secure=auto is Secure under https; true and false are what they say."""
    browser = make_lite_browser(cookie_secure=setting)
    browser.extra_environ["wsgi.url_scheme"] = scheme
    assert ("secure" in sent(browser)) is secure
    assert ("secure" in deleted(browser)) is secure


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cookie_path": "/app", "cookie_domain": "example.com"},
        {"cookie_httponly": "false", "cookie_samesite": "Strict"},
        {"cookie_samesite": ""},
        {"cookie_samesite": "None", "cookie_secure": "true"},
    ],
    ids=lambda settings: " ".join(settings) or "default",
)
def test_deletion_repeats_the_attributes(make_lite_browser, settings, scheme):
    """A cookie is deleted with the attributes with which it was set."""
    browser = make_lite_browser(**settings)
    browser.extra_environ["wsgi.url_scheme"] = scheme
    browser.extra_environ["HTTP_HOST"] = "example.com:80"
    attributes = sent(browser)
    assert deleted(browser) == attributes
    cookie = sealed(browser.application.row().id)
    assert (
        deleted(browser, lambda request: request.session.invalidate(), cookie)
        == attributes
    )


def test_max_age(make_lite_browser):
    """cookie_max_age makes the cookie outlive the browser."""
    attributes = sent(make_lite_browser(cookie_max_age=3600))
    assert "Max-Age=3600" in attributes


def test_samesite_none(make_lite_browser):
    """SameSite=None goes out as such, with Secure."""
    browser = make_lite_browser(cookie_samesite="None", cookie_secure=True)
    assert {"SameSite=None", "secure"} <= set(sent(browser))


@pytest.mark.parametrize("name", ["__Host-session", "__Secure-session", "sid"])
def test_cookie_of_another_name(make_lite_browser, name):
    """The cookie may have another name, also one with a prefix that browsers know."""
    browser = make_lite_browser(cookie_name=name, cookie_secure="true")
    browser.extra_environ["wsgi.url_scheme"] = "https"
    ((sent_name, value, attributes),) = set_cookies(browser.visit(write))
    assert sent_name == name
    assert {"secure", "Path=/"} <= set(attributes)
    assert "Domain" not in names_of(attributes)
    answers = []
    visit_with(browser, f"{name}={value}", lambda r: answers.append(r.session["a"]))
    assert answers == [1]
    assert {"secure", "Path=/"} <= set(deleted(browser, name=name))
    visit_with(browser, f"session={value}", lambda r: answers.append(r.session.new))
    assert answers == [1, True]


# 10. Caches.


def answering(view, **headers):
    """Return a view that does what ``view`` does, and answers with these headers."""

    def answer(request):
        view(request)
        return Response(
            headers={name.replace("_", "-"): text for name, text in headers.items()}
        )

    return answer


def directives(response):
    """Return the directives of Cache-Control."""
    text = response.headers.get("Cache-Control", "")
    return {each.strip() for each in text.split(",") if each.strip()}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", {"private"}),
        ("public, max-age=60", {"private", "max-age=60"}),
        ("s-maxage=60, max-age=5", {"private", "max-age=5"}),
        ("no-store", {"no-store"}),
        ("public, no-store", {"public", "no-store"}),
        ("private, max-age=5", {"private", "max-age=5"}),
    ],
)
def test_shared_caches_store_no_cookie(lite_browser, given, expected):
    """A response that sets our cookie is for one browser, whatever the view says."""
    response = lite_browser.visit(answering(write, Cache_Control=given))
    assert set_cookies(response)
    assert directives(response) == expected


def test_shared_caches_store_no_deletion(lite_browser):
    """A response that deletes our cookie is for one browser, too."""
    response = visit_with(
        lite_browser, "session=bad", answering(read, Cache_Control="public")
    )
    assert directives(response) == {"private"}


def test_caches_are_left_alone_otherwise(lite_browser):
    """A response without our cookie is as cacheable as the view says."""
    response = lite_browser.visit(answering(read, Cache_Control="public, s-maxage=60"))
    assert directives(response) == {"public", "s-maxage=60"}


def test_response_that_is_not_cached_says_so_once(lite_browser):
    """Cache-Control is one header after ours was merged in."""
    response = lite_browser.visit(answering(write, Cache_Control="max-age=5"))
    assert len(response.headers.getall("Cache-Control")) == 1
