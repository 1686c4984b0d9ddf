"""The oracle finds each kind of wrong history, and no fault in a right one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stress.histories import (
    AGAIN,
    CAUGHT,
    CRASHED,
    DONE,
    ERROR,
    REFUSED,
    Cookie,
    History,
    Op,
    Part,
    described,
)
from stress.serial_order import Event, circles
from stress.verdicts import judge
from stress.visitors import OURS

ID, OTHER_ID = "1" * 32, "2" * 32
OLD, NEW, LAST = (Cookie(ID, letter * 32) for letter in "abc")
OTHER = Cookie(OTHER_ID, None)

#: What is left of the session in the end, unless a test says something else.
LEFT = {"reads": {"a": (1, "0.0.0")}, "peeked": [], "items": []}


def part(**options: Any) -> Part:
    """Return what a request did with the session that 0.0.0 began."""
    return Part(**{"found": "0.0.0", "mark": "0.0.0", **options})


def op(number: int, *parts: Part, **options: Any) -> Op:
    """Return a request that took the last half of the second with this number."""
    defaults: dict[str, Any] = {
        "kind": "read",
        "browser": 0,
        "cookie": OLD,
        "brought_by": "0.0.0",
        "start": number + 0.5,
        "end": number + 1.0,
        "arrived": number + 1.0,
        "checked": number + 1.0,
        "status": DONE,
        "attempts": 1,
    }
    made = Op(**{"name": f"0.0.{number}", **defaults, **options})
    made.parts = list(parts)
    made.settle()
    return made


def started(**options: Any) -> Op:
    """Return the request that starts the session."""
    options = {"cookie": None, "brought_by": None, "sent": OLD, **options}
    return op(0, part(found=None, writes={"a": (1, "0.0.0")}), **options)


def final(number: int = 99, **options: Any) -> Op:
    """Return the last look at the session."""
    last = {"kind": "final", "browser": None, "brought_by": None, "cookie": LAST}
    return op(number, part(**{**LEFT, **options}), **last)


def rules(*ops: Op, **options: Any) -> set[str]:
    """Judge a history; return the rules that were broken."""
    return {each.rule for each in judge(History(list(ops)), **options)}


def write(register: str, number: int, n: int, before: str, **options: Any) -> Op:
    """Return a request that wrote a register after having read it."""
    version = {register: (n, f"0.0.{number}")}
    read = {register: (n - 1, before)}
    return op(number, part(reads=read, writes=version), **options)


def test_a_history_in_which_nothing_is_wrong():
    """What one request after the other did is right."""
    assert (
        rules(
            started(),
            write("a", 1, 2, "0.0.0"),
            op(2, part(flashed=["0.0.2"])),
            op(3, part(popped=["0.0.2"], reads={"a": (2, "0.0.1")})),
            op(4, part(rotates=True), sent=NEW),
            op(5, part(reads={"a": (2, "0.0.1")}), cookie=NEW, brought_by="0.0.4"),
            op(
                6,
                part(writes={"a": (3, "0.0.6")}),
                cookie=NEW,
                brought_by="0.0.4",
                status=CRASHED,
            ),
            op(7, part(found=None, mark=None, counts=False), is_late=True),
            final(reads={"a": (2, "0.0.1")}),
        )
        == set()
    )


def test_a_lost_update():
    """Two requests count from the same number."""
    lost = rules(
        started(),
        write("a", 1, 2, "0.0.0"),
        write("a", 2, 2, "0.0.0", start=1.6),
        final(reads={"a": (2, "0.0.2")}),
    )
    assert "lost update" in lost


def test_an_acknowledged_write_is_not_there():
    """The last look finds what was there before an acknowledged write."""
    assert rules(started(), write("a", 1, 2, "0.0.0"), final()) == {"no serial order"}


@pytest.mark.parametrize("status", [CRASHED, CAUGHT])
def test_a_write_that_failed_is_there(status):
    """The last look finds what a failed request wrote."""
    failed = write("a", 1, 2, "0.0.0", status=status)
    assert rules(started(), failed, final(reads={"a": (2, "0.0.1")})) == {
        "unstored write seen"
    }


def test_a_write_of_another_session_is_there():
    """A session holds what was written to another one."""
    other = op(
        1,
        part(found=None, mark="0.0.1", writes={"b": (1, "0.0.1")}),
        cookie=None,
        sent=OTHER,
    )
    left = op(98, part(found="0.0.1", mark="0.0.1"), kind="final", cookie=OTHER)
    seen = final(reads={"b": (1, "0.0.1")})
    assert rules(started(), other, left, seen) == {"unstored write seen"}


def test_what_a_savepoint_took_back_is_there():
    """A write inside of a rolled back savepoint is seen."""
    inner = part(writes={"b": (1, "0.0.1s")}, counts=False)
    seen = final(reads={"b": (1, "0.0.1s")})
    assert rules(started(), op(1, part(), inner), seen) == {"unstored write seen"}


def test_an_item_is_missing_in_the_list():
    """The list lacks an item in its middle."""
    history = [
        started(),
        write("box", 1, 1, ""),
        write("box", 2, 2, "0.0.1"),
        write("box", 3, 3, "0.0.2"),
    ]
    history[1].parts[0].reads = {"box": (0, None)}
    left = {"box": (3, "0.0.3")}
    items = ["0.0.1", "0.0.2", "0.0.3"]
    assert rules(*history, final(reads=left, items=items)) == set()
    items[1] = "0.0.1"
    assert rules(*history, final(reads=left, items=items)) == {"unstored write seen"}


def test_a_stale_read():
    """A read that began after a write was answered does not see it."""
    assert rules(
        started(),
        write("a", 1, 2, "0.0.0"),
        op(2, part(reads={"a": (1, "0.0.0")})),
        final(reads={"a": (2, "0.0.1")}),
    ) == {"no serial order"}


def test_a_read_meanwhile_may_see_either():
    """A read that overlaps with a write sees it or not."""
    for seen in ((1, "0.0.0"), (2, "0.0.1")):
        assert (
            rules(
                started(),
                write("a", 1, 2, "0.0.0"),
                op(2, part(reads={"a": seen}), start=1.6),
                final(reads={"a": (2, "0.0.1")}),
            )
            == set()
        )


def test_a_torn_read():
    """Of two registers that one request wrote, one is seen."""
    both = part(
        reads={"p": (0, None), "q": (0, None)},
        writes={"p": (1, "0.0.1"), "q": (1, "0.0.1")},
    )
    torn = part(reads={"p": (1, "0.0.1"), "q": (0, None)})
    found = rules(
        started(), op(1, both), op(2, torn, start=1.6), final(reads=both.writes)
    )
    assert found == {"torn read", "no serial order"}


def test_write_skew():
    """Two requests write one register each, and read the other's before."""
    skewed = {"a": (1, "0.0.0"), "b": (0, None)}
    assert rules(
        started(),
        op(1, part(reads=skewed, writes={"a": (2, "0.0.1")})),
        op(2, part(reads=skewed, writes={"b": (1, "0.0.2")}), start=1.6),
        final(reads={"a": (2, "0.0.1"), "b": (1, "0.0.2")}),
    ) == {"no serial order"}


