"""What a request changes where none of its own transactions will store it."""

from __future__ import annotations

from typing import Any

from .host import Phase, in_exception_view, phase_of, transaction_of
from .patch import Patch
from .state import State

__all__ = ["Outside"]


class _Segment:
    """One stretch of such changes: a copy to work on, and what it was before."""

    def __init__(self, phase: Phase, mark: State, unit: Any):
        self.phase = phase
        self.unit = unit  # of the transaction that is going to be rolled back
        self.mark = mark.begun()
        self.work = mark.begun()
        self.taken: State | None = None  # as it went into the current transaction
        self.is_closed = False

    def patch(self) -> Patch:
        return Patch.between(self.mark, self.work)

    def accept(self) -> None:
        """Note that it has been stored. From now on, only changes in place count."""
        if self.taken is not None:
            self.mark, self.taken = self.taken, None
            self.work.start_anew()
            self.is_closed = True


class Outside(list[_Segment]):
    """Keeps what is changed in exception views, above pyramid_tm, and without it.

    There, the session works on copies. Their changes go into the request's next
    transaction, or at last into a short one after the response is made.
    """

    def open(self, start: State, request: Any, unit: Any) -> State:
        """Return a copy of a state to work on, beside what the unit does."""
        self.append(_Segment(phase_of(request), start, unit))
        return self[-1].work

    def is_current(self, state: State, request: Any) -> bool:
        """Tell whether the state is still the one to work on."""
        if not self or self[-1].work is not state:
            return False
        segment, phase = self[-1], phase_of(request)
        return (
            not segment.is_closed
            and phase is segment.phase
            and (phase is Phase.EXCEPTION_VIEW or transaction_of(request) is None)
        )

    def holds(self, state: State) -> bool:
        """Tell whether the state is one of the copies."""
        return any(each.work is state for each in self)

    def patches(self) -> list[Patch]:
        """Return what was changed and isn't stored yet."""
        patches = [each.patch() for each in self]
        return [each for each in patches if each.is_change]

    def phases(self) -> set[Phase]:
        """Return the phases in which that was changed."""
        return {each.phase for each in self if each.patch().is_change}

    def take_in(self) -> list[Patch]:
        """Return what isn't in the current transaction yet, which takes it in.

        That includes what was only read: it counts when the transaction commits.
        """
        patches: list[Patch] = []
        for each in self:
            if each.taken is None:
                patches.append(each.patch())
                each.taken = each.work.begun()
        return patches

    def leave(self, committed: bool, undone: Any = None) -> None:
        """Note how the transaction that took it in has ended.

        ``undone`` is its unit after the rollback to a savepoint that the unit didn't
        know: the session was first used after it.
        """
        if undone is not None:
            self[:] = [each for each in self if each.unit is not undone]
        for each in self:
            if committed:
                each.accept()
            each.taken = None

    def snapshot(self, request: Any) -> Any:
        """Return what ``restore`` goes back to."""
        segments = [(each, dict(vars(each)), each.work.copy()) for each in self]
        return segments, in_exception_view(request)

    def restore(self, snapshot: Any) -> None:
        """Go back to a savepoint. An exception view's changes outlive the view's."""
        segments, was_in_exception_view = snapshot
        known = [each for each, _, _ in segments]
        later = [each for each in self if each not in known]
        if was_in_exception_view:
            later.clear()
        for each in later:
            each.taken = None
        self[:] = known + [e for e in later if e.phase is Phase.EXCEPTION_VIEW]
        for each, attributes, work in segments:
            vars(each).update(attributes)
            each.work.become(work.copy())

    def drop_changes_of_failed_view(self) -> None:
        """Forget the changes of a view that had no transaction to roll them back."""
        self[:] = [each for each in self if each.phase is not Phase.VIEW]
