"""Check what is going to be published: ``python tests/check_dist.py DIRECTORY``.

The source distribution must hold every file of the checkout that git knows, but for
those whose names begin with a dot: the tests run from it. The wheel must say which
license it has, and its description must not refer to files, which the package index
does not have.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
#: A link or a picture that is no URL.
TO_A_FILE = re.compile(r"<(?!\w+:)[^>\s]+>`_|^\.\. image:: (?!\w+:)", re.MULTILINE)


def missing_files(sdist: Path) -> list[str]:
    """Name the files of the checkout that the source distribution lacks."""
    with tarfile.open(sdist) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    git = ["git", "-C", CHECKOUT, "ls-files"]
    known = subprocess.run(git, check=True, capture_output=True, text=True).stdout
    return sorted(n for n in known.split() if n not in there and n[0] != ".")


def bad_metadata(wheel: Path) -> list[str]:
    """Return what is missing, or leads nowhere on the package index."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    text = metadata.get_payload()
    wrong = [f"in the description: {each}" for each in TO_A_FILE.findall(text)]
    if "Changes" not in text:
        wrong.append("there is no description")
    if metadata["License-Expression"] != "MIT":
        wrong.append("there is no license expression")
    return wrong


def main(directory: str) -> None:
    """Fail if anything is missing, or leads nowhere."""
    (sdist,) = Path(directory).glob("*.tar.gz")
    (wheel,) = Path(directory).glob("*.whl")
    wrong = [f"not in {sdist.name}: {name}" for name in missing_files(sdist)]
    wrong += bad_metadata(wheel)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
