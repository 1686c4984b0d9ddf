"""Where the project lives, and its description. The rest is in setup.cfg."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
#: Where the documentation is. README.rst has this address, too; a test compares.
DOCUMENTATION = "https://pyramid-sqlalchemy-sessions.readthedocs.io/en/latest/"
#: The address of the repository, without a slash at the end. While it's empty, no
#: address of the source and of the issues is published.
REPOSITORY = ""


def urls(repository=REPOSITORY):
    """Return the addresses that the package index shows, by their names."""
    addresses = {
        "Documentation": DOCUMENTATION,
        "Changelog": DOCUMENTATION + "changes.html",
    }
    if repository:
        addresses["Source"] = repository
        addresses["Issues"] = repository + "/issues"
    return addresses


def description():
    """Return README and the changes of the latest release, for the package index."""
    readme = (HERE / "README.rst").read_text(encoding="utf-8")
    changes = (HERE / "CHANGES.rst").read_text(encoding="utf-8")
    # The title of the page, then pairs of a release's title and its text.
    _, title, text = re.split(r"^(\d\S+ \(.+\))\n-+\n", changes, flags=re.M)[:3]
    title = f"Changes in {title}"
    link = f"`All changes <{DOCUMENTATION}changes.html>`__"
    return f"{readme}\n{title}\n{'-' * len(title)}\n{text.rstrip()}\n\n{link}\n"


if __name__ == "__main__":
    setup(long_description=description(), project_urls=urls())
