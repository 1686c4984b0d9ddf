"""What is wrong with the cookies in a history: which were let in, and which weren't."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from stress.histories import History, Op, Violation, lineage_of


def judge_cookies(history: History) -> list[Violation]:
    """Return whatever is wrong with the cookies, and with the ends of sessions."""
    if not any(op.kind == "final" for op in history.ops):
        raise ValueError("the history lacks a last look at each session")
    return [
        *ended(history),
        *rotated(history),
        *honest(history),
        *thefts(history),
        *overtaken(history),
        *outlived(history),
        *named(history),
        *moved(history),
        *vanished(history),
    ]


def _by_lineage(history: History) -> dict[str, list[Op]]:
    ops: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops:
        for lineage in {part.lineage for part in op.parts if part.lineage}:
            ops[lineage].append(op)
    return ops


def ended(history: History) -> Iterator[Violation]:
    """After an acknowledged end the session is never seen again."""
    by_lineage = _by_lineage(history)
    for lineage, ends in history.ends.items():
        end = min(ends, key=lambda op: op.end)
        for op in by_lineage[lineage]:
            if op.start > end.end:
                yield Violation("end undone", lineage, (end.name, op.name))
    cleared = {
        part.found: op for op in history.ops for part in op.stored if part.clears
    }
    for op in history.ops:
        for part in op.parts:
            end = cleared.get(part.found)
            if end and op.start > end.end:
                yield Violation(
                    "end undone", f"{part.found} was cleared", (end.name, op.name)
                )


def _is_before(history: History, op: Op, rotation: Op) -> bool:
    """Tell whether the request's cookie is certainly from before the rotation."""
    if op.cookie == rotation.cookie:
        return True
    source = history.by_name.get(op.brought_by or "")
    return source is not None and source.end < rotation.start


def rotated(history: History) -> Iterator[Violation]:
    """A cookie from before an acknowledged rotation gives no access."""
    by_lineage = _by_lineage(history)
    for lineage, rotations in history.rotations.items():
        for rotation in rotations:
            if any(part.is_doubtful for part in rotation.stored):
                continue
            for op in by_lineage[lineage]:
                if op.found != lineage or op.start < rotation.end:
                    continue
                if _is_before(history, op, rotation):
                    yield Violation(
                        "old cookie let in", lineage, (rotation.name, op.name)
                    )


def honest(history: History) -> Iterator[Violation]:
    """The cookie that a browser has leads to its session, unless there is a reason."""
    for op in history.ops:
        lineage = history.of_cookie(op.cookie)
        if lineage is None or not op.parts or op.found == lineage:
            continue
        names = (op.brought_by, op.name)
        if op.found is not None:
            yield Violation("another's session", f"{op.found}, not {lineage}", names)
            continue
        if any(each.start < op.end for each in history.any_end(lineage)):
            continue
        if any(_explains(history, each, op) for each in history.rotations[lineage]):
            continue
        others = [each.name for each in history.rotations[lineage][-3:]]
        rule = "late without a rotation" if op.is_late else "logged out"
        yield Violation(rule, f"cookie of {lineage}", (*names, *others))


def _explains(history: History, rotation: Op, op: Op) -> bool:
    """Tell whether the rotation's answer may have reached the browser too late."""
    if rotation is op or rotation.start > op.end:
        return False
    source = history.by_name.get(op.brought_by or "")
    if source is None:  # made of the row itself
        return False
    return source is not rotation and source.start < rotation.end


def excuse(history: History, op: Op) -> str | None:
    """Return why a browser's cookie may have been too old, if it may."""
    source = history.by_name.get(op.brought_by or "")
    if op.end - (op.taken or op.start) > history.patience:
        return "the request was slow"
    if source and (source.arrived or source.end) - source.end > history.patience:
        return "the answer was slow"
    lineage = history.of_cookie(op.cookie)
    for rotation in history.rotations[lineage or ""]:
        if op.end - rotation.start > history.grace - 1 and _explains(
            history, rotation, op
        ):
            return "its cookie was rotated away before the grace"
    return None


def thefts(history: History) -> Iterator[Violation]:
    """An honest browser is never taken for a thief."""
    for op in history.ops:
        if op.violation and excuse(history, op) is None:
            yield Violation(
                "taken for a theft",
                str(history.of_cookie(op.cookie)),
                (op.brought_by, op.name),
            )


def overtaken(history: History) -> Iterator[Violation]:
    """A request with the cookie from before a rotation sets and deletes no cookie."""
    for op in history.ops:
        lineage = history.of_cookie(op.cookie)
        if lineage is None or not (op.sent or op.deletes_cookie):
            continue
        if any(each.start < op.end for each in history.any_end(lineage)):
            continue
        if any(part.ends or part.rotates or part.user for part in op.stored):
            continue
        if op.strays:
            continue
        committed = op.commits[0] if op.commits else op.end
        for rotation in history.rotations[lineage]:
            if (
                rotation.end < committed
                and op.start - rotation.start < history.grace - 1
                and _is_before(history, op, rotation)
            ):
                yield Violation(
                    "newer cookie replaced", lineage, (rotation.name, op.name)
                )


def outlived(history: History) -> Iterator[Violation]:
    """A session with another user doesn't take anything from an earlier request."""
    for op in history.ops:
        wrote = any(
            part.writes or part.values_written or part.flashed
            for part in op.stored
            if part.found and not part.ends
        )
        if not (wrote and op.found and op.commits):
            continue
        users = [history.user_at(op.found, t) for t in (op.start, op.commits[0])]
        if users[0] == users[1]:
            continue
        for rotation in history.rotations[op.found]:
            changes_user = any(part.changes_user for part in rotation.stored)
            is_later = rotation is not op and rotation.end < op.commits[0]
            if changes_user and is_later and _is_before(history, op, rotation):
                yield Violation(
                    "written for another user", op.found, (rotation.name, op.name)
                )


def named(history: History) -> Iterator[Violation]:
    """A cookie that is set names a row, with a renewal id that is valid."""
    for op in history.ops:
        if op.sent is None or (op.names_row and op.accepts_renewal_id):
            continue
        lineage = history.of_cookie(op.sent)
        if lineage and any(
            each.start < op.checked for each in history.any_end(lineage)
        ):
            continue
        if not op.names_row:
            yield Violation("cookie without a row", str(op.sent), (op.name,))
            continue
        rotations = history.rotations[lineage_of(lineage) or ""]
        if not any(
            each is not op and each.start < op.checked and op.start < each.end
            for each in rotations
        ):
            yield Violation("cookie with a dead renewal id", str(op.sent), (op.name,))


def _is_overtaken(history: History, op: Op) -> bool:
    return any(
        each is not op and each.start < op.end and op.start < each.end
        for each in history.rotations[op.found or ""]
    )


def moved(history: History) -> Iterator[Violation]:
    """A session keeps its id for life."""
    for op in history.ops:
        stays = bool(op.found) and not any(part.ends for part in op.stored)
        if op.strays and _is_overtaken(history, op):
            continue
        if stays and op.sent and op.cookie and op.sent.id != op.cookie.id:
            yield Violation("id changed", f"of {op.found}", (op.brought_by, op.name))


def vanished(history: History) -> Iterator[Violation]:
    """A session that never ended is there in the end."""
    left = {op.found for op in history.ops if op.kind == "final"}
    for op in history.ops:
        for part in op.stored:
            lineage = lineage_of(part.mark)
            if part.found or not lineage or part.mark != lineage:
                continue
            if lineage not in left and not history.any_end(lineage):
                yield Violation("session vanished", lineage, (op.name,))
