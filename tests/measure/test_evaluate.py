"""An evaluation is whole, goes on where it was cut off, and leaves the model as it was."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from erase_lib import EraseConfig, EraseError
from erase_lib.closed_form import erase_closed_form
from erase_lib.diffusion import generate
from erase_lib.measure import pictures as cache
from erase_lib.measure.evaluate import evaluate, evaluate_runs
from erase_lib.measure.instruments import load_instruments
from erase_lib.measure.pictures import Pictures
from erase_lib.measure.suite import Group, Suite

TARGET = Group(("ESR-1", "CLIP score", "distance"), seeds=(1, 2), concepts="targets")
FAR = Group(("PSR-1", "NER"), concepts=("cat", "bus", "rose"), styles="turn")
COLUMNS = ["group", "metric", "model", "value", "low", "high", "n"]
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
    monkeypatch.setattr(sys.modules["erase_lib.measure.evaluate"], "CACHE", tmp_path / "cache")
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
    pd.testing.assert_frame_equal(again.rows[COLUMNS], found.rows[COLUMNS])
    # another erasure's pictures are its own, the unedited model's are everybody's
    more = erase_closed_form(tiny, EraseConfig(["dog"], method="uce", nearest=5))
    evaluate(tiny, more, SUITE, instruments, tmp_path / "more", progress=False)
    assert sum(drawings) == 33 and not list((tmp_path / "run").rglob("*.tmp"))
    names = [len(list((tmp_path / n).glob("*.npz"))) for n in ("cache", "run/pictures")]
    assert names == [3, 3]


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
    pd.testing.assert_frame_equal(rest.rows[COLUMNS], whole.rows[COLUMNS])


def test_a_damaged_file_alone_is_drawn_again(tiny, erasure, instruments, tmp_path, drawings):
    found = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "run", progress=False)
    path = sorted((tmp_path / "run" / "pictures").glob("*.npz"))[0]
    before = np.load(path)["pictures"]
    path.write_bytes(path.read_bytes()[:-30])
    del drawings[:]
    with pytest.warns(UserWarning, match=f"{path.name} is damaged .*: drawn again"):
        again = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "run", progress=False)
    assert drawings == [len(before)] and (np.load(path)["pictures"] == before).all()
    pd.testing.assert_frame_equal(again.rows[COLUMNS], found.rows[COLUMNS])


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
    for bad in ([], "runs/one", tmp_path / "good"):
        with pytest.raises(EraseError, match="expected a list"):
            evaluate_runs(tiny, bad, SUITE)


def test_what_cannot_be_written_or_counted_is_said(tiny, erasure, instruments, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EraseError, match="cannot write to .*file"):
        evaluate(tiny, erasure, SUITE, instruments, tmp_path / "file", progress=False)
    with pytest.raises(EraseError, match="counts NER, but there is no detector"):
        instruments.detector = None
        evaluate(tiny, erasure, SUITE, instruments, progress=False)


def test_nothing_is_drawn_for_an_erasure_that_does_not_fit(tiny, erasure, instruments, drawings):
    key = erase_closed_form(tiny, EraseConfig(["key"], method="uce", nearest=4))
    with pytest.raises(EraseError, match="not made for the target 'key'"):
        evaluate(tiny, key, SUITE, instruments, progress=False)
    erasure.base = "another"
    with pytest.raises(EraseError, match="made for base model another"):
        evaluate(tiny, erasure, SUITE, instruments, progress=False)
    assert not drawings


def test_results_that_cannot_be_written_leave_the_older_ones(tiny, erasure, instruments, tmp_path):
    found = evaluate(tiny, erasure, SUITE, instruments, most=1, progress=False)
    found.save(tmp_path / "run")
    before = (tmp_path / "run" / "mine_rows.csv").read_bytes()
    (tmp_path / "run" / "mine_pictures.parquet.tmp").mkdir()
    found.rows["value"] = 0.0
    with pytest.raises(EraseError, match="cannot write to .*run .*: free space") as error:
        found.save(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert (tmp_path / "run" / "mine_rows.csv").read_bytes() == before


def test_at_most_so_many_prompts(tiny, erasure, instruments):
    found = evaluate(tiny, erasure, SUITE, instruments, most=2, progress=False)
    sizes = found.pictures.groupby(["model", "group"])["prompt"].agg(["size", "nunique"])
    assert (sizes == 2).all(axis=None) and len(found.before) == 4


def test_pictures_are_those_that_were_drawn(tiny, tmp_path):
    ask = ["a dog", "a cat", "a bus", "a hat", "a rose"], [5, 6, 7, 8, 9], 2
    found = cache.draw(tiny, *ask, folder=tmp_path, progress=False)
    drawn = generate(tiny, *ask, progress=False)
    assert len(found) == 5 and len(found.parts) == 2
    for i in (*range(-5, 5), np.int64(3)):
        assert found[i].tobytes() == drawn[i].tobytes()
    for some in (slice(3, 5), slice(None, None, -2), slice(-2, 99), slice(4, 1)):
        assert [p.tobytes() for p in found[some]] == [p.tobytes() for p in drawn[some]]
    for i in (5, -6):
        with pytest.raises(IndexError):
            found[i]


def test_a_part_is_read_once_while_it_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HELD", 1)
    for name in "ab":
        array = np.full((4, 2, 2, 3), ord(name), np.uint8)
        np.savez_compressed(tmp_path / f"{name}.npz", pictures=array)
    pictures = Pictures([tmp_path / "a.npz", tmp_path / "b.npz"], 8)
    assert pictures[0].getpixel((0, 0))[0] == ord("a")
    (tmp_path / "a.npz").unlink()
    assert pictures[3].getpixel((0, 0))[0] == ord("a")  # still held
    assert pictures[4].getpixel((0, 0))[0] == ord("b")
    with pytest.raises(EraseError, match="a.npz is gone or damaged: run again") as error:
        pictures[0]
    assert "\n" not in str(error.value)
    (tmp_path / "a.npz").write_bytes(b"half")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(EraseError, match="run again"):
        pictures[0]


def test_pictures_in_parts_are_a_sequence(tmp_path):
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
