"""Open, run all, press the buttons, see the picture change: JupyterLab and Voilà in Chromium."""

from __future__ import annotations

import os
import urllib.request
from contextlib import contextmanager

import pytest

pytest.importorskip("playwright")
from browser import (
    CHROMIUM,
    SECOND,
    TOKEN,
    app,
    changed,
    copied,
    fill,
    opened,
    picture,
    press,
    reachable,
    running,
    says,
)

from erase_lib import Erasure
from erase_lib.study import SCORES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM and not os.environ.get("CI"), reason="needs Debian's package chromium"
    ),
]


@contextmanager
def shown(name, folder, **given):
    """The page of a notebook that runs there, at its end without an error."""
    with running(copied(name, folder, **given)) as (page, errors):
        yield page
        page.screenshot(path=folder / f"{name}.png")
        assert errors == [] and page.get_by_text("Traceback").count() == 0


@pytest.fixture(autouse=True)
def chromium():
    assert CHROMIUM, "Chromium is missing: install Debian's package chromium"


def tab(page, name):
    """Open this tab of the studio."""
    page.get_by_role("tab", name=name).click()


def lasso(page):
    """Draw one around the whole map."""
    page.locator(".js-plotly-plot [data-val='lasso']").click()
    box = page.locator(".js-plotly-plot .nsewdrag").bounding_box()
    assert box is not None
    x, y, far, down = box["x"], box["y"], box["width"], box["height"]
    page.mouse.move(x + 2, y + 2)
    page.mouse.down()
    for to in ((far - 2, 2), (far - 2, down - 2), (2, down - 2), (2, 2)):
        page.mouse.move(x + to[0], y + to[1], steps=8)
    page.mouse.up()


def narrow(page, places):
    """None of these is wider than it shows."""
    sizes = "all => all.map(e => [e.className, e.scrollWidth, e.clientWidth])"
    found = page.locator(places).evaluate_all(sizes)
    assert found and all(wide <= shown for _, wide, shown in found), found


def test_the_studio_erases_stops_and_saves(tmp_path):
    with shown("15_studio", tmp_path, steps=40, output=str(tmp_path / "studio")) as page:
        word = page.get_by_role("combobox", name="concept")
        word.fill("chruch")
        word.press("Enter")
        tab(page, "Erase")
        press(page, "Erase")
        page.get_by_text("unknown word 'chruch'").wait_for()
        tab(page, "Who is hurt?")
        word.fill("church")
        word.press("Enter")
        tab(page, "Erase")
        page.get_by_label("method").select_option("esd")
        empty = picture(page, 1)
        press(page, "Erase")
        losses = changed(page, picture(page, 2), place=2)  # while it trains
        assert losses.startswith("blob:")
        press(page, "Stop")
        page.get_by_text("of 40 updates, which are kept").wait_for()
        stopped = changed(page, empty, place=1)
        page.get_by_label("seed").fill("7")
        page.get_by_label("seed").press("Enter")
        press(page, "Draw again")
        changed(page, stopped, place=1)
        tab(page, "Take with you")
        press(page, "Save")
        page.get_by_text("saved to").wait_for()
        whole_story(page)
        narrow(page, ".jp-WindowedPanel-outer, .jp-OutputArea-output:has(.widget-tab)")
        tab(page, "Preserve whom?")
        page.get_by_label("preserved").fill("")
        press(page, "Lay out the map")
        page.locator(".js-plotly-plot").wait_for()
        page.locator(".js-plotly-plot").scroll_into_view_if_needed()
        narrow(page, ".jp-WindowedPanel-outer, .jp-OutputArea-output:has(.widget-tab)")
        lasso(page)
        page.locator("table.dataframe tbody tr").nth(10).wait_for()
        press(page, "Preserve these")
        page.get_by_text("to preserve by hand: ").first.wait_for()
        assert page.get_by_label("preserved").input_value().count(",") > 100
        page.get_by_label("preserved").fill("")
        tab(page, "Take with you")
        page.get_by_label("export as").select_option("lora")
        press(page, "Export")
        page.get_by_text("exported to").wait_for()
        tab(page, "Erase")
        page.get_by_label("match at").check()
        press(page, "Measure")
        matched = page.locator(".widget-html").filter(has_text="reaches ESR-1")
        matched.filter(has=page.locator("table")).wait_for(timeout=600 * SECOND)
    saved = Erasure.load(tmp_path / "studio" / "church-esd-1.0")
    assert 0 < len(saved.history) < 40
    assert list((tmp_path / "studio").glob("snake-uce-*-lora/*.safetensors"))


