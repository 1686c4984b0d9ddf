"""One request's use of one session: where it comes from and what becomes of it."""

from __future__ import annotations

import logging
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session as DBSession

from .aside import Aside
from .conflicts import WAS_LOST
from .cookie import Ticket, vary_on_cookie
from .events import (
    CookieCryptoErrorEvent,
    InvalidCookieErrorEvent,
    RenewalViolationEvent,
    SessionExpiredEvent,
    SessionRevokedEvent,
)
from .exceptions import CookieCryptoError, TransactionRequiredError
from .feature import Change, Verdict
from .host import (
    dbsession_of,
    has_written,
    in_exception_view,
    in_subrequest,
    is_over,
    outer_requests,
    transaction_of,
    will_be_retried,
)
from .outbox import send, tell
from .record import Record
from .unit import Unit

if TYPE_CHECKING:
    from .config import SessionConfig

__all__ = ["Visit"]

log: logging.Logger = logging.getLogger(__name__)

#: What is staged for the cookie when it has to go.
_DELETE = ""

#: Where the environ keeps the tickets that were accepted in the request.
_ACCEPTED = "pyramid_sqlalchemy_sessions.accepted"

#: What keeps from doing what is due, which can wait: also that there is no connection.
_TRANSIENT = (DBAPIError, PoolTimeout)

_NO_TICKET = Ticket(uuid.UUID(int=0))


