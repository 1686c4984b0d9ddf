"""The samples of security.rst, and one of logging-in.rst."""

import logging

from pyramid.security import remember

from pyramid_sqlalchemy_sessions import RenewalViolationEvent

log = logging.getLogger(__name__)


def alarm(event):
    log.warning(
        "A cookie of user %s was used twice, from %s",
        event.userid,
        event.request.remote_addr,
    )


def log_in(request, userid):
    remember(request, userid)
    request.session.rotate()


def includeme(config):
    config.add_subscriber(alarm, RenewalViolationEvent)
