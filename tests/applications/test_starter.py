"""A project of pyramid-cookiecutter-starter gets sessions, step by step."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from webtest import TestApp

from tests.applications.starter import Reader, blocks, sample


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    reader = Reader(tmp_path)
    engines: set[Engine] = set()

    def connected(connection):
        engines.add(connection.engine)

    event.listen(Engine, "engine_connect", connected)
    yield reader
    event.remove(Engine, "engine_connect", connected)
    for engine in engines:
        engine.dispose()
    reader.forget_modules()


#: What the cookiecutter makes.
STOCK = Path(__file__).parent / "cookiecutters_conftest.py"


def migrations(reader: Reader) -> list[set[str]]:
    """Return what tables the migrations make, in the order of the dates in them."""
    versions = (reader.directory / "myproject/alembic/versions").glob("*.py")
    texts = sorted(
        (path.read_text() for path in versions),
        key=lambda text: re.search("Create Date: (.*)", text)[1],
    )
    return [set(re.findall(r"create_table\('(\w+)'", text)) for text in texts]


def logged_in(browser: TestApp) -> bool:
    """Tell whether the account page is for us."""
    response = browser.get("/account")
    return response.status_int == 200 and "Log out alice" in response.text


def test_getting_started(reader):
    """The steps lead to a counter, to a login, and to a check without errors."""
    steps = blocks("getting-started")
    captions = [step.options.get("caption") for step in steps]
    login = captions.index("myproject/models/user.py")
    for step in steps[:login]:
        reader.follow(step)
    assert migrations(reader) == [{"models"}, {"session"}]
    browser = TestApp(reader.app)
    assert browser.get("/counter").text == "Visit number 1"
    assert browser.get("/counter").text == "Visit number 2"
    assert TestApp(reader.app).get("/counter").text == "Visit number 1"
    reader.serve("development.ini")
    browser.app = reader.app
    assert browser.get("/counter").text == "Visit number 3"

    for step in steps[login:]:
        reader.follow(step)
    assert migrations(reader) == [{"models"}, {"session"}, {"users"}]
    assert "ok     retries" in reader.output
    assert "errors: 0" in reader.output
    assert re.search(r"errors: 0, hints: 1$", reader.output, re.MULTILINE)
    reader.run("alembic -c development.ini check")
    reader.serve("development.ini")
    browser.app = reader.app
    page = browser.get("/account").follow()
    assert "Please log in." in page.text
    page.form["name"] = "alice"
    page.form["password"] = "looking-glass"
    page = page.form.submit().follow()
    assert "Wrong name or password." in page.text
    stranger = browser.cookies["session"]
    page.form["name"] = "alice"
    page.form["password"] = "wonderland"
    page = page.form.submit().follow()
    assert "Welcome, alice." in page.text
    assert browser.cookies["session"] != stranger
    assert logged_in(browser)
    assert browser.get("/counter").text == "Visit number 4"
    page = browser.get("/account").form.submit().follow()
    assert "Good-bye." in page.text
    assert not logged_in(browser)
    assert browser.get("/counter").text == "Visit number 1"
    browser.post("/login", {"name": "alice", "password": "wonderland"}, status=400)


def test_fixtures(reader):
    """One line in a project's conftest.py lets its tests store sessions.

    Nothing of them is left behind.
    """
    for step in blocks("getting-started"):
        reader.follow(step)
        if step.options.get("caption") == "myproject/views/counter.py":
            break
    ini = (reader.directory / "development.ini").read_text()
    ini = ini.replace("myproject.sqlite", "testing.sqlite")
    (reader.directory / "testing.ini").write_text(ini)
    tests = reader.directory / "tests"
    tests.mkdir()
    for name in ("test_counter.py", "test_timeout.py"):
        (tests / name).write_text(sample(name))
    (tests / "test_z.py").write_text(TESTS_OF_A_PROJECT)
    conftest = tests / "conftest.py"
    conftest.write_text(STOCK.read_text())
    test = ("-m", "pytest", "-q", "tests/test_counter.py::test_counter")
    with pytest.raises(AssertionError, match="Nothing of this session will be stored"):
        run(*test, cwd=reader.directory)
    _, line = sample("conftest.py").strip().rsplit("\n", 1)
    conftest.write_text(f"{STOCK.read_text()}\n\n{line}\n")
    assert "10 passed" in run("-m", "pytest", "-q", cwd=reader.directory)


#: Libraries may warn of what they please.
PYTHON = (sys.executable, "-W", "ignore")


def run(*arguments: str, cwd: Path, given: str = "") -> str:
    """Run Python with something to read, and return what it prints."""
    done = subprocess.run(
        [*PYTHON, *arguments],
        cwd=cwd,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


#: Those that the cookiecutter makes, and some more for its other fixtures.
TESTS_OF_A_PROJECT = """
import pytest
from pyramid.csrf import get_csrf_token
from sqlalchemy.exc import IntegrityError