def test_circles_are_short_and_explained():
    """A circle names the requests that can't have come in any order, and why."""
    events = [
        Event("writer", 0, 1, {"a": 0}, {"a": 1}),
        Event("between", 2, 3, {}, {}),
        Event("stale", 4, 5, {"a": 0}, {}),
        Event("innocent", 0, 9, {"a": 1}, {}),
    ]
    ((first, second),) = circles(events)
    assert {first.before, second.before} == {"writer", "stale"}
    assert "answered" in f"{first} {second}"
    assert "read a 0" in f"{first} {second}"
    assert circles(events[:2]) == []


def test_a_value_comes_back():
    """A CSRF token is seen again after another one."""
    assert rules(
        started(),
        op(1, part(values={"csrf": "one"})),
        op(2, part(values={"csrf": "two"})),
        op(3, part(values={"csrf": "one"})),
        final(),
    ) == {"value came back"}


def test_a_value_that_was_never_stored():
    """What a failed request wrote without reading is seen."""
    failed = op(1, part(values_written={"blind": "0.0.1"}), status=REFUSED)
    seen = final(values={"blind": "0.0.1"})
    assert rules(started(), failed, seen) == {"unstored write seen"}


def flashed(number: int = 1, **options: Any) -> Op:
    """Return a request that added a message."""
    return op(number, part(flashed=[f"0.0.{number}"]), **options)


