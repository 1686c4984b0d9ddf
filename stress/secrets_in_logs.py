"""Make ten thousand mixed requests, and look for secrets in everything that's logged.

Run ``python -m stress.secrets_in_logs [--count N] [--seed N] [--kinds KIND ...]``.
It searches the lines of every logger at the level DEBUG, the tracebacks of
requests that fail, and the ``repr()`` of the library's objects. The secrets are the
key, each cookie, id, renewal id and CSRF token, however they're spelled, and the data
of the sessions.

``sqlalchemy.engine`` is at INFO, and its engine hides parameters, as the documentation
says: at DEBUG it prints the rows that it loads.
"""

from __future__ import annotations

import argparse
import io
import logging
import pickle
import random
import secrets
import tempfile
import traceback
import uuid
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import Engine, ForeignKey, Integer, create_engine, event
from sqlalchemy.orm import DeclarativeBase, mapped_column

from pyramid_sqlalchemy_sessions import AESGCMSerializer, FullyFeaturedSession
from pyramid_sqlalchemy_sessions.store import SessionStore
from tests.application import SECRET, Application, Browser, Failure
from tests.databases import KINDS, Database
from tests.stories.conftest import give_up_soon

#: The start of everything that's put into a session.
DATA = "s3cr3t-"
OURS = AESGCMSerializer(urlsafe_b64decode(SECRET))
THEIRS = AESGCMSerializer(bytes(32))


class Models(DeclarativeBase):
    """The declarative base of the models below."""


class User(Models):
    """A user."""

    __tablename__ = "user_of_session"

    id = mapped_column(Integer, primary_key=True)


class WebSession(FullyFeaturedSession, Models):
    """A session with everything, and a user who has to exist."""

    __tablename__ = "web_session"

    userid = mapped_column(ForeignKey(User.id))


class Answered(Failure):
    """The error for an exception view that changes the session."""


