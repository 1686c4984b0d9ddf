"""The map of the modules, in design.rst, is that of the package."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter

import pytest

from tests.applications.starter import PAGES
from tests.import_all import CHECKOUT, PACKAGE, files

DIRECTORY = CHECKOUT / PACKAGE

#: The modules of the map, in its order.
MAP = re.findall(
    r"``([\w/]+\.py)``",
    PAGES["design"].partition("\nThe modules\n")[2].partition("\nDecisions\n")[0],
)


@cache
def tree(name: str) -> ast.Module:
    """Parse a module."""
    return ast.parse((DIRECTORY / name).read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """Return the modules of the package that a module imports, anywhere in it.

    That is also inside of functions, and for its types (under ``if TYPE_CHECKING``).
    """
    path, found = DIRECTORY / name, []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                above = path.relative_to(CHECKOUT).parents[node.level - 1].parts
                base = ".".join([*above, *filter(None, [node.module])])
            else:
                base = node.module or ""
            found += [base, *(f"{base}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Import):
            found += [each.name for each in node.names]
    found = [each.replace(".", "/") for each in found]
    return {
        file
        for each in found
        for file in (f"{each}.py", f"{each}/__init__.py")
        if (CHECKOUT / file).is_file() and file != f"{PACKAGE}/__init__.py"
        for file in [file.removeprefix(f"{PACKAGE}/")]
    }


def test_map_is_complete():
    """Each module is on it once, and nothing else is."""
    assert sorted(MAP) == sorted(e for e in files(DIRECTORY) if e.endswith(".py"))


@pytest.mark.parametrize("name", MAP)
def test_what_it_is_for(name):
    """Each module says so in its docstring, as the page tells."""
    assert ast.get_docstring(tree(name))


@pytest.mark.parametrize("name", MAP)
def test_order(name):
    """A module imports only what stands above it on the map, for its types, too."""
    assert imported(name) <= set(MAP[: MAP.index(name)])


#: From each module to those of the package that it imports.
IMPORTS = {name: imported(name) for name in files(DIRECTORY) if name.endswith(".py")}


def test_imports_are_found():
    """The test sees imports of every kind: the others are worth nothing otherwise."""
    assert "config.py" in IMPORTS["session.py"]
    assert "features/csrf.py" in IMPORTS["session.py"]  # from a package in the package
    assert "feature.py" in IMPORTS["features/csrf.py"]  # from the package above
    assert "store.py" in IMPORTS["__init__.py"]  # under "if TYPE_CHECKING"
    assert "secret.py" in IMPORTS["__init__.py"]  # in a function


def test_no_cycle():
    """No module imports itself through others: not for its types, or in a function."""
    TopologicalSorter(IMPORTS).prepare()


# The shape of the code.

#: No module is longer: one has to be able to read it in one go.
LINES = 350

#: No class has more fields that change: one has to be able to keep them in mind.
FIELDS = 12


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_length(name):
    """A module is short enough to be read in one go."""
    assert len((DIRECTORY / name).read_text("utf-8").splitlines()) <= LINES


CLASSES = [
    pytest.param(name, node, id=f"{name}:{node.name}")
    for name in sorted(IMPORTS)
    for node in ast.walk(tree(name))
    if isinstance(node, ast.ClassDef)
]

#: What makes a container that can change, besides displays and comprehensions.
CONTAINERS = {"Counter", "OrderedDict", "defaultdict", "deque", "dict", "list", "set"}


def targets(node: ast.AST) -> list[ast.expr]:
    """Return what a node assigns to, or deletes; of tuples each element."""
    found: list[ast.expr] = []
    if isinstance(node, (ast.Assign, ast.Delete)):
        found = [*node.targets]
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For, ast.AsyncFor)):
        found = [node.target]
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        found = [node.optional_vars]
    return [
        leaf
        for each in found
        for leaf in ast.walk(each)
        if isinstance(leaf, ast.Attribute)
        and isinstance(leaf.ctx, (ast.Store, ast.Del))
    ]


def is_container(value: ast.expr | None) -> bool:
    """Tell whether an expression makes a container that can change."""
    displays = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    if isinstance(value, ast.Call):
        called = value.func
        if isinstance(called, ast.Attribute):  # such as dict.fromkeys
            called = called.value
        return isinstance(called, ast.Name) and called.id in CONTAINERS
    return isinstance(value, displays)


#: The names of all attributes that are assigned on something else than ``self``, and
#: whose class is not known here: what one object does to another counts as well.
FROM_OUTSIDE = {
    attribute.attr
    for name in IMPORTS
    for node in ast.walk(tree(name))
    for attribute in targets(node)
    if isinstance(attribute, ast.Attribute) and ast.unparse(attribute.value) != "self"
}


def fields_that_change(cls: ast.ClassDef) -> set[str]:
    """Return the fields of a class that can differ from one moment to the next.

    A field is a name that a method of the class assigns on ``self``, properties
    excepted. It changes if it's assigned outside of ``__init__``: by the class, or by
    other code of the package, as far as the name tells. It also changes if ``__init__``
    makes it a container, since its content can change. A field that only ``__init__``
    assigns, and that holds another object, is counted in that object's class.
    ``object.__setattr__(self, "name", ...)`` assigns, too. Frozen dataclasses, named
    tuples and enumerations have no such fields, because they can't be assigned to.
    """
    properties = {
        each.name
        for each in cls.body
        if isinstance(each, ast.FunctionDef) and each.decorator_list
    }
    first: set[str] = set()
    changing: set[str] = set()
    for method in cls.body:
        if not isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        assigned: dict[str, ast.expr | None] = {}
        for node in ast.walk(method):
            for each in targets(node):
                assert isinstance(each, ast.Attribute)
                if ast.unparse(each.value) == "self":
                    assigned[each.attr] = getattr(node, "value", None)
            match node:
                case ast.Call(
                    ast.Attribute(ast.Name("object"), "__setattr__"),
                    [ast.Name("self"), ast.Constant(str(attribute)), value],
                ):
                    assigned[attribute] = value
        if method.name == "__init__":
            first |= assigned.keys()
            changing |= {n for n, value in assigned.items() if is_container(value)}
        else:
            changing |= assigned.keys()
    return (changing | (first & FROM_OUTSIDE)) - properties


@pytest.mark.parametrize(("name", "cls"), CLASSES)
def test_fields(name, cls):
    """No class has so many fields that change that they can't be kept in mind."""
    assert len(fields_that_change(cls)) <= FIELDS, sorted(fields_that_change(cls))


