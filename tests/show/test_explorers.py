"""The explorers' callbacks, as plain functions: no browser; a job is one at a time, and its end or
its error one line."""

from __future__ import annotations

import base64
import threading
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from PIL import Image

from erase_lib import EraseError, show
from erase_lib.show.charts import LOOKS, SCALE
from erase_lib.show.explorers import Job, SensitivityExplorer, canvas, picture, put
from erase_lib.show.map import FIELDS, LIVE, VIEW, map_figure, placed
from erase_lib.study import SCORES


def done(job: Job, work) -> str:
    job.start(work, "working")
    job.wait(120)
    assert not job.running
    return job.status.value


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (EraseError("the value is <7>"), "✗ the value is &lt;7&gt;"),
        (ZeroDivisionError("division by zero"), "✗ ZeroDivisionError: division by zero"),
    ],
)
def test_a_job_says_what_went_wrong_and_never_raises(error, says):
    def wrong():
        raise error

    job = Job()
    assert says in done(job, wrong)
    assert done(job, lambda: "fine") and job.said == "fine"


def test_one_job_at_a_time_can_be_stopped():
    def work():
        go.wait(60)
        job.check(0.5)
        return "not stopped"

    job, go = Job(), threading.Event()
    button, stop = job.button("Work", work, "working"), job.stop_button
    assert stop.disabled
    button.click()
    job.start(lambda: "another", "another")  # ignored
    assert button.disabled and not stop.disabled and job.running
    job.stop()
    go.set()
    job.wait(60)
    assert job.said == "stopped" and not button.disabled and stop.disabled
    assert job.bar.value == 0.5 and 'role="status"' in job.status.value


def test_a_picture_is_hidden_until_there_is_one():
    image = picture()
    assert image.layout.display == "none"
    put(image, canvas(1, 1).figure)
    assert image.value[:4] == b"\x89PNG" and image.layout.display is None
    put(image)
    assert image.layout.display == "none"


def test_the_sensitivity_explorer(tiny):
    rng, names = np.random.default_rng(0), list(show.thumbnails())[:8]
    rows = [
        {"targets": t, "concept": c, "style": "noto", "seed": k} | {s: rng.random() for s in SCORES}
        for t in names[:2]
        for c in names
        for k in range(2)
    ]
    atlas, target = pd.DataFrame(rows), names[0]
    explorer = SensitivityExplorer(tiny, atlas, {target: 0.5}, thin=200, pictures=2)
    assert explorer.target.value == target and explorer.bars.value[:4] == b"\x89PNG"
    delta = atlas[atlas["targets"] == target].groupby("concept")["features"].mean()
    assert explorer.concept.value == delta.idxmax()  # the most hurt first
    assert explorer.about() == f"esd erases “{target}” at strength 0.5, the atlas's"
    before = explorer.bars.value
    explorer.score.value = "judge"
    assert explorer.bars.value != before
    explorer.method.value = "uce"
    assert "not measured yet: press Measure" in explorer.job.status.value
    assert "at strength 1, NOT MATCHED" in explorer.about()
    said = done(explorer.job, explorer.measure)
    assert "concepts measured" in said and "uce erases" in said and "NOT MATCHED" in said
    assert explorer.job.bar.value == 1.0
    assert "4 pictures drawn" in done(explorer.job, explorer.draw)
    explorer.target.value = "chruch"
    assert "did you mean" in done(explorer.job, explorer.measure)
    with pytest.raises(EraseError, match="make results-atlas"):
        SensitivityExplorer(tiny, atlas[:0], {})


MAP = pd.DataFrame({"concept": ["a", "b", "c <c>", "d"], "x": range(4), "y": [0, 1, 0, 1]})
MAP["delta"] = [0.9, 0.1, 0.4, 0.2]


def test_the_target_is_a_star_and_the_most_hurt_are_named():
    ax = show.concept_map(MAP, "a", show.thumbnails(), worst=2)
    assert [text.get_text() for text in ax.texts] == ["d", "c <c>", "a"]
    (star,) = ax.lines
    assert star.get_marker() == "*" and star.get_xydata().tolist() == [[0, 0]]
    assert sorted(ax.collections[0].get_array()) == [0.1, 0.2, 0.4]


