"""The map of the modules, in design.rst, is that of the package."""

from __future__ import annotations

import ast
import re

import pytest

from tests.applications.starter import PAGES
from tests.import_all import CHECKOUT, PACKAGE, files

DIRECTORY = CHECKOUT / PACKAGE

#: From each module of the map, in its order, to what the map says of it.
MAP = {
    name: " ".join(text.split())
    for name, text in re.findall(
        r"^   \* - ``([\w/]+\.py)``\n     - ((?:.+\n)+?)(?=   \* -|\n)",
        PAGES["design"],
        re.MULTILINE,
    )
}


def tree(name: str) -> ast.Module:
    """Parse a module."""
    return ast.parse((DIRECTORY / name).read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """Return the modules of the package that a module imports, but for its types."""
    found = set()
    for node in tree(name).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            directory = (DIRECTORY / name).parents[node.level - 1]
            paths = [directory / (node.module or "").replace(".", "/")]
            if not node.module:
                paths = [directory / each.name for each in node.names]
            for path in paths:
                file = (
                    path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
                )
                found.add(file.relative_to(DIRECTORY).as_posix())
    return found


def test_map_is_complete():
    """Each module is on it, and nothing else is."""
    assert set(MAP) == {each for each in files(DIRECTORY) if each.endswith(".py")}


@pytest.mark.parametrize("name", MAP)
def test_what_it_says(name):
    """It says of a module what the module says of itself."""
    docstring = ast.get_docstring(tree(name))
    assert docstring is not None
    assert MAP[name] == " ".join(docstring.partition("\n\n")[0].split())


@pytest.mark.parametrize("name", MAP)
def test_order(name):
    """A module imports only what stands above it on the map."""
    names = list(MAP)
    assert imported(name) <= set(names[: names.index(name)])


def test_private_things():
    """What is said to be touched is in the code."""
    _, _, section = PAGES["design"].partition("\nPrivate things of other packages\n")
    terms = re.findall(r"^(``.*)\n   \w", section, re.MULTILINE)
    names = re.findall(r"``([\w.]+)``", " ".join(terms))
    sources = "".join((DIRECTORY / name).read_text("utf-8") for name in MAP)
    assert len(names) > 8
    assert [each for each in names if each.rpartition(".")[2] not in sources] == []
