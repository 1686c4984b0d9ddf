"""What follows when the settings of a stored session are changed."""

from __future__ import annotations

import pytest
from sqlalchemy.orm.exc import StaleDataError

from tests.application import Failure, statements
from tests.features.timed import (
    Attributed,
    Own,
    age,
    now,
    read,
    row,
    sent,
    twin,
    use_cookie,
    visit_meanwhile,
    write,
)
from tests.stories.transactions import exception_view, gives_access, set_cookies


def changes(**settings):
    """Return a view that changes settings of the session."""

    def view(request):
        with request.session.settings as edited:
            edited.update(settings)

    return view


def in_header(header):
    """Return the value and the attributes in a Set-Cookie header, without the date."""
    pair, *attributes = header.split("; ")
    return pair.partition("=")[2], {
        each for each in attributes if not each.startswith("expires")
    }


@pytest.fixture
def browser(open_browser):
    """Return a browser with a stored session that can have everything of its own."""
    browser = open_browser(Own, idle_timeout=1000, absolute_timeout=8000)
    browser.visit(write)
    return browser


CHANGES = [
    {"cookie_max_age": 500},
    {"cookie_path": "/shop"},
    {"cookie_domain": "example.com"},
    {"cookie_secure": True},
    {"cookie_httponly": False},
    {"idle_timeout": 300},
    {"idle_timeout": None},
    {"absolute_timeout": 9000},
    {"absolute_timeout": None},
    {"renewal_timeout": 300},
    {"renewal_try_every": 9},
    {"extension_delay": 20},
    {"extension_chance": 50, "extension_deadline": 100},
]


@pytest.mark.parametrize("settings", CHANGES, ids=lambda each: next(iter(each)))
def test_change_is_stored(browser, settings):
    """A change counts at once, and in the requests after it."""

    def view(request):
        changes(**settings)(request)
        return {name: request.session.settings[name] for name in settings}

    assert browser.visit(view).text == str(settings)
    stored = row(browser)
    if "absolute_timeout" not in settings:
        assert {name: getattr(stored, name) for name in settings} == settings
    assert stored.version == 2


def test_change_alone_is_written_once(browser):
    """It's one UPDATE, whatever it restarts."""
    with statements(browser.application.engine) as collected:
        browser.visit(changes(idle_timeout=10, absolute_timeout=20, cookie_max_age=30))
    assert len([each for each in collected if each.startswith("UPDATE")]) == 1


def test_rollback(browser):
    """If the view fails, nothing has changed, and no cookie is sent."""
    before = row(browser)
    browser.fail(changes(idle_timeout=10, cookie_path="/shop", renewal_timeout=5))
    stored = row(browser)
    assert (stored.idle_timeout, stored.cookie_path, stored.version) == (1000, "/", 1)
    assert stored.renewal_id == before.renewal_id
    assert not browser.ask(lambda session: session.new)


