"""The demo in a real browser, served by a real pserve.

Some tests take pictures. With ``PSS_SCREENSHOTS=docs/_static`` they become those of the
documentation.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])),
    None,
)
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMES = "\N{MULTIPLICATION SIGN}"

pytestmark = pytest.mark.browser


class Server:
    """pserve with the demo's ini file, but for database, port and renewal_grace."""

    def __init__(self, directory: Path):
        self._ini = directory / "test.ini"
        self._database = directory / "demo.sqlite"
        self._address = "127.0.0.1:0"

    def start(self) -> None:
        """Return when the server listens: on a free port, later on the same again."""
        text = (ROOT / "demo" / "development.ini").read_text()
        for old, new in (
            ("%(here)s/demo.sqlite", str(self._database)),
            ("listen = localhost:6543", f"listen = {self._address}"),
            ("session.renewal_grace = 10", "session.renewal_grace = 1"),
        ):
            assert old in text
            text = text.replace(old, new)
        self._ini.write_text(text)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyramid.scripts.pserve", str(self._ini)],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._reader.start()
        output = ""
        while not (found := re.search(r"http://([\d.]+:\d+)", output)):
            try:
                line = lines.get(timeout=30)
            except queue.Empty:
                line = ""
            if not line:
                self.stop()
                pytest.fail(f"pserve does not listen. Its output:\n{output}")
            output += line
        self._address = found[1]

    def _read(self, lines: queue.Queue[str]) -> None:
        for line in self._process.stdout:
            lines.put(line)
        lines.put("")

    def stop(self) -> None:
        """Return when the server is gone."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def url(self, path: str) -> str:
        return f"http://{self._address}{path}"


@pytest.fixture(scope="module")
def chromium():
    """The browser, in which every device is a context of its own."""
    missing = (
        "playwright is not installed"
        if sync_playwright is None
        else "chromium is not installed"
        if CHROMIUM is None
        else None
    )
    if missing and os.environ.get("PSS_REQUIRE_BROWSER") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_ARGS
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(chromium, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("demo"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def new_device(chromium, server, tmp_path):
    """Make browsers that share no cookies."""
    contexts = []

    def new_device(**kw):
        context = chromium.new_context(**kw)
        context.set_default_timeout(10_000)
        contexts.append(context)
        pictures = Path(os.environ.get("PSS_SCREENSHOTS") or tmp_path)
        return Device(context.new_page(), server, pictures)

    yield new_device
    for context in contexts:
        context.close()


class Device:
    """A browser of a visitor, with one page open."""

    def __init__(self, page, server, pictures):
        self.page = page
        self._server = server
        self._pictures = pictures

    def visit(self, path):
        self.page.goto(self._server.url(path))

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def panel(self, name):
        """Return the place of one value in the panel."""
        return self.page.frame_locator("iframe.panel").locator(f"#{name}")

    @property
    def marks(self):
        return self.page.frame_locator("iframe.panel").locator("mark")

    def time(self, name):
        """Return the place of one part in the frame with the clock."""
        return self.page.frame_locator("iframe.times").locator(f"#{name}")

    def take_picture(self, name, height):
        """Take a picture of the page that is small enough for everybody who clones."""
        self.page.set_viewport_size({"width": 1200, "height": height})
        self.page.emulate_media(color_scheme="light")
        self.page.screenshot(
            path=self._pictures / name, style="#pDebug {display: none}"
        )
        assert (self._pictures / name).stat().st_size < 150_000

    def begin(self, **timeouts):
        self.visit("/timeouts")
        for name, seconds in timeouts.items():
            self.page.get_by_label(f"{name}_timeout").fill(seconds)
        self.press("Set")

    @property
    def counter(self):
        return self.page.locator(".counter output")

    @property
    def flash(self):
        return self.page.locator(".flash")

    @property
    def heading(self):
        return self.page.get_by_role("heading", level=1)

    @property
    def cookie(self):
        """The session's cookie, None if there is none. The panel has one of its own."""
        cookies = self.page.context.cookies()
        return next((each for each in cookies if each["name"] == "session"), None)

    def take_cookie(self, cookie):
        self.page.context.clear_cookies()
        self.page.context.add_cookies([cookie])

    def log_in(self, name, password):
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.locator(".page").get_by_role("button", name="Log in").click()

    def add(self, product):
        self.press(f"Add {product} to the cart")

    def stock(self, product):
        return self.page.locator(f'[data-stock="{product}"]')


