"""An evaluation is whole, goes on where it was cut off, and leaves the model as it was."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from erase_lib import EraseConfig, EraseError, cache, viz_evaluate
from erase_lib.cache import Pictures
from erase_lib.diffusion import generate
from erase_lib.edit import erase_closed_form
from erase_lib.evaluate import evaluate, evaluate_runs
from erase_lib.instruments import load_instruments
from erase_lib.suites import Group, Suite

TARGET = Group(("ESR-1", "CLIP score", "distance"), seeds=(1, 2), concepts="targets")
FAR = Group(("PSR-1", "NER"), concepts=("cat", "bus", "rose"), styles="turn")
SUITE = Suite(
    "mine", "", {"target": TARGET, "far": FAR}, ("dog", "church"), {"a": ("dog",)}, steps=2
)


@pytest.fixture
def erasure(tiny):
    return erase_closed_form(tiny, EraseConfig(["dog"], method="uce", nearest=4))


@pytest.fixture
def instruments():
    return load_instruments(SUITE, ["dog"], detector="weapon")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Files of four pictures, in a folder of the test's own."""
    monkeypatch.setattr("erase_lib.evaluate.CACHE", tmp_path / "cache")
    monkeypatch.setattr(cache, "PART", 4)
    monkeypatch.setattr(cache.draw, "__defaults__", (30, 4.0, tmp_path / "cache", True, None))


@pytest.fixture
def drawings(monkeypatch):
    calls = []

    def counted(pipe, prompts, *arguments, **settings):
        calls.append(len(prompts))
        return generate(pipe, prompts, *arguments, **settings)

    monkeypatch.setattr(cache, "generate", counted)
    return calls


def test_it_is_whole_and_is_not_drawn_twice(tiny, erasure, instruments, tmp_path, drawings):
    teacher = {name: t.clone() for name, t in tiny.unet.state_dict().items()}
    found = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "run", progress=False)
    assert sum(drawings) == 2 * (8 + 3) and found.targets == ("dog",)
    assert len(found.before) == len(found.after) == 11 and len(found.pictures) == 22
    rows = pd.read_csv(tmp_path / "run" / "mine_rows.csv", keep_default_na=False)
    assert len(rows) == len(found.rows) == 3 + 3 + 1 + 3 + 3
    saved = pd.read_parquet(tmp_path / "run" / "mine_pictures.parquet")
    assert list(saved["prompt"]) == list(found.pictures["prompt"])
    assert all(t.equal(teacher[name]) for name, t in tiny.unet.state_dict().items())
    again = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "run", progress=False)
    assert sum(drawings) == 22
    columns = ["group", "metric", "model", "value", "low", "high", "n"]
    pd.testing.assert_frame_equal(again.rows[columns], found.rows[columns])


def test_cut_off_it_goes_on_with_what_is_there(tiny, erasure, instruments, tmp_path, monkeypatch):
    whole = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "one", progress=False)
    calls = []

    def cut(pipe, prompts, *arguments, **settings):
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(pipe, prompts, *arguments, **settings)

    monkeypatch.setattr(cache, "generate", cut)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny, erasure, SUITE, instruments, tmp_path / "two", progress=False)
    rest = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "two", progress=False)
    # of the erased pictures' three files the first was there; the originals are everybody's
    assert calls == [4, 4, 4, 3]
    for a, b in zip(whole.after, rest.after, strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()


def test_runs_that_cannot_be_evaluated_are_named(tiny, erasure, tmp_path, instruments):
    erasure.save(tmp_path / "good")
    erasure.save(tmp_path / "half")
    (tmp_path / "half" / "config.json").unlink()
    erasure.base = "another"
    erasure.save(tmp_path / "another")
    other = erase_closed_form(tiny, EraseConfig(["key"], method="uce", nearest=4))
    other.save(tmp_path / "other")
    names = [str(tmp_path / n) for n in ("none", "half", "good", "another", "other")]
    found, wrong = evaluate_runs(tiny, names, SUITE, detector="weapon", progress=False)
    assert list(found) == [names[2]] and list(wrong) == [names[i] for i in (0, 1, 3, 4)]
    for name, message in zip(wrong, ("missing", "missing", "base model", "'key'"), strict=True):
        assert message in wrong[name] and "\n" not in wrong[name]
    for bad in ([], "runs/one"):
        with pytest.raises(EraseError, match="expected a list"):
            evaluate_runs(tiny, bad, SUITE)


def test_what_cannot_be_written_or_counted_is_said(tiny, erasure, instruments, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EraseError, match="cannot write to .*file"):
        evaluate(tiny, erasure, SUITE, instruments, tmp_path / "file", progress=False)
    with pytest.raises(EraseError, match="counts NER, but there is no detector"):
        instruments.detector = None
        evaluate(tiny, erasure, SUITE, instruments, progress=False)


def test_at_most_so_many_prompts(tiny, erasure, instruments):
    found = evaluate(tiny, erasure, SUITE, instruments, most=2, progress=False)
    assert found.pictures.groupby(["model", "group"]).size().max() <= 2


def test_pictures_in_parts_are_a_sequence(tmp_path):
    from PIL import Image

    every = [Image.new("RGB", (2, 2), (i, 0, 0)) for i in range(6)]
    np.savez_compressed(tmp_path / "a.npz", pictures=np.stack([np.asarray(p) for p in every[:4]]))
    pictures = Pictures([tmp_path / "a.npz", every[4:]], 6)
    assert len(pictures) == 6 and [p.getpixel((0, 0))[0] for p in pictures] == list(range(6))
    assert [p.getpixel((0, 0))[0] for p in pictures[3:]] == [3, 4, 5]
    assert pictures[-1].getpixel((0, 0))[0] == 5
    with pytest.raises(IndexError):
        pictures[6]
    with pytest.raises(EraseError, match="gone or damaged: run again"):
        Pictures([tmp_path / "b.npz"], 4)[0]


def test_its_figures(tiny, erasure, instruments):
    found = evaluate(tiny, erasure, SUITE, instruments, progress=False)
    figure = viz_evaluate.pictures(found, each=3)
    words = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()]
    assert len(words) == 2 * 2 * 3 and set(words) <= set(instruments.classifier.concepts)
    figure = viz_evaluate.levels(found.rows)
    labels = [t.get_text() for ax in figure.axes for t in ax.get_yticklabels()]
    assert "target · ESR-1  (n 8)" in labels and "far · NER-0.5  (n 3)" in labels
    assert "measured by emoji-judge" in figure.get_supxlabel()
    ax = viz_evaluate.thresholds(found.rows)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["far, original", "far, erased"]
    plt.close("all")