class Visit:
    """Finds the record to work on, and sends the cookie in the end.

    While the request's transaction runs, the visit is *inside*: it works on its main
    record, which the transaction's unit stores at commit. Everywhere else it is
    *aside* (see there), and works on a copy.
    """

    __slots__ = (
        "_aside",
        "_base_row",
        "_blank",
        "_changes",
        "_cookie",
        "_dbsession",
        "_ended",
        "_events",
        "_expired",
        "_finished",
        "_has_base",
        "_key",
        "_late",
        "_main",
        "_record",
        "_responded",
        "_response",
        "_settings",
        "_staged",
        "_staged_ticket",
        "_tickets",
        "_unit",
        "_violated",
        "_warned",
        "config",
        "is_to_resend",
        "now",
        "reissue",
        "request",
        "ticket",
    )

    def __init__(self, config: SessionConfig, request: Any):
        self.config: SessionConfig = config
        self.request: Any = request
        self._dbsession: DBSession | None = None
        reading = config.cookie.read(request)
        self._tickets = reading.tickets
        self.now: int = config.clock()
        self.ticket: Ticket = _NO_TICKET  # what the session in force was found with
        self.reissue: Ticket | None = None  # to be sent, if the transaction commits
        self.is_to_resend: bool = False  # the cookie, so that it lasts longer
        self._settings = config.settings  # those of the session in force
        self._events: list[Any] = []  # to be sent as soon as there is a record
        self._expired: dict[uuid.UUID, SessionExpiredEvent] = {}
        self._violated: dict[uuid.UUID, RenewalViolationEvent] = {}
        self._cookie: str | None = None
        if reading.error is not None:
            self._cookie = _DELETE
            self._events.append(_event_of(reading.error, request))
        self._key: uuid.UUID | None = None  # the id that the browser has
        self._record: Record | None = None  # the one to work on
        self._blank: Record | None = None  # the same, as long as nobody changes it
        self._unit: Unit | None = None
        self._main: Record | None = None  # the one in the unit
        self._ended = False  # the session that was there has been invalidated
        self._changes: list[Change] = []  # that are due
        self._late: Record | None = None  # for which something is due after the commit
        self._staged: str | None = None  # what the commit makes the cookie
        self._staged_ticket: Ticket | None = None
        self._has_base = False
        self._base_row: dict[str, Any] | None = None  # before the transaction
        self._aside: Aside | None = None
        self._responded = False
        self._response: Any = None  # waiting for the end of the transaction
        self._finished = False
        self._warned = False
        request.add_response_callback(self._respond)
        # What they answer may be made of the answer to this one.
        for outer in outer_requests(request):
            outer.add_response_callback(_vary)

    @property
    def dbsession(self) -> DBSession:
        """The request's dbsession, which is not even made before it is needed."""
        dbsession = self._dbsession
        if dbsession is None:
            name = self.config.settings.dbsession_name
            dbsession = self._dbsession = dbsession_of(self.request, name)
            if self._unit is not None:
                self._unit.watch(dbsession)
        return dbsession

    @property
    def aside(self) -> Aside:
        """What is changed outside of the transaction."""
        aside = self._aside
        if aside is None:
            aside = self._aside = Aside(self)
        return aside

    # The record.

    def read(self) -> Record:
        """Return the record to read from."""
        record = self._record
        if record is None or not (
            self.request.__dict__.get("exception") is None  # the usual case
            if record is self._main or record is self._blank
            else self.aside.is_current()
        ):
            record = self._enter()
        if record.deleted:
            record = self._begin_anew(record)
        return record

    def touch(self, record: Record) -> None:
        """See to it that the changes of the record are stored."""
        if record is self._blank:
            self._blank = None
            transaction = transaction_of(self.request)
            if transaction is not None:
                self._work_on(record, Unit.of(self.request.tm, transaction))
        unit = self._unit
        if record is self._main:
            assert unit is not None
            if record.pending and record.active and not unit.is_written:
                return
            record.dbsession = self.dbsession
            unit.touch()
            if unit.was_doomed and not self._warned:
                self._warned = True
                log.warning(
                    "Nothing of this session will be stored: the transaction was"
                    " doomed before the session was first used. If this is a test,"
                    " its fixture dooms the transaction: see the documentation on"
                    " testing."
                )
        elif not self.aside.holds(record):
            self._require_response()
            self.aside.add(record)
            if unit is not None:
                unit.touch()
        record.active = record.pending = True

    def use(self, record: Record) -> None:
        """Count as activity what changes nothing."""
        record.active = True
        if self._unit is not None and self.config.actors:
            self._unit.is_busy = True

    def expose(self, record: Record) -> None:
        """Look for changes at the end: a value that can change is being handed out."""
        record.data.expose()
        record.pending = True
        if record is self._main:
            record.dbsession = self.dbsession
            assert self._unit is not None
            if not self._unit.is_written:
                self._unit.touch()
        elif not (self._responded or self.aside.holds(record)):
            self.aside.add(record)

    def instance(self) -> Any:
        """Return the mapped object of the row, None while there is no row."""
        record = self.read()
        if record.key is None:
            return None
        if self._unit is None:
            raise TransactionRequiredError(
                "session.instance is an object of the request's transaction, and"
                " there is none now: use it in a view"
            )
        if record.instance is not None and record.instance in self.dbsession:
            return record.instance
        return self.dbsession.get(self.config.table.model_class, record.key)

    def _enter(self) -> Record:
        transaction = transaction_of(self.request)
        failed = in_exception_view(self.request)
        if failed:
            self.aside.drop_changes_of_failed_view()
        self._blank = None
        if transaction is not None and self._main is None:
            if not (self._tickets or self._aside or failed):
                self._record = self._blank = Record(self.config, None)
            else:
                self._go_inside(transaction)
        if failed or not (self._main or self._blank):
            self._record = self.aside.copy(self._main)
        elif self._main is not None and self._record is not self._main:
            # The exception view declined, and the view goes on.
            self.take_in_patches()
            self._record = self._main
        while self._events:
            self.request.registry.notify(self._events.pop(0))
        assert self._record is not None
        return self._record

    def _go_inside(self, transaction: Any) -> None:
        unit = Unit.of(self.request.tm, transaction)
        try:
            record = self._find(unit)
        except SQLAlchemyError:
            if not in_exception_view(self.request):
                raise
            # The view broke the transaction of the dbsession.
            if isinstance(self.aside.bind(), Connection):
                # Its transaction is that of the aside, too.
                self.dbsession.rollback()
            return
        self._set_base(None if record is None else record.loaded)
        self._work_on(record or Record(self.config, None), unit)
        if self._aside:
            self.take_in_patches()
            unit.touch()
            self._record = self._main

    def _find(self, unit: Unit) -> Record | None:
        # pyramid_retry tries again: now wait for the others instead of racing them,
        # unless nobody was in the way. A standby could not lock anything.
        environ = self.request.environ
        lock = environ.get("retry.attempt", 0) > 0 and not environ.get(WAS_LOST)
        for ticket in self._tickets:
            record = unit.load(self.config, self.dbsession, ticket.id, lock)
            if record is None:
                continue
            # A subrequest may have a dbsession of its own, with another connection: one
            # of the two would wait forever for what the other has written.
            self._dbsession = record.dbsession
            if self._accepts(record, ticket):
                return record
        return None

    def _work_on(self, record: Record, unit: Unit) -> None:
        self._unit = unit
        if record.key is None:
            unit.add(record)
        self._main = self._record = record
        if self._aside is not None:
            self._aside.begin()
        unit.enlist(self)
        if self._expired or (self.config.actors and record.key is not None):
            unit.is_busy = True
        if self._dbsession is not None:
            unit.watch(self._dbsession)

    def _accepts(self, record: Record, ticket: Ticket) -> bool:
        """Take the session that was loaded with the ticket, unless it is over."""
        self._settings = record.settings
        verdict = self._judge(record, ticket) if self.config.judges else Verdict.VALID
        if verdict is Verdict.EXPIRED:
            self._expired[ticket.id] = self._expiry_of(record, ticket)
        elif verdict is Verdict.VIOLATED:
            self._tickets = tuple(each for each in self._tickets if each != ticket)
            self._cookie = _DELETE
            if ticket.id not in self._violated:
                userid = record.values.get("userid")
                event = RenewalViolationEvent(self.request, userid=userid)
                self._violated[ticket.id] = event
                self._events.append(event)
            # Also if there is no response.
            self.request.add_finished_callback(self._delete_violated)
        if verdict is not Verdict.VALID:
            return False
        self.ticket = ticket
        if self._cookie == _DELETE:  # another cookie was bad
            self._cookie = None
        # Nobody who has the good cookie, too, has stolen the other one.
        mistaken = self._violated.pop(ticket.id, None)
        if mistaken in self._events:
            self._events.remove(mistaken)
        return True

    def _expiry_of(self, record: Record, ticket: Ticket) -> SessionExpiredEvent:
        cause = next(
            feature.cause
            for feature in self.config.judges
            if feature.check(record, ticket, self.now) is Verdict.EXPIRED
        )
        fingerprint = self.config.cookie.fingerprint(ticket.id)
        userid = record.values.get("userid")
        return SessionExpiredEvent(self.request, fingerprint, userid, cause)

    def _judge(self, record: Record, ticket: Ticket) -> Verdict:
        # pyramid_retry tries again with the same environ, and a cookie that was good
        # when the request came is so still, whatever was renewed meanwhile.
        accepted: set[Ticket] = self.request.environ.setdefault(_ACCEPTED, set())
        for feature in self.config.judges:
            verdict = feature.check(record, ticket, self.now)
            if verdict is Verdict.VIOLATED and ticket in accepted:
                continue
            if verdict is not Verdict.VALID:
                return verdict
        accepted.add(ticket)
        return Verdict.VALID

    def _set_base(self, row: dict[str, Any] | None) -> None:
        self._has_base = True
        self._base_row = row
        if row is not None:
            self._key = row["id"]

    def _begin_anew(self, ended: Record) -> Record:
        """Replace a record that was invalidated by that of a new session."""
        record = ended.successor
        if record is None:
            record = ended.successor = Record(self.config, None)
            if ended is self._main:
                assert self._unit is not None
                self._unit.add(record)
        if ended is self._main:
            self._main = record
            self._ended = True
        self._record = record
        return record

    # Aside.

    def row_before(self) -> dict[str, Any] | None:
        """Return the row as it was before the transaction."""
        if not self._has_base:
            try:
                self._set_base(self._read_row())
            except SQLAlchemyError:
                if self._base_row is None:
                    raise
        return self._base_row

    def _read_row(self) -> dict[str, Any] | None:
        for ticket in self._tickets:
            with self.aside.transaction() as connection:
                row = self.config.table.load_plain(connection, ticket.id, False)
            if row is not None and self._accepts(Record(self.config, row), ticket):
                return row
        return None

    def _require_response(self) -> None:
        """Make sure that the response is still to come, and say what that means."""
        request = self.request
        if self._responded or is_over(request):
            raise TransactionRequiredError(
                "the session cannot be changed here: the request's transaction is"
                " over and its response is made. Change it in the view, or in a new"
                " transaction: with request.tm: ..."
            )
        request.add_finished_callback(self._check_stored)
        manager = getattr(request, "tm", None)
        if manager is None:
            self.config.warn_once(
                "This application changes sessions, but does not use pyramid_tm:"
                " they are stored when the response is ready, in a transaction of"
                " their own, whatever becomes of the application's. Do"
                " config.include('pyramid_tm')."
            )
        elif not (
            getattr(manager, "explicit", False) or in_exception_view(self.request)
        ):
            self.config.warn_once(
                "A session is being changed outside of the transaction of"
                " pyramid_tm: it is stored when the response is ready, in a"
                " transaction of its own. Where there is no response, in a script,"
                " say, it is not stored: use an explicit transaction manager there"
                " (tm.manager_hook = pyramid_tm.explicit_manager)."
            )

    def join(self) -> None:
        """Bring the dbsession into the transaction if there are patches to store."""
        if self._aside is not None and not self._aside.is_taken_in():
            self.config.table.connection(self.dbsession)

    def take_in_patches(self) -> None:
        """Bring what was changed aside into the unit, which is going to store it."""
        if self._aside is not None and not self._aside.is_taken_in():
            assert self._unit is not None
            self._main, ended = self._aside.take_in(self._main, self._unit)
            self._ended |= ended

    def _check_stored(self, request: Any) -> None:
        self._finished = True
        if (
            self._unit is None
            and self.aside.has_changes()
            and not will_be_retried(request)
        ):
            log.error(
                "Changes of a session are lost: they were made outside of a"
                " transaction, in a request that ended without a response or after"
                " its response was made."
            )

    def _delete_violated(self, request: Any) -> None:
        """Delete the sessions whose cookies were stolen, whatever else happened."""
        if not self._violated or will_be_retried(request):
            return
        if self._unit is not None:
            # Of an outer request, whose locks would have to be waited for.
            transaction = self._unit.transaction
            transaction.addAfterCommitHook(self._delete_violated_after)
            transaction.addAfterAbortHook(self._delete_violated_after)
        else:
            self._delete_violated_after()

    def _delete_violated_after(self, *committed: bool) -> None:
        violations, self._violated = self._violated, {}
        for key, violation in violations.items():
            delete = partial(self.config.table.delete_violated, key=key)
            if self.aside.transact(delete):
                fingerprint = self.config.cookie.fingerprint(key)
                told = SessionRevokedEvent(
                    self.request, fingerprint, violation.userid, "renewal violation"
                )
                send(self.request.registry, told)

    # The end of a transaction.

    def act(self) -> bool:
        """Do what is due besides the changes; tell whether the database was asked."""
        self.reissue = None
        main = self._main
        differs = main is not None and main.may_differ()
        acted = False
        try:
            if self._expired:
                acted = self._delete_expired_inside()
            if main is not None and (self.config.actors or self.config.witnesses):
                acted |= self._keep_up(main, differs)
        except DBAPIError:
            if differs or has_written(self.dbsession):
                raise
            # Whoever only reads does not fail because of it, if the database is
            # read-only, say. What is left of the transaction is rolled back.
            self.reissue = None
            self._postpone(main)
            return False
        return acted

    def _delete_expired_inside(self) -> bool:
        """Delete what was found expired; tell whether the database was asked."""
        table = self.config.table
        connection = table.connection(self.dbsession)
        if table.may_conflict(connection):  # then after the commit
            return False
        for key, expiry in self._expired.items():
            deleted = table.delete_expired(connection, key, self.now)
            if deleted:
                tell(self.dbsession, self.request.registry, expiry)
            if deleted and self._key is None:  # no other cookie is good
                self._ended = True
                self._key = key
        self._expired.clear()
        return True

    def _keep_up(self, record: Record, differs: bool) -> bool:
        """Extend and renew, if that is due; tell whether the database was asked."""
        self.decide(record)
        if not self._changes and record.extension is None:
            return False
        table = self.config.table
        connection = table.connection(self.dbsession)
        if differs:  # the extension comes with the changes
            return self.make_changes(record, connection)
        if table.may_conflict(connection):
            self._postpone(record)
            return False
        self.make_changes(record, connection)
        if not record.is_extended:
            record.store(connection)
        record.pending = False
        return True

    def _postpone(self, record: Record | None) -> None:
        """Do what is due after the commit, in a transaction of its own."""
        self._late = record
        if record is not None:
            record.pending = False

    def decide(self, record: Record) -> None:
        """Let the features decide what is due for the record."""
        self.is_to_resend = False
        self._changes = []
        if record.deleted:
            return
        if self.config.witnesses and record.changes_hands():
            for feature in self.config.witnesses:
                feature.note(self.request, record)
        if record.key is not None:
            for feature in self.config.actors:
                change = feature.act(self, record)
                if change is not None:
                    self._changes.append(change)

    def make_changes(self, record: Record, connection: Connection) -> bool:
        """Make the changes that were decided on; tell whether there were any."""
        for expected, values, ticket in self._changes:
            assert record.key is not None
            hit = record.config.table.change(connection, record.key, expected, values)
            if hit and ticket is not None:
                self.reissue = ticket
        return bool(self._changes)

    def _act_late(self) -> None:
        """Do what is due, now that no conflict can harm the request's transaction."""
        record, self._late = self._late, None
        if record is None:
            return
        record.pending = True
        try:
            with self.aside.transaction() as connection:
                self.make_changes(record, connection)
                record.store(connection)
        except _TRANSIENT as exc:  # another request has done it, or the next one will
            log.debug("A session was not extended: %s", _name_of(exc))
            return
        self._stage(record, False)
        self._accept_staged()

    def stage(self) -> None:
        """Decide what the cookie becomes if the transaction commits."""
        main = self._main
        while main is not None and main.deleted and main.successor is not None:
            main = self._begin_anew(main)
        ended = self._ended or (main is not None and main.deleted)
        self._stage(main, ended)

    def _stage(self, record: Record | None, ended: bool) -> None:
        row = None if record is None else record.stored
        if record is not None and record.is_extended and self.is_to_resend:
            self.reissue = self.ticket
        self._staged_ticket = None
        if row is not None and row["id"] != self._key:
            settings = self._settings = self.config.settings_of(row)
            renews = settings.renewal_timeout is not None
            ticket = Ticket(row["id"], row["renewal_id"] if renews else None)
            self._staged = self.config.cookie.seal(ticket)
            self._staged_ticket = ticket
        elif row is not None and self.reissue is not None:
            # Not the ticket of this request: that is what the browser has sent.
            self._staged = self.config.cookie.seal(self.reissue)
        elif row is None and ended and self._key is not None:
            self._staged = _DELETE

    def leave(self, committed: bool) -> None:
        """Learn what became of the transaction."""
        main = self._main
        self._unit = self._main = None
        self._ended = False
        if self._record is main:
            self._record = None
        if self._aside is not None:
            self._aside.begin()
        if committed:
            self._settle(None if main is None else main.stored)
        else:
            self._late = None
            self._expired.clear()
            self._has_base = False
            if self._finished:
                self._check_stored(self.request)
        self._staged = None
        if self._response is not None and self._cookie is not None:
            self._send(self._response, self._cookie)

    def _settle(self, row: dict[str, Any] | None) -> None:
        """Take for granted what has been committed."""
        if self._aside is not None:
            self._aside.clear()
        self._has_base = True
        self._base_row = row
        self._key = None if row is None else row["id"]
        self._accept_staged()

    def _accept_staged(self) -> None:
        if self._staged is not None:
            self._cookie = self._staged
        if self._key is not None:
            self.ticket = self._staged_ticket or self.ticket
            self._tickets = (self.ticket,)
        elif self._staged == _DELETE:
            self._tickets = ()
        self._staged = None

    # Savepoints.

    def snapshot(self) -> tuple[Any, ...]:
        """Return what ``restore`` goes back to."""
        return self._unit, self._main, self._record, self._ended

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Go back to a savepoint."""
        self._unit, self._main, self._record, self._ended = snapshot

    def forget(self) -> None:
        """Go back to before the session was first used in the transaction."""
        if self._record is self._main:
            self._record = None
        self._unit = self._main = None
        self._ended = False
        if self._aside is not None:
            self._aside.begin()

    # The response.

    def _respond(self, request: Any, response: Any) -> None:
        self._responded = True
        if self._unit is not None:
            # A subrequest, whose cookie waits for the transaction of the outer
            # request; or nobody is going to commit.
            self._response = response
            self._warn_of_open_transaction()
        elif self._late or self._aside or self._expired or self._violated:
            self._finish_aside()
        vary_on_cookie(response)
        if self._cookie is not None:
            self._send(response, self._cookie)

    def _finish_aside(self) -> None:
        self._delete_violated(self.request)
        self._delete_expired()
        self._act_late()
        outcome = self.aside.store()
        if outcome is not None:
            record, ended = outcome
            self._stage(record, ended)
            self._settle(None if record is None else record.stored)

    def _delete_expired(self) -> None:
        """Delete what was found expired, where no transaction of the request did."""
        for key, expiry in self._expired.items():
            try:
                with self.aside.transaction() as connection:
                    table = self.config.table
                    deleted = table.delete_expired(connection, key, self.now)
            except _TRANSIENT as exc:  # another request has done it, or will
                log.debug("A session was not deleted: %s", _name_of(exc))
            else:
                if deleted and self._key is None and self._cookie is None:
                    self._cookie = _DELETE
                if deleted:
                    send(self.request.registry, expiry)

    def _send(self, response: Any, cookie: str) -> None:
        attributes = self.config.cookie_attributes(self._settings)
        if cookie == _DELETE:
            self.config.cookie.delete(self.request, response, attributes)
        else:
            self.config.cookie.send(self.request, response, cookie, attributes)

    def _warn_of_open_transaction(self) -> None:
        main = self._main
        if (
            self._warned
            or in_subrequest(self.request)
            or in_exception_view(self.request)
        ):
            return
        if self.aside.has_changes() or (main is not None and main.may_differ()):
            self._warned = True
            log.warning(
                "Nothing of this session is stored so far, and no cookie is sent: the"
                " response is made, but nobody has committed the transaction. Is"
                " 'tm.active' set by something that does not commit, a test fixture"
                " perhaps? See the documentation on testing."
            )


def _vary(request: Any, response: Any) -> None:
    vary_on_cookie(response)


def _event_of(error: ValueError, request: Any) -> Any:
    if isinstance(error, CookieCryptoError):
        return CookieCryptoErrorEvent(request, error)
    return InvalidCookieErrorEvent(request, error)


def _name_of(error: SQLAlchemyError) -> str:
    return type(getattr(error, "orig", error)).__name__
