"""The demo does what its pages say."""

from __future__ import annotations

import time
from pathlib import Path

import plaster
import pytest
import time_machine
from sqlalchemy import create_engine, delete, func, inspect, select, text
from sqlalchemy.orm import Session
from webtest import TestApp

import demo.devices
import demo.security
from demo.database import PRODUCTS, USERS, OutdatedDatabase
from demo.models import Alarm, Order, Product, User, WebSession
from demo.security import path_of_this_site

INI = Path(demo.__file__).with_name("development.ini")


def settings_of_ini():
    """Return what is in the ini file for the application."""
    settings = plaster.get_settings(str(INI), "app:main")
    del settings["use"]
    return settings


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The application, made from the settings of its ini file."""
    path = tmp_path_factory.mktemp("demo") / "demo.sqlite"
    app = demo.main({}, **{**settings_of_ini(), "sqlalchemy.url": f"sqlite:///{path}"})
    yield app
    app.registry["dbsession_factory"].kw["bind"].dispose()


@pytest.fixture
def browser(server):
    """A browser that was never here, in front of full shelves."""
    browser = Browser(server)
    press(browser.get("/shop"), "/shop/cart")
    press(browser.get("/shop"), "/shop/checkout")
    press(browser.get("/shop"), "/shop/restock")
    browser.reset()
    return browser


class Browser(TestApp):
    """A browser with the habits of the visitors of the demo."""

    @property
    def dbsession(self):
        return self.app.registry["dbsession_factory"]()

    @property
    def cookie(self):
        return self.cookies.get("session")

    def panel(self):
        """Return what the panel beside the page shows, by the names it has there."""
        page = self.get("/panel").html
        return {
            name: tag.get_text(" ", strip=True)
            for name in PANEL
            if (tag := page.find(id=name)) is not None
        }

    def times(self):
        """Return what the frame with the clock shows, by the ids of its parts."""
        page = self.get("/timeouts/now").html
        return {
            name: tag.get_text(" ", strip=True)
            for name in ("clock", "idle", "absolute", "renewal", "thief", "no-times")
            if (tag := page.find(id=name)) is not None
        }

    def begin(self, idle="30", absolute="300", renewal="10"):
        """Begin a session with timeouts of its own, and return the page."""
        form = form_of(self.get("/timeouts"), "/timeouts/begin")
        form["idle_timeout"] = idle
        form["absolute_timeout"] = absolute
        form["renewal_timeout"] = renewal
        return form.submit().follow()

    def use(self):
        """Use the session; return its page."""
        return self.get("/timeouts")

    def log_in(self, name="alice", password=None):
        """Submit the login form, and return the answer."""
        form = form_of(self.get("/login"), "/login")
        form["name"] = name
        form["password"] = USERS.get(name) if password is None else password
        return form.submit()

    def add(self, product="Desk lamp"):
        """Put something into the cart, and return the page of the shop."""
        page = self.get("/shop")
        button = page.html.find(attrs={"aria-label": f"Add {product} to the cart"})
        number = button.find_previous("input", attrs={"name": "product"})["value"]
        form = next(
            form
            for form in page.forms.values()
            if "product" in form.fields and form["product"].value == number
        )
        return form.submit().follow()

    def check_out(self, payment_fails=False, **kw):
        """Submit the checkout form, and return the answer."""
        form = form_of(self.get("/shop"), "/shop/checkout")
        form["payment_fails"] = payment_fails
        return form.submit(**kw)


def form_of(page, action):
    """Return the first form of a page that is sent to this path."""
    return next(form for form in page.forms.values() if form.action == action)


def press(page, action):
    """Submit the form and return the page that comes after it."""
    return form_of(page, action).submit().follow()


def is_cookie_sent(answer):
    """Tell whether the answer has a session cookie. The panel has one of its own."""
    cookies = answer.headers.getall("Set-Cookie")
    return any(cookie.startswith("session=") for cookie in cookies)


def messages(page):
    """Return the flash messages that a page shows."""
    return [tag.get_text() for tag in page.html.find_all(class_="flash")]


def stock(browser):
    """Return the stock of the products by their names."""
    with browser.dbsession as dbsession:
        return dict(dbsession.execute(select(Product.name, Product.stock)).all())


def orders(browser):
    """Return the number of orders."""
    with browser.dbsession as dbsession:
        return dbsession.scalar(select(func.count()).select_from(Order))


def alarms(browser):
    """Return whose alarms there are."""
    with browser.dbsession as dbsession:
        return dbsession.scalars(select(Alarm.userid).order_by(Alarm.id)).all()


PANEL = [
    *("row-id", "row-version", "row-userid", "row-data", "row-flash"),
    *("row-idle_expire", "row-renewal_id", "row-rotated", "row-rotated_from"),
    "row-authenticated",
]
TIMES = "\N{MULTIPLICATION SIGN}"
FULL = {name: number for name, _, number in PRODUCTS}

# Start


def test_starts_again_on_its_own_database(server):
    """A second start finds the tables and adds nothing to them."""
    url = server.registry.settings["sqlalchemy.url"]
    again = demo.main({}, **server.registry.settings)
    again.registry["dbsession_factory"].kw["bind"].dispose()
    engine = create_engine(url)
    with Session(engine) as dbsession:
        names = dbsession.scalars(select(User.name)).all()
    engine.dispose()
    assert sorted(names) == sorted(USERS)


@pytest.mark.parametrize("name", ["session", "product"])
def test_tables_of_an_older_demo_are_told(sqlite_url, name):
    """A table that lacks columns is no riddle, and nothing is done to it."""
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(text(f"create table {name} (id integer)"))
    with pytest.raises(OutdatedDatabase, match=f"{name}.* lacks .*Delete the SQLite"):
        demo.main({}, **{**settings_of_ini(), "sqlalchemy.url": sqlite_url})
    assert inspect(engine).get_table_names() == [name]
    engine.dispose()


def test_passwords_are_stored_hashed(browser):
    """No password is in the table, and equal ones would not look alike."""
    with browser.dbsession as dbsession:
        users = dbsession.scalars(select(User)).all()
    for user in users:
        assert USERS[user.name] not in user.password_hash + user.salt
    assert len({user.salt for user in users}) == len(users)


def test_start_stores_nothing(browser):
    """The first page says what to try, and sends no cookie."""
    page = browser.get("/")
    assert not is_cookie_sent(page)
    paths = [link["href"] for link in page.html.select(".scenes a")]
    assert paths == ["/shop", "/account", "/sessions", "/timeouts", "/counter"]
    assert browser.panel() == {}


def test_not_found(browser):
    """A path that doesn't exist gets a page with the same navigation."""
    page = browser.get("/nowhere", status=404)
    assert page.html.h1.get_text() == "Not found"
    assert page.html.nav.find("a", href="/shop") is not None


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/", ["start"]),
        ("/nowhere", ["not_found"]),
        ("/shop", ["shop_page", "change_cart", "checkout"]),
        ("/login", ["login_form", "login"]),
        ("/account", ["account"]),
        ("/sessions", ["devices", "end_device", "end_others"]),
        ("/sessions/password", ["password_form", "change_password", "ask_again"]),
        ("/login/again", ["confirm_form", "confirm"]),
        ("/timeouts", ["timeouts", "begin", "steal", "thief"]),
        ("/timeouts/alarms", ["alarms", "record_alarm"]),
        ("/counter", ["home", "flash"]),
        ("/howdy", ["howdy"]),
    ],
)
def test_code_of_the_page(browser, path, names):
    """Each page shows the view that made it, and the views of its buttons."""
    browser.log_in()
    code = browser.get(path, expect_errors=True).html.select_one(".page > details pre")
    for name in names:
        assert f"def {name}(" in code.get_text()


