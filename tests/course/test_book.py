"""The book: what its notebooks leave, run with solutions in smoke; its pages and the slides in a
real browser without network: every page, link, picture."""

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

pytest.importorskip("playwright")
from browser import CHROMIUM
from playwright.sync_api import sync_playwright

from course import book, slides
from course.plan import ROOT, lessons

pytestmark = pytest.mark.slow
NAMES = [name for lesson in lessons() for name in lesson.notebooks]


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("book")


@pytest.fixture(scope="module")
def pages(work) -> Path:
    """The whole book, every notebook run with its solutions in the smoke profile."""
    before = files(ROOT / "data")
    assert book.build(work, "smoke") == [], "a notebook fails, or a solution is not right"
    assert files(ROOT / "data") == before, "a smoke run must leave the shipped data alone"
    return work / "html"


@pytest.fixture
def ran(work, pages):
    """The folder of a notebook that the book ran, and the numbers it left there."""
    return lambda name: (
        folder := work / "runs" / name,
        json.loads((folder / "metrics.json").read_text("utf-8")),
    )


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM and not os.environ.get("CI"):
        pytest.skip("needs Debian's package chromium")
    assert CHROMIUM, "Chromium is missing: install Debian's package chromium"
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


def test_concept_sensitivity(ran):
    folder, result = ran("02_concept_sensitivity")
    assert {row["predictor"] for row in result["agreement"]} >= {"distance", "kv"}
    for row in result["predictors"] + result["neutral"]:
        assert row["low"] <= row["value"] <= row["high"] and row["groups"] == 5
    pairs = pd.read_parquet(folder / "pairs.parquet")
    assert pairs["judge"].isna().sum() == 2 * 3  # two pictures of three neutral concepts
    for name in ("spectrum", "bars", "strip", "predictors", "bars_weapons", "bars_noto_style"):
        assert (folder / f"{name}.png").stat().st_size > 100


def test_the_map_of_concepts(ran):
    folder, result = ran("03_embedding_map")
    spaces = {row["space"] for row in result["spaces"]}
    assert {"text", "pictures", "text, PCA", "pictures, UMAP"} <= spaces
    assert all(-1 <= row["value"] <= 1 for row in result["spaces"])
    assert (folder / "map.html").stat().st_size > 1e6  # it needs no network
    for name in ("map_text", "map_pictures", "maps", "spaces", "strip"):
        assert (folder / f"{name}.png").stat().st_size > 100


def test_one_erasure_explained(ran):
    _, result = ran("05_erase")
    assert result["updates"] == 4 and result["strength"] == 1
    for row in result["metrics"]:
        assert row["low"] <= row["value"] <= row["high"]


def test_methods_side_by_side(ran):
    folder, result = ran("07_compare")
    assert result["runs"] >= 40 and "eap_closed" in result["strengths"]
    found = {(r["setting"], r["group"], r["metric"]): r for r in result["levels"]}
    assert found["esd", "target", "ESR-1"]["splits"] == 4
    for row in result["levels"] + result["differences"]:
        assert row["low"] <= row["value"] <= row["high"]
    assert all(0 < r["p"] <= r["q"] <= 1 for r in result["differences"])
    for name in ("plane", "levels", "differences", "side_by_side"):
        assert (folder / f"{name}.png").stat().st_size > 100


def test_the_damage_atlas(ran):
    folder, result = ran("09_damage_atlas")
    assert result["targets"] == 12 and result["concepts"] == 428
    for score in {row["score"] for row in result["variance"]}:
        parts = [row["share"] for row in result["variance"] if row["score"] == score]
        assert sum(parts) == pytest.approx(1)
    for row in result["neutral together"] + result["predictions"]:
        assert row["low"] <= row["value"] <= row["high"]
    for name in ("delta", "specific", "parts", "mutual", "dumbbells", "graph", "predictions"):
        assert (folder / f"{name}.png").stat().st_size > 100


