"""The explorers' callbacks, as plain functions: no browser."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from erase_lib import EraseError, Erasure
from erase_lib.show.explorers import SensitivityExplorer
from erase_lib.show.jobs import Job
from erase_lib.show.map import MapExplorer, map_page
from erase_lib.show.sensitivity import bars, concept_map, spectrum, strip, thumbnails
from erase_lib.show.studio import Studio, check_word
from erase_lib.study import SCORES, image_space, nearness_rho, project


def done(job: Job, work) -> str:
    job.start(work, "working")
    job.wait(120)
    assert not job.running
    return job.status.value


def test_a_job_says_what_went_wrong_and_never_raises():
    def wrong():
        raise EraseError("the value is <7>")

    def broken():
        raise ZeroDivisionError("division by zero")

    job = Job([])
    assert "the value is &lt;7&gt;" in done(job, wrong)
    assert "ZeroDivisionError: division by zero" in done(job, broken)
    assert "fine" in done(job, lambda: "fine")


def test_the_studio_erases_draws_and_saves(tiny, tmp_path):
    studio = Studio(tiny, tmp_path, steps=6)
    studio.word.value, studio.method.value = " church ", "esd"
    assert "“church” erased" in done(studio.job, studio.erase)
    assert len(studio.edit.history) == studio.bar.value == 6
    assert studio.strip.value[:4] == studio.losses.value[:4] == b"\x89PNG"
    first = studio.strip.value
    studio.strength.value = 2.0
    done(studio.job, studio.draw)
    assert studio.strip.value != first
    assert "saved to" in done(studio.job, studio.save)
    assert Erasure.load(tmp_path / "church-esd-2.0").strength == 2.0


def test_stop_keeps_the_updates_done(tiny, tmp_path):
    studio = Studio(tiny, tmp_path, steps=50)
    studio.method.value = "esd"
    watch = studio.watch

    def pressed(row):
        if row["step"] == 3:
            studio.job.stop()
        watch(row)

    studio.watch = pressed
    with pytest.warns(UserWarning, match="4 of 50 updates kept"):
        said = done(studio.job, studio.erase)
    assert "stopped after 4 of 50 updates, which are kept" in said
    assert len(studio.edit.history) == 4 and not studio.erase_button.disabled


def test_what_cannot_be_erased_is_said_in_the_studio(tiny, tmp_path):
    studio = Studio(tiny, tmp_path)
    assert "press Erase" in done(studio.job, studio.draw)
    assert "press Erase" in done(studio.job, studio.save)
    for word, said in (("", "the concept is empty"), ("chruch", "unknown word"), ("   ", "empty")):
        studio.word.value = word
        assert said in done(studio.job, studio.erase)
    check_word(tiny, "people dog")  # common English words, one or more
    with pytest.raises(EraseError, match="unknown word 'blorptastic', which the model reads as"):
        check_word(tiny, "blorptastic dog")


@pytest.fixture
def atlas():
    rng, names = np.random.default_rng(0), list(thumbnails())[:8]
    rows = [
        {"targets": t, "concept": c, "style": "noto", "seed": k} | {s: rng.random() for s in SCORES}
        for t in names[:2]
        for c in names
        for k in range(2)
    ]
    return pd.DataFrame(rows)


def test_the_sensitivity_explorer(tiny, atlas):
    target = atlas["targets"][0]
    explorer = SensitivityExplorer(tiny, atlas, {target: 0.5}, thin=200, pictures=2)
    assert explorer.target.value == target and explorer.bars.value[:4] == b"\x89PNG"
    delta = atlas[atlas["targets"] == target].groupby("concept")["features"].mean()
    assert explorer.concept.value == delta.idxmax()  # the most hurt first
    before = explorer.bars.value
    explorer.score.value = "judge"
    assert explorer.bars.value != before
    explorer.method.value = "uce"
    assert "not measured yet: press Measure" in explorer.job.status.value
    assert "concepts measured" in done(explorer.job, explorer.measure)
    assert "4 pictures drawn" in done(explorer.job, explorer.draw)
    explorer.target.value = "chruch"
    assert "did you mean" in done(explorer.job, explorer.measure)
    with pytest.raises(EraseError, match="the atlas is empty"):
        SensitivityExplorer(tiny, atlas[:0], {})


def pictures(n):
    return [Image.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(n)]


def test_the_map_explorer_hovers_selects_and_moves():
    table = pd.DataFrame({"concept": list("abcd"), "x": [0, 1, 2, 3], "y": [0, 1, 0, 1]})
    table["delta"] = [0.1, 0.4, 0.2, 0.3]
    other = table.assign(x=[5, 6, 7, 8])
    explorer = MapExplorer({"text": table, "pictures": other}, "a", pictures(4), pictures(4))
    first = explorer.old.value
    explorer.hover([2])
    assert explorer.old.value != first and "c" in explorer.name.value
    explorer.select([0, 1, 3])
    shown = explorer.table.value
    assert shown.index("+0.400") < shown.index("+0.300") < shown.index("+0.100")
    assert "+0.200" not in shown
    explorer.space.value = "pictures"
    assert list(explorer.figure.data[0].x) == [5, 6, 7, 8]
    page = map_page(table, "a", pictures(4), pictures(4))
    assert "plotly_hover" in page and page.count("data:image") >= 8
    with pytest.raises(EraseError, match="2 concepts are no map"):
        MapExplorer({"text": table[:2]}, "a", pictures(2), pictures(2))
    with pytest.raises(EraseError, match="one each"):
        MapExplorer({"text": table}, "a", pictures(3), pictures(4))


def test_spaces_and_projections():
    points = np.random.default_rng(0).normal(size=(12, 5))
    for name in ("pca", "tsne", "umap"):
        assert project(points, name).shape == (12, 2)
    with pytest.raises(EraseError, match="unknown projection 'umpa': did you mean 'umap'"):
        project(points, "umpa")
    with pytest.raises(EraseError, match="2 concepts are no map"):
        project(points[:2], "pca")
    line = np.arange(12.0)[:, None]
    names = [str(i) for i in range(12)]
    delta = pd.Series(-np.arange(12.0), names)  # less damage farther from "0"
    assert nearness_rho(line, names, "0", delta) == pytest.approx(1)
    assert nearness_rho(line, names, "11", delta) == pytest.approx(-1)
    with pytest.raises(EraseError, match="unknown concept of the map 'x'"):
        nearness_rho(line, names, "x", delta)
    with pytest.raises(EraseError, match="δ of 2 concepts on the map"):
        nearness_rho(line, names, "0", delta.iloc[:3])


def test_what_is_drawn_is_the_mean_of_a_concepts_pictures():
    class Clip:
        def image_features(self, pictures):
            import torch

            return torch.tensor([[p.getpixel((0, 0))[0], 1.0] for p in pictures])

    found = image_space(Clip(), pictures(3), ["a", "b", "a"], ["b", "a"])
    assert found.tolist() == [[20, 1], [20, 1]]
    with pytest.raises(EraseError, match="no picture of 'c'"):
        image_space(Clip(), pictures(1), ["a"], ["a", "c"])


def test_pictures_of_sensitivity_take_axes(atlas):
    table = atlas.groupby("concept", as_index=False)["features"].mean()
    table = table.rename(columns={"features": "delta"})
    table = table.assign(low=table["delta"] - 0.1, high=table["delta"] + 0.1, x=range(8), y=0.0)
    first = table["concept"][0]
    for ax in (
        spectrum(table, [first], table["concept"][1:3]),
        bars(table, [first], (), thumbnails(), most=2),
        concept_map(table, first, thumbnails(), worst=2),
    ):
        assert ax.get_children()
    with pytest.raises(EraseError, match="0 pictures before"):
        strip([], [], [])
    assert len(strip(pictures(3), pictures(3), "abc").axes) == 6
