"""Markdown as pages that need no network: formulas as MathML, links from page to page."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from html import escape, unescape
from typing import Any

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from course.formula import mathml
from course.plan import NUMBERED, slug

PAGES = {"GLOSSARY.md": "glossary.html", "COURSE.md": "course.html", "README.md": "index.html"}
PAGES |= {"FAQ.md": "faq.html"}


class Renderer(IPythonRenderer):
    """Headings with the anchors that the notebooks link to, MathML, and links within the book."""

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """A heading whose anchor is made of its own words."""
        return f'<h{level} id="{slug(plain(text))}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to a page, or out into the world; what lies elsewhere in the project is named."""
        target = page_of(url)
        return f'<a href="{escape(target)}">{text}</a>' if target else f"<code>{text}</code>"

    def block_math(self, body: str) -> str:
        """A displayed formula."""
        return f'<span class="formula">{mathml(body, display=True)}</span>'

    def inline_math(self, body: str) -> str:
        """A formula within a line."""
        return mathml(body, display=False)


def page_of(url: str) -> str:
    """Where a link of a notebook leads in the book; nothing for a file that is no page of it."""
    if re.match(r"[a-z]+:|#", url):
        return url
    name, _, anchor = url.rsplit("/", 1)[-1].partition("#")
    page = PAGES.get(name, "")
    if fnmatch(name, NUMBERED):
        page = f"{name.removesuffix('.ipynb')}.html"
    return page + (f"#{anchor}" if page and anchor else "")


def plain(html: str) -> str:
    """The words of a piece of HTML, formulas with their letters."""
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()


def to_html(source: str) -> str:
    """Markdown with LaTeX formulas as HTML."""
    return MarkdownWithMath(renderer=Renderer(escape=False)).render(source)
