"""The samples of security.rst."""

import logging

from pyramid.csrf import new_csrf_token
from pyramid.security import remember

from pyramid_sqlalchemy_sessions import RenewalViolationEvent

log = logging.getLogger(__name__)


def log_in(request, userid):
    remember(request, userid)
    new_csrf_token(request)


def alarm(event):
    log.warning(
        "A cookie of user %s was used twice, from %s",
        event.userid,
        event.request.remote_addr,
    )


def includeme(config):
    config.add_subscriber(alarm, RenewalViolationEvent)
