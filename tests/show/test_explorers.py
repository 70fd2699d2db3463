"""The explorers' callbacks, as plain functions: no browser."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erase_lib import EraseError, Erasure
from erase_lib.show.explorers import SensitivityExplorer, Studio, check_word
from erase_lib.show.jobs import Job
from erase_lib.show.pictures import thumbnails
from erase_lib.study import SCORES


def done(job: Job, work) -> str:
    job.start(work, "working")
    job.wait(120)
    assert not job.running
    return job.status.value


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

    def pressed(run):
        if len(run.history) == 4:
            studio.job.stop()
        watch(run)

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
    with pytest.raises(EraseError, match="'blorptastic'"):
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
    with pytest.raises(EraseError, match="make results-atlas"):
        SensitivityExplorer(tiny, atlas[:0], {})
