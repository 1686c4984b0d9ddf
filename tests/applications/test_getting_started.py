"""A script follows "Getting started" to the letter, from an empty directory on.

It runs the page's commands in a shell, in a fresh virtual environment, and makes the
page's files, on each database. Only this differs from what a reader would do:

- The cookiecutter's template is elsewhere, so ``starter.PROJECT`` stands in for it.
- The library is installed from a wheel of this checkout instead of from the index.
- The server listens on a free port.
- The second and third database find the environment that the first one has made: only
  its driver is still to be installed.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.applications.starter import PROJECT, Reader, blocks, write_files
from tests.applications.test_starter import free_port, wait_for
from tests.test_docs import table

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent.parent
NAME = "pyramid_sqlalchemy_sessions"

#: Set to 1 (continuous integration does), it makes a missing index a failure.
REQUIRE = "PSS_REQUIRE_INDEX"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """An empty directory, to begin with."""
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, which is not touched."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for pattern in ("setup.*", "pyproject.toml", "*.rst", "LICENSE"):
        for path in CHECKOUT.glob(pattern):
            shutil.copy(path, source)
    shutil.copytree(CHECKOUT / NAME, source / NAME)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", directory]
    done = subprocess.run([*pip, source], capture_output=True, text=True)
    refuse_or_skip(done.returncode, done.stderr)
    (path,) = directory.glob("*.whl")
    return path


def refuse_or_skip(returncode: int, output: str) -> None:
    """Skip where no package index can be reached; any other failure is one."""
    if returncode == 0:
        return
    offline = "Could not find a version that satisfies" in output
    if offline and os.environ.get(REQUIRE) != "1":
        pytest.skip("no package index can be reached")
    pytest.fail(output)


class Newcomer(Reader):
    """Follows the steps in a shell."""

    def __init__(self, directory: Path, wheel: Path, url: str):
        self.directory = directory
        self.output = ""
        self.wheel = wheel
        self.url = url
        self.port = free_port()
        # Where the shell is, and its environment, from one code block to the next.
        self.state = directory / "state.sh"
        # This Python, without what is installed in its environment.
        base = Path(sys.executable).resolve().parent
        others = os.environ["PATH"].split(os.pathsep)
        path = [str(base), *(p for p in others if not Path(p, "pserve").exists())]
        clean = {"PATH": os.pathsep.join(path), "HOME": os.environ.get("HOME", "/")}
        settings = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
        # Most of what is installed is never imported.
        quick = {"PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self.environ = {**clean, **settings, **quick}
        self.state.write_text(f"cd {directory}\n")
        self.has_environment = (directory / "env").exists()
        shutil.rmtree(directory / "myproject", ignore_errors=True)

    def run_all(self, lines: list[str]) -> None:
        """Run the commands of a code block; pserve has to wait."""
        if lines[0].startswith("pserve"):
            self.pserve = lines[0]
            return
        for line in lines:
            if line.startswith("cookiecutter "):
                write_files(self.directory / "myproject", PROJECT)
            elif not self.is_done(line):
                self.run(line)
        if lines[-1] == "pip install -e .":
            self.choose_database()

    def is_done(self, line: str) -> bool:
        """Tell whether a command would only repeat what has been installed."""
        if line == "pip install cookiecutter":
            return True
        return self.has_environment and line.startswith(("python3 -m venv", "pip "))

    def run(self, line: str) -> None:
        """Run a command, and remember where it leads."""
        # The wheel of the checkout in place of a release.
        line = re.sub(rf'"{NAME}(\[[\w,]+\])>=1\.0"', rf'"{self.wheel}\1"', line)
        remember = f"{{ export -p; echo cd '$PWD'; }} > {self.state}"
        done = subprocess.run(
            ["bash", "-euc", f". {self.state}\n{line}\n{remember}"],
            env=self.environ,
            capture_output=True,
            text=True,
        )
        refuse_or_skip(done.returncode, f"{line}\n{done.stdout}{done.stderr}")
        self.output = done.stdout

    def choose_database(self) -> None:
        """Install a driver and write the URL into the ini file, as the page says."""
        self.directory /= "myproject"
        rows = table("getting-started", "psycopg2-binary")
        rows = [[cell.strip("`") for cell in row] for row in rows]
        driver, _, _ = self.url.partition("://")
        ini = self.directory / "development.ini"
        text = ini.read_text().replace("localhost:6543", f"127.0.0.1:{self.port}")
        if driver != "sqlite":
            ((command, _),) = (
                row[1:] for row in rows if row[2].startswith(f"{driver}://")
            )
            self.run(command)
            default = re.search("^sqlalchemy.url = .*", text, re.MULTILINE)[0]
            text = text.replace(default, f"sqlalchemy.url = {self.url}")
        ini.write_text(text)

    @contextlib.contextmanager
    def served(self):
        """Run the page's pserve, and end it."""
        log = self.directory / "log.txt"
        with log.open("a") as file:
            process = subprocess.Popen(
                ["bash", "-euc", f". {self.state}\nexec {self.pserve}"],
                env=self.environ,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(process, self.port, log)
            yield
        finally:
            process.terminate()
            process.wait()


class Browser:
    """A browser with a jar of cookies."""

    def __init__(self, port: int):
        jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
        )
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        """Return the body of the page where one ends up."""
        with self.opener.open(self.address + path, timeout=60) as response:
            return response.read().decode()

    def submit(self, page: str, **fields: str) -> str:
        """Submit the form of a page."""
        action = re.search('action="(.*?)"', page)[1]
        token = re.search('name="csrf_token" value="(.*?)"', page)[1]
        data = urllib.parse.urlencode({**fields, "csrf_token": token}).encode()
        with self.opener.open(self.address + action, data, timeout=60) as response:
            return response.read().decode()


def test_from_an_empty_directory(directory, wheel, database_url):
    """The page leads to a session that survives a restart, a login, and a check."""
    newcomer = Newcomer(directory, wheel, database_url)
    steps = blocks("getting-started")
    captions = [step.options.get("caption") for step in steps]
    login = captions.index("myproject/models/user.py")

    for step in steps[:login]:
        newcomer.follow(step)
    browser = Browser(newcomer.port)
    with newcomer.served():
        assert browser.get("/counter") == "Visit number 1"
        assert browser.get("/counter") == "Visit number 2"
    with newcomer.served():
        assert browser.get("/counter") == "Visit number 3"
        assert Browser(newcomer.port).get("/counter") == "Visit number 1"

    for step in steps[login:]:
        newcomer.follow(step)
    assert "errors: 0" in newcomer.output
    newcomer.run("alembic -c development.ini check")
    with newcomer.served():
        page = browser.get("/account")
        assert "Please log in." in page
        assert "Welcome, alice." in browser.submit(
            page, name="alice", password="wonderland"
        )
        assert browser.get("/counter") == "Visit number 4"
        page = browser.get("/account")
        assert "Log out alice" in page
        assert "Good-bye." in browser.submit(page)
        assert browser.get("/counter") == "Visit number 1"