@pytest.mark.parametrize("name", ["08_diffusion_primer", "14_ethics_and_limits"])
def test_the_primer_and_the_interlude(ran, name):
    folder, result = ran(name)
    assert result["profile"] == "smoke" and len(list(folder.glob("*.png"))) >= 1
    for row in result.get("tokens", []):
        assert row["low"] <= row["share"] <= row["high"]
    if name.startswith("08"):
        shares = {row["carried"]: row["share"] for row in result["tokens"]}
        assert shares["nothing"] == 0 and result["n"] == 3
        assert sum(result["attention"].values()) == pytest.approx(1)
    else:
        assert result["opened"]["original"] >= result["opened"]["erased"]
        assert result["back door"]["erased, by c′"] > result["back door"]["erased, by name"]


def test_the_studio_without_a_browser(ran):
    folder, result = ran("15_studio")
    assert result["updates"] == 4 and "erased" in result["status"]


def test_the_search_under_the_microscope(ran):
    folder, result = ran("10_adversarial_search")
    assert {row["search"] for row in result["live"]} == {"gumbel", "movement"}
    assert all(0 <= row["percentile"] <= 100 for row in result["live"])
    for row in result["hits"] + result["metrics"] + result["differences"]:
        assert row["low"] <= row["value"] <= row["high"]
    for name in ("spectrum", "chosen_gumbel", "pi_gumbel", "before_after", "hits", "preserved"):
        assert (folder / f"{name}.png").stat().st_size > 100


def test_speed_and_memory(ran):
    folder, result = ran("12_speed_and_memory")
    published, replay = result["timed"]
    assert published["evaluations"] > 0 and replay["evaluations"] > 0
    assert 1 < result["wall_ratio"]["low"] <= result["wall_ratio"]["mean"]


def test_ablations(ran):
    folder, result = ran("11_ablations")
    names = ["vocabulary", "candidates", "preserve_batch", "lam", "lam_kv", "eta"]
    names += ["train_method", "search", "hard", "search_lr", "temperature"]
    for name in names:
        assert len({row[name] for row in result[name]}) >= 2
        assert (folder / f"{name}.png").stat().st_size > 100
    assert {row["metric"] for row in result["changes"]} == {"PSR-1 near", "PSR-1 far"}


def test_building_the_embedded_model(ran):
    folder, result = ran("16_build_the_embedded_model")
    assert result["profile"] == "smoke" and result["spearman"]["n"] == 2000
    assert {row["n"] for row in result["quality"]} == {40}
    for row in (result["psnr"], result["spearman"], *result["quality"]):
        assert row["low"] <= row["value"] <= row["high"]
    assert (folder / "quality.png").stat().st_size > 100


LOADED = """() => {
  const pictures = [...document.images];
  pictures.forEach((p) => { p.loading = "eager"; });
  return Promise.all(pictures.map((p) => p.decode().then(() => p.naturalWidth, () => 0)));
}"""
LINKS = "() => [...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href'))"
# a table that is too wide is moved sideways within its frame
NARROW = ("01", "03", "04", "05", "08", "11", "14", "15", "16", "17", "18")
TOO_WIDE = """() => [...document.querySelectorAll('main .table')].filter(
  (t) => t.scrollWidth > Math.min(t.clientWidth, t.closest('main').clientWidth) + 1
).map((t) => t.innerText.slice(0, 80))"""
PLACES = "() => [...document.querySelectorAll('[id]')].map((e) => e.id)"