def spellings(secret: bytes | str | uuid.UUID) -> set[str]:
    """Return how a secret may be spelled in a line of text."""
    if isinstance(secret, str):
        return {secret}
    if isinstance(secret, uuid.UUID):
        return {str(secret), str(secret).upper(), str(secret.int)} | spellings(
            secret.bytes
        )
    return {
        secret.hex(),
        secret.hex().upper(),
        repr(secret)[2:-1],
        repr(list(secret))[1:-1],
        b64encode(secret).decode("ascii").rstrip("="),
        urlsafe_b64encode(secret).decode("ascii").rstrip("="),
    }


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """Turn on all loggers, and collect what they say."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    known = [root, *map(logging.getLogger, list(root.manager.loggerDict))]
    levels = [(logger, logger.level, logger.disabled) for logger in known]
    for logger in known:
        logger.setLevel(logging.DEBUG)
        logger.disabled = False
    for name in list(root.manager.loggerDict):
        if name.startswith("sqlalchemy.engine"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield said
    finally:
        root.removeHandler(handler)
        for logger, level, disabled in levels:
            logger.setLevel(level)
            logger.disabled = disabled


class Deeds:
    """What the views do with the session."""

    def __init__(self, rng: random.Random, engine: Engine) -> None:
        self.rng = rng
        self.engine = engine

    def secret(self) -> str:
        """Return something to put into a session."""
        return DATA + self.rng.randbytes(8).hex()

    def read(self, request: Any) -> None:
        request.session.get("a")

    def write(self, request: Any) -> None:
        request.session["a"] = [self.secret()]
        request.session.get_csrf_token()

    def nested(self, request: Any) -> None:
        request.session.setdefault("a", []).append(self.secret())

    def flash(self, request: Any) -> None:
        request.session.flash(self.secret())

    def pop(self, request: Any) -> None:
        request.session.pop_flash()

    def log_in(self, request: Any) -> None:
        self.write(request)
        request.session.userid = self.rng.randrange(1, 5)

    def rotate(self, request: Any) -> None:
        request.session.rotate()

    def log_out(self, request: Any) -> None:
        request.session.invalidate()

    def settings(self, request: Any) -> None:
        if request.session.new:
            with request.session.settings as settings:
                settings.cookie_max_age = 500
            self.write(request)

    def savepoint(self, request: Any) -> None:
        nested = request.dbsession.begin_nested()
        self.write(request)
        nested.rollback()

    def doom(self, request: Any) -> None:
        self.write(request)
        request.tm.doom()

    def fail(self, request: Any) -> None:
        self.write(request)
        raise Failure

    def answer_failure(self, request: Any) -> None:
        self.write(request)
        raise Answered

    def ask(self, request: Any) -> None:
        cookie = request.headers.get("Cookie", "")
        subrequest = Request.blank("/", headers={"Cookie": cookie, "X-Deed": "nested"})
        subrequest.environ["tm.active"] = True
        subrequest.environ["tm.manager"] = request.tm
        subrequest.environ["app.dbsession"] = request.dbsession
        request.invoke_subrequest(subrequest)

    def unpicklable(self, request: Any) -> None:
        request.session["a"] = [self.secret(), lambda: None]

    def no_json(self, request: Any) -> None:
        request.session.flash([self.secret(), object()])

    def missing_key(self, request: Any) -> None:
        request.session["there is no such key"]

    def bad_setting(self, request: Any) -> None:
        with request.session.settings as settings:
            settings.idle_timeout = -1

    def bad_user(self, request: Any) -> None:
        request.session.userid = self.secret()

    def missing_user(self, request: Any) -> None:
        self.write(request)
        request.session.userid = 99

    def duplicate(self, request: Any) -> None:
        self.write(request)
        request.dbsession.add(User(id=1))

    def late(self, request: Any) -> None:
        request.add_finished_callback(self.write)

    def in_callback(self, request: Any) -> None:
        request.add_response_callback(lambda request, response: self.write(request))

    def conflict(self, request: Any) -> None:
        request.session.get("a")
        data = pickle.dumps({"a": [self.secret()]}, 4)
        self.change(version=WebSession.version + 1, data=data)
        self.write(request)

    def corrupt(self, request: Any) -> None:
        self.change(data=self.secret().encode())
        request.session.get("a")

    def misshapen(self, request: Any) -> None:
        self.change(flash={"": self.secret()})
        request.session.pop_flash()

    def contradictory(self, request: Any) -> None:
        self.change(renewed=None)
        request.session.get("a")

    def expired(self, request: Any) -> None:
        self.change(idle_expire=1)
        request.session.get("a")

    def change(self, **columns: Any) -> None:
        """Change all rows behind the library's back."""
        with self.engine.begin() as connection:
            connection.execute(WebSession.__table__.update().values(columns))


NAMES = [
    name
    for name in vars(Deeds)
    if not (name.startswith("__") or name in ("secret", "change"))
]
#: After these, the rows are useless.
SPOILING = ("corrupt", "misshapen", "contradictory")


