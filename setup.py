"""All but the description is in setup.cfg."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def description():
    """Return README and CHANGES for the package index, which has none of their files.

    Links to files become their words, and pictures are left out.
    """
    names = ("README.rst", "CHANGES.rst")
    text = "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)
    text = re.sub(r"`([^`<]+?)\s<(?!\w+:)[^>]+>`__", r"\1", text)
    return re.sub(r"^\.\. image:: (?!\w+:).*\n(?:   .*\n)*\n", "", text, flags=re.M)


if __name__ == "__main__":
    setup(long_description=description())