def test_every_page_link_and_picture(pages, visit):
    files = sorted(p.name for p in pages.glob("*.html"))
    assert files == sorted(
        f"{name}.html" for name in [*NAMES, "index", "glossary", "faq", "api", "course"]
    )
    links, places, pictures = {}, {}, {}
    for file in files:
        visit.goto((pages / file).as_uri())
        pictures[file] = visit.evaluate(LOADED)
        visit.set_viewport_size({"width": 360, "height": 740})
        assert visit.evaluate("document.documentElement.scrollWidth") <= 360, f"{file} on a phone"
        visit.set_viewport_size({"width": 1280, "height": 900})
        wide = visit.evaluate(TOO_WIDE)  # it moves sideways in its own box
        assert wide == [] or file[:2] not in NARROW, f"{file}: a table is wider than the page"
        links[file], places[file] = visit.evaluate(LINKS), visit.evaluate(PLACES)
        assert visit.title() and visit.locator("h1").count() == 1, file
        assert visit.complaints == [], file
        assert visit.locator("img:not([alt]), main img[alt='']").count() == 0, file
        text = (pages / file).read_text("utf-8")
        assert str(pages.parent) not in text, f"{file} says where it was made"
    assert all(0 not in widths for widths in pictures.values())
    assert all(pictures[f"{name}.html"] for name in NAMES), "a chapter without a picture"
    for file, urls in links.items():
        for url in urls:
            if re.match("https?:", url):
                continue
            target, _, anchor = unquote(url).partition("#")
            assert (target or file) in places, f"{file}: {url}"
            assert not anchor or anchor in places[target or file], f"{file}: {url}"


def test_on_a_phone_the_chapters_are_behind_a_button(pages, visit):
    visit.set_viewport_size({"width": 360, "height": 740})
    visit.goto((pages / "index.html").as_uri())
    side = visit.locator("#side")
    assert not side.is_visible()
    visit.click("#menu")
    assert side.is_visible()
    side.get_by_role("link", name="Diffusion in ten minutes").click()
    visit.wait_for_url("**/08_diffusion_primer.html")
    assert not visit.locator("#side").is_visible() and visit.complaints == []


def test_from_chapter_to_chapter_and_by_its_words(pages, visit):
    visit.goto((pages / "index.html").as_uri())
    for name in NAMES:
        visit.locator("a[rel=next]").click()
        visit.wait_for_url(f"**/{name}.html")
    assert visit.locator("a[rel=next]").count() == 0
    visit.fill("#search", "gumbel softmax")
    visit.locator("#found a").first.wait_for()  # what is searched is read at first use
    found = visit.locator("#found a").all_inner_texts()
    assert "Gumbel-Softmax" in found[:5] and len(found) <= 30, "titles first"
    visit.fill("#search", "unfolds autoencoder latent")
    assert "Quickstart" in visit.locator("#found").inner_text(), "words of a text"
    visit.fill("#search", "no such zebra")
    assert visit.locator("#found").inner_text() == "no section has these words"
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


def test_code_is_hidden_and_that_is_kept(pages, visit):
    visit.goto((pages / f"{NAMES[0]}.html").as_uri())
    code = visit.locator(".cell > .highlight")
    assert code.first.is_visible()
    assert not visit.locator(".imports .highlight").is_visible(), "folded"
    visit.click("#code")
    assert not any(one.is_visible() for one in visit.locator(".highlight").all())
    assert visit.locator(".outputs img").first.is_visible()
    visit.reload()
    assert not code.first.is_visible()
    visit.click("#code")
    assert code.first.is_visible() and visit.complaints == []


def test_a_picture_is_shown_large_by_the_keyboard(pages, visit):
    visit.goto((pages / f"{NAMES[0]}.html").as_uri())
    large, pictures = visit.locator("#large"), visit.locator("main img[role=button]")
    pictures.first.focus()
    visit.keyboard.press("Enter")
    source = "document.querySelector('#large img').src"
    first = visit.evaluate(source)
    visit.keyboard.press("ArrowRight")
    assert large.is_visible() and visit.evaluate(source) != first
    visit.keyboard.press("ArrowLeft")
    assert visit.evaluate(source) == first
    visit.keyboard.press("Escape")
    assert not large.is_visible() and visit.complaints == []
    assert visit.evaluate("document.activeElement.src") == first, "back where one was"


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
