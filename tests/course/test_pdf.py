"""The book on paper: its pages as one, and what Chromium makes of them."""

import re

import pytest

from course import book, pdf
from erase_lib.errors import EraseError
from tools import chromium

NAV = '<li><b>1 · A</b><ul><li><a href="01_a.html">One</a></li></ul></li>'
NAV += '<li><a href="glossary.html">Words</a></li><li><a href="api.html">The API</a></li>'
ONE = """<h1 id="one">One "a"</h1><a href="glossary.html#noise">n</a> <a href="#one">o</a>
<a href="https://a.org">a</a><img src="01_a_files/1.png" loading="lazy" alt="x">
<details class="imports"><summary>Imports</summary>import os</details>
<details class="solution"><summary>Solution</summary><pre>42</pre></details>
<p>Decide first; the answer unfolds.</p>
<details><summary>Answer</summary><p><b>b</b></p></details>
"""


@pytest.fixture
def pages(tmp_path):
    """A folder with the pages of a small book."""
    (tmp_path / "html").mkdir()
    own = {"index": "", "01_a": ONE, "glossary": '<h1>Words</h1><h3 id="noise">Noise</h3>'}
    own["api"] = "<h1>The API</h1>"
    for name, text in own.items():
        side = f'<nav id="side"><ul id="contents">{NAV}</ul>\n</nav>'
        page = f'<body>{side}<main id="text">{text}<nav class="turn"></nav></main></body>'
        (tmp_path / "html" / f"{name}.html").write_text(page, "utf-8")
    return tmp_path


@pytest.mark.parametrize("code", ["hidden", "shown"])
def test_all_pages_are_one_with_their_links_and_answers_at_the_end(pages, code):
    text = pdf.paper(pages / "html", code)
    body, _, end = text.partition('id="answers"')
    assert 'href="#glossary--noise"' in body and 'id="glossary--noise"' in body
    assert 'href="#01_a--one"' in body and 'href="https://a.org"' in body
    assert 'src="html/01_a_files/1.png" alt' in body and "The API" not in text
    assert "<details open" in body and "Solution" not in body and "<b>b</b>" not in body
    assert "the answers stand at the end" in body
    assert (
        "<h3>Answer 1</h3>" in end and end.count("<h2>") == 1 and ("42" in end) == (code == "shown")
    )
    assert r'content: "One \"a\""' in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= {*ids, "index"}


def test_contents_say_the_page_of_each_chapter(pages):
    found = (
        b"9 0 obj\n<</Type /Page\n/A 1>>\n12 0 obj\n<</Type /Page\n>>\n3 0 obj\n<</Type /Pages\n"
    )
    found += (
        b"<</01_a [9 0 R /XYZ 0 841 0]\n/glossary [12 0 R /XYZ 0 1 0]\n/lost [7 0 R /XYZ 0 1 0]>>"
    )
    assert (at := pdf.places(found)) == {"01_a": 1, "glossary": 2}
    text = pdf.numbered(pdf.paper(pages / "html", "hidden"), at)
    assert '<a href="#01_a">One</a><span>1</span>' in text and text.count("<span>") == 2


def test_without_chromium_nothing_is_run_and_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chromium.shutil, "which", lambda name: None)
    monkeypatch.setattr(book, "build", lambda *_: pytest.fail("the book was built"))
    assert pdf.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "chromium" in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_book_is_printed(pages):
    try:
        chromium.chromium()
    except EraseError:
        pytest.skip("needs Debian's package chromium")
    for name in ("book", "code"):
        (pages / "html" / f"{name}.css").write_text("article { break-before: page; }")
    at = pdf.places(pdf.write(pages, "hidden").read_bytes())
    assert [at[name] for name in ("01_a", "glossary", "answers")] == [2, 3, 4]
    assert "<span>3</span>" in (pages / "print.html").read_text("utf-8")
