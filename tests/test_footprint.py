"""What the library takes of a process: modules and memory.

``benchmarks/footprint.py`` measures the same, and the time of the import.
"""

from __future__ import annotations

import gc
import subprocess
import sys

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
            "check_findings",
            "collector",
            "command",
            "gc",
            "retry",
            "schema",
            "store",
            "testing",
        )
    ),
}

#: An application that serves a few requests, and names its modules afterwards.
SERVE = """
import sys
if sys.argv[1] == "pycryptodome":
    sys.modules["cryptography"] = None

import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy import create_engine
from sqlalchemy.orm import declarative_base, sessionmaker
from sqlalchemy.pool import StaticPool
from webob import Request
from pyramid_sqlalchemy_sessions import FullyFeaturedSession, generate_secret_key

Base = declarative_base()

class Session(FullyFeaturedSession, Base):
    __tablename__ = "session"

engine = create_engine("sqlite://", poolclass=StaticPool)
Base.metadata.create_all(engine)

def dbsession(request):
    dbsession = sessionmaker(engine)()
    zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
    return dbsession

def view(request):
    session = request.session
    session["n"] = session.get("n", 0) + 1
    session.flash(session.get_csrf_token())
    return Response(str(session["n"]))

config = Configurator(settings={
    "session.secret_key": generate_secret_key(),
    "session.model_class": Session,
    "session.idle_timeout": 1000,
    "session.absolute_timeout": 2000,
    "session.renewal_timeout": 100,
    "tm.manager_hook": "pyramid_tm.explicit_manager",
})
config.include("pyramid_tm")
config.add_request_method(dbsession, reify=True)
config.include("pyramid_sqlalchemy_sessions")
config.add_route("view", "/")
config.add_view(view, route_name="view")
application = config.make_wsgi_app()
response = Request.blank("/").get_response(application)
cookie = response.headers["Set-Cookie"].partition(";")[0]
response = Request.blank("/", headers={"Cookie": cookie}).get_response(application)
assert response.text == "2"
print(*sys.modules)
"""


def _modules(cipher: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, cipher],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def test_requests_import_nothing_needless() -> None:
    """An application that serves requests has none of the other modules."""
    modules = _modules("pycryptodome")
    assert f"{PACKAGE}.session" in modules
    assert modules & NEEDLESS == set()


def test_only_one_cipher_is_imported() -> None:
    """PyCryptodome, whose import takes long, is left alone beside cryptography."""
    pytest.importorskip("cryptography")
    assert "Crypto" in _modules("pycryptodome")
    assert "Crypto" not in _modules("cryptography")


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
    growth = -blocks_after(300) + blocks_after(200)
    engine.dispose()
    assert growth < 400  # not even one block for each second request
