"""Renewal: the cookie changes now and then, so that a stolen one is noticed."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, Integer, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from ..cookie import Ticket
from ..exceptions import InconsistentDataError
from ..feature import Change, Feature, Verdict
from ..record import Record, new_id
from ..visit import Visit

__all__ = ["ConfigRenewal", "ConfigRenewalMixin", "Renewal", "RenewalMixin"]


class RenewalMixin:
    """Let the cookie of a session be renewed every ``renewal_timeout`` seconds.

    A cookie that was replaced ends the session when it comes back, since two people
    have had it then. ``RenewalViolationEvent`` tells of that.
    """

    if TYPE_CHECKING:
        renewal_id: Mapped[uuid.UUID | None]
        renewal_next: Mapped[uuid.UUID | None]
        renewal_previous: Mapped[uuid.UUID | None]
        renewed: Mapped[int | None]
        renewal_tried: Mapped[int | None]

    #: What the cookie carries besides the session's id.
    renewal_id = mapped_column(Uuid)
    #: The candidate: sent, but not yet seen in a request.
    renewal_next = mapped_column(Uuid)
    #: What the candidate replaced: accepted for ``renewal_grace`` seconds.
    renewal_previous = mapped_column(Uuid)
    #: When the last renewal was completed.
    renewed = mapped_column(BigInteger)
    #: When the candidate was sent last.
    renewal_tried = mapped_column(BigInteger)


class ConfigRenewalMixin(RenewalMixin):
    """Let each session have its own renewal timeout. NULL: none."""

    if TYPE_CHECKING:
        renewal_timeout: Mapped[int | None]
        renewal_try_every: Mapped[int | None]

    renewal_timeout = mapped_column(Integer)
    renewal_try_every = mapped_column(Integer)


class Renewal(Feature):
    """Who got the new cookie sends it back; who sends an old one stole or lost it.

    A candidate is stored and sent. The old renewal id stays valid until a request
    brings the candidate; that request completes the renewal.
    """

    mixin: ClassVar[type] = RenewalMixin
    columns: ClassVar[tuple[str, ...]] = (
        "renewal_id",
        "renewal_next",
        "renewal_previous",
        "renewed",
        "renewal_tried",
    )

    def begin(self, record: Record, now: int) -> None:
        if record.settings.renewal_timeout is not None:
            record.values.update(renewal_id=new_id(), renewed=now)

    def rotate(self, record: Record) -> dict[str, Any]:
        if record.settings.renewal_timeout is None:
            return {}
        return {
            "renewal_id": new_id(),
            "renewal_next": None,
            "renewal_previous": None,
            "renewal_tried": None,
            "renewed": record.config.clock(),
        }

    def check(self, record: Record, ticket: Ticket, now: int) -> Verdict:
        settings = record.settings
        if settings.renewal_timeout is None:
            return Verdict.VALID
        values, received = record.values, ticket.renewal_id
        if received is None or values["renewal_id"] is None:
            return Verdict.USELESS
        _require(values, "renewed", "renewal_id")
        if values["renewal_next"] is not None:
            _require(values, "renewal_tried", "renewal_next")
        if (
            _same(received, values["renewal_id"])
            or _same(received, values["renewal_next"])
            or (
                settings.renewal_grace
                and _same(received, values["renewal_previous"])
                and now <= values["renewed"] + settings.renewal_grace
            )
        ):
            return Verdict.VALID
        return Verdict.VIOLATED

    def act(self, visit: Visit, record: Record) -> Change | None:
        settings, received = record.settings, visit.ticket.renewal_id
        is_rotated = record.values["id"] != record.key
        if settings.renewal_timeout is None or received is None or is_rotated:
            return None
        # No id may go out while another one is on its way: responses may overtake each
        # other. ``renewal_tried`` says when one was sent last. The time is that of the
        # commit, after which the cookie is sent.
        is_to_resend, visit.is_to_resend = visit.is_to_resend, False
        values, now = record.values, record.config.clock()
        renewal_id, candidate = values["renewal_id"], values["renewal_next"]
        tried = values["renewal_tried"]
        if _same(received, candidate):
            takeover = {
                "renewal_id": candidate,
                "renewal_previous": renewal_id,
                "renewal_next": None,
                "renewed": now,
            }
            expected = {"renewal_next": candidate}
            if is_to_resend:
                return Change(
                    expected, {**takeover, "renewal_tried": now}, visit.ticket
                )
            return Change(expected, takeover)
        if not _same(received, renewal_id):  # but the previous one
            return None
        if candidate is not None:
            if now <= tried + settings.renewal_try_every:
                return None
            expected = {"renewal_next": candidate, "renewal_tried": tried}
        elif now > values["renewed"] + settings.renewal_timeout:
            on_its_way = min(settings.renewal_grace, settings.renewal_timeout)
            if tried is not None and now <= tried + on_its_way:
                return None
            candidate = new_id()
            expected = {
                "renewal_id": renewal_id,
                "renewal_next": None,
                "renewal_tried": tried,
            }
        elif is_to_resend:
            expected = {"renewal_id": renewal_id, "renewal_next": None}
            return Change(expected, {"renewal_tried": now}, visit.ticket)
        else:
            return None
        return Change(
            expected,
            {"renewal_next": candidate, "renewal_tried": now},
            Ticket(visit.ticket.id, candidate),
        )


class ConfigRenewal(Renewal):
    """The same, with the timeout that the session has."""

    mixin = ConfigRenewalMixin
    settings: ClassVar[tuple[str, ...]] = ("renewal_timeout", "renewal_try_every")
    columns: ClassVar[tuple[str, ...]] = (*Renewal.columns, *settings)


def _require(values: Mapping[str, Any], name: str, other: str) -> None:
    if values[name] is None:
        raise InconsistentDataError(
            f"the column {name!r} of a stored session is NULL, and {other!r} is not:"
            " was it written by another program? Correct it, or delete the row"
        )


def _same(one: uuid.UUID, other: uuid.UUID | None) -> bool:
    return other is not None and hmac.compare_digest(one.bytes, other.bytes)