# Scene 5: a counter and flash messages.


def test_first_visit_is_one_visit(browser):
    """The number and its noun agree."""
    assert "1 visit by" in browser.get("/counter").html.get_text(" ", strip=True)
    assert "2 visits by" in browser.get("/counter").html.get_text(" ", strip=True)


def test_counter_goes_on_over_urls(browser):
    """Both URLs count on, the panel does not count."""
    counts = []
    for path in ("/counter", "/howdy", "/counter"):
        counts.append(browser.get(path).html.find("output").get_text())
        browser.get("/panel")
    assert counts == ["1", "2", "3"]
    assert browser.panel()["row-data"] == "'counter': 3"


def test_browsers_have_their_own_counters(browser, server):
    """The second browser starts at one."""
    other = Browser(server)
    browser.get("/counter")
    browser.get("/counter")
    assert other.get("/counter").html.find("output").get_text() == "1"


def test_flash_message_is_shown_once(browser):
    """The page after the redirect shows the message, the next one does not."""
    form = form_of(browser.get("/counter"), "/flash")
    form["message"] = "<b>Hello</b>"
    answer = form.submit()
    assert answer.status_int == 303
    assert "Hello" in browser.panel()["row-flash"]
    page = answer.follow()
    assert messages(page) == ["<b>Hello</b>"]
    assert "<b>Hello" not in page
    assert browser.panel()["row-flash"] == "{}"
    assert messages(browser.get("/counter")) == []


# Scene 2: logging in and out.


def test_stranger_is_sent_to_login_and_back(browser):
    """The message that the forbidden view flashes survives the rollback."""
    page = browser.get("/account?x=1").follow()
    assert messages(page) == ["Please log in."]
    form = form_of(page, "/login")
    form["name"], form["password"] = "alice", USERS["alice"]
    answer = form.submit()
    assert answer.location == "http://localhost/account?x=1"
    page = answer.follow()
    assert messages(page) == ["Welcome, alice."]
    assert browser.panel()["row-userid"].endswith("(alice)")


@pytest.mark.parametrize(
    ("name", "password"), [("alice", "wrong"), ("nobody", "nobody"), ("", "")]
)
def test_bad_login_is_told(browser, name, password):
    """A wrong name and a wrong password get the same message, and nobody logs in."""
    answer = browser.log_in(name, password)
    assert messages(answer.follow()) == [
        "There is no such user, or the password is wrong."
    ]
    assert browser.get("/account").status_int == 303