class Traffic:
    """One application, some browsers, and a listener to what's logged about them."""

    def __init__(self, engine: Engine, said: io.StringIO, seed: int) -> None:
        self.rng = random.Random(seed)
        self.engine = engine
        self.said = said
        Models.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(
                User.__table__.insert(), [{"id": number} for number in range(1, 6)]
            )
        self.deeds = Deeds(self.rng, engine)
        self.application = Application(
            engine,
            WebSession,
            configure=self._configure,
            idle_timeout=1000,
            absolute_timeout=10_000,
            renewal_timeout=500,
        )
        self.browsers = [Browser(self.application) for _ in range(3)]
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        key = urlsafe_b64decode(SECRET)
        self.always = {DATA, SECRET, SECRET.rstrip("="), *spellings(key)}
        self.factory = self.application.registry.queryUtility(ISessionFactory)
        config = self.factory.config
        self._print(OURS, self.factory, self.factory.settings)
        self._print(config, config.cookie, config.table, *config.features)

    def _configure(self, config: Any) -> None:
        config.add_exception_view(self._answer, context=Answered)

    def _print(self, *objects: Any) -> None:
        for each in objects:
            print(repr(each), str(each), file=self.said)

    def _answer(self, error: Exception, request: Any) -> Response:
        self.deeds.flash(request)
        return Response("answered")

    def _view(self, request: Any) -> None:
        name = request.headers.get("X-Deed") or self.name
        getattr(self.deeds, name)(request)
        session = request.session
        self._print(session, session.settings, session.instance)
        self._print(SessionStore(request.dbsession, self.factory))

    def visit(self) -> str | None:
        """Make one request; return the secret that was revealed, or None."""
        rng, browser = self.rng, self.rng.choice(self.browsers)
        self.name = rng.choice(NAMES)
        if rng.randrange(5) == 0:
            self._spoil(browser)
        secrets = self._secrets()
        try:
            browser.visit(self._view, expect_errors=True)
        except Exception as error:
            self.failed[type(error).__name__] += 1
            self.said.write("".join(traceback.format_exception(error)))
        self.done[self.name] += 1
        said = self.said.getvalue()
        secrets |= self._secrets()
        for secret in sorted(secrets):
            if secret in said:
                return f"{secret!r} after {self.name!r} in: {said}"
        if self.name in SPOILING:
            with self.engine.begin() as connection:
                connection.execute(WebSession.__table__.delete())
        self.said.seek(0)
        self.said.truncate()
        return None

    def _spoil(self, browser: Browser) -> None:
        """Give a browser a useless cookie, or another browser's."""
        rng = self.rng
        rows = self._rows()
        known = rng.choice(rows)["id"].bytes if rows else bytes(16)
        good = OURS.dumps(known).decode("ascii")
        bad = rng.choice(
            [
                good,
                good[:-5],
                good[:20] + "A" + good[21:],
                rng.choice(self.browsers).cookie or good,
                THEIRS.dumps(known).decode("ascii"),
                OURS.dumps(known + rng.randbytes(16)).decode("ascii"),
                OURS.dumps(known[:7]).decode("ascii"),
            ]
        )
        browser.set_cookie("session", bad)

    def _secrets(self) -> set[str]:
        found = set(self.always)
        for browser in self.browsers:
            if browser.cookie:
                found |= {browser.cookie, browser.cookie.rstrip("=")}
        for row in self._rows():
            for name in ("id", "renewal_id", "renewal_next", "renewal_previous"):
                if row[name] is not None:
                    found |= spellings(row[name])
            if row["csrf_token"]:
                found |= spellings(row["csrf_token"])
        return found

    def _rows(self) -> list[Any]:
        columns = WebSession.__table__.columns
        names = ("id", "renewal_id", "renewal_next", "renewal_previous", "csrf_token")
        with self.engine.connect() as connection:
            chosen = WebSession.__table__.select().with_only_columns(
                *(columns[name] for name in names)
            )
            return list(connection.execute(chosen).mappings())


def listen(url: str, count: int, seed: int, hide_parameters: bool = True) -> Traffic:
    """Make requests to an application on the database, and stop at the first secret."""
    with everything_logged() as said:
        engine = create_engine(url, hide_parameters=hide_parameters)
        give_up_soon(engine)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _check_foreign_keys)
        try:
            traffic = Traffic(engine, said, seed)
            for _ in range(count):
                told = traffic.visit()
                if told is not None:
                    raise AssertionError(f"seed {seed}: {told}")
        finally:
            Models.metadata.drop_all(engine)
            engine.dispose()
    return traffic


def _check_foreign_keys(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def main() -> None:
    """Listen on each kind of database in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10**4)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for kind in arguments.kinds:
            database = Database(kind, Path(directory))
            if database.missing:
                print(database.missing)
                continue
            print(
                f"{kind}: {arguments.count} requests, seed {arguments.seed}", flush=True
            )
            try:
                traffic = listen(database.url, arguments.count, arguments.seed)
            finally:
                database.drop()
            failures = sum(traffic.failed.values())
            print(f"no secret was revealed; {failures} failed: {dict(traffic.failed)}")


if __name__ == "__main__":
    main()
