"""A misspelt import from the package is an error, for type checkers, too."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import pyramid_sqlalchemy_sessions

CHECKOUT = Path(__file__).parent.parent

CHECKERS = {
    "mypy": ["--strict"],
    # It doesn't find the environment by itself.
    "pyright": ["--pythonpath", sys.executable],
}


@pytest.mark.parametrize("name", CHECKERS)
def test_misspelt_import(name: str, tmp_path: Path) -> None:
    """A name that the package lacks is an error, one that is imported late is not."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    path = tmp_path / "imports.py"
    for names, is_wrong in (
        (", ".join(pyramid_sqlalchemy_sessions.__all__), False),
        ("Sesion", True),
        ("SessionStores", True),
    ):
        # Pyright's "basic", because nothing is done with these imports.
        path.write_text(
            "# pyright: basic\nfrom pyramid_sqlalchemy_sessions import " + names
        )
        done = subprocess.run(
            [sys.executable, "-m", name, *CHECKERS[name], str(path)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 1) is is_wrong, done.stdout + done.stderr
        assert not is_wrong or f'"{names}"' in done.stdout


def test_misspelt_import_at_run_time() -> None:
    """Python says the same."""
    with pytest.raises(ImportError, match="cannot import name 'SessionStores'"):
        exec("from pyramid_sqlalchemy_sessions import SessionStores")
