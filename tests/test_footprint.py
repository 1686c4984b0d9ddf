"""What the library takes of a process: modules and memory.

``benchmarks/footprint.py`` measures the same, and the time of the import.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from tests.application import Application, Browser, Full
from tests.import_all import PACKAGE

#: What commands, scripts, tests and error messages need, and no request does.
NEEDLESS = {
    "alembic",
    "argparse",
    "difflib",
    "tqdm",
    *(
        f"{PACKAGE}.{name}"
        for name in (
            "check",
            "collector",
            "command",
            "findings",
            "gc",
            "retry",
            "schema",
            "store",
            "testing",
        )
    ),
}

#: Serves two requests, and names the modules that are there afterwards.
SERVE = """
import sys
from webob import Request
from benchmarks.contenders import make
from benchmarks.workloads import Workload
contender = make(sys.argv[1], "sqlite:///" + sys.argv[2], Workload("", "", "", 0, 0))
response = Request.blank("/").get_response(contender.application("create"))
cookie = response.headers["Set-Cookie"].partition(";")[0]
request = Request.blank("/", headers={"Cookie": cookie})
for action in ("read", "write"):
    assert request.get_response(contender.application(action)).status_code == 200
print(*sys.modules)
"""


def _modules(contender: str, directory: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, contender, str(directory / "sessions.sqlite")],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parent.parent,
        text=True,
    )
    return set(done.stdout.split())


def test_requests_import_nothing_needless(tmp_path: Path) -> None:
    """An application that serves requests has none of the other modules."""
    modules = _modules("sessions", tmp_path)
    assert f"{PACKAGE}.session" in modules
    assert modules & NEEDLESS == set()


def test_only_one_cipher_is_imported(tmp_path: Path) -> None:
    """PyCryptodome, whose import takes long, is left alone beside cryptography."""
    pytest.importorskip("cryptography")
    assert "Crypto" in _modules("sessions", tmp_path)
    assert "Crypto" not in _modules("sessions-cryptography", tmp_path)


def test_requests_leave_nothing_in_memory() -> None:
    """However many requests begin, read, change and end sessions, no memory is lost."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Full.__table__.create(engine)
    browser = Browser(Application(engine))

    def blocks_after(number: int) -> int:
        """Make four times as many requests; return how much memory is in use."""
        for _ in range(number):
            browser.visit(lambda request: request.session.update(n=1))
            browser.visit(lambda request: request.session["n"])
            browser.visit(lambda request: request.session.update(n=2))
            browser.visit(lambda request: request.session.invalidate())
        gc.collect()
        return sys.getallocatedblocks()

    # Caches fill in the beginning, and come and go by some 150 blocks afterwards.
    growth = -blocks_after(100) + blocks_after(200)
    engine.dispose()
    assert growth < 400  # not even one block for each second request
