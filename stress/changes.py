"""How the oracle's requests read their sessions, and change them in ordinary ways."""

from __future__ import annotations

from stress.histories import AGAIN
from stress.notes import REGISTERS, Notes


class Changes(Notes):
    """What views do all the time."""

    # Reading.

    def read(self) -> None:
        """Read some registers."""
        for register in self.random.sample(REGISTERS, self.random.randint(1, 4)):
            self.look(register)

    replay = read

    def read_all(self) -> None:
        """Read everything there is."""
        everything = dict(self.session)
        for register in REGISTERS:
            self.look(register)
        self.part.items = list(everything.get("box", {}).get("items", []))
        self.part.values["blind"] = everything.get("blind")
        self.part.peeked = self.session.peek_flash()

    def peek(self) -> None:
        """Read the messages."""
        self.part.peeked = self.session.peek_flash()
        self.part.values["blind"] = self.session.get("blind")

    # Writing.

    def bump(self) -> None:
        """Count one register up."""
        self.own()
        self.write(self.random.choice("ab"))

    def bump_in_place(self) -> None:
        """Count one register up inside the list that the session hands out."""
        self.own()
        n = self.look("a") + 1
        if n == 1:
            self.session["a"] = [0, None]
        value = self.session["a"]
        value[0] = n
        value[1] = self.token
        self.part.writes["a"] = (n, self.token)

    def both(self) -> None:
        """Write two registers that should never be seen apart."""
        self.own()
        p, q = self.look("p") + 1, self.look("q") + 1
        self.session.update(p=[p, self.token], q=[q, self.token])
        self.part.writes.update(p=(p, self.token), q=(q, self.token))

    def skew(self) -> None:
        """Read one register and write the other."""
        self.own()
        read, written = self.random.sample("ab", 2)
        self.look(read)
        self.write(written)

    def append(self) -> None:
        """Append to a list inside the session."""
        self.own()
        self.write("box")

    def flash(self) -> None:
        """Add a message."""
        self.own()
        self.session.flash(self.token)
        self.part.flashed.append(self.token)

    def flash_once(self) -> None:
        """Add a message unless it's there, twice."""
        self.own()
        for _ in range(2):
            self.session.flash(self.token, allow_duplicate=False)
        self.part.flashed.append(self.token)

    def flash_again(self) -> None:
        """Add a message that may be there before."""
        self.own()
        self.session.flash(AGAIN)
        self.part.flashed.append(AGAIN)

    def pop(self) -> None:
        """Take all messages."""
        messages = self.session.pop_flash()
        if self.part.popped is None:
            self.part.popped = messages

    def csrf(self) -> None:
        """Read the CSRF token, which makes one if there is none."""
        self.own()
        self.part.values["csrf"] = self.session.get_csrf_token()

    def new_csrf(self) -> None:
        """Draw a new CSRF token."""
        self.own()
        self.part.values_written["csrf"] = self.session.new_csrf_token()

    def blind(self) -> None:
        """Overwrite a key without reading it."""
        self.own()
        self.session["blind"] = self.token
        self.part.values_written["blind"] = self.token

    def announce(self) -> None:
        """Say that something changed, though nothing did."""
        self.own()
        self.session.changed()
        self.look("a")

    def persist(self) -> None:
        """Write before the end of the request, and once more at its end."""
        self.own()
        self.write("a")
        if hasattr(self.session, "persist") and self.part.counts:
            self.session.persist()
        self.write("b")