def test_counter_goes_on_over_a_restart(new_device, server):
    """The session outlives the process that made it."""
    device = new_device()
    device.visit("/counter")
    device.visit("/howdy")
    expect(device.counter).to_have_text("2")
    expect(device.panel("row-data")).to_have_text("'counter': 2")
    server.stop()
    server.start()
    device.page.reload()
    expect(device.counter).to_have_text("3")
    expect(device.panel("row-data")).to_have_text("'counter': 3")


def test_flash_message_is_shown_once(new_device):
    """It is on the page after the redirect, and gone after a reload."""
    device = new_device()
    device.visit("/counter")
    device.page.get_by_label("Message").fill("Ahoy")
    device.press("Flash it")
    expect(device.flash).to_have_text("Ahoy")
    expect(device.panel("row-flash")).to_have_text("{}")
    device.page.reload()
    expect(device.counter).to_have_text("3")
    expect(device.flash).to_have_count(0)


def test_cookie_has_the_attributes_that_the_panel_tells(new_device):
    """What the panel says is what the browser got."""
    device = new_device()
    device.visit("/counter")
    assert device.cookie["httpOnly"]
    assert device.cookie["sameSite"] == "Lax"
    assert not device.cookie["secure"]
    expect(device.panel("cookie")).to_have_text(device.cookie["value"][:16] + "…")


def test_old_cookie_is_dead_after_login_and_after_logout(new_device):
    """The login rotates the cookie; whoever has an old one is a stranger."""
    device, thief = new_device(), new_device()
    device.visit("/account")
    expect(device.flash).to_have_text("Please log in.")
    device.log_in("alice", "wrong")
    expect(device.flash).to_contain_text("the password is wrong")
    before = device.cookie
    id = device.panel("row-id").inner_text()
    renewal_id = device.panel("row-renewal_id").text_content()
    device.log_in("alice", "wonderland")
    expect(device.heading).to_have_text("Hello, alice")
    expect(device.page.locator("#renewal-before")).to_have_text(renewal_id)
    expect(device.panel("row-userid")).to_contain_text("alice")
    expect(device.panel("row-renewal_id")).not_to_have_text(renewal_id)
    now = device.page.locator("#renewal-now").inner_text()
    expect(device.panel("row-renewal_id")).to_have_text(now)
    expect(device.panel("row-id")).to_have_text(id)
    replay = device.page.frame_locator("iframe.replay")
    expect(replay.locator("#no-row")).to_be_visible()

    logged_in = device.cookie
    assert logged_in["value"] != before["value"]
    thief.take_cookie(before)
    thief.visit("/account")
    expect(thief.heading).to_have_text("Log in")
    thief.take_cookie(logged_in)
    thief.visit("/account")
    expect(thief.heading).to_have_text("Hello, alice")

    device.press("Log out")
    expect(device.flash).to_have_text("You're logged out. Good-bye!")
    thief.page.reload()
    expect(thief.heading).to_have_text("Log in")


def test_failed_checkout_undoes_everything(new_device):
    """Stock, order, cart and message are what they were."""
    device = new_device()
    device.visit("/shop")
    device.add("Desk lamp")
    expect(device.panel("row-data")).to_have_text("'cart': {1: 1}")
    version = device.panel("row-version").text_content()
    stock = int(device.stock("Desk lamp").inner_text())
    device.page.get_by_label("Let the payment fail").check()
    device.press("Check out")
    expect(device.heading).to_have_text("The payment failed")
    cells = device.page.locator("#rollback tbody tr").first.locator("td")
    expect(cells).to_have_text([str(stock - 1), str(stock)])
    expect(device.flash).to_have_count(0)
    expect(device.panel("row-data")).to_have_text("'cart': {1: 1}")
    expect(device.panel("row-version")).to_have_text(version)
    expect(device.panel("row-flash")).to_have_text("{}")
    device.take_picture("demo.png", height=610)
    device.page.get_by_role("link", name="Back to the shop").click()
    expect(device.stock("Desk lamp")).to_have_text(str(stock))
    expect(device.page.locator("#cart")).to_contain_text("Desk lamp")
    expect(device.flash).to_have_count(0)


def test_panel_of_the_toolbar_tells_what_became_of_the_session(new_device):
    """One finds there what was rolled back, by what, and what was stored instead."""
    device = new_device()
    device.visit("/shop")
    device.add("Desk lamp")
    device.page.get_by_label("Let the payment fail").check()
    device.press("Check out")
    expect(device.heading).to_have_text("The payment failed")
    cookie = device.cookie["value"]
    device.page.goto(device.page.get_by_title("Show Toolbar").get_attribute("href"))
    device.page.get_by_role("link", name="Stored session").click()
    panel = device.page.locator("#pDebugPanel-stored_session-content")
    fate = panel.locator(".alert-danger")
    expect(fate).to_contain_text("Rolled back: PaymentFailed was raised")
    expect(fate).to_contain_text("demo/shop.py")
    rows = panel.locator("tbody tr")
    expect(rows.first).to_contain_text("good")
    expect(rows.filter(has_text="session.flash(")).to_contain_text("demo/views.py")
    expect(rows.last).to_contain_text("no cookie: the browser keeps what it has")
    assert cookie not in panel.inner_html()
    device.take_picture("toolbar.png", height=560)