@pytest.mark.parametrize(
    ("ops", "left", "rule"),
    [
        ([flashed()], [], "message lost"),
        ([flashed()], ["0.0.1", "0.0.1"], "message twice"),
        ([flashed(status=REFUSED)], ["0.0.1"], "unstored write seen"),
        (
            [flashed(), op(2, part(popped=["0.0.1"])), op(3, part(popped=["0.0.1"]))],
            [],
            "message twice",
        ),
        ([flashed(), op(2, part(popped=["0.0.1"]))], ["0.0.1"], "message twice"),
        (
            [flashed(), op(2, part(popped=[])), op(3, part(popped=["0.0.1"]))],
            [],
            "message missed",
        ),
    ],
)
def test_messages(ops, left, rule):
    """A message is lost, or popped twice, or missed, or was never acknowledged."""
    assert rule in rules(started(), *ops, final(peeked=left))


def test_a_message_that_was_there_before():
    """A message that was added twice is popped twice."""
    again = [op(n, part(flashed=[AGAIN])) for n in (1, 2)]
    pop = op(3, part(popped=[AGAIN]))
    assert rules(started(), *again, pop, final(peeked=[AGAIN])) == set()
    assert rules(started(), *again, pop, final()) == {"message lost"}
    assert rules(started(), *again, final(peeked=[AGAIN] * 3)) == {"message twice"}


def test_a_message_that_its_own_request_popped():
    """A request that starts a session may flash, and pop what it has flashed."""
    new = {"found": None, "mark": "0.0.1", "writes": {"a": (1, "0.0.1")}}
    did = part(**new, flashed=["0.0.1"], popped=["0.0.1"])
    both = op(1, did, cookie=None, brought_by=None, sent=OTHER)
    look = final(98, found="0.0.1", mark="0.0.1", reads={"a": (1, "0.0.1")})
    look.cookie = OTHER
    assert rules(started(), both, look, final()) == set()


def test_messages_of_an_exception_view():
    """What an exception view flashed is there, or was logged as lost."""

    def told(*logged: str) -> Op:
        answer = part(flashed=["0.0.1h"], answers=True)
        return op(1, part(), answer, status=CAUGHT, logged=list(logged))

    assert rules(started(), told(), final(peeked=["0.0.1h"])) == set()
    assert rules(started(), told(), final()) == {"message lost"}
    assert rules(started(), told("lost"), final()) == set()
    late = told()
    late.told.append("too late")
    late.settle()
    assert rules(started(), late, final()) == set()
    assert rules(started(), late, final(peeked=["0.0.1h"])) == set()
    assert rules(started(), told("lost"), final(peeked=["0.0.1h"])) == {
        "unstored write seen"
    }


def test_an_end_that_is_undone():
    """A session is seen, or written to, after its end was acknowledged."""
    end = op(2, part(ends=True), deletes_cookie=True)
    nothing = op(3, part(found=None, mark=None))
    assert rules(started(), end, nothing, final(3, found=None, reads={})) == set()
    assert "end undone" in rules(started(), end, op(3, part()), final(found=None))
    assert "end undone" in rules(started(), end, final())


def test_an_exception_view_changes_a_session_that_ends():
    """What an exception view changes in a session that ends may be lost in silence."""
    counted = {"reads": {"b": (0, None)}, "writes": {"b": (1, "0.0.1h")}}
    answer = op(1, part(), part(answers=True, **counted), status=CAUGHT, end=3.5)
    end = op(2, part(ends=True))
    gone = final(found=None, mark=None, reads={})
    assert rules(started(), answer, end, gone) == set()
    other = write("b", 1, 1, "", name="0.0.3", end=1.7)
    other.parts[0].reads["b"] = (0, None)
    other.parts[0].writes["b"] = (1, "0.0.3")
    assert rules(started(), answer, end, other, gone) == set()
    seen = op(4, part(reads={"b": (1, "0.0.1h")}), start=2.2, end=2.4)
    assert rules(started(), answer, end, seen, gone) == set()


