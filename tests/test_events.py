"""The events."""

import pytest
from pyramid import testing

from pyramid_sqlalchemy_sessions.events import (
    CookieCryptoErrorEvent,
    InvalidCookieErrorEvent,
    RenewalViolationEvent,
)

EVENTS = [CookieCryptoErrorEvent, InvalidCookieErrorEvent, RenewalViolationEvent]


@pytest.mark.parametrize("event_class", EVENTS)
def test_event_carries_the_request_and_the_exception(event_class):
    """A handler finds the request and the caught error on the event."""
    request, error = testing.DummyRequest(), ValueError()
    event = event_class(request, exception=error)
    assert event.request is request
    assert event.exception is error


@pytest.mark.parametrize("event_class", EVENTS)
def test_exception_is_optional(event_class):
    """An event without an error has None in its place."""
    assert event_class(testing.DummyRequest()).exception is None


@pytest.mark.parametrize("event_class", EVENTS)
def test_subscriber_gets_its_own_events_only(event_class):
    """A subscriber of one event is not called for the other two."""
    with testing.testConfig() as config:
        seen = []
        config.add_subscriber(seen.append, event_class)
        events = [each(testing.DummyRequest()) for each in EVENTS]
        for event in events:
            config.registry.notify(event)
        assert seen == [event for event in events if type(event) is event_class]
