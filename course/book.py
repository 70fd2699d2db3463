"""The book: the notebooks, run in the course profile, as pages that need no network.

python -m course.book [--profile smoke] [--out build/book] [--page build/page]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExtractOutputPreprocessor
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from course import api, quiz
from course.execute import complaints, executed
from course.markdown import plain, to_html
from course.plan import NOTEBOOKS, ROOT, headings, lessons, math_font, slug, tagged, title_of
from course.titles import NONE
from erase_lib.errors import EraseError, unknown
from erase_lib.files import MADE, as_path, check_ours, whole_folder
from tools import one_line

HERE = Path(__file__).parent
BOOK = "What an erasure does to everything else"
WIDGET = "application/vnd.jupyter.widget-view+json"
KINDS = {"image/png", "image/jpeg"}
SHOWN = ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain"]


@dataclass
class Page:
    """A page: its file, its notebook, and what stands before and after it."""

    file: str
    nb: nbformat.NotebookNode
    title: str
    executed: bool = True
    sections: list[dict[str, str]] = field(default_factory=list)
    before: Page | None = None
    after: Page | None = None

    def __post_init__(self) -> None:
        # papermill's own cell says where the book was made
        self.nb.cells = [c for c in self.nb.cells if not tagged(c, "injected-parameters")]
        for cell in self.nb.cells:  # a widget, such as a progress bar, is nothing without a kernel
            if "outputs" in cell:
                cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
                described(cell)
                if re.match(r"(from|import) ", cell.source):
                    cell.metadata["tags"] = [*cell.metadata.get("tags", []), "imports"]
        texts = [cell.source for cell in self.nb.cells if cell.cell_type == "markdown"]
        found = [text for source in texts for level, text in headings(source) if level == 2]
        names = [plain(to_html(f"## {text}")) for text in found]
        self.sections = [{"title": name, "anchor": slug(name)} for name in names]


def written(source: str, file: str) -> Page:
    """A page of Markdown."""
    cell = nbformat.v4.new_markdown_cell(source)
    nb = nbformat.v4.new_notebook(cells=[cell])
    return Page(file, nb, title_of(nb), executed=False)


def exporter() -> HTMLExporter:
    """nbconvert with the book's template and formulas as MathML."""
    config = Config()
    config.HTMLExporter.template_name = "book"
    config.HTMLExporter.extra_template_basedirs = [str(HERE / "templates")]
    config.NbConvertBase.display_data_priority = SHOWN
    made = HTMLExporter(config=config)
    made.register_filter("markdown2html", to_html)
    return made


def described(cell: nbformat.NotebookNode) -> None:
    """Give a cell's pictures their alt text, the comment that the cell begins with and what the
    figure's title adds to it, and the last of them that comment as its caption."""
    said = re.match(r"# (.+)$", cell.source, re.MULTILINE)
    comment, last = said[1] if said else "", None
    for output in cell.outputs:
        if KINDS & set(output.get("data", ())):
            title = output.data.get("text/plain", NONE)
            again = title.startswith(NONE) or title.casefold() in comment.casefold()
            parts = [comment, "" if again else title]
            output.setdefault("metadata", nbformat.NotebookNode())
            output.metadata["alt"] = ": ".join(filter(None, parts)) or "a figure"
            last = output
    if last:
        last.metadata["caption"] = comment


def card(page: Page) -> tuple[str, str]:
    """The picture of a page's card in the index, and words for it: of the cell tagged `card`, or
    the first."""
    found = [
        (not tagged(cell, "card"), str(output.metadata.filenames[kind]), output.metadata["alt"])
        for cell in page.nb.cells
        for output in cell.get("outputs", [])
        for kind in KINDS
        if kind in output.get("metadata", {}).get("filenames", {})
    ]
    return min(found, key=lambda one: one[0])[1:] if found else ("", "")


def cards(chapters: dict[str, list[Page]], tried: bool = False) -> str:
    """The index: a card a chapter, with its question and a picture; is there a page to try it?"""
    text = [f"# {BOOK}\n"]
    text.append(
        "A course in concept erasure: take a concept out of a text-to-image model, and see what"
        " happens to all the others. Every page is a notebook as it ran, every picture was drawn"
        " while it ran. New words are in the [glossary](GLOSSARY.md), what goes wrong in the"
        " [FAQ](FAQ.md); how to teach it stands in [the course](COURSE.md).\n"
    )
    if tried:
        text.append(
            "<p><b><a href='page/index.html'>An erasure to try</a></b>: the model in this browser,"
            " twenty erasures, before and after.</p>\n"
        )
    for label, pages in chapters.items():
        text.append(f"## {label}\n\n<ul class='lessons'>")
        for page in pages:
            picture, words = card(page)
            shown = f"<img src='{picture}' alt='{escape(words)}' loading='lazy'>" if picture else ""
            asked = question(page.nb)
            text.append(
                f"<li><a href='{page.file}'>{shown}<b>{escape(page.title)}</b>"
                f"<small>{escape(asked)}</small></a></li>"
            )
        text.append("</ul>\n")
    return "\n".join(text)


def question(nb: nbformat.NotebookNode) -> str:
    """What a notebook asks: the bold line under its title."""
    found = re.search(r"\*\*(.+?)\*\*\n", nb.cells[0].source, re.DOTALL)
    return " ".join(found[1].replace("*", "").split()) if found else ""