def test_login_changes_the_cookie_and_the_csrf_token_and_keeps_the_data(browser):
    """The renewal id is another one after it, the id stays, the counter goes on."""
    old_form = form_of(browser.get("/counter"), "/flash")
    cookie, before = browser.cookie, browser.panel()
    page = browser.log_in().follow()
    after = browser.panel()
    assert browser.cookie != cookie
    assert after["row-id"] == before["row-id"]
    assert (
        after["row-renewal_id"] != before["row-renewal_id"] == after["row-rotated_from"]
    )
    assert page.html.find(id="renewal-before").get_text() == before["row-renewal_id"]
    assert page.html.find(id="renewal-now").get_text() == after["row-renewal_id"]
    assert before["row-rotated"] == before["row-authenticated"] == "NULL"
    assert after["row-rotated"] == after["row-authenticated"] != "NULL"
    assert browser.get("/counter").html.find("output").get_text() == "2"
    assert "too old" in old_form.submit(status=400)


def test_old_cookie_is_dead_after_login(browser, server):
    """Who sends the cookie from before the login is a stranger; the page shows it."""
    browser.get("/counter")
    thief = Browser(server)
    thief.set_cookie("session", browser.cookie)
    browser.log_in()
    assert thief.get("/account").status_int == 303
    assert "row-id" in browser.panel()
    assert browser.get("/replay").html.find(id="no-row") is not None


def test_logout_deletes_the_session(browser, server):
    """Nothing of the old session is left, and the farewell is in a new one."""
    browser.get("/counter")
    browser.log_in()
    cookie = browser.cookie
    page = press(browser.get("/account"), "/logout")
    assert messages(page) == ["You're logged out. Good-bye!"]
    assert browser.cookie != cookie
    assert "counter" not in browser.panel()["row-data"]
    assert browser.get("/replay").html.find(id="no-row") is not None
    old = Browser(server)
    old.set_cookie("session", cookie)
    assert old.get("/account").status_int == 303


@pytest.mark.parametrize("path", ["/flash", "/login", "/logout", "/shop/checkout"])
def test_post_without_token_is_refused(browser, path):
    """Every form needs the CSRF token."""
    browser.get("/counter")
    assert "too old" in browser.post(path, {}, status=400)


@pytest.mark.parametrize("url", ["/", "/account", "/shop?a=b&c=%20"])
def test_next_may_be_a_path_of_the_site(url):
    """The login page redirects to where one came from."""
    assert path_of_this_site(url, "/x") == url


@pytest.mark.parametrize(
    "url",
    [
        *(None, "", "account", "//evil.example", "/\\evil.example"),
        *("https://evil.example", "javascript:alert(1)"),
        *("/a\nb", "/\t/evil.example", "/ä"),
    ],
)
def test_next_may_not_lead_elsewhere(url):
    """Anything else leads to the default."""
    assert path_of_this_site(url, "/x") == "/x"


# Scene 1: a shop.


def test_cart_is_in_the_session(browser):
    """A change in the nested dict is stored."""
    browser.add("Teapot")
    browser.add("Teapot")
    page = browser.add("Notebook")
    cart = page.html.find(id="cart").get_text(" ", strip=True)
    assert f"2 {TIMES} Teapot" in cart
    assert f"1 {TIMES} Notebook" in cart
    form = next(form for form in page.forms.values() if "remove" in form.fields)
    page = form.submit("remove").follow()
    assert "Teapot" not in page.html.find(id="cart").get_text()
    assert browser.panel()["row-data"] == "'cart': {2: 1}"


def test_unknown_product_is_not_found(browser):
    """A made-up product number puts nothing into the cart."""
    form = browser.get("/shop").forms[0]
    form["product"] = "999"
    form.submit(status=404)
    assert browser.panel()["row-data"] == "{}"


def test_checkout_stores_order_stock_cart_and_message(browser):
    """A checkout that succeeds."""
    browser.add("Desk lamp")
    page = browser.check_out().follow()
    (message,) = messages(page)
    assert message.startswith("Thank you!")
    assert stock(browser) == {**FULL, "Desk lamp": FULL["Desk lamp"] - 1}
    assert orders(browser) == 1
    assert page.html.find(id="cart") is None
    assert "a guest" in page.html.find(id="orders").get_text()


def test_failed_checkout_undoes_everything(browser):
    """Order, stock, cart and message: none of them is left half done."""
    browser.add("Desk lamp")
    before = browser.panel()
    page = browser.check_out(payment_fails=True, status=402)
    rows = [
        [cell.get_text(strip=True) for cell in row.find_all(["th", "td"])]
        for row in page.html.find(id="rollback").tbody.find_all("tr")
    ]
    assert rows == [
        ["Stock: Desk lamp", "3", "4"],
        ["Order 1", "inserted", "does not exist"],
        ["Cart", "empty", f"1 {TIMES} Desk lamp"],
        ["Message", "“Thank you! Order 1 is placed.”", "none"],
    ]
    assert messages(page) == []
    assert browser.panel() == before
    assert stock(browser) == FULL
    assert orders(browser) == 0
    page = browser.get("/shop")
    assert messages(page) == []
    assert f"1 {TIMES} Desk lamp" in page.html.find(id="cart").get_text(" ", strip=True)