def test_an_end_by_a_late_cookie():
    """A logout with a cookie from before the login ends the session all the same."""
    login = write("login", 1, 1, "", sent=NEW)
    login.parts[0].reads = {"login": (0, None)}
    login.parts[0].rotates, login.parts[0].user = True, "1"
    end = op(2, part(found=None, mark=None, ends=True), is_late=True)
    left = {"a": (1, "0.0.0"), "login": (1, "0.0.1")}
    assert rules(started(), login, end, final(reads=left)) == {"end undone"}


def test_a_revoked_session_is_seen():
    """A session whose user's sessions were revoked is there."""
    login = write("login", 1, 1, "")
    login.parts[0].reads, login.parts[0].user = {"login": (0, None)}, "1"
    left = {"a": (1, "0.0.0"), "login": (1, "0.0.1")}
    by_other = part(found=None, mark=None, revokes=("1", None))
    revoked = op(2, by_other, cookie=None, brought_by=None)
    assert rules(started(), login, revoked, final(reads=left)) == {"end undone"}
    kept = op(2, part(revokes=("1", "0.0.0")))
    assert rules(started(), login, kept, final(reads=left)) == set()


def test_another_user_sees_what_was_cleared():
    """After another user's login the data of the one before is seen."""
    login = op(
        1,
        part(clears=True, rotates=True),
        part(found=None, mark="0.0.0+0.0.1", user="2", writes={"login": (1, "0.0.1")}),
        sent=NEW,
    )
    new = {"mark": "0.0.0+0.0.1", "reads": {"login": (1, "0.0.1")}}
    assert rules(started(), login, final(found="0.0.0+0.0.1", **new)) == set()
    assert rules(started(), login, final()) == {"end undone"}


def test_an_old_cookie_is_let_in():
    """The cookie from before an acknowledged rotation gives access."""
    rotation = op(1, part(rotates=True), sent=NEW)
    assert rules(started(), rotation, op(2, part()), final()) == {"old cookie let in"}


def test_an_honest_browser_is_logged_out():
    """A browser with the newest cookie finds no session, or is late."""
    rotation = op(1, part(rotates=True), sent=NEW)
    new = {"cookie": NEW, "brought_by": "0.0.1"}
    nothing = part(found=None, mark=None)
    assert rules(started(), rotation, op(2, nothing, **new), final()) == {"logged out"}
    late = op(2, nothing, is_late=True, **new)
    assert rules(started(), rotation, late, final()) == {"late without a rotation"}
    old = op(2, nothing, is_late=True)  # the answer was lost
    assert rules(started(), rotation, old, final()) == set()


def test_another_s_session():
    """A browser finds another session than that of its cookie."""
    other = op(1, part(found=None, mark="0.0.1"), cookie=None, sent=OTHER)
    left = op(98, part(found="0.0.1", mark="0.0.1"), kind="final", cookie=OTHER)
    found = op(2, part(found="0.0.1", mark="0.0.1"))
    assert rules(started(), other, found, left, final()) == {"another's session"}


@pytest.mark.parametrize("deletes", [False, True])
def test_a_newer_cookie_is_replaced(deletes):
    """A request with a cookie from before a rotation sets or deletes one after it."""
    rotation = op(1, part(rotates=True), sent=NEW)
    sets: dict[str, Any] = {"sent": OLD}
    if deletes:
        sets = {"deletes_cookie": True}
    late = op(2, part(found=None, mark=None), start=1.0, commits=[2.9], **sets)
    assert rules(started(), rotation, late, final()) == {"newer cookie replaced"}
    overlapping = replace(late, commits=[1.9])
    assert rules(started(), rotation, overlapping, final()) == set()


def test_a_write_after_the_user_changed():
    """A request from before a login is stored after it."""
    login = write("login", 1, 1, "", sent=NEW)
    login.parts[0].reads = {"login": (0, None)}
    login.parts[0].rotates = login.parts[0].changes_user = True
    login.parts[0].user = "1"
    left = final(reads={"a": (1, "0.0.0"), "login": (1, "0.0.1")}, peeked=["0.0.2"])
    overlapping = flashed(2, start=1.6, commits=[1.9])
    assert rules(started(), login, overlapping, left) == set()
    later = replace(overlapping, commits=[2.9])
    assert rules(started(), login, later, left) == {"written for another user"}