def convert(page: Page, folder: Path, shared: dict[str, Any], html: HTMLExporter) -> None:
    """Write a page and its pictures."""
    stem = page.file.removesuffix(".html")
    resources = shared | {"page": page, "unique_key": stem}
    resources |= {"output_files_dir": f"{stem}_files", "outputs": {}}
    page.nb, resources = ExtractOutputPreprocessor().preprocess(page.nb, resources)
    for name, data in resources["outputs"].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    text, _ = html.from_notebook_node(page.nb, resources)
    (folder / page.file).write_text(text, "utf-8")


def build(
    out: Path, profile: str = "course", only: Sequence[str] = (), page: Path | None = None
) -> list[str]:
    """Run what has to be run, write the book to out/html, and say what went wrong.

    The book that is there is replaced only by a whole one: `only` some pages go to out/some. `page`
    is what `make page` wrote, which goes along. Raises `EraseError`, before anything is run, for a
    name that is no notebook of a lesson, for a `page` that is none, and where a folder would be
    lost that is none of ours.
    """
    chapters: dict[str, list[Page]] = {}
    failed: list[str] = []
    wrong: list[str] = []
    plan = lessons()
    for name in only:
        if name not in (names := [name for lesson in plan for name in lesson.notebooks]):
            raise unknown("notebook", name, names)
    if page and not (page / "index.html").is_file():
        raise EraseError(f"{page} has no index.html: expected what make page writes")
    pages = out / ("some" if only else "html")
    check_ours(pages)
    for lesson in plan:
        for name in lesson.notebooks:
            if only and name not in only:
                continue
            try:
                nb, seconds = executed(name, profile, out)
            except RuntimeError as error:
                failed.append(str(error))
                continue
            print(f"{name}: {seconds:.0f} s", flush=True)
            wrong += [f"{name}: a check says: {text}" for text in complaints(nb)]
            nb.cells += quiz.cells(name)
            chapters.setdefault(lesson.label, []).append(Page(f"{name}.html", nb, title_of(nb)))
    if not failed:
        write(chapters, pages, profile, page)
    return failed + wrong


def write(
    chapters: dict[str, list[Page]], out: Path, profile: str, page: Path | None = None
) -> None:
    """All pages into a new folder, which then takes the old one's place."""
    extra = [written((NOTEBOOKS / "GLOSSARY.md").read_text("utf-8"), "glossary.html")]
    extra.append(written((ROOT / "docs" / "FAQ.md").read_text("utf-8"), "faq.html"))
    extra.append(written(api.text(), "api.html"))
    extra.append(written((ROOT / "COURSE.md").read_text("utf-8"), "course.html"))
    line = [page for pages in chapters.values() for page in pages]
    for before, after in zip(line, line[1:], strict=False):
        before.after, after.before = after, before
    contents = [{"label": label, "pages": pages} for label, pages in chapters.items()]
    contents.append({"label": "Beside the lessons", "pages": extra})
    shared = {"book": BOOK, "contents": contents, "smoke": profile == "smoke"}
    html = exporter()
    with whole_folder(out) as folder:
        for one in [*line, *extra]:
            convert(one, folder, shared, html)
        if page:
            shutil.copytree(page, folder / "page", ignore=shutil.ignore_patterns(MADE))
        told = nbformat.v4.new_markdown_cell(cards(chapters, page is not None))
        index = nbformat.v4.new_notebook(cells=[told])
        start = Page("index.html", index, BOOK, executed=False, after=line[0] if line else None)
        convert(start, folder, shared, html)
        for name in ("book.css", "book.js"):
            shutil.copy(HERE / "static" / name, folder)
        shutil.copy(math_font(), folder / "math.ttf")
        (folder / "code.css").write_text(code_colours(), "utf-8")
        (folder / "words.js").write_text(searched([start, *line, *extra]), "utf-8")


def searched(pages: Sequence[Page]) -> str:
    """What is searched: every section of every page, its title, its text and its code. A script,
    for a page that was opened as a file may not read JSON."""
    found: list[dict[str, str]] = []
    for page in pages:
        found.append({"title": page.title, "file": page.file, "page": page.title, "text": ""})
        for cell in page.nb.cells:
            parts = [("", cell.source)]
            if cell.cell_type == "markdown":
                cut = re.split(r"^#{2,3} +(.+?) *$", cell.source, flags=re.MULTILINE)
                parts = [("", cut[0]), *zip(cut[1::2], cut[2::2], strict=True)]
            for title, source in parts:
                if title:
                    name = plain(to_html(f"## {title}"))
                    file = f"{page.file}#{slug(name)}"
                    found.append({"title": name, "file": file, "page": page.title, "text": ""})
                words = plain(to_html(source)) if cell.cell_type == "markdown" else source
                found[-1]["text"] += " " + " ".join(words.split())
    return f"const WORDS = {json.dumps(found, ensure_ascii=False, indent=0)};\n"


def code_colours() -> str:
    """Pygments' colours for light and for dark."""
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs('[data-theme="dark"] .highlight')
    plain = ".highlight, [data-theme] .highlight { background: var(--panel); }"
    return f"{light}\n{dark}\n{plain}\n"


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Build the book; the exit status says whether all of it is right."""
    parser = argparse.ArgumentParser(prog="python -m course.book", description=__doc__)
    parser.add_argument("--profile", default="course", choices=["course", "smoke"])
    parser.add_argument("--out", default="build/book")
    parser.add_argument("--only", nargs="*", default=[], help="names of notebooks; default: all")
    parser.add_argument("--page", type=Path, help="what `make page` wrote, to go along")
    given = parser.parse_args(arguments)
    out = as_path(given.out)
    wrong = build(out.resolve(), given.profile, given.only, given.page)
    for text in wrong:
        print(text, file=sys.stderr)
    page = out / ("some" if given.only else "html") / "index.html"
    print(f"The book: {page}" if page.is_file() else "No book was written.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
