"""The package as it is installed, and the files beside it."""

from __future__ import annotations

import importlib
import re
import runpy
from configparser import ConfigParser
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest

from tests.check_dist import TO_A_FILE
from tests.import_all import CHECKOUT, PACKAGE, module_names

DIRECTORY = CHECKOUT / PACKAGE


@pytest.mark.parametrize("name", module_names(DIRECTORY))
def test_every_module_imports(name: str) -> None:
    """No module fails at import."""
    importlib.import_module(name)


def test_every_directory_with_modules_is_a_package() -> None:
    """A directory without __init__.py would be missing in the wheel."""
    directories = {path.parent for path in DIRECTORY.rglob("*.py")}
    assert [d for d in directories if not (d / "__init__.py").is_file()] == []


def test_types_are_published() -> None:
    """Type checkers believe the annotations of a package that has py.typed."""
    assert (DIRECTORY / "py.typed").is_file()


def test_metadata() -> None:
    """What is installed is this version, for the Pythons that it is tested on."""
    setup = ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    installed = metadata(PACKAGE)
    assert installed["Version"] == setup["metadata"]["version"]
    assert installed["Requires-Python"] == ">=3.10"


def test_extras() -> None:
    """The extras that the documentation names are there."""
    extras = metadata(PACKAGE).get_all("Provides-Extra") or []
    assert set(extras) >= {
        "async",
        "demo",
        "docs",
        "fast",
        "lint",
        "mysql",
        "postgresql",
        "retry",
        "testing",
    }


def test_every_requirement_has_a_lower_bound() -> None:
    """What users install is bounded below by versions that were tried."""
    needed = [r for r in requires(PACKAGE) or [] if "extra ==" not in r]
    assert [r for r in needed if ">=" not in r] == []


def test_oldest_versions_are_tested() -> None:
    """The lower bounds of setup.cfg are the versions that tox's oldest runs on."""
    setup, tox = ConfigParser(), ConfigParser(interpolation=None)
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    tox.read(CHECKOUT / "tox.ini", encoding="utf-8")
    bounded = _lines(setup["options"]["install_requires"])
    for extra in ("fast", "mysql", "postgresql", "retry"):
        bounded |= _lines(setup["options.extras_require"][extra])
    pinned = _lines(tox["testenv:oldest"]["deps"])
    assert {line.replace(">=", "==") for line in bounded} - pinned == set()


def test_every_extra_is_installed() -> None:
    """Some environment of tox installs each extra: "package" those for users."""
    tox = ConfigParser(interpolation=None)
    tox.read(CHECKOUT / "tox.ini", encoding="utf-8")
    named = re.findall(r"for extra in ([\w ]+);", tox["testenv:package"]["commands"])
    named += [each["extras"] for each in tox.values() if "extras" in each]
    extras = metadata(PACKAGE).get_all("Provides-Extra") or []
    assert set(" ".join(named).split()) == set(extras)


def test_description_refers_to_no_files() -> None:
    """The package index has none: links become words, pictures are left out."""
    description = runpy.run_path(str(CHECKOUT / "setup.py"))["description"]()
    assert "Getting started has all steps" in description
    assert "`Pyramid <https://" in description
    assert TO_A_FILE.findall(description) == []
    assert TO_A_FILE.findall((CHECKOUT / "README.rst").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", ["CHANGES.rst", "LICENSE", "README.rst", "pyproject.toml", "tox.ini"]
)
def test_files_of_a_checkout(name: str) -> None:
    """The files that one looks for first are there."""
    assert Path(CHECKOUT, name).read_text(encoding="utf-8").strip()


def _lines(value: str) -> set[str]:
    lines = (line.strip() for line in value.splitlines())
    return {line for line in lines if line and not line.startswith("#")}
