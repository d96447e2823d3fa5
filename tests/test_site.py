"""The site's build refuses a link to nothing; its gallery leads to the pages that draw."""
import re
import sys
from pathlib import Path

import pytest

from mfdan.core.files import project_root

sys.path.insert(0, str(project_root() / ".ci"))
import gallery  # noqa: E402
import links  # noqa: E402

GOOD = """<html id="all"><a href="b.html">b</a><a href="sub/c%20d.html#here">c</a><a href="#">up</a>
<a href="#all">all</a><a href="https://example.org/no#x">away</a><a href="mailto:a@b.c">mail</a>
<img src="pic.png"><img src="data:image/png;base64,AA"><script src="s.js?v=1"></script>
<a href="sub/">folder</a></html>"""


@pytest.fixture
def site(tmp_path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("b.html", "sub/index.html", "pic.png", "s.js"): (tmp_path / name).write_text("")
    (tmp_path / "sub/c d.html").write_text("<a href='../a.html#all'>a</a><a name='here'>x</a>")
    (tmp_path / "a.html").write_text(GOOD)
    return tmp_path


def test_a_whole_site_passes(site, capsys):
    assert links.main(site) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize("planted, says", {
    '<a href="nowhere.html">': "a.html: links to nowhere.html, which is not there",
    '<img src="gone.png">': "a.html: links to gone.png, which is not there",
    '<a href="b.html#nothing">': "whose page has no such anchor",
    '<a href="#nothing">': "a.html: links to #nothing, whose page has no such anchor",
    '<a href="/b.html">': "which no copy of the site has",
    '<a href="../outside.html">': "which is not there",
    '<img srcset="pic.png 1x, big.png 2x">': "links to big.png, which is not there",
}.items())
def test_a_planted_link_to_nothing_is_named(site, capsys, planted, says):
    (site / "a.html").write_text(GOOD + planted)
    assert links.main(site) == 1
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_every_picture_of_the_gallery_has_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "WIDTH", 16)  # quick to make
    text = gallery.gallery(project_root(), tmp_path)
    pictures, pages = (re.findall(f":{key}: (.*)", text) for key in ("img-top", "link"))
    assert len(pictures) == len(pages) > 50
    assert all((tmp_path / picture).stat().st_size for picture in pictures)
    assert all((project_root() / f"nbs/{page}.ipynb").exists() for page in pages)
