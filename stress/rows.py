"""The table with the results of the scenarios."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Row:
    """The result of one case of a scenario.

    ``wrong`` counts wrong answers: acknowledged writes that are lost, duplicated or
    half done, sessions that are used after their end or missing before it. ``errors``
    are answers that say that something is wrong. ``is_promised`` says that there must
    be no wrong answers and, unless something broke, no errors.
    """

    case: str
    requests: int
    wrong: int
    errors: int
    remark: str = ""
    is_promised: bool = True
    may_fail: bool = False

    @property
    def breaks_promise(self) -> bool:
        """Tell whether something happened that mustn't."""
        failed = self.errors > 0 and not self.may_fail
        return self.is_promised and (self.wrong > 0 or failed)


_FORMAT = "{:15} {:44} {:>9} {:>7} {:>7}  {}"


def print_titles() -> None:
    """Print the first line of the table."""
    titles = ("scenario", "case", "requests", "wrong", "errors", "")
    print(_FORMAT.format(*titles), flush=True)


def print_row(scenario: str, row: Row) -> None:
    """Print one line of the table."""
    mark = "  <- must not be" if row.breaks_promise else ""
    cells = (scenario, row.case, row.requests, row.wrong, row.errors)
    print(_FORMAT.format(*cells, row.remark + mark), flush=True)