def test_failed_checkout_can_be_repeated(browser):
    """After a failure the same cart can be bought, by the user who is logged in."""
    browser.log_in("bob")
    browser.add()
    browser.check_out(payment_fails=True, status=402)
    page = browser.check_out().follow()
    assert "bob" in page.html.find(id="orders").get_text()


def test_too_little_stock_keeps_the_cart_and_tells_why(browser):
    """The exception view's message is stored, and nothing of the failed checkout."""
    browser.add("Desk lamp")
    for _ in range(FULL["Teapot"] + 1):
        browser.add("Teapot")
    page = browser.check_out().follow()
    assert messages(page) == ["Not enough in stock: Teapot, 3 left."]
    assert stock(browser) == FULL
    assert browser.panel()["row-data"] == "'cart': {1: 1, 3: 4}"


def test_empty_cart_cannot_be_checked_out(browser):
    """Two checkouts of one cart: the second is told that it is empty."""
    browser.add()
    form = form_of(browser.get("/shop"), "/shop/checkout")
    form.submit()
    assert messages(browser.get("/shop"))
    assert messages(form.submit().follow()) == ["Your cart is empty."]
    assert orders(browser) == 1


def test_sold_out_product_comes_back(browser):
    """Where something was bought, there's a button that refills the shelves."""
    for _ in range(FULL["Teapot"]):
        page = browser.add("Teapot")
    assert not [form for form in page.forms.values() if form.action == "/shop/restock"]
    browser.check_out()
    browser.add("Teapot")
    page = browser.check_out().follow()
    assert messages(page)[-1] == "Not enough in stock: Teapot, 0 left."
    page = press(page, "/shop/restock")
    assert stock(browser) == FULL
    assert "Thank you!" in messages(browser.check_out().follow())[-1]


@pytest.mark.parametrize("payment_fails", [True, False])
def test_shop_on_every_database(database_url, payment_fails):
    """All that the ini file needs for another database is its URL."""
    settings = {**settings_of_ini(), "sqlalchemy.url": database_url}
    app = demo.main({}, **settings)
    browser = Browser(app)
    browser.log_in()
    browser.add("Desk lamp")
    page = browser.check_out(payment_fails, expect_errors=payment_fails)
    assert page.status_int == (402 if payment_fails else 303)
    assert orders(browser) == (0 if payment_fails else 1)
    left = FULL["Desk lamp"] - (0 if payment_fails else 1)
    assert stock(browser) == {**FULL, "Desk lamp": left}
    assert ("cart" in browser.panel()["row-data"]) == payment_fails
    app.registry["dbsession_factory"].kw["bind"].dispose()


# Scene 4: timeouts, and a stolen cookie.


@pytest.fixture
def clock():
    """A clock that stands still until it is moved."""
    start = int(time.time()) // 3600 * 3600 + 600
    with time_machine.travel(start, tick=False) as clock:
        yield clock


def at(seconds):
    """Return the time so many seconds from the clock's present, as pages show it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + seconds))


def renew(browser, clock):
    """Use the session until its cookie has been renewed."""
    before = browser.panel()["row-renewal_id"]
    clock.shift(11)
    browser.use()
    browser.use()
    assert browser.panel()["row-renewal_id"] != before


def test_timeouts_are_comfortable_by_default(browser, clock):
    """They are those of the ini file, and the page begins a session."""
    page = browser.use()
    assert page.html.find(id="lost") is None
    times = browser.times()
    assert times["clock"] == at(0)
    assert times["idle"].startswith(f"Idle timeout 3600 s until {at(3600)},")
    assert times["absolute"].startswith("Absolute timeout 43200 s")
    assert times["renewal"] == f"Renewal 600 s due at {at(601)}"
    assert "thief" not in times


def test_session_begins_with_timeouts_of_its_own(browser, server, clock):
    """They replace the ini's, for this session only, and count from now."""
    browser.log_in()
    userid = browser.panel()["row-userid"]
    clock.shift(20)
    page = browser.begin("20", "200", "")
    assert "This session has timeouts of its own now." in messages(page)
    times = browser.times()
    assert times["idle"].startswith(f"Idle timeout 20 s until {at(20)}")
    assert times["absolute"].startswith(f"Absolute timeout 200 s until {at(200)}")
    assert times["renewal"] == "Renewal none"
    assert browser.panel()["row-userid"] == userid
    other = Browser(server)
    other.use()
    assert other.times()["idle"].startswith("Idle timeout 3600 s")


def test_session_may_have_no_timeouts(browser, clock):
    """An empty field means none."""
    browser.begin("", "", "")
    clock.shift(10**8)
    assert browser.times()["idle"] == "Idle timeout none"
    assert browser.times()["absolute"] == "Absolute timeout none"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"idle": "soon"}, "idle_timeout must be"),
        ({"renewal": "0"}, "renewal_timeout must be"),
        ({"idle": "300"}, "idle_timeout (300) must be less than absolute_timeout"),
    ],
)
def test_bad_timeouts_are_told_and_change_nothing(browser, values, expected):
    """The old session is still there, with all that it holds."""
    browser.get("/counter")
    row_id = browser.panel()["row-id"]
    (message,) = messages(browser.begin(**values))
    assert expected in message
    assert browser.panel()["row-id"] == row_id
    assert browser.panel()["row-data"] == "'counter': 1"