def test_the_map_explorer_hovers_selects_and_moves():
    pictures = [Image.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(4)]
    maps = {"text": MAP, "pictures": MAP.assign(x=[5, 7, 9, 11])}
    explorer = show.MapExplorer(maps, "a", pictures, pictures)
    explorer.hover([])
    assert "<b>a</b>" in explorer.card.value
    explorer.hover([2, 3])
    assert "<b>c &lt;c&gt;</b>, δ +0.400" in explorer.card.value
    explorer.select([0, 2, 3])
    shown = explorer.table.value
    assert shown.index("+0.900") < shown.index("+0.400") < shown.index("+0.200")
    assert "+0.100" not in shown
    explorer.space.value = "pictures"
    assert list(explorer.figure.data[0].x) == [0, 1 / 3, 2 / 3, 1]
    assert explorer.listed == ["a", "c <c>", "d"]  # what is listed stays, and is marked
    assert list(explorer.figure.data[0].selectedpoints) == [0, 2, 3]
    explorer.select([])
    assert explorer.figure.data[0].selectedpoints is None and not explorer.listed
    page = show.map_page(MAP, "a", pictures, pictures)
    assert "plotly_hover" in page and page.count("data:image") >= 8
    with pytest.raises(EraseError, match="2 concepts are no map"):
        show.MapExplorer({"text": MAP[:2]}, "a", pictures[:2], pictures[:2])
    with pytest.raises(EraseError, match="3 and 4 pictures"):
        show.MapExplorer({"text": MAP}, "a", pictures[:3], pictures)


def test_the_map_finds_filters_zooms_and_hands_its_list_over(tmp_path):
    rng, taken = np.random.default_rng(0), []
    flat = pd.DataFrame(rng.random((90, 2)), columns=["x", "y"])
    flat["concept"] = [f"w{i}" for i in range(90)]
    flat["delta"], flat["category"] = (
        rng.random(90),
        ["odd" if i % 2 else "even" for i in range(90)],
    )
    space = np.arange(90.0)[:, None] ** 2  # whose neighbours are not the map's

    def take(words):
        taken.extend(words)
        return "taken"

    pictures = {f"w{i}": Image.new("RGB", (8, 8)) for i in range(1, 90)}
    given = {"pictures": pictures, "points": space, "take": take, "folder": tmp_path}
    explorer = show.MapExplorer({"map": flat}, "w0", **given)
    points, names, star = explorer.figure.data
    assert points.type == "scatter" and not names.text and not explorer.figure.layout.images
    explorer.search.value = "w7"
    shown = [text.removeprefix("<br><br>") for text in names.text]  # below the ring
    assert "w7" in shown and 21 <= len(shown) <= 30
    pictured = [name for name in shown if name in pictures]
    assert len(explorer.figure.layout.images) == len(pictured)
    ringed = [i for i, s in enumerate(points.marker.symbol) if s == "circle-open"]
    assert [f"w{i}" for i in ringed] == pictured
    assert list(points.marker.color) == list(flat["delta"])  # in the ring's colour
    assert star.marker.symbol == "star" and star.marker.color == LOOKS["target"]["color"]
    assert len(star.x) == 1 and "w7</b>, δ" in explorer.card.value
    explorer.search.value = "wz"
    assert "unknown word" in explorer.job.status.value and "wz" in explorer.job.status.value
    explorer.category.value = "odd"
    assert [o == 1 for o in points.marker.opacity] == list(flat["category"] == "odd")
    explorer.hand_over()
    assert "the list is empty" in explorer.job.status.value and not taken
    explorer.click([4])
    assert explorer.listed[:4] == ["w4", "w3", "w5", "w2"]
    explorer.hand_over()
    assert taken == explorer.listed and explorer.job.said == "taken"
    explorer.export()
    assert (tmp_path / "chosen.txt").read_text("utf-8").split() == taken


def test_the_map_is_filtered_by_unicodes_categories_where_it_knows_a_word():
    known = MAP.assign(concept=["dog", "church", "banana", "blorp"])
    explorer = show.MapExplorer({"map": known}, "dog")
    kinds = ["animals & nature", "food & drink", "other", "travel & places"]
    assert list(explorer.category.options) == ["all", *kinds]
    assert explorer.category in explorer.box.children[0].children
    explorer.category.value = "food & drink"
    assert list(explorer.figure.data[0].marker.opacity) == [0.08, 0.08, 1.0, 0.08]
    explorer.category.value = "all"
    assert set(explorer.figure.data[0].marker.opacity) == {1.0}
    explorer = show.MapExplorer({"map": MAP}, "a")  # another model's words
    assert explorer.category not in explorer.box.children[0].children


