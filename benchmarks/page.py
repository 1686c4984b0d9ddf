"""Make the table and the picture of the page on performance from measured figures.

``python -m benchmarks --json FILE``, then ``python -m benchmarks.page FILE``.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS / "figures" / "performance.json"
TABLE = DOCS / "figures" / "performance.csv"
PICTURE = DOCS / "pictures" / "performance.svg"

#: What the page calls each row.
ROWS = {
    "untouched": "Doesn't use its session",
    "read": "Reads a key, 1 KB of data",
    "read-20k": "Reads a key, 20 KB",
    "userid": "Reads ``userid`` only, 20 KB",
    "write": "Writes a key",
    "assign": "Assigns the value that's there",
    "create": "Creates a session",
    "idle": "Reads, and an idle extension is due",
    "idle-serializable": "The same at ``SERIALIZABLE``",
    "user": "Reads, with an eagerly loaded user",
    "full": "Reads a key, ``userid`` and the CSRF token",
    "tampered": "Brings a cookie that was tampered with",
    "cryptography": "Reads a key, with cryptography installed",
    "listening-once": "Reads a key, with the library's ``request.dbsession``",
}

#: The bars, in the order of the picture.
BARS = {
    "sessions-cryptography": "this library, with cryptography",
    "sessions": "this library",
    "signed-cookie": "Pyramid's signed cookies",
    "pyramid_session_redis": "pyramid_session_redis",
    "django": "Django",
    "flask-session": "Flask-Session",
    "litestar": "Litestar",
}
_HEAD = 'width="100%" role="img" aria-labelledby="performance-title performance-desc"'
_TITLES = (
    '<title id="performance-title">What a request costs beside others</title>'
    '<desc id="performance-desc">Bars for reading, writing and creating a session, as'
    " ratios to the floor. The table above has this library's figures.</desc>"
)
GROUPS = {"read": "read a key", "write": "write a key", "create": "create"}


def rows_of(figures: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table: the request, its statements, a ratio for each."""
    found: dict[str, list[str]] = {}
    for database in ("postgresql", "sqlite", "mysql"):
        measured = workloads_of(figures, database)
        for name in ROWS:
            row = found.setdefault(name, [ROWS[name], "", *[""] * 3])
            if name in measured:
                ours = measured[name]["contenders"][measured[name]["contender"]]
                row[1] = str(ours["statements"])
                column = 2 + ("postgresql", "sqlite", "mysql").index(database)
                row[column] = f"{ours['ratio']['median']:.2f}"
    return list(found.values())


def workloads_of(figures: dict[str, Any], database: str) -> dict[str, Any]:
    """Return what was measured on a kind of database, by the name of the workload."""
    (measured,) = (
        value for name, value in figures["databases"].items() if database in name
    )
    return {each["workload"]: each for each in measured["workloads"]}


def draw(figures: dict[str, Any]) -> None:
    """Draw the bars: a request beside the floor, on PostgreSQL."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "performance"})
    measured = workloads_of(figures, "postgresql")
    figure = Figure(figsize=(9, 4.2))
    for place, (group, title) in enumerate(GROUPS.items(), 1):
        axes = figure.add_subplot(1, len(GROUPS), place)
        contenders = measured[group]["contenders"]
        ratios = [contenders[name]["ratio"]["median"] for name in BARS]
        colors = ["#3a7d44"] * 2 + ["#8a8f98"] * (len(BARS) - 2)
        bars = axes.barh([*BARS.values()], ratios, color=colors)
        axes.bar_label(bars, fmt="%.2f", padding=3, color="#8a8f98")
        axes.axvline(1, color="#c2702e", linewidth=1)
        axes.set_title(title, color="#8a8f98", fontsize=11)
        axes.set_xlim(0, max(ratios) * 1.25)
        axes.invert_yaxis()
        axes.tick_params(colors="#8a8f98", labelleft=place == 1)
        for side in axes.spines.values():
            side.set_visible(False)
    figure.tight_layout()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    # It's as wide as the page that it's embedded in.
    text = drawn.getvalue()
    svg = re.sub(
        r'width="\S+" height="\S+"', _HEAD, text[text.index("<svg") :], count=1
    )
    PICTURE.write_text(svg.replace("<metadata>", f"{_TITLES}<metadata>", 1), "utf-8")


def main(path: str) -> None:
    """Put the figures of a file into the page."""
    figures = json.loads(Path(path).read_text(encoding="utf-8"))
    FIGURES.parent.mkdir(exist_ok=True)
    if Path(path).resolve() != FIGURES:
        shutil.copyfile(path, FIGURES)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows_of(figures))
    draw(figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