@pytest.mark.parametrize("path", ["/panel", "/timeouts/now"])
def test_looking_does_not_use_the_session(browser, clock, path):
    """Frames extend nothing and renew nothing, pages do."""
    browser.begin()
    end = at(30)
    clock.shift(20)
    assert not is_cookie_sent(browser.get(path))
    assert browser.panel()["row-idle_expire"] == end
    assert browser.times()["idle"].startswith(f"Idle timeout 10 s until {end},")
    assert browser.times()["renewal"].startswith("Renewal due")
    browser.use()
    assert browser.panel()["row-idle_expire"] == at(30)
    assert browser.times()["renewal"].startswith("Renewal sent")
    browser.get(path)
    assert browser.times()["renewal"].startswith("Renewal sent")


def test_countdown_does_not_extend_what_it_counts(browser, clock):
    """The page knows when the session ends, and can ask again."""
    browser.begin()
    page = browser.use()
    countdown = page.html.find(id="countdown")
    end = int(countdown["data-expires"])
    clock.shift(20)
    assert browser.get(countdown["data-url"]).json["expires"] == end
    assert browser.panel()["row-idle_expire"] == at(10)
    clock.shift(12)
    assert browser.get(countdown["data-url"]).json["expires"] is None


def test_idle_session_ends(browser, clock):
    """Within its last second it can be used, later it cannot."""
    browser.begin()
    clock.shift(30)
    assert browser.times()["idle"].startswith("Idle timeout 0 s")
    browser.use()
    clock.shift(31)
    page = browser.use()
    assert page.html.find(id="lost") is not None
    assert browser.times()["idle"].startswith("Idle timeout 3600 s")
    assert browser.use().html.find(id="lost") is None


def test_look_at_an_expired_session_ends_it(browser, clock):
    """There is no row any more, so the frames show none."""
    browser.begin()
    clock.shift(31)
    assert browser.times().keys() == {"clock", "no-times"}
    assert browser.cookie is None
    assert browser.panel() == {}


def test_absolute_timeout_ends_what_is_in_use(browser, clock):
    """Use extends the idle timeout only."""
    browser.begin("30", "50", "")
    clock.shift(25)
    browser.use()
    assert browser.times()["absolute"].startswith("Absolute timeout 25 s")
    clock.shift(25)
    assert browser.use().html.find(id="lost") is None
    clock.shift(1)
    assert browser.use().html.find(id="lost") is not None


def test_renewal_takes_two_requests(browser, clock):
    """One gets the new cookie, the next brings it back."""
    browser.begin()
    cookie = browser.cookie
    clock.shift(10)
    assert browser.times()["renewal"].startswith("Renewal 0 s")
    browser.use()
    assert browser.cookie == cookie
    clock.shift(1)
    browser.use()
    assert browser.cookie != cookie
    assert browser.times()["renewal"].endswith(f"new cookie sent at {at(0)}")
    browser.use()
    assert browser.times()["renewal"].startswith(f"Renewal 10 s due at {at(11)}")


def test_theft_is_told_step_by_step(browser, clock):
    """The frame says what the stolen cookie is good for, and when that ends."""
    browser.begin()
    press(browser.use(), "/timeouts/steal")
    assert f"Wait for the renewal, which is due at {at(11)}" in browser.times()["thief"]
    clock.shift(11)
    page = browser.get("/timeouts/now").html
    assert page.find(attrs={"data-until": True, "hidden": True}) is not None
    browser.use()
    assert "until the new one comes back" in browser.times()["thief"]
    browser.use()
    assert f"still accepted until {at(10)}" in browser.times()["thief"]
    clock.shift(11)
    told = browser.get("/timeouts/now").html.find(id="armed")
    assert "sets off the alarm" in told.get_text()
    assert not told.has_attr("hidden")


def test_thief_is_let_in_until_the_grace_is_over(browser, clock):
    """With the present cookie, with the one before, and then no more."""
    before = len(alarms(browser))
    browser.begin()
    press(browser.use(), "/timeouts/steal")
    (message,) = messages(press(browser.use(), "/timeouts/thief"))
    assert "let in" in message
    assert "as good as yours" in message
    renew(browser, clock)
    clock.shift(10)
    (message,) = messages(press(browser.use(), "/timeouts/thief"))
    assert "let in" in message
    assert "still accepted" in message
    assert len(alarms(browser)) == before
    clock.shift(1)
    press(browser.use(), "/timeouts/thief")
    assert len(alarms(browser)) == before + 1


