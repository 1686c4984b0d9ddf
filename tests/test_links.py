"""The check of links, which is run after the documentation was built."""

from __future__ import annotations

import pytest

from tests.check_links import broken, main

PAGE = """
<link rel="stylesheet" href="style.css?v=1">
<h1 id="top">A page</h1><a name="old"></a>
<a href="#top">here</a> <a href="#">up</a> <a href="">again</a>
<a href="other.html#part%202">there</a>
<a href="https://example.com/nowhere">elsewhere</a> <a href="mailto:a@b.example">us</a>
"""


@pytest.fixture
def pages(tmp_path):
    (tmp_path / "style.css").touch()
    (tmp_path / "picture.png").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "other.html").write_text('<p id="part 2"><img src="picture.png"></p>')
    (tmp_path / "sub" / "page.html").write_text('<a href="../page.html#old">up</a>')
    return tmp_path


def test_good_links(pages, capsys):
    """Files, anchors and other sites may be referred to."""
    main(str(pages))
    assert capsys.readouterr().out == "no broken link in 3 pages\n"


@pytest.mark.parametrize(
    "reference",
    [
        "missing.html",
        "#missing",
        "other.html#missing",
        "sub",
        "../outside.html",
        "/page.html",
    ],
)
def test_broken_links(pages, reference):
    """A file or an anchor that is not there is named, with the page."""
    (pages.parent / "outside.html").touch()
    (pages / "new.html").write_text(f'<a href="{reference}">x</a>')
    assert broken(pages) == [f"new.html: {reference}"]


def test_picture(pages):
    """Pictures, style sheets and scripts are looked for, too."""
    (pages / "new.html").write_text('<img src="x.png"><script src="x.js"></script>')
    assert broken(pages) == ["new.html: x.png", "new.html: x.js"]


def test_nothing_to_check(tmp_path):
    """No page at all is no success."""
    with pytest.raises(SystemExit, match="0 broken links in 0 pages"):
        main(str(tmp_path))