from myproject import models
from myproject.views.counter import counter
from myproject.views.default import my_view
from myproject.views.notfound import notfound_view


def test_my_view_success(testapp, dbsession):
    model = models.MyModel(name='one', value=55)
    dbsession.add(model)
    dbsession.flush()

    res = testapp.get('/', status=200)
    assert res.body


def test_notfound(testapp):
    res = testapp.get('/badurl', status=404)
    assert res.status_code == 404


def test_view_success(app_request, dbsession):
    model = models.MyModel(name='one', value=55)
    dbsession.add(model)
    dbsession.flush()

    info = my_view(app_request)
    assert app_request.response.status_int == 200
    assert info['one'].name == 'one'
    assert info['project'] == 'myproject'


def test_notfound_view(app_request):
    info = notfound_view(app_request)
    assert app_request.response.status_int == 404
    assert info == {}


def test_committing(app_request, tm, dbsession, caplog):
    assert counter(app_request) == 'Visit number 1'
    assert counter(app_request) == 'Visit number 2'
    tm.commit()
    tm.begin()
    assert dbsession.query(models.Session).count() == 1
    assert caplog.messages == []


def test_dummy_request(dummy_config, dummy_request):
    assert counter(dummy_request) == 'Visit number 1'
    token = get_csrf_token(dummy_request)
    assert token == dummy_request.session.get_csrf_token()


def test_nothing_is_left(dbsession):
    assert dbsession.query(models.MyModel).all() == []
    assert dbsession.query(models.Session).all() == []
"""


class TestServed:
    """The project is served over HTTP, and looked at with pshell."""

    @pytest.fixture
    def project(self, reader):
        for step in blocks("getting-started"):
            reader.follow(step)
            if step.text.startswith("pserve"):
                break
        self.port = free_port()
        ini = reader.directory / "development.ini"
        text = ini.read_text().replace("localhost:6543", f"127.0.0.1:{self.port}")
        ini.write_text(text.replace("retry.attempts = 3", "retry.attempts = 20"))
        main = reader.directory / "myproject/__init__.py"
        include = "config.include('pyramid_sqlalchemy_sessions')"
        retrying = include.replace("sessions", "sessions.retry")
        text = main.read_text().replace(include, f"{include}; {retrying}")
        main.write_text(text)
        return reader.directory

    def test_http(self, project):
        """No visit is lost, however many there are at once, nor by a restart."""
        visitor = Visitor(self.port)
        with served(project, self.port):
            assert visitor.get("/counter") == "Visit number 1"
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(visitor.get, ["/counter"] * 20))
            assert {*answers} == {f"Visit number {n}" for n in range(2, 22)}
            assert Visitor(self.port).get("/counter") == "Visit number 1"
        with served(project, self.port):
            assert visitor.get("/counter") == "Visit number 22"
        # In the tracebacks that pyramid_debugtoolbar logs of conflicts it is.
        logged = (project / "log.txt").read_text()
        assert "[pyramid_sqlalchemy_sessions" not in logged

    @pytest.mark.skipif(
        version("pyramid").startswith("2.0"),
        reason="pshell of Pyramid 2.0 needs distributions by names that they lost",
    )
    def test_pshell(self, project, reader):
        """A shell sees the sessions of visitors, and stores one of its own."""
        browser = TestApp(reader.app)
        browser.get("/counter")
        browser.get("/counter")
        pshell = ("-m", "pyramid.scripts.pshell", "-p", "python", "development.ini")
        output = run(*pshell, cwd=project, given=IN_PSHELL)
        assert "[1, 2] {'note': 'by hand'}" in output
        assert "[pyramid_sqlalchemy_sessions" not in output
        assert browser.get("/counter").text == "Visit number 3"


#: What somebody types in a shell.
IN_PSHELL = """
request.session["note"] = "by hand"
tm.commit()
transaction = tm.begin()
rows = dbsession.query(models.Session).order_by(models.Session.version).all()
print([row.version for row in rows], dict(request.session))
"""


def free_port() -> int:
    """Return a port that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Visitor:
    """Somebody with a cookie, who visits a server."""

    def __init__(self, port: int):
        self.port = port
        self.cookie = ""

    def get(self, path: str) -> str:
        """Return the body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Cookie": self.cookie})
            response = connection.getresponse()
            assert response.status == 200
            sent = response.getheader("Set-Cookie")
            if sent is not None:
                self.cookie = sent.partition(";")[0]
            return response.read().decode()


@contextlib.contextmanager
def served(directory: Path, port: int):
    """Run pserve, and end it."""
    log = directory / "log.txt"
    with log.open("a") as file:
        process = subprocess.Popen(
            [*PYTHON, "-m", "pyramid.scripts.pserve", "development.ini"],
            cwd=directory,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(process, port, log)
        yield
    finally:
        process.terminate()
        process.wait()


def wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    """Wait until the server listens."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        time.sleep(0.05)
    pytest.fail(log.read_text())