@pytest.mark.parametrize("name", [None, "bob"])
def test_old_cookie_sets_off_the_alarm(browser, clock, name, caplog):
    """The session is deleted, the alarm recorded, and the visitor is a stranger."""
    if name is not None:
        browser.log_in(name)
    with browser.dbsession as dbsession:
        user = select(User.id).where(User.name == name)
        userid = dbsession.scalar(user)
    press_steal_and_wait(browser, clock)
    row_id = browser.panel()["row-id"]
    answer = form_of(browser.use(), "/timeouts/thief").submit()
    assert "Set-Cookie" not in answer.headers
    page = answer.follow()
    assert page.html.h1.get_text() == "Alarm"
    assert messages(page) == ["Your session has been deleted, with everything in it."]
    newest = page.html.find(id="alarms").tbody.tr.get_text(" ", strip=True)
    assert newest == f"{at(0)} {name or 'a guest'}"
    assert alarms(browser)[-1] == userid
    assert f"came back. Its user is {userid}." in caplog.text
    assert "stranger" in browser.get("/panel")
    with browser.dbsession as dbsession:
        ids = dbsession.scalars(select(WebSession.id)).all()
    assert not any(str(id).startswith(row_id.rstrip("…")) for id in ids)
    page = form_of(page, "/timeouts").submit()
    assert page.html.find(id="lost") is not None
    assert browser.panel()["row-data"] == "{}"
    assert "have now" in browser.get("/timeouts/alarms")


def press_steal_and_wait(browser, clock):
    """Steal the cookie, and wait until it is of no use any more."""
    press(browser.use(), "/timeouts/steal")
    for _ in range(2):
        clock.shift(601)
        browser.use()
    clock.shift(11)


def test_alarm_is_recorded_whatever_the_request_was_for(browser, server, clock):
    """A thief of flesh and blood, on another page, in a request that fails."""
    browser.begin()
    thief = Browser(server)
    thief.set_cookie("session", browser.cookie)
    renew(browser, clock)
    clock.shift(11)
    before = len(alarms(browser))
    answer = thief.post("/flash", {}, status=400)
    assert len(alarms(browser)) == before + 1
    assert answer.headers["Set-Cookie"].startswith("session=; Max-Age=0")
    assert browser.use().html.find(id="lost") is not None


def test_thief_is_a_stranger_after_a_login(browser, clock):
    """A cookie from before a login is no alarm, now or later: it is just dead."""
    press(browser.use(), "/timeouts/steal")
    browser.log_in()
    before = len(alarms(browser))
    for seconds in (0, 60):
        clock.shift(seconds)
        assert "Useless." in browser.times()["thief"]
        page = press(browser.use(), "/timeouts/thief")
        assert "The thief is a stranger here." in messages(page)[-1]
        assert len(alarms(browser)) == before


def test_nothing_notices_a_thief_without_renewal(browser, clock):
    """The page says so."""
    browser.begin("", "", "")
    press(browser.use(), "/timeouts/steal")
    clock.shift(10**6)
    assert "renewal is off" in browser.times()["thief"]
    (message,) = messages(press(browser.use(), "/timeouts/thief"))
    assert "let in" in message
    assert "Renewal is off" in message


def test_thief_needs_a_cookie(browser, clock):
    """The button of another session, say, in an old tab."""
    press(browser.use(), "/timeouts/steal")
    form = form_of(browser.use(), "/timeouts/thief")
    browser.reset()
    form["csrf_token"] = form_of(browser.use(), "/timeouts/begin")["csrf_token"].value
    assert messages(form.submit().follow()) == ["Nothing is stolen yet."]


def test_alarm_on_every_database(database_url, clock):
    """All of it: the thief is let in, then caught."""
    settings = {**settings_of_ini(), "sqlalchemy.url": database_url}
    browser = Browser(demo.main({}, **settings))
    browser.log_in()
    press(browser.use(), "/timeouts/steal")
    page = press(browser.use(), "/timeouts/thief")
    assert "let in" in messages(page)[-1]
    press_steal_and_wait(browser, clock)
    page = press(browser.use(), "/timeouts/thief")
    assert page.html.h1.get_text() == "Alarm"
    assert len(alarms(browser)) == 1
    assert browser.panel() == {}
    browser.app.registry["dbsession_factory"].kw["bind"].dispose()


# The panel


def test_panel_without_a_session(browser):
    """It stores nothing, and sends no cookie."""
    answer = browser.get("/panel")
    assert not is_cookie_sent(answer)
    assert "nothing to store yet" in answer
    browser.get("/replay", status=404)


def marked(browser):
    """Return what the panel marks, by name, and check that none of it is folded."""
    page = browser.get("/panel").html
    assert page.select("details mark") == []
    return {mark.parent.contents[0].strip(): mark.get_text() for mark in page("mark")}


def test_panel_marks_what_has_changed(browser):
    """A new row, then what the last click changed in it, then the end of it."""
    assert marked(browser) == {}
    browser.get("/shop")
    assert marked(browser) == {"id": "new row", "session": "changed"}
    assert marked(browser) == {}
    browser.add()
    changed = marked(browser)
    assert {"data", "version"} <= changed.keys()
    assert not {"id", "userid", "flash", "session", "csrf_token"} & changed.keys()
    browser.log_in()
    assert marked(browser).keys() >= {
        *("userid", "data", "authenticated", "csrf_token", "renewal_id", "session"),
    }
    press(browser.get("/account"), "/logout")
    assert marked(browser) == {"id": "new row", "session": "changed"}
    with browser.dbsession as dbsession:
        dbsession.execute(delete(WebSession))
        dbsession.commit()
    assert browser.get("/panel").html.find(id="no-row").mark.get_text() == "gone"


