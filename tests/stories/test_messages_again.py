"""The same message, flashed in one request after the other.

The oracle found this: ``python -m stress oracle``.
"""

from __future__ import annotations

from tests.application import Application, Browser


def test_the_only_message_is_flashed_again(engine):
    """A message that's already there alone in its queue is there twice."""
    browser = Browser(Application(engine))
    for _ in range(2):
        browser.visit(lambda request: request.session.flash("Saved."))
    assert browser.ask(lambda session: session.pop_flash()) == ["Saved.", "Saved."]