def test_bad_value(browser):
    """What a new session can't have, a stored one can't have, either."""
    for bad in ({"idle_timeout": 0}, {"idle_timeout": 8000}, {"cookie_path": "x"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            browser.visit(changes(**bad))
    assert row(browser).version == 1


# Times count from now.


def test_idle_timeout_counts_anew(browser, clock):
    """A shorter one ends the session sooner, a longer one later."""
    clock.shift(500)
    browser.visit(changes(idle_timeout=50))
    assert row(browser).idle_expire == now() + 50
    clock.shift(40)
    browser.visit(changes(idle_timeout=4000))
    assert row(browser).idle_expire == now() + 4000
    browser.visit(changes(idle_timeout=None))
    assert row(browser).idle_expire is None


def test_idle_timeout_ends_the_session(browser, clock):
    """The session is over when the new timeout is."""
    browser.visit(changes(idle_timeout=50))
    clock.shift(51)
    assert browser.ask(lambda session: session.new)


def test_absolute_timeout_counts_anew(browser, clock):
    """It ends so many seconds from now, however old the session is."""
    clock.shift(900)
    browser.visit(changes(absolute_timeout=1500))
    assert row(browser).absolute_expire == now() + 1500
    assert browser.ask(lambda session: session.settings.absolute_timeout) == 2400
    clock.shift(900)
    assert not browser.ask(lambda session: session.new)
    clock.shift(601)
    assert browser.ask(lambda session: session.new)


def test_absolute_timeout_by_a_clock_that_was_set_back(browser, clock):
    """It counts from the beginning of the session then."""
    clock.shift(-500)
    browser.visit(changes(idle_timeout=None, absolute_timeout=60))
    assert browser.ask(lambda session: session.settings.absolute_timeout) == 60


def test_absolute_timeout_of_an_old_session(open_browser, clock):
    """It may end later than any timeout could let it from the beginning on."""
    browser = open_browser(Own)
    browser.visit(write)
    clock.shift(90_000_000)
    browser.visit(changes(absolute_timeout=20_000_000))
    clock.shift(19_999_990)
    assert browser.ask(lambda session: session.expires) == now() + 10
    clock.shift(11)
    assert browser.ask(lambda session: session.new)


def test_other_settings_leave_times_alone(browser, clock):
    """What isn't changed goes on as before."""
    expire = row(browser).absolute_expire
    clock.shift(500)
    browser.visit(changes(idle_timeout=2000, renewal_try_every=10))
    assert row(browser).absolute_expire == expire


def test_expires_tells_of_the_change(browser, clock):
    """`expires` knows of the new times before they're stored."""

    def view(request):
        changes(idle_timeout=50)(request)
        return request.session.expires

    clock.shift(500)
    assert browser.visit(view).text == str(now() + 50)
    assert row(browser).idle_expire == now() + 50


def test_renewal_counts_anew(browser, clock):
    """The next renewal comes so many seconds from now."""
    browser.visit(changes(renewal_timeout=100))
    clock.shift(90)
    browser.visit(changes(renewal_timeout=50))
    clock.shift(50)
    assert sent(browser.visit(read)) is None
    clock.shift(1)
    candidate = sent(browser.visit(read))
    assert candidate.renewal_id == row(browser).renewal_next


def test_renewal_that_counts_anew_lengthens_no_grace(browser, clock):
    """A cookie that was replaced long ago isn't accepted because of it."""
    browser.visit(changes(renewal_timeout=100))
    old = browser.cookie
    clock.shift(101)
    browser.visit(read)
    browser.visit(read)
    assert row(browser).renewal_previous is not None
    clock.shift(90)
    browser.visit(changes(renewal_timeout=200))
    assert not gives_access(browser.application, old)


def test_renewal_that_counts_anew_during_another(browser, clock):
    """Requests with the cookie that was replaced meanwhile are let in for the grace."""
    browser.visit(changes(renewal_timeout=100))
    for turn in range(2):  # so that there is a previous one
        clock.shift(101)
        old = browser.cookie
        candidate = sent(browser.visit(read)).value
        if turn == 0:
            browser.visit(read)
    use_cookie(browser, old)

    def view(request):
        read(request)
        visit_meanwhile(twin(browser, candidate), read)
        changes(renewal_timeout=200)(request)

    browser.visit(view)
    assert row(browser).renewal_timeout == 200
    clock.shift(10)
    assert gives_access(browser.application, old)
    assert gives_access(browser.application, candidate)


def test_renewal_that_is_switched_on_rotates(browser):
    """The cookie from before may have no renewal id, and gives no access any more."""
    old = browser.cookie
    cookie = sent(browser.visit(changes(renewal_timeout=100)))
    assert cookie.renewal_id == row(browser).renewal_id
    assert row(browser).rotated is not None
    assert not gives_access(browser.application, old)
    assert not browser.ask(lambda session: session.new)


def test_renewal_that_is_switched_off(browser, clock):
    """There's no candidate any more; the cookie stays good."""
    browser.visit(changes(renewal_timeout=100))
    browser.visit(changes(renewal_timeout=None))
    clock.shift(500)
    assert sent(browser.visit(read)) is None
    assert not browser.ask(lambda session: session.new)


def test_extension_under_way_does_not_undo_a_shorter_timeout(browser, clock):
    """A request that read the old timeout doesn't extend the session by it."""
    clock.shift(10)

    def view(request):
        read(request)
        visit_meanwhile(browser, changes(idle_timeout=50))

    browser.visit(view)
    assert row(browser).idle_expire == now() + 50


# The cookie.


def test_cookie_is_sent_again(browser):
    """The same cookie, with the new attributes."""
    response = browser.visit(
        changes(cookie_max_age=500, cookie_secure=True, cookie_httponly=False)
    )
    cookie, stored = sent(response), row(browser)
    assert {"Max-Age=500", "Path=/", "secure"} <= set(cookie.attributes)
    assert "HttpOnly" not in cookie.attributes
    assert (cookie.id, cookie.renewal_id) == (stored.id, stored.renewal_id)
    assert stored.sent == now()


@pytest.mark.parametrize(
    "settings", [{"idle_timeout": 5}, {"renewal_try_every": 7}, {"cookie_path": "/"}]
)
def test_cookie_stays(browser, settings):
    """Nothing is sent if the attributes are the same."""
    assert sent(browser.visit(changes(**settings))) is None


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"cookie_path": "/shop"}, {"Path=/shop"}),
        ({"cookie_domain": "example.com"}, {"Path=/", "Domain=example.com"}),
        (
            {"cookie_domain": "example.com", "cookie_path": "/shop"},
            {"Path=/shop", "Domain=example.com"},
        ),
    ],
)
def test_cookie_that_moves(browser, settings, place):
    """It's sent with the new path and domain, and deleted where it was."""
    response = browser.visit(changes(**settings))
    (gone, deletion), (value, attributes) = map(in_header, set_cookies(response))
    assert gone == ""
    assert deletion == {"Path=/", "Max-Age=0", "HttpOnly", "SameSite=Lax"}
    assert attributes == {*place, "HttpOnly", "SameSite=Lax"}
    use_cookie(browser, value)
    back = browser.visit(changes(cookie_path="/", cookie_domain=None))
    (_, deletion), (_, attributes) = map(in_header, set_cookies(back))
    assert place <= deletion
    assert attributes == {"Path=/", "HttpOnly", "SameSite=Lax"}