def test_checkout_stores_everything(new_device):
    """The order is there, the stock is less, the cart empty, the message shown."""
    device = new_device()
    device.visit("/shop")
    stock = int(device.stock("Teapot").inner_text())
    device.add("Teapot")
    device.press("Check out")
    expect(device.flash).to_contain_text("Thank you!")
    expect(device.stock("Teapot")).to_have_text(str(stock - 1))
    expect(device.page.locator("#cart")).to_have_count(0)
    order = device.page.locator("#orders tbody tr").first
    expect(order).to_contain_text(f"1 {TIMES} Teapot")
    expect(device.panel("row-data")).to_have_text("{}")


def test_two_devices_have_separate_carts(new_device):
    """One visitor never sees the other one's cart, but both see one stock."""
    one, two = new_device(), new_device()
    one.visit("/shop")
    two.visit("/shop")
    one.add("Notebook")
    two.add("Desk lamp")
    one.page.reload()
    expect(one.page.locator("#cart")).to_contain_text(f"1 {TIMES}")
    expect(one.page.locator("#cart")).to_contain_text("Notebook")
    expect(one.page.locator("#cart")).not_to_contain_text("Desk lamp")
    expect(two.page.locator("#cart")).not_to_contain_text("Notebook")
    stock = int(two.stock("Notebook").inner_text())
    one.press("Check out")
    expect(one.flash).to_contain_text("Thank you!")
    two.page.reload()
    expect(two.stock("Notebook")).to_have_text(str(stock - 1))
    expect(two.page.locator("#cart")).to_contain_text("Desk lamp")


def test_clock_ticks_until_the_session_is_over(new_device):
    """Looking does not keep the session alive, and the clock tells when it ends."""
    device = new_device()
    device.begin(idle="3", renewal="")
    expect(device.flash).to_contain_text("timeouts of its own")
    expect(device.panel("row-id")).to_be_visible()
    expect(device.time("renewal")).to_contain_text("none")
    began = device.time("clock").inner_text()
    device.press("Only look")
    expect(device.time("clock")).not_to_have_text(began)
    expect(device.time("idle")).to_contain_text("over")
    device.press("Only look")
    expect(device.time("no-times")).to_be_visible()
    assert device.cookie is None
    device.press("Use the session")
    expect(device.time("idle")).to_contain_text("until")


def test_countdown(new_device):
    """A page that's left open counts down, and says when the session is over."""
    device = new_device()
    device.begin(idle="4", renewal="")
    countdown = device.page.locator("#countdown")
    expect(countdown).to_contain_text("ends in")
    expect(countdown).to_contain_text("over", timeout=15_000)
    assert device.cookie is None


def test_use_keeps_the_session_alive(new_device):
    """Each page begins the idle timeout anew."""
    device = new_device()
    device.begin(idle="20", renewal="")
    end = device.panel("row-idle_expire").text_content()
    expect(device.time("idle")).to_contain_text(re.compile(r"\b(1[0-8]|\d) s"))
    device.press("Only look")
    expect(device.time("idle")).to_contain_text(end)
    device.press("Use the session")
    expect(device.time("idle")).to_contain_text("until")
    expect(device.time("idle")).not_to_contain_text(end)
    expect(device.panel("row-idle_expire")).not_to_have_text(end)


def test_stolen_cookie_sets_off_the_alarm(new_device):
    """The thief is let in before the renewal; after it, both are strangers."""
    device = new_device()
    device.begin(renewal="2")
    device.press("Steal my cookie")
    device.press("The thief comes back with the old cookie")
    expect(device.flash).to_contain_text("The thief was let in")
    expect(device.time("renewal")).to_contain_text(re.compile("due|sent"))
    cookie = device.cookie
    renewal_id = device.panel("row-renewal_id").text_content()
    while device.panel("row-renewal_id").text_content() == renewal_id:
        device.press("Use the session")
        expect(device.panel("row-id")).to_be_visible()
    assert device.cookie["value"] != cookie["value"]
    expect(device.time("armed")).to_be_visible()
    device.press("The thief comes back with the old cookie")
    expect(device.heading).to_have_text("Alarm")
    expect(device.flash).to_contain_text("Your session has been deleted")
    expect(device.page.locator("#alarms tbody tr")).to_have_count(1)
    expect(device.panel("no-row")).to_be_visible()
    device.take_picture("stolen-cookie.png", height=610)
    device.press("Start again")
    expect(device.page.locator("#lost")).to_be_visible()
    expect(device.panel("row-data")).to_have_text("{}")


