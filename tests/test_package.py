"""The package as it is installed, and the files beside it."""

from __future__ import annotations

import importlib
import re
import runpy
from configparser import ConfigParser
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest

import pyramid_sqlalchemy_sessions
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
    installed = metadata(PACKAGE)
    assert installed["Version"] == pyramid_sqlalchemy_sessions.__version__
    assert installed["Requires-Python"] == ">=3.10"


def test_urls() -> None:
    """The source and the issues have an address as soon as the repository has."""
    urls = runpy.run_path(str(CHECKOUT / "setup.py"))["urls"]
    assert set(urls("")) == {"Documentation", "Changelog"}
    assert urls("https://example.com/us") == {
        **urls(""),
        "Source": "https://example.com/us",
        "Issues": "https://example.com/us/issues",
    }


def test_every_requirement_has_a_lower_bound() -> None:
    """What users install is bounded below by versions that were tried."""
    needed = [r for r in requires(PACKAGE) or [] if "extra ==" not in r]
    assert [r for r in needed if ">=" not in r] == []


def test_oldest_versions_are_tested() -> None:
    """The lower bounds of setup.cfg are the versions that tox's oldest runs on."""
    setup = _setup()
    bounded = _lines(setup["options"]["install_requires"])
    for extra in ("fast", "mysql", "postgresql", "progress", "retry", "toolbar"):
        bounded |= _lines(setup["options.extras_require"][extra])
    pinned = _lines(_tox()["testenv:oldest"]["deps"])
    assert {line.replace(">=", "==") for line in bounded} - pinned == set()


def test_every_extra_is_installed() -> None:
    """Tox installs all extras for the tests, and one by one to import everything."""
    tox, extras = _tox(), set(_setup()["options.extras_require"])
    named = re.search(r"for extra in ([\w ]+);", tox["testenv:package"]["commands"])
    assert named
    assert set(named[1].split()) == extras
    assert set(tox["testenv"]["extras"].split()) == extras


def test_description() -> None:
    """It's the README and the changes of the latest release, without older ones."""
    description = runpy.run_path(str(CHECKOUT / "setup.py"))["description"]()
    readme = (CHECKOUT / "README.rst").read_text(encoding="utf-8")
    assert description.startswith(readme)
    changes = description.removeprefix(readme)
    assert re.findall(r"^(.+)\n-+$", changes, flags=re.M) == [
        "Changes in " + _releases()[0]
    ]
    assert "/changes.html>" in changes


@pytest.mark.parametrize(
    "name", ["CHANGES.rst", "LICENSE", "README.rst", "SECURITY.md", "pyproject.toml"]
)
def test_files_of_a_checkout(name: str) -> None:
    """The files that one looks for first are there."""
    assert Path(CHECKOUT, name).read_text(encoding="utf-8").strip()


def _setup() -> ConfigParser:
    setup = ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    return setup


def _tox() -> ConfigParser:
    tox = ConfigParser(interpolation=None)
    tox.read(CHECKOUT / "tox.ini", encoding="utf-8")
    return tox


def _releases() -> list[str]:
    changes = (CHECKOUT / "CHANGES.rst").read_text(encoding="utf-8")
    return re.findall(r"^(.+)\n-+$", changes, flags=re.M)


def _lines(value: str) -> set[str]:
    lines = (line.strip() for line in value.splitlines())
    return {line for line in lines if line and not line.startswith("#")}
