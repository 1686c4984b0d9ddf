"""What README.rst says is true: its example, its commands and its links."""

from __future__ import annotations

import re
import runpy
import textwrap
import xml.etree.ElementTree as ET
from configparser import ConfigParser
from pathlib import Path

import pytest
from pyramid.httpexceptions import HTTPSeeOther
from sqlalchemy import Integer, func, select
from sqlalchemy.orm import DeclarativeBase, mapped_column

import pyramid_sqlalchemy_sessions
from tests.application import Application, Browser, Failure

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.rst").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    """Return the code blocks of a language."""
    found = re.findall(
        rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", text, re.MULTILINE
    )
    return [textwrap.dedent(block).strip() for block in found]


def section(title: str) -> str:
    """Return a section, without its title."""
    _, _, rest = README.partition(f"\n{title}\n{'-' * len(title)}\n")
    return re.split(r"\n[^\n]+\n-+\n", rest)[0]


class Shop:
    """The application of the example."""

    def __init__(self, engine):
        class Base(DeclarativeBase):
            pass

        class Order(Base):
            __tablename__ = "orders"
            id = mapped_column(Integer, primary_key=True)

        def place_order(dbsession, cart):
            order = Order()
            dbsession.add(order)
            dbsession.flush()
            return order

        def take_payment(order):
            if self.bank_says_no:
                raise Failure

        names = {
            **vars(pyramid_sqlalchemy_sessions),
            "Base": Base,
            "place_order": place_order,
            "take_payment": take_payment,
            "HTTPSeeOther": HTTPSeeOther,
            "__name__": __name__,
        }
        checkout, model, include = blocks("python")
        exec(checkout, names)
        exec(model, names)
        self.include = include
        self.bank_says_no = False
        self.checkout = names["checkout"]
        Base.metadata.create_all(engine)
        self.browser = Browser(Application(engine, names["WebSession"]))
        self.orders = select(func.count()).select_from(Order)


@pytest.fixture
def shop(sqlite_engine):
    shop = Shop(sqlite_engine)
    shop.browser.visit(lambda request: request.session.update(cart=["book"]))
    return shop


def test_order_and_session_are_stored_together(shop, sqlite_engine):
    """A checkout empties the cart, says thank you and places the order."""
    shop.browser.visit(shop.checkout)
    session = shop.browser.ask(lambda each: (dict(each), each.peek_flash()))
    assert session == ({}, ["Thank you! Order 1 is placed."])
    with sqlite_engine.connect() as connection:
        assert connection.scalar(shop.orders) == 1


def test_order_and_session_are_rolled_back_together(shop, sqlite_engine):
    """A failed payment leaves the cart full, no message and no order."""
    shop.bank_says_no = True
    shop.browser.fail(shop.checkout)
    session = shop.browser.ask(lambda each: (dict(each), each.peek_flash()))
    assert session == ({"cart": ["book"]}, [])
    with sqlite_engine.connect() as connection:
        assert connection.scalar(shop.orders) == 0


def test_names_that_it_gives(shop):
    """The two settings and the include are those of the tests' application."""
    assert shop.include == 'config.include("pyramid_sqlalchemy_sessions")'
    (ini,) = blocks("ini")
    names = [line.partition(" = ")[0] for line in ini.splitlines()]
    assert names == ["session.secret_key", "session.model_class"]


@pytest.mark.parametrize("title", ["Try it", "Run the tests"])
def test_one_command(title):
    """Each of these sections has one code block with one line."""
    (block,) = blocks("sh", section(title))
    assert "\n" not in block
    assert README.count(block) == 1


def test_install_command():
    """An old pip would take 0.1.0 if the version were left out."""
    assert blocks("sh")[0] == 'pip install "pyramid_sqlalchemy_sessions>=1.0"'


def test_tests_have_every_extra():
    """The command for the tests installs all of the extras."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = ",".join(sorted(setup["options.extras_require"]))
    (command,) = blocks("sh", section("Run the tests"))
    assert f'".[{extras}]" --group testing' in command


@pytest.mark.parametrize("name", ["README.rst", "CHANGES.rst"])
def test_links_are_absolute(name):
    """They work wherever the text is shown."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"<(?!https:)[^>\s]+>`_|:: (?!https:)\S+\.\w+$", text) == []


def test_links_to_the_documentation():
    """They lead to pages and pictures that are there."""
    address = runpy.run_path(str(ROOT / "setup.py"))["DOCUMENTATION"]
    text = README + (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    links = re.findall(r"https://[\w-]+\.readthedocs\.io[^\s>)]*", text)
    assert links
    for link in links:
        assert link.startswith(address)
        path = link.removeprefix(address).replace(".html", ".rst") or "index.rst"
        assert (ROOT / "docs" / path).is_file()


def test_badges():
    """The Pythons are those of the metadata, and so is the license."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    pythons = re.findall(r":: (3\.\d+)", setup["metadata"]["classifiers"])
    assert f"badge/Python-{pythons[0]}_to_{pythons[-1]}-" in README
    assert f"badge/license-{setup['metadata']['license_expression']}-" in README


def test_screenshots():
    """Who clones the repository waits for no picture that is large, or on no page."""
    pages = README + "".join(path.read_text() for path in ROOT.glob("docs/*.rst"))
    pictures = list((ROOT / "docs" / "_static").glob("*.png"))
    assert {path.name for path in pictures} >= {"demo.png"}
    for picture in pictures:
        assert picture.stat().st_size < 150_000
        assert f"_static/{picture.name}" in pages


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "pictures").iterdir()), ids=lambda each: each.stem
)
def test_drawing(path):
    """It's on one page, and says in words what it shows."""
    pages = "".join(each.read_text("utf-8") for each in ROOT.glob("docs/*.rst"))
    assert pages.count(f"   :file: pictures/{path.name}\n") == 1
    svg = "{http://www.w3.org/2000/svg}"
    drawing = ET.parse(path).getroot()
    title, description = drawing.find(f"{svg}title"), drawing.find(f"{svg}desc")
    assert title.text
    assert description.text
    ids = f"{title.get('id')} {description.get('id')}"
    assert drawing.get("aria-labelledby") == ids