def test_panel_marks_nothing_when_the_checkout_failed(browser):
    """A rollback leaves nothing changed but the time until which the session lasts."""
    browser.add()
    marked(browser)
    browser.check_out(payment_fails=True, status=402)
    assert marked(browser).keys() <= {"idle_expire"}


def test_panel_survives_a_broken_cookie_of_its_own(browser):
    """What the browser remembers of the panel can be anything."""
    browser.get("/counter")
    browser.set_cookie("panel", "rubbish")
    assert marked(browser) == {"id": "new row", "session": "changed"}


def test_replay_leaves_the_marks_alone(browser):
    """The panel of the old cookie is not what the visitor's own panel compares with."""
    browser.get("/counter")
    browser.log_in()
    marked(browser)
    browser.get("/replay")
    assert marked(browser).keys() <= {"idle_expire"}


def test_panel_changes_nothing(browser):
    """Not even the version."""
    browser.get("/counter")
    first = browser.panel()
    assert browser.panel() == first
    with browser.dbsession as dbsession:
        versions = dbsession.scalars(select(WebSession.version)).all()
    assert int(first["row-version"]) in versions


def test_panel_survives_a_foreign_cookie(browser):
    """Somebody else's cookie of the same name is no reason to fail."""
    browser.set_cookie("session", "rubbish")
    assert "stranger" in browser.get("/panel")


# Scene 3: the sessions of a user.


@pytest.fixture
def devices(server):
    """Two browsers in which alice is logged in, and nobody else is."""
    with server.registry["dbsession_factory"].begin() as dbsession:
        dbsession.execute(delete(WebSession))
    devices = [Browser(server, {"HTTP_USER_AGENT": name}) for name in ("One", "Two")]
    for device in devices:
        device.log_in()
    yield devices
    with server.registry["dbsession_factory"].begin() as dbsession:
        alice = dbsession.scalars(select(User).where(User.name == "alice")).one()
        alice.set_password(USERS["alice"])


def is_logged_in(device):
    """Tell whether the browser gets a page for which one has to be logged in."""
    return device.get("/sessions").status_int == 200


def change_password(device, new="looking-glass", fails=False, **kw):
    """Submit the form, and return the answer."""
    form = form_of(device.get("/sessions/password"), "/sessions/password")
    form["new"], form["mail_fails"] = new, fails
    return form.submit(**kw)


def confirm(page, password="wonderland"):
    """Submit the form that asks for the password again; return the next page."""
    form = form_of(page, "/login/again")
    form["password"] = password
    return form.submit().follow()


def test_sessions_are_for_users(browser):
    """A stranger is sent to the login page, and then back."""
    assert "next=%2Fsessions" in browser.get("/sessions").location


def test_sessions_of_a_user(devices, browser):
    """Each browser in which the user is logged in has a row; one is marked as this."""
    browser.log_in("bob")
    for device, agent in zip(devices, ("One", "Two"), strict=True):
        rows = device.get("/sessions").html.find(id="devices").tbody.find_all("tr")
        assert {row.small.get_text() for row in rows} == {"One", "Two"}
        (this,) = [row for row in rows if row.mark is not None]
        assert this.small.get_text() == agent
        assert this.code.get_text() == device.panel()["row-id"][:8]
        assert not any("NULL" in row.get_text() for row in rows)


def test_whole_ids_are_not_on_the_page(devices):
    """The page tells sessions from each other, and nobody learns an id."""
    page = devices[0].get("/sessions").text
    with devices[0].dbsession as dbsession:
        ids = dbsession.scalars(select(WebSession.id)).all()
    assert len(ids) == 2
    for each in ids:
        assert each.hex[:8] in page
        assert each.hex[:12] not in page.replace("-", "")


def test_log_out_one_device(devices):
    """The other device is a stranger from the next click on; this one stays."""
    one, two = devices
    page = press(one.get("/sessions"), "/sessions/end")
    (message,) = messages(page)
    assert message.endswith("is over.")
    assert is_logged_in(one)
    assert not is_logged_in(two)
    assert len(page.html.find(id="devices").tbody.find_all("tr")) == 1


def test_sessions_of_others_are_left_alone(devices, browser):
    """Nobody ends a session of another user."""
    browser.log_in("bob")
    form = form_of(devices[0].get("/sessions"), "/sessions/end")
    form["device"].force_value(browser.panel()["row-id"][:8])
    assert messages(form.submit().follow()) == []
    assert is_logged_in(browser)


def test_log_out_the_others(devices, server):
    """All other devices are logged out at once; then there is no button any more."""
    third = Browser(server)
    third.log_in()
    page = press(devices[0].get("/sessions"), "/sessions/end-others")
    assert messages(page) == ["Other sessions that are over now: 2."]
    assert [is_logged_in(each) for each in (*devices, third)] == [True, False, False]
    assert not [each for each in page.forms.values() if "others" in each.action]


