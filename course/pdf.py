"""The book on paper: the pages of build/book/html as one PDF, printed by Chromium.

python -m course.pdf [--code shown] [--profile smoke] [--out build/book]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from course import book
from course.markdown import plain
from erase_lib.files import as_path, whole
from tools import one_line
from tools.chromium import chromium, to_pdf

PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light" data-code="{code}">
<meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="html/book.css"><link rel="stylesheet" href="html/code.css">
<style>{heads}</style>
<body class="paper"><h1>{title}</h1>
<nav id="index">{contents}</nav>
{chapters}
</body></html>
"""
HEAD = '@page p{n} {{ @top-right {{ content: "{words}"; }} }} .p{n} {{ page: p{n}; }}'
LEFT = r'<li><a href="api\.html">.*?</li>'  # what is looked up is not looked up on paper
FOLDED = r"<details[^>]*>\s*<summary>({})</summary>(.*?)</details>"


def listed(index: str) -> str:
    """The list of contents that the book's first page has."""
    return re.search(r'<ul id="contents">(.*?)</ul>\s*</nav>', index, re.DOTALL)[1]  # type: ignore[index]


def text_of(page: str) -> str:
    """What a page says; what leads on to the next one is not printed."""
    return re.search(r'<main id="text">(.*)</main>', page, re.DOTALL)[1]  # type: ignore[index]


def own(html: str, stem: str, stems: Sequence[str]) -> str:
    """A page's anchors and links as they are where all pages are one."""

    def led(link: re.Match[str]) -> str:
        file, _, anchor = link[1].partition("#")
        name = file.removesuffix(".html") or stem
        known = name in (*stems, "index")
        return f'href="#{name}{"--" * bool(anchor)}{anchor}"' if known else link[0]

    html = re.sub(r'\bid="([^"]+)"', rf'id="{stem}--\1"', html)
    html = re.sub(r'\bhref="([^":]+)"', led, html)
    html = re.sub(r'\bsrc="(?!data:)', 'src="html/', html)
    return html.replace(' loading="lazy"', "")


def answers(text: str, words: str) -> tuple[str, list[str]]:
    """A text without what is folded under these words, and what was."""
    pattern = re.compile(FOLDED.format(words), re.DOTALL)
    found = [
        f"<h3>{word} {n}</h3>{body}" for n, (word, body) in enumerate(pattern.findall(text), 1)
    ]
    return pattern.sub("", text), found


def paper(pages: Path, code: str) -> str:
    """All pages as one: contents, chapters, and what they fold away at the end."""
    contents = re.sub(LEFT, "", listed((pages / "index.html").read_text("utf-8")))
    names = re.findall(r'href="([^"#]+)\.html"', contents)
    chapters, heads, folded = [], [], []
    for n, name in enumerate([*names, "answers"]):
        if name == "answers":
            title, text = "Answers", "<h1>Answers</h1>" + "".join(folded)
        else:
            text = own(text_of((pages / f"{name}.html").read_text("utf-8")), name, names)
            title = plain(re.search(r"<h1.*?</h1>", text, re.DOTALL)[0])  # type: ignore[index]
            text, found = answers(text, "Answer")
            text, solved = answers(text, "Solution")
            found += solved if code == "shown" else []
            folded += [f"<h2>{title}</h2>", *found] if found else []
            text = text.replace("<details", "<details open")
            text = text.replace("the answer unfolds", "the answers stand at the end")
        quoted = title.replace("\\", r"\\").replace('"', r"\"")
        heads.append(HEAD.format(n=n, words=quoted))
        chapters.append(f'<article class="p{n}" id="{name}">{text}</article>')
    contents += '<li><ul><li><a href="answers.html">Answers</a></li></ul></li>'
    return PAGE.format(
        code=code,
        title=book.BOOK,
        heads="\n".join(heads),
        contents=f"<ul>{own(contents, 'index', [*names, 'answers'])}</ul>",
        chapters="\n".join(chapters),
    )


def places(pdf: bytes) -> dict[str, int]:
    """The page of each place that a link of the PDF leads to, as Chromium writes both."""
    order = re.findall(rb"^(\d+) 0 obj\s*<</Type /Page\s", pdf, re.MULTILINE)
    page = {number: n for n, number in enumerate(order, 1)}
    found = re.findall(rb"/([^\s/\[\]<>]+) \[(\d+) 0 R /XYZ", pdf)
    return {name.decode(): page[number] for name, number in found if number in page}


def numbered(html: str, at: dict[str, int]) -> str:
    """The contents with the number of each chapter's page."""
    head, nav, rest = html.partition("</nav>")

    def told(link: re.Match[str]) -> str:
        return f"{link[0]}<span>{at[link[1]]}</span>" if link[1] in at else link[0]

    return re.sub(r'<a href="#([^"]+)">.*?</a>', told, head) + nav + rest


def write(out: Path, code: str) -> Path:
    """Print out/html to out/book.pdf, twice: the second time with its contents' page numbers.

    out/print.html is what is printed; any browser prints it, without the numbers.
    """
    page, pdf = out / "print.html", out / "book.pdf"
    html = paper(out / "html", code)
    for _ in range(2):
        with whole(page) as (part,):
            part.write_text(html, "utf-8")
        to_pdf(page, pdf)
        html = numbered(html, places(pdf.read_bytes()))
    return pdf


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Build the book where it is not, and print it."""
    parser = argparse.ArgumentParser(prog="python -m course.pdf", description=__doc__)
    parser.add_argument("--profile", default="course", choices=["course", "smoke"])
    parser.add_argument("--out", default="build/book")
    parser.add_argument("--code", default="hidden", choices=["hidden", "shown"])
    given = parser.parse_args(arguments)
    chromium()  # or what is missing would be said after a quarter of an hour
    out = as_path(given.out).resolve()
    wrong = book.build(out, given.profile)
    for text in wrong:
        print(text, file=sys.stderr)
    if (out / "html" / "index.html").is_file():
        pdf = write(out, given.code)
        print(f"The book on paper: {pdf}, {pdf.stat().st_size / 1e6:.0f} MB")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
