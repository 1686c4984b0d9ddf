"""Check the links inside of HTML pages: ``python tests/check_links.py DIRECTORY``.

Every page, anchor, picture, style sheet and script that a page refers to must be below
the directory. Links to other sites are left alone: they need a network.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it refers to."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value or "")
            elif name in ("href", "src"):
                self.references.append(value or "")


def broken(directory: Path) -> list[str]:
    """Return a line for each reference that leads nowhere."""
    directory = directory.resolve()
    pages = {path: Page(path) for path in sorted(directory.rglob("*.html"))}
    return [
        f"{path.relative_to(directory)}: {reference}"
        for path, page in pages.items()
        for reference in page.references
        if not leads_somewhere(directory, path, reference, pages)
    ]


def leads_somewhere(
    directory: Path, path: Path, reference: str, pages: dict[Path, Page]
) -> bool:
    """Tell whether what the page refers to is there, or on another site."""
    parts = urlsplit(reference)
    if parts.scheme or parts.netloc:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not (target.is_file() and target.is_relative_to(directory)):
        return False
    # "#" alone is the top of the page.
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].anchors


def main(directory: str) -> None:
    """Print what is broken, and fail if anything is, or if there is no page."""
    lines = broken(Path(directory))
    number = len(list(Path(directory).rglob("*.html")))
    if lines or not number:
        sys.exit("\n".join([*lines, f"{len(lines)} broken links in {number} pages"]))
    print(f"no broken link in {number} pages")


if __name__ == "__main__":
    main(*sys.argv[1:])