def test_taken_for_a_theft():
    """A browser with a cookie that it has just been sent is taken for a thief."""
    taken = op(1, part(found=None, mark=None), violation=True)
    assert "taken for a theft" in rules(started(), taken, final())
    slow = replace(taken, end=taken.start + 5)
    assert "taken for a theft" not in rules(started(), slow, final())


def test_a_cookie_without_a_row():
    """A cookie names a row that isn't there, or that does not accept it."""
    sent = {"sent": NEW, "names_row": False}
    assert rules(started(), op(1, part(), **sent), final()) == {"cookie without a row"}
    sent = {"sent": NEW, "accepts_renewal_id": False}
    assert rules(started(), op(1, part(), **sent), final()) == {
        "cookie with a dead renewal id"
    }
    rotation = op(2, part(rotates=True), start=1.6, cookie=NEW, brought_by="0.0.1")
    assert rules(started(), op(1, part(), **sent), rotation, final()) == set()


def test_an_id_changes():
    """A session gets a cookie with another id."""
    moved = op(1, part(), sent=OTHER)
    assert rules(started(), moved, final()) == {"id changed"}
    end = op(1, part(ends=True), part(found=None, mark="0.0.1"), sent=OTHER)
    left = op(98, part(found="0.0.1", mark="0.0.1"), kind="final", cookie=OTHER)
    gone = op(99, kind="final", cookie=LAST)
    assert rules(started(), end, left, gone) == set()


def test_a_login_of_an_exception_view_that_was_overtaken():
    """It may go into a session of its own, but only if another login came first."""
    login = {"reads": {"login": (0, None)}, "user": "1", "rotates": True}
    strayed = op(
        2,
        part(),
        part(answers=True, writes={"login": (1, "0.0.2h")}, **login),
        status=CAUGHT,
        sent=OTHER,
        end=4.0,
    )
    assert strayed.strays
    assert rules(started(), strayed, final()) == {"id changed"}
    other = op(3, part(writes={"login": (1, "0.0.3")}, **login), sent=NEW)
    left = {"a": (1, "0.0.0"), "login": (1, "0.0.3")}
    assert rules(started(), strayed, other, final(reads=left)) == set()
    taken = op(98, part(found=None, mark=None, reads={"login": (1, "0.0.2h")}))
    taken = replace(taken, kind="final", cookie=OTHER)
    assert rules(started(), strayed, other, taken, final(reads=left)) == {
        "unstored write seen"
    }


def test_a_session_vanishes():
    """A session that never ended is not there in the end."""
    nothing = op(99, part(found=None, mark=None), kind="final", cookie=None)
    assert rules(started(), nothing) == {"session vanished"}


def test_a_contradiction():
    """What a request noticed itself is told."""
    assert rules(started(), op(1, part(wrong=["?"])), final()) == {"contradiction"}


def test_errors():
    """Errors that aren't conflicts, and too many conflicts, are reported."""
    assert rules(started(), op(1, status=ERROR, error="KeyError"), final()) == {"error"}
    assert rules(started(), op(1, logged=["lost"]), final()) == {"error logged"}
    refused = op(1, status=REFUSED)
    assert rules(started(), refused, final()) == set()
    assert rules(started(), refused, final(), is_retried=True) == {"refused"}


def test_a_history_without_an_end():
    """A history lacks the last look at each session."""
    with pytest.raises(ValueError, match="last look"):
        rules(started())


def test_a_slice_shows_the_requests():
    """A slice of a history has a line for each request, and more for its parts."""
    history = History([started(), op(1, part(rotates=True), sent=NEW), final()])
    text = history.slice("0.0.1", None, "0.0.0")
    assert text.index("0.0.0") < text.index("0.0.1")
    assert "rotates" in text
    assert str(NEW) in text
    late = op(2, is_late=True, violation=True, attempts=2, error="x", logged=["y"])
    words = described(late)
    assert all(word in words for word in ("LATE", "VIOLATION", "2 attempts", "log: y"))


def test_cookies_are_read():
    """The oracle knows the ids in a cookie, and what isn't a cookie of ours."""
    value = OURS.dumps(bytes.fromhex(ID + "a" * 32)).decode("ascii")
    assert Cookie.open(OURS, value) == OLD
    assert Cookie.open(OURS, OURS.dumps(bytes.fromhex(OTHER_ID)).decode()) == OTHER
    assert Cookie.open(OURS, "x") is None
