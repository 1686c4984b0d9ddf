"""What one of several processes does that visit the same session at once.

``test_no_lost_update`` starts the processes; each runs the real application. A visit
that failed is not acknowledged, and must leave no trace: what is compared in the end is
what was acknowledged with what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from tests.application import Application, Browser

#: How often a request is tried before it fails.
ATTEMPTS = 10


@dataclass(frozen=True)
class Job:
    """What to do how often: the name of one of the methods of ``Visitor``."""

    url: str
    isolation_level: str | None
    cookie: str
    deed: str
    name: str
    visits: int


class Visitor:
    """One process's application and browser."""

    def __init__(self, job: Job):
        options = {"isolation_level": job.isolation_level}
        self.job = job
        self.engine = create_engine(job.url, **(options if job.isolation_level else {}))
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _wait_long)
        application = Application(
            self.engine,
            settings={"retry.attempts": ATTEMPTS},
            configure=lambda config: config.include("pyramid_retry"),
        )
        self.browser = Browser(application)

    def visit(self, number: int) -> bool:
        """Do the deed in one request, and tell whether it was acknowledged."""
        browser = self.browser
        browser.reset()
        browser.set_cookie("session", self.job.cookie)
        deed = getattr(self, self.job.deed)
        try:
            browser.visit(lambda request: deed(request, number))
        except (DBAPIError, StaleDataError):
            return False
        return True

    def increment(self, request, number):
        """Raise the counter."""
        request.session["n"] += 1

    def flash(self, request, number):
        """Push a message of which there is no other."""
        request.session.flash(f"{self.job.name}-{number}")

    def append(self, request, number):
        """Add an item of which there is no other to a list."""
        request.session["list"].append(f"{self.job.name}-{number}")

    def write_if_alive(self, request, number):
        """Write to the session unless it has ended."""
        if not request.session.new:
            request.session["n"] += 1

    def end(self, request, number):
        """End the session at the last visit, and write until then."""
        if number == self.job.visits - 1:
            request.session.invalidate()
        else:
            self.write_if_alive(request, number)

    def log_in(self, request, number):
        """Replace the session's cookie at the last visit, and write until then."""
        if number == self.job.visits - 1:
            request.session.userid = 5
        else:
            self.write_if_alive(request, number)


def work(job: Job) -> list[int]:
    """Do a job, and return the numbers of the visits that were acknowledged."""
    visitor = Visitor(job)
    try:
        return [number for number in range(job.visits) if visitor.visit(number)]
    finally:
        visitor.engine.dispose()


def ready(_: int) -> None:
    """Do nothing: when it is done, the process has started."""


def _wait_long(connection, record):
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 10000")
    cursor.close()