def test_timeouts_make_sense_without_javascript(new_device):
    """The clock stands still, and the rest works."""
    device = new_device(java_script_enabled=False)
    device.begin(idle="60")
    expect(device.time("idle")).to_contain_text(re.compile(r"\b[1-6]\d s"))
    device.press("Steal my cookie")
    expect(device.time("thief")).to_contain_text("Wait for the renewal")
    assert device.page.frame_locator("iframe.times").get_by_text("due: use").is_hidden()
    device.press("Only look")
    expect(device.time("thief")).to_contain_text("Wait for the renewal")


@pytest.mark.parametrize(
    "path", ["/", "/login", "/shop", "/timeouts", "/counter", "/panel", "/nowhere"]
)
def test_fits_the_screen_of_a_phone(new_device, path):
    """Nothing has to be scrolled sideways."""
    device = new_device(viewport={"width": 360, "height": 640})
    device.visit(path)
    width = device.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360


@pytest.mark.parametrize("java_script", [True, False])
def test_panel_is_in_sight_on_a_phone(new_device, java_script):
    """It shows what a click has changed next to the button, until it's folded."""
    device = new_device(
        viewport={"width": 390, "height": 844}, java_script_enabled=java_script
    )
    device.visit("/shop")
    device.add("Notebook")
    panel = device.page.locator("iframe.panel")
    expect(device.panel("row-data")).to_be_in_viewport()
    expect(panel).to_be_in_viewport(ratio=1)
    expect(device.panel("row-created")).to_be_hidden()
    button = device.page.get_by_role("button", name="Add Notebook to the cart")
    expect(button).to_be_in_viewport(ratio=1)
    device.page.get_by_text("What is stored now").click()
    expect(panel).to_be_hidden()


def test_panel_marks_what_has_changed(new_device):
    """What the last click has changed, and nothing after a second look."""
    device = new_device()
    device.visit("/shop")
    expect(device.marks).to_have_text(["new row", "changed"])
    device.add("Notebook")
    data = device.page.frame_locator("iframe.panel").locator("dt", has_text="data")
    expect(data).to_contain_text("changed")
    expect(device.panel("row-version")).to_be_visible()


def test_password_is_asked_for_again(new_device):
    """The way leads to the page that one wanted, with another cookie."""
    device = new_device()
    device.visit("/login")
    device.log_in("alice", "wonderland")
    cookie = device.cookie
    device.visit("/login/again?next=/sessions/password")
    device.page.get_by_label("Password").fill("wonderland")
    device.press("Go on")
    expect(device.heading).to_have_text("A new password")
    assert device.cookie["value"] != cookie["value"]


def test_sessions_on_two_devices(new_device):
    """Who logs out the other device is alone; a failed change of password undoes it."""
    one, two = (
        new_device(user_agent="Firefox on the laptop"),
        new_device(user_agent="Safari on the phone"),
    )
    for device in (one, two):
        device.visit("/login")
        device.log_in("bob", "builder")
    devices = one.page.locator("#devices tbody tr")
    one.page.get_by_role("link", name="Sessions", exact=True).click()
    expect(devices.filter(has_text="this device")).to_contain_text("laptop")
    expect(devices.filter(has_text="phone")).to_have_count(1)
    one.take_picture("sessions.png", height=450)

    one.page.get_by_role("link", name="Change the password").click()
    one.page.get_by_label("New password").fill("architect")
    one.page.get_by_label("Let the mail about it fail").check()
    one.press("Change it, and log out all others")
    expect(one.heading).to_have_text("The mail failed")
    expect(one.page.locator("#rollback")).to_contain_text("the old one")
    two.visit("/sessions")
    expect(two.heading).to_have_text("Your sessions")

    one.page.get_by_role("link", name="Back to your sessions").click()
    one.press("Log out all others")
    expect(one.flash).to_contain_text("Other sessions that are over now: ")
    expect(devices).to_have_count(1)
    two.page.reload()
    expect(two.heading).to_have_text("Log in")
    expect(two.flash).to_have_text("Please log in.")
    two.log_in("bob", "builder")
    expect(two.heading).to_have_text("Your sessions")
