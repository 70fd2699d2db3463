"""The book and the slides in a real browser without network: every page, link, picture."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("playwright")
from browser import CHROMIUM
from playwright.sync_api import sync_playwright

from course import book, slides
from course.plan import lessons

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM and not os.environ.get("CI"), reason="needs Debian's package chromium"
    ),
]
NAMES = [name for lesson in lessons() for name in lesson.notebooks]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("book")


@pytest.fixture(scope="module")
def pages(work) -> Path:
    """The whole book, every notebook run with its solutions in the smoke profile."""
    assert CHROMIUM, "Chromium is missing: install Debian's package chromium"
    assert book.build(work, "smoke") == [], "a notebook fails, or a solution is not right"
    return work / "html"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def visit(browser):
    """Opens a page without network; keeps what the console, page or a request complains of."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_offline(True)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    # a picture that is left before it is there is no failure
    page.on(
        "requestfailed",
        lambda r: "ABORTED" in (r.failure or "") or page.complaints.append(f"{r.url} {r.failure}"),
    )
    page.on(
        "request",
        lambda request: re.match("https?:", request.url) and page.complaints.append(request.url),
    )
    yield page
    context.close()


LOADED = """() => {
  const pictures = [...document.images];
  pictures.forEach((p) => { p.loading = "eager"; });
  return Promise.all(pictures.map((p) => p.decode().then(() => p.naturalWidth, () => 0)));
}"""
LINKS = "() => [...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href'))"
PLACES = "() => [...document.querySelectorAll('[id]')].map((e) => e.id)"


def test_every_page_link_and_picture(pages, visit):
    files = sorted(p.name for p in pages.glob("*.html"))
    assert files == sorted(f"{name}.html" for name in [*NAMES, "index", "glossary", "course"])
    links, places, pictures = {}, {}, {}
    for file in files:
        visit.goto((pages / file).as_uri())
        pictures[file] = visit.evaluate(LOADED)
        links[file], places[file] = visit.evaluate(LINKS), visit.evaluate(PLACES)
        assert visit.title() and visit.locator("h1").count() == 1, file
        assert visit.complaints == [], file
    assert all(0 not in widths for widths in pictures.values())
    assert all(pictures[f"{name}.html"] for name in NAMES), "a chapter without a picture"
    for file, urls in links.items():
        for url in urls:
            if re.match("https?:", url):
                continue
            target, _, anchor = unquote(url).partition("#")
            assert (target or file) in places, f"{file}: {url}"
            assert not anchor or anchor in places[target or file], f"{file}: {url}"


def test_on_a_phone_nothing_is_wider_than_the_screen(pages, visit):
    visit.set_viewport_size({"width": 360, "height": 740})
    for path in sorted(pages.glob("*.html")):
        visit.goto(path.as_uri())
        visit.evaluate(LOADED)
        assert visit.evaluate("document.documentElement.scrollWidth") <= 360, path.name
    side = visit.locator("#side")
    assert not side.is_visible()
    visit.click("#menu")
    assert side.is_visible()
    side.get_by_role("link", name="Diffusion in ten minutes").click()
    visit.wait_for_url("**/08_diffusion_primer.html")
    assert not visit.locator("#side").is_visible() and visit.complaints == []


def test_from_chapter_to_chapter_and_by_the_titles(pages, visit):
    visit.goto((pages / "index.html").as_uri())
    for name in NAMES:
        visit.locator("a[rel=next]").click()
        visit.wait_for_url(f"**/{name}.html")
    assert visit.locator("a[rel=next]").count() == 0
    visit.fill("#search", "gumbel softmax")
    found = visit.locator("#found a").all_inner_texts()
    assert "Gumbel-Softmax" in found and len(found) < 10
    visit.fill("#search", "no such words")
    assert visit.locator("#found").inner_text() == "no title has these words"
    visit.fill("#search", "glossary latent")
    visit.keyboard.press("Enter")
    visit.wait_for_url("**/glossary.html#latent")
    assert visit.complaints == []


def test_light_and_dark_are_kept(pages, visit):
    colour = "getComputedStyle(document.body).backgroundColor"
    visit.goto((pages / "index.html").as_uri())
    light = visit.evaluate(colour)
    visit.click("#theme")
    dark = visit.evaluate(colour)
    assert light == "rgb(255, 255, 255)" and dark != light
    visit.locator("a[rel=next]").click()
    visit.wait_for_url(f"**/{NAMES[0]}.html")
    assert visit.evaluate(colour) == dark
    # a solution is folded, its check's words are not
    assert visit.locator("details.solution pre").first.is_visible() is False
    assert visit.get_by_text("right:").first.is_visible()
    assert visit.get_by_text("A smoke run").is_visible()


def test_the_slides(work, pages, visit):
    found = slides.write(work / "slides", "smoke", work)
    assert [path.name.split(".")[0] for path in found] == slides.names() != []
    for path in found:
        visit.goto(path.as_uri())
        visit.locator(".slide-number").wait_for()
        total = visit.evaluate("Reveal.getTotalSlides()")
        assert total >= 5 and visit.locator("h1").first.is_visible()
        for _ in range(total - 1):
            visit.keyboard.press("ArrowRight")
            assert visit.locator("section.present section.present").inner_text().strip()
        assert visit.evaluate("Reveal.isLastSlide()") and 0 not in visit.evaluate(LOADED)
        assert visit.complaints == []
