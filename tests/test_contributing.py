"""What design.rst says on contributing is true: its feature, commands and names."""

from __future__ import annotations

import importlib.util
import re
import sys
from configparser import ConfigParser

import pytest
from sqlalchemy.orm import DeclarativeBase

from pyramid_sqlalchemy_sessions import BaseMixin, UseridMixin, features
from tests import databases
from tests.application import Application, Browser
from tests.applications.starter import DOCS, PAGES
from tests.import_all import CHECKOUT

PAGE = PAGES["design"].partition("\n.. _contributing:\n")[2]


@pytest.fixture
def browser(sqlite_engine, monkeypatch):
    """Visit an application whose model has the feature of the page."""
    # As if the file were where the page says.
    name = f"{features.__name__}.entry_page"
    path = DOCS / "examples" / "entry_page.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(features, "FEATURES", (*features.FEATURES, (module.EntryPage,)))

    class Base(DeclarativeBase):
        pass

    class Model(module.EntryPageMixin, UseridMixin, BaseMixin, Base):
        __tablename__ = "session"

    Base.metadata.create_all(sqlite_engine)
    return Browser(Application(sqlite_engine, Model))


def begin(request):
    """Begin a session."""
    request.session["a"] = 1


def test_feature(browser):
    """It notes the page on which the session began, then that of the login."""
    browser.visit(begin, "/lamps%20and%00more?price=1")
    browser.visit(lambda request: request.session.update(a=2), "/later")
    assert browser.application.row().entry_page == "/lamps%20and%00more"
    browser.visit(lambda request: setattr(request.session, "userid", 7), "/login")
    row = browser.application.row()
    assert (row.userid, row.entry_page) == (7, "/login")


def test_long_path(browser):
    """It fits into the column."""
    browser.visit(begin, "/" + "x" * 500)
    assert browser.application.row().entry_page == "/" + "x" * 199


def test_environment_variables():
    """Those that the tests know are those of the page."""
    sources = [path.read_text("utf-8") for path in (CHECKOUT / "tests").rglob("*.py")]
    known = set(re.findall(r'"(PSS_[A-Z_]+)"', "".join(sources)))
    assert known == set(re.findall(r"``(PSS_[A-Z_]+)``", PAGE))
    for _, url in databases.SERVERS.values():
        assert f"``{url}``" in PAGE


def test_tox_environments():
    """Each one is in the list."""
    tox = ConfigParser(interpolation=None)
    tox.read(CHECKOUT / "tox.ini", encoding="utf-8")
    listed = tox["tox"]["envlist"].split()
    assert listed[0] == "py{310,311,312,313}"
    _, _, rest = PAGE.partition("``tox -e NAME``")
    items = "".join(re.findall(r"^- ((?:``\w+``(?:, | to )?)+)", rest, re.MULTILINE))
    assert ["py310", "py313", *listed[1:]] == re.findall(r"``(\w+)``", items)


@pytest.mark.parametrize("path", re.findall(r"``(\w+/[\w./]+)``", PAGE))
def test_paths(path):
    """The files that the page names are there, except those that it makes."""
    places = CHECKOUT / path, CHECKOUT / "pyramid_sqlalchemy_sessions" / path
    assert "entry_page" in path or any(each.exists() for each in places)
