"""The samples of security.rst."""

import logging

from pyramid_sqlalchemy_sessions import RenewalViolationEvent

log = logging.getLogger(__name__)


def alarm(event):
    log.warning(
        "A cookie of user %s was used twice, from %s",
        event.userid,
        event.request.remote_addr,
    )


def includeme(config):
    config.add_subscriber(alarm, RenewalViolationEvent)
