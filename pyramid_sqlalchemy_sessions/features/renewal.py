"""Renewal: the cookie changes now and then, so that a stolen one is noticed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, Integer, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from ..cookie import Ticket
from ..feature import Due, Feature, Use, Values, Verdict
from ..identifiers import is_same_id, new_id
from ..settings import DefaultSettings

__all__ = ["ConfigRenewal", "ConfigRenewalMixin", "Renewal", "RenewalMixin", "judge"]


class RenewalMixin:
    """Let the cookie of a session be renewed every ``renewal_timeout`` seconds.

    A cookie that was replaced ends the session when it comes back, because two people
    must have had it. ``RenewalViolationEvent`` is sent then.
    """

    if TYPE_CHECKING:
        renewal_next: Mapped[uuid.UUID | None]
        renewal_previous: Mapped[uuid.UUID | None]
        renewed: Mapped[int | None]
        renewal_tried: Mapped[int | None]

    #: The candidate: sent, but not yet seen in a request.
    renewal_next = mapped_column(Uuid)
    #: What the candidate replaced: accepted for ``renewal_grace`` seconds.
    renewal_previous = mapped_column(Uuid)
    #: When the last renewal was completed.
    renewed = mapped_column(BigInteger)
    #: When the candidate was sent last.
    renewal_tried = mapped_column(BigInteger)


class ConfigRenewalMixin(RenewalMixin):
    """Let each session have its own renewal timeout. NULL means none."""

    if TYPE_CHECKING:
        renewal_timeout: Mapped[int | None]
        renewal_try_every: Mapped[int | None]

    renewal_timeout = mapped_column(Integer)
    renewal_try_every = mapped_column(Integer)


class Renewal(Feature):
    """A browser that got the new cookie sends it back; an old one may be a copy.

    A candidate is stored and sent. The old renewal id stays valid until a request
    brings the candidate; that request completes the renewal.
    """

    mixin: ClassVar[type] = RenewalMixin
    columns: ClassVar[tuple[str, ...]] = (
        "renewal_next",
        "renewal_previous",
        "renewed",
        "renewal_tried",
    )

    def begin(self, settings: DefaultSettings, now: int) -> dict[str, Any]:
        if settings.renewal_timeout is None:
            return {}
        return {"renewal_id": new_id(), "renewed": now}

    def rotate(self, values: Values, now: int) -> dict[str, Any]:
        return {
            "renewal_next": None,
            "renewal_previous": None,
            "renewal_tried": None,
            "renewed": now,
        }

    def due(self, values: Values, settings: DefaultSettings, use: Use) -> Due | None:
        received = use.ticket.renewal_id
        if settings.renewal_timeout is None or received is None:
            return None
        renewal_id, candidate = values["renewal_id"], values["renewal_next"]
        if is_same_id(received, candidate):
            takeover = {
                "renewal_id": candidate,
                "renewal_previous": renewal_id,
                "renewal_next": None,
                "renewed": use.commit,
            }
            return Due({"renewal_next": candidate}, takeover)
        if use.rotates or not (is_same_id(received, renewal_id) and use.extends):
            return None
        guard = {"renewal_id": renewal_id, "renewal_next": candidate}
        tried = values["renewal_tried"]
        if candidate is not None:
            if tried is not None and use.commit <= tried + settings.renewal_try_every:
                return None
        elif _is_due(values, settings, use.commit):
            candidate = new_id()
            guard["sent"] = values["sent"]
        else:
            return None
        guard["renewal_tried"] = tried
        changes = {"renewal_next": candidate, "renewal_tried": use.commit}
        return Due(guard, changes, ticket=Ticket(use.ticket.id, candidate))


class ConfigRenewal(Renewal):
    """The same, with the session's own timeout."""

    mixin = ConfigRenewalMixin
    settings: ClassVar[tuple[str, ...]] = ("renewal_timeout", "renewal_try_every")
    columns: ClassVar[tuple[str, ...]] = (*Renewal.columns, *settings)
    own_columns: ClassVar[tuple[str, ...]] = settings

    def restart(
        self, values: Values, settings: DefaultSettings, now: int
    ) -> dict[str, Any]:
        was, timeout = values["renewal_timeout"], settings.renewal_timeout
        if was == timeout or was is None or timeout is None:
            return {}
        grace = min(settings.renewal_grace, was)
        if _is_within(grace, values["renewed"], now):
            return {"renewed": now}
        return {"renewed": now, "renewal_previous": None}


def judge(
    values: Values, settings: DefaultSettings, ticket: Ticket, now: int
) -> Verdict:
    """Judge whether the cookie that carried the ticket is the session's own.

    That's for every model: a rotation replaces the cookie even without renewal.
    """
    rotated, received = values["rotated"], ticket.renewal_id
    renews = settings.renewal_timeout is not None
    if rotated is None and not renews:
        return Verdict.VALID
    if is_same_id(received, values["renewal_id"]):
        return Verdict.VALID
    if is_same_id(received, values.get("renewal_next")):
        return Verdict.VALID
    grace = settings.renewal_grace
    if is_same_id(received, values.get("renewal_previous")):
        at_most = min(grace, settings.renewal_timeout or grace)
        if grace and _is_within(at_most, values["renewed"], now):
            return Verdict.VALID
        if grace and now < (values["renewed"] or 0):
            # A clock was set back: it can't be told whether the grace is over.
            return Verdict.USELESS
    elif grace and _is_within(grace, rotated, now):
        return Verdict.LATE
    is_of_no_use = (
        not renews
        or received is None
        or values["renewal_id"] is None
        or is_same_id(received, values["rotated_from"])
    )
    return Verdict.USELESS if is_of_no_use else Verdict.VIOLATED


def _is_due(values: Values, settings: DefaultSettings, now: int) -> bool:
    """Tell whether it's time for a candidate.

    No candidate is sent while another id is on its way: responses may overtake each
    other.
    """
    timeout = settings.renewal_timeout
    assert timeout is not None
    renewed = values["renewed"] or values["rotated"] or values["created"]
    if now <= renewed + timeout:
        return False
    on_its_way = min(settings.renewal_grace, timeout)
    last = max(values["renewal_tried"] or 0, values["sent"] or 0)
    return not last or now > last + on_its_way


def _is_within(seconds: int, since: int | None, now: int) -> bool:
    """Tell whether ``since`` is no further away, even if a clock was set back."""
    return since is not None and abs(now - since) <= seconds