def test_change_password(devices, server):
    """The new password counts, others are over, and this one has another cookie."""
    one, two = devices
    before = one.panel()["row-renewal_id"]
    page = change_password(one).follow()
    assert "Other sessions that are over: 1." in messages(page)[0]
    assert one.panel()["row-renewal_id"] != before
    assert not is_logged_in(two)
    assert is_logged_in(one)
    assert "password is wrong" in messages(two.log_in().follow())[-1]
    assert two.log_in(password="looking-glass").location.endswith("/account")


def test_password_is_asked_for_again(devices, clock):
    """A while after the login; the cookie is replaced, and the way leads back."""
    one = devices[0]
    one.log_in()
    clock.shift(30)
    assert one.get("/sessions/password").html.h1.get_text() == "A new password"
    clock.shift(1)
    page = one.get("/sessions/password").follow()
    assert page.html.h1.get_text() == "Your password, please"
    before = one.panel()
    page = confirm(page, "guess")
    assert messages(page) == ["That isn't your password."]
    assert one.panel()["row-authenticated"] == before["row-authenticated"]
    page = confirm(page)
    assert page.request.path == "/sessions/password"
    after = one.panel()
    assert after["row-id"] == before["row-id"]
    assert after["row-authenticated"] == at(0)
    assert after["row-renewal_id"] != before["row-renewal_id"]


def test_form_that_was_open_too_long(devices, clock):
    """Nothing is changed without a recent login, but there's time to fill in a form."""
    one = devices[0]
    one.log_in()
    form = form_of(one.get("/sessions/password"), "/sessions/password")
    form["new"] = "looking-glass"
    clock.shift(631)
    answer = form.submit()
    assert answer.location.endswith("/login/again?next=%2Fsessions%2Fpassword")
    page = confirm(answer.follow())
    clock.shift(600)
    form = form_of(page, "/sessions/password")
    form["new"] = "looking-glass"
    assert "You have a new password." in messages(form.submit().follow())[0]


def test_strangers_log_in_instead(browser):
    """There's no password to ask for again."""
    for path in ("/sessions/password", "/login/again"):
        assert "/login?next=" in browser.get(path).location


def test_password_may_not_lead_elsewhere(devices):
    """The page that comes after the password is one of this site."""
    page = devices[0].get("/login/again?next=//evil.example")
    form = form_of(page, "/login/again")
    form["password"] = USERS["alice"]
    assert form.submit().location == "http://localhost/account"


def test_step_up_on_every_database(database_url, clock):
    """Ask for the password again, then change it: all other sessions are over."""
    settings = {**settings_of_ini(), "sqlalchemy.url": database_url}
    app = demo.main({}, **settings)
    one, two = Browser(app), Browser(app)
    two.log_in()
    one.log_in()
    clock.shift(31)
    confirm(one.get("/sessions/password").follow())
    page = change_password(one).follow()
    assert "Other sessions that are over: 1." in messages(page)[-1]
    assert not is_logged_in(two)
    assert is_logged_in(one)
    assert two.log_in(password="looking-glass").location.endswith("/account")
    app.registry["dbsession_factory"].kw["bind"].dispose()


@pytest.mark.parametrize("module", [demo.security, demo.devices])
def test_old_password_does_not_survive_a_change(database_url, monkeypatch, module):
    """Neither in a login that has checked it, nor in another change of the password."""
    app = demo.main({}, **{**settings_of_ini(), "sqlalchemy.url": database_url})
    one, two = Browser(app), Browser(app)
    one.log_in()
    original = demo.security.is_unchanged

    def change_meanwhile(*args):
        monkeypatch.undo()
        change_password(one)
        return original(*args)

    if module is demo.security:
        form = form_of(two.get("/login"), "/login")
        form["name"], form["password"] = "alice", USERS["alice"]
    else:
        two.log_in()
        form = form_of(two.get("/sessions/password"), "/sessions/password")
        form["new"] = "jabberwocky"
    monkeypatch.setattr(module, "is_unchanged", change_meanwhile)
    form.submit()
    assert not is_logged_in(two)
    assert is_logged_in(one)
    assert two.log_in(password="looking-glass").location.endswith("/account")
    app.registry["dbsession_factory"].kw["bind"].dispose()


def test_mail_that_fails(devices):
    """If the mail fails, the old password is back, and so is everybody."""
    one, two = devices
    before = one.panel()["row-renewal_id"]
    page = change_password(one, fails=True, status=500)
    rows = page.html.find(id="rollback").tbody.find_all("tr")
    assert [row.find_all("td")[1].get_text() for row in rows] == [
        "the old one",
        "logged in: 1",
        "none",
    ]
    assert rows[1].td.get_text() == "logged out: 1"
    assert one.panel()["row-renewal_id"] == before
    assert is_logged_in(two)
    assert change_password(two).location.endswith("/sessions")


def test_most_sessions(devices, server):
    """A login on one device too many ends the oldest session."""
    more = [Browser(server) for _ in range(4)]
    for device in more:
        device.log_in()
    assert sum(map(is_logged_in, (*devices, *more))) == 5
    assert is_logged_in(more[-1])
