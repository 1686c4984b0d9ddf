"""Import every module of the installed package, and say how many there were.

Run it with ``python -I`` so that the checkout's directory is not on the path: what is
imported is then what was installed, and it must hold every module of the checkout.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

PACKAGE = "pyramid_sqlalchemy_sessions"
#: Whoever imports it has pytest and WebTest.
NEEDS_PYTEST = f"{PACKAGE}.pytest_fixtures"
CHECKOUT = Path(__file__).resolve().parent.parent


def files(directory: Path) -> set[str]:
    """Name the files below ``directory``, compiled ones excepted."""
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def module_names(directory: Path) -> list[str]:
    """Name the package in ``directory`` and every module and package inside it."""
    modules = (Path(PACKAGE, f) for f in files(directory) if f.endswith(".py"))
    parts = (module.with_suffix("").parts for module in modules)
    return sorted(".".join(p).removesuffix(".__init__") for p in parts)


def main() -> None:
    """Import all, and compare the files with those of the checkout."""
    installed = Path(importlib.import_module(PACKAGE).__path__[0]).resolve()
    if CHECKOUT in installed.parents and "site-packages" not in installed.parts:
        sys.exit(f"{installed} is the checkout's, not an installed package")
    missing = files(CHECKOUT / PACKAGE) - files(installed)
    if missing:
        sys.exit(f"not installed: {', '.join(sorted(missing))}")
    names = [each for each in module_names(installed) if each != NEEDS_PYTEST]
    for name in names:
        importlib.import_module(name)
    print(f"imported {len(names)} modules from {installed.parent}")


if __name__ == "__main__":
    main()