def test_of_a_map_of_all_tokens_some_answer_and_the_rest_is_a_picture():
    n, rng = 49_408, np.random.default_rng(0)
    flat = pd.DataFrame({"concept": np.arange(n).astype(str), "x": rng.random(n)})
    flat["y"], flat["delta"] = rng.random(n), np.arange(n) / n
    explorer = show.MapExplorer({"map": flat}, "0")
    dots, images = explorer.figure.data[0], explorer.figure.layout.images
    assert 0.95 * LIVE < len(dots.x) <= LIVE and len(images) == 1
    field = np.array([dots.x, dots.y]).T - VIEW[0]
    field = np.unique((field / np.diff(VIEW) * FIELDS).astype(int), axis=0)
    assert len(field) > 0.8 * LIVE, "they stand all over the map"
    assert np.median(dots.marker.color) > 0.97, "the most hurt of each field"
    left = SimpleNamespace(type="box", xrange=(0.5, -1), yrange=(-1, 2))
    inside = explorer._met(SimpleNamespace(point_inds=[0]), left)
    assert inside == np.flatnonzero(placed(flat)[:, 0] <= 0.5).tolist(), "also who has no dot"
    explorer.select([3, 1, 2])
    assert explorer.listed == ["3", "2", "1"]
    marked = [dots.customdata[i] for i in dots.selectedpoints]
    assert sorted(marked) == [1, 2, 3], "who is listed has a dot"
    explorer.search.value = "77"
    assert 21 <= len(dots.x) <= 40 and "77" in dots.text


def test_the_picture_of_a_map_has_the_colours_of_its_dots():
    n = 600
    flat = pd.DataFrame({"concept": np.arange(n).astype(str), "x": np.arange(n) % 30})
    flat["y"], flat["delta"] = np.arange(n) // 30, np.arange(n) / n
    (image,) = map_figure(flat, "none").layout.images
    picture = Image.open(BytesIO(base64.b64decode(image.source.split(",")[1]))).convert("RGBA")
    pixels = np.array(picture).reshape(-1, 4)
    colours = np.unique(pixels[pixels[:, 3] > 0][:, :3], axis=0)
    scale = colormaps[SCALE](np.linspace(0, 1, 254), bytes=True)[:, :3].astype(int)
    apart = np.abs(colours[:, None].astype(int) - scale[None]).max(-1).min(1)
    assert len(colours) > 100 and apart.max() <= 1 and (pixels[:, 3] == 0).mean() > 0.5


def test_the_map_shows_two_erasures_and_how_they_differ():
    maps = {"text": MAP, "pictures": MAP.assign(x=[5, 7, 9, 11])}
    deltas = {"esd": [0.9, 0.1, 0.4, 0.2], "uce": [0.5, 0.3, 0.1, 0.2]}
    pictures = [Image.new("RGB", (8, 8)) for _ in range(4)]
    sides = {"esd": pictures, "uce": pictures}
    explorer = show.MapExplorer(maps, "a", pictures, sides, deltas=deltas)
    dots, layout = explorer.figure.data[0], explorer.figure.layout
    assert list(explorer.colour.options) == ["esd", "uce", "uce − esd"]
    assert list(dots.marker.color) == deltas["esd"] and "δ, esd" in layout.title.text
    both = layout.coloraxis.cmin, layout.coloraxis.cmax
    explorer.select([0, 1, 2])
    explorer.colour.value = "uce"
    assert list(dots.marker.color) == deltas["uce"]
    assert (layout.coloraxis.cmin, layout.coloraxis.cmax) == both, "two that are compared"
    explorer.colour.value = "uce − esd"
    assert list(dots.marker.color) == pytest.approx([-0.4, 0.2, -0.3, 0])
    assert layout.coloraxis.cmin == -layout.coloraxis.cmax < 0
    assert "uce − esd" in layout.title.text
    assert layout.coloraxis.colorbar.title.text == "δ, uce − esd"
    explorer.hover([1])
    assert "δ, uce − esd +0.200" in explorer.card.value
    assert "-0.400" in explorer.table.value and explorer.listed == ["a", "c <c>", "b"]
    explorer.space.value = "pictures"
    assert explorer.listed == ["a", "c <c>", "b"] and list(dots.x) == [0, 1 / 3, 2 / 3, 1]
    assert "(from the left: original, esd, uce)" in explorer.card.value
    with pytest.raises(EraseError, match="'esd' has another length"):
        show.MapExplorer(maps, "a", deltas={"esd": [1.0]})