def test_fields_are_found():
    """The test counts what it says that it counts."""
    (cls,) = ast.parse(
        """
class Example:
    def __init__(self, given):
        self.given = given
        self.late = None
        self.items: list[int] = []
        self.count, self.fixed = 0, 1
    def work(self):
        self.count += 1
        for self.each in self.items: pass
        with self.given as self.open: del self.gone
        object.__setattr__(self, "hidden", 1)
        other.name = self.read
    @property
    def asked(self): ...
    @asked.setter
    def asked(self, value): self.asked = value
"""
    ).body
    assert isinstance(cls, ast.ClassDef)
    assert "late" in FROM_OUTSIDE
    assert fields_that_change(cls) == {
        *("late", "items", "count", "each", "open", "gone", "hidden")
    }


# Names that start with an underscore.


def is_private(name: str) -> bool:
    """Tell whether a name is private."""
    return name.startswith("_") and not name.startswith("__")


def defined(name: str) -> set[str]:
    """Return the private names that a module defines: on itself, or in its classes."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return set(filter(is_private, found))


def used(name: str) -> set[str]:
    """Return the private names that a module takes from modules and from objects.

    Those of other packages that the page tells of, such as ``dispatch._update``, are
    left out, and what a class inherits and uses of ``self``, which is its own.
    """
    told, found = terms(), set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            is_own = text == f"self.{node.attr}"
            if not (is_own or any(each.endswith(text) for each in told)):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {each.name for each in node.names}
    return set(filter(is_private, found))


DEFINED = {name: defined(name) for name in IMPORTS}

#: Named tuples have these, and they are documented.
PUBLIC = {"_replace", "_asdict", "_fields", "_make"}


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_private_names_stay_at_home(name):
    """No module uses a private name that another one of the package defines."""
    elsewhere = {n for each in DEFINED for n in DEFINED[each] if each != name}
    assert used(name) & elsewhere - DEFINED[name] - PUBLIC == set()


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_private_names_of_others_are_on_the_page(name):
    """The page tells of each private name of another package."""
    foreign = used(name) - set().union(*DEFINED.values()) - PUBLIC
    section = private_things()
    assert [each for each in sorted(foreign) if each not in section] == []


def private_things() -> str:
    """Return the section on private things of other packages."""
    _, _, rest = PAGES["design"].partition("\nPrivate things of other packages\n")
    return rest.partition("\n.. _contributing:\n")[0]


def terms() -> list[str]:
    """Return the names that this section explains."""
    heads = re.findall(r"^(``.*)\n   \w", private_things(), re.MULTILINE)
    return re.findall(r"``([\w.]+)``", " ".join(heads))


def test_private_things():
    """What is said to be touched is in the code."""
    sources = "".join((DIRECTORY / name).read_text("utf-8") for name in MAP)
    assert len(terms()) > 8
    assert [e for e in terms() if e.rpartition(".")[2] not in sources] == []