def test_cookie_that_moves_in_a_browser(browser):
    """A browser has one cookie afterwards, and keeps its session."""
    browser.visit(changes(cookie_path="/shop"))
    assert [each.path for each in browser.cookiejar] == ["/shop"]
    assert not browser.ask(lambda session: session.new, url="/shop/cart")


@pytest.mark.parametrize("turn", ["rotate", "invalidate"])
def test_cookie_that_moves_and_is_replaced(browser, turn):
    """What was before is deleted where it was, whatever takes its place."""

    def view(request):
        if turn == "invalidate":
            request.session.invalidate()
            write(request)
        else:
            request.session.rotate()
        changes(cookie_path="/shop")(request)

    (gone, deletion), (_, attributes) = map(in_header, set_cookies(browser.visit(view)))
    assert (gone, "Path=/" in deletion, "Path=/shop" in attributes) == ("", True, True)


def test_change_and_invalidate(browser):
    """A session that ends is deleted where its cookie is, not where it would be."""

    def view(request):
        changes(cookie_path="/shop")(request)
        request.session.invalidate()

    (header,) = set_cookies(browser.visit(view))
    assert "Path=/" in in_header(header)[1]


def test_change_that_is_persisted_and_invalidate(browser):
    """A cookie that moves, but is never sent, is deleted where the browser has it."""

    def view(request):
        changes(cookie_path="/shop")(request)
        request.session.persist()
        request.session.invalidate()

    (header,) = set_cookies(browser.visit(view))
    assert in_header(header)[0] == ""
    assert "Path=/" in in_header(header)[1]


def test_session_that_is_new_and_persisted(open_browser):
    """A change after `persist()` counts for the one cookie that is sent."""
    browser = open_browser(Own)

    def view(request):
        write(request)
        request.session.persist()
        changes(cookie_max_age=500)(request)
        return request.session.id

    response = browser.visit(view)
    cookie = sent(response)
    assert str(cookie.id) == response.text
    assert "Max-Age=500" in cookie.attributes
    assert browser.ask(lambda session: session["a"]) == 1


@pytest.mark.parametrize("acknowledged", [False, True])
def test_cookie_during_a_renewal(browser, clock, acknowledged):
    """A candidate that's on its way is what is sent: the other is soon replaced."""
    browser.visit(changes(renewal_timeout=100))
    before = browser.cookie
    clock.shift(101)
    candidate = sent(browser.visit(read))
    if not acknowledged:
        use_cookie(browser, before)
    again = sent(browser.visit(changes(cookie_max_age=500)))
    assert again.renewal_id == candidate.renewal_id
    stored = row(browser)
    assert (stored.renewal_id == candidate.renewal_id) is acknowledged
    clock.shift(80)
    assert not browser.ask(lambda session: session.new)


def test_renewal_meanwhile(browser, clock):
    """A cookie that another request has just had replaced isn't sent again."""
    browser.visit(changes(renewal_timeout=100))
    before = browser.cookie
    clock.shift(101)
    candidate = sent(browser.visit(read))
    use_cookie(browser, before)

    def view(request):
        read(request)
        takeover = twin(browser, candidate.value)
        visit_meanwhile(takeover, read)
        changes(cookie_max_age=500)(request)

    again = sent(browser.visit(view))
    assert again.renewal_id == candidate.renewal_id == row(browser).renewal_id