def whole_story(page):
    """Snake is erased; those most at risk are preserved, and it is erased again: A beside B."""
    tab(page, "Who is hurt?")
    word, empty = page.get_by_role("combobox", name="concept"), picture(page)
    word.fill("snake")
    word.press("Enter")
    press(page, "Predict")
    changed(page, empty)
    tab(page, "Erase")
    page.get_by_label("method").select_option("uce")
    press(page, "Erase")
    page.get_by_text("“snake” erased", exact=True).wait_for()
    press(page, "Keep as A")
    page.get_by_text("kept as A").wait_for()
    tab(page, "Preserve whom?")
    page.get_by_label("at risk").select_option(index=[0, 1, 2])
    press(page, "Preserve")
    page.get_by_text("to preserve by hand").wait_for()
    tab(page, "Erase")
    press(page, "Erase")
    page.get_by_text("“snake” erased", exact=True).wait_for()
    press(page, "Compare A and B")
    told = (
        page.locator(".widget-html")
        .filter(has_text="NOT MATCHED")
        .filter(has=page.locator("table"))
    )
    told.wait_for()
    return told


def test_the_sensitivity_explorer(tmp_path):
    given = {"profile": "smoke", "table": "", "interactive": True, "predictors": ["distance"]}
    with shown("02_concept_sensitivity", tmp_path, output=str(tmp_path / "out"), **given) as page:
        page.get_by_role("button", name="Measure", exact=True).wait_for()
        bars = picture(page)
        page.get_by_label("score").select_option(SCORES["judge"])
        changed(page, bars)
        page.get_by_label("method").select_option("uce")
        missing = page.get_by_text("not measured yet: press Measure")
        missing.wait_for()
        page.get_by_label("method").select_option("esd")
        missing.wait_for(state="hidden")
        strip = picture(page, 1)
        page.get_by_label("method").select_option("uce")  # in a second, unlike ESD
        # while the kernel is busy a page keeps a choice back, but sends a click at once
        missing.wait_for()
        press(page, "Measure")
        page.get_by_text("concepts measured").wait_for()
        press(page, "Draw before / after")
        changed(page, strip, place=1)


def test_the_map_answers_to_hover_and_lasso(tmp_path):
    given = {"profile": "smoke", "interactive": True, "projection": "pca"}
    with shown("03_embedding_map", tmp_path, output=str(tmp_path / "out"), **given) as page:
        plot = page.locator(".js-plotly-plot")
        plot.wait_for()
        plot.scroll_into_view_if_needed()
        erased = page.locator("img[alt^='uce']")
        first = erased.get_attribute("alt")
        page.locator(".js-plotly-plot .points path").nth(5).hover(force=True)
        page.locator(f"img[alt^='uce']:not([alt='{first}'])").wait_for()
        lasso(page)
        page.locator("table.dataframe tbody tr").nth(10).wait_for()
    with opened(f"file://{tmp_path}/out/map.html") as (page, errors):
        page.locator(".js-plotly-plot .points path").nth(5).hover(force=True)
        page.locator("img[alt^='erased']").wait_for()
        assert errors == []


def test_the_studio_as_a_page_of_its_own_asks_for_a_token(tmp_path):
    notebook = copied("15_studio", tmp_path, output=str(tmp_path / "studio"))
    with app(notebook) as address:
        reachable(address)
        for path in ("/", "/api/kernels"):
            with urllib.request.urlopen(address + path, timeout=30) as answer:
                assert "/login" in answer.geturl() and b"Erase" not in answer.read()
        with opened(f"{address}/?token={TOKEN}") as (page, errors):
            told = whole_story(page)
            rows = told.locator("table tbody tr").all_inner_texts()
            groups = ["target", "preserved", "near", "predicted", "far"]
            assert [row.split()[0] for row in rows] == groups
            narrow(page, "html")
            tab(page, "Preserve whom?")
            press(page, "Lay out the map")
            page.locator(".js-plotly-plot").wait_for()
            find = page.get_by_role("combobox", name="search").nth(1)
            find.fill("mosque")
            find.press("Enter")
            page.locator(".js-plotly-plot image").nth(10).wait_for(state="attached")
            # prose has an input area too
            assert page.locator(".jp-CodeCell .jp-InputArea").count() == 0, "it shows code"
            assert page.get_by_text("load_pipeline").count() == 0, "it shows code"
            page.screenshot(path=tmp_path / "app.png", full_page=True)
            assert errors == []


def test_a_student_answers_in_the_primer(tmp_path):
    given = {"profile": "smoke", "output": str(tmp_path / "out")}
    with shown("08_diffusion_primer", tmp_path, student=True, **given) as page:
        says(page, "exercise1(ratio1", "not yet")
        fill(page, "ratio1: float", "ratio1 = 1 / 32")
        assert "upside down" in says(page, "exercise1(ratio1", "not right")
        fill(page, "ratio1 = 1 / 32", "ratio1 = 32")
        says(page, "exercise1(ratio1", "right: 32 times fewer")
        fill(
            page,
            "def noised2",
            "def noised2(z0, epsilon, a):\n    return a * z0 + (1 - a) * epsilon",
        )
        assert "the factors are roots" in says(page, "exercise2(noised2", "not right")
        fill(page, "def noised2", "def noised2(z0, epsilon, a):\n    return z0 + forgotten")
        assert "NameError" in says(page, "exercise2(noised2", "not right: your code stopped")