# Beside other requests.


def test_data_and_settings_at_once(browser):
    """Who changes settings and who changes data aren't in each other's way."""

    def view(request):
        changes(idle_timeout=50)(request)
        visit_meanwhile(browser, write)

    browser.visit(view)
    stored = row(browser)
    assert (stored.idle_timeout, stored.version) == (50, 3)
    assert browser.ask(dict) == {"a": 2}


def test_settings_at_once(browser):
    """Two who change the same setting are: the second is refused."""

    def view(request):
        changes(idle_timeout=50)(request)
        visit_meanwhile(browser, changes(idle_timeout=60))

    with pytest.raises(StaleDataError):
        browser.visit(view)
    assert row(browser).idle_timeout == 60


def test_exception_view(open_browser):
    """What an exception view changes is stored, and its cookie is sent."""
    configure = exception_view(changes(idle_timeout=50, cookie_max_age=500))
    browser = open_browser(Own, configure=configure)
    browser.visit(write)

    def view(request):
        changes(idle_timeout=70)(request)
        raise Failure

    response = browser.visit(view, status=500)
    assert "Max-Age=500" in sent(response).attributes
    assert row(browser).idle_timeout == 50
    assert row(browser).idle_expire == now() + 50


def test_late_cookie(browser):
    """What comes too late changes no settings."""
    old = browser.cookie

    browser.visit(lambda request: request.session.rotate())
    response = twin(browser, old).visit(changes(idle_timeout=50, cookie_max_age=5))
    assert sent(response) is None
    assert row(browser).idle_timeout == 1000


def test_model_with_few_of_its_own(open_browser):
    """Where only the cookie is the session's own, the rest is as it was."""
    browser = open_browser(Attributed, idle_timeout=100)
    browser.visit(write)
    expire = row(browser).idle_expire
    assert "Max-Age=50" in sent(browser.visit(changes(cookie_max_age=50))).attributes
    assert row(browser).idle_expire == expire


def test_rows_from_before_the_columns(open_browser):
    """A change of one setting goes with rows in which the others are NULL."""
    browser = open_browser(Own, extension_chance=40, extension_deadline=50)
    browser.visit(write)
    names = ["idle_timeout", "extension_delay", "extension_chance"]
    age(browser, **dict.fromkeys([*names, "extension_deadline", "cookie_path"]))
    browser.visit(changes(idle_timeout=600))
    assert browser.ask(lambda session: session.settings.extension_chance) == 40
    assert row(browser).idle_expire == now() + 600


# Edits that are neither saved nor discarded.


@pytest.mark.parametrize("is_stored", [False, True])
def test_edits_that_are_forgotten_are_logged(open_browser, caplog, is_stored):
    """The log names what has no effect, and not the values."""
    browser = open_browser(Own)
    if is_stored:
        browser.visit(write)

    def view(request):
        request.session.settings.edit()
        request.session.settings.idle_timeout = 12345

    browser.visit(view)
    (record,) = caplog.records
    assert "idle_timeout" in record.getMessage()
    assert "12345" not in record.getMessage()


@pytest.mark.parametrize("end", ["save", "discard"])
def test_edits_that_are_not_forgotten(open_browser, caplog, end):
    """Nothing is logged of others."""
    browser = open_browser(Own)
    browser.visit(write)

    def view(request):
        settings = request.session.settings
        settings.edit()
        settings.idle_timeout = 12345
        getattr(settings, end)()
        settings.edit()

    browser.visit(view)
    assert caplog.records == []


@pytest.mark.parametrize("edit", [{"nonsense": 1}, {"cookie_max_age": 5, "cookie": 1}])
def test_update_of_what_is_unknown(browser, edit):
    """`update()` changes all or nothing."""

    def view(request):
        settings = request.session.settings
        settings.edit()
        with pytest.raises(KeyError):
            settings.update(edit)
        settings.save()

    browser.visit(view)
    assert row(browser).version == 1


def test_update_takes_what_a_dict_takes(browser):
    """Pairs and keywords, too."""

    def view(request):
        with request.session.settings as settings:
            settings.update([("idle_timeout", 60)], cookie_max_age=70)

    browser.visit(view)
    assert (row(browser).idle_timeout, row(browser).cookie_max_age) == (60, 70)
