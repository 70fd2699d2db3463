"""What lies on disk: damaged or mixed it is noticed, and what is a user's is never touched."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from erase_lib import EraseConfig, Erasure, concepts, files, load_pipeline
from erase_lib.checkpoint import load_checked
from erase_lib.erasure import FILES
from erase_lib.files import as_path, whole, whole_folder, whole_table

WORDS = ["", "null", "NA", "1", "church|a"]


def erasure(value=1.0, **given):
    """One that no run made, with words that tables take for numbers."""
    tensors = {"a.weight": torch.full((2, 3), value), "b.weight": torch.arange(4.0)}
    rows = [{"step": i, "target": w, "chosen": w, "l1": 0.1 + i} for i, w in enumerate(WORDS)]
    rows[0].pop("chosen")
    config = EraseConfig(targets=["null", "1"])
    return Erasure(**{"tensors": tensors, "config": config, "base": "b", "history": rows} | given)


def as_earlier(folder, **settings):
    """What version 1 wrote: no checksum, and nothing in the weights but the tensors."""
    made = erasure()
    folder.mkdir(exist_ok=True)
    save_file(made.tensors, folder / FILES[0])
    about = {"config": made.config.to_dict(), "base": made.base, "strength": 1.0} | settings
    (folder / FILES[1]).write_text(json.dumps(about, indent=2))
    pd.DataFrame(made.history).to_csv(folder / FILES[2], index=False)
    return made


def same(a, b):
    return (a.config, a.base, a.history, a.strength) == (
        b.config,
        b.base,
        b.history,
        b.strength,
    ) and (
        a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(t, b.tensors[name]) for name, t in a.tensors.items())
    )


def test_words_and_numbers_come_back_exactly(tmp_path):
    made = erasure(strength=-0.1)
    made.tensors["tied"] = made.tensors["a.weight"]
    made.history[2] |= {"n": np.int64(3), "l1": np.float64(0.5), "note": "a\r\nb"}
    made.history[1]["pi"] = [0.5, 0.5]
    back = Erasure.load(made.save(tmp_path / "new"))
    del made.history[1]["pi"]  # as long as the list of candidates: never written
    assert same(back, made) and "chosen" not in back.history[0]
    as_earlier(tmp_path / "old")
    rows = Erasure.load(tmp_path / "old").history
    assert [row["target"] for row in rows] == WORDS and [row["l1"] for row in rows][1] == 1.1


def tensors(change):
    """Damage to the weights by a tool that keeps no metadata."""

    def damage(folder):
        found = load_file(folder / FILES[0])
        save_file(change(found), folder / FILES[0])

    return damage


def put(name, old, new):
    return lambda at: (at / name).write_bytes((at / name).read_bytes().replace(old, new, 1))


def cut(name, by):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-by])


BOTH = {
    "NaN": tensors(lambda t: t | {"a.weight": t["a.weight"] * float("nan")}),
    "inf": tensors(lambda t: t | {"a.weight": t["a.weight"] / 0}),
    "int8": tensors(lambda t: {name: tensor.to(torch.int8) for name, tensor in t.items()}),
    "no tensors": tensors(lambda t: {}),
    "a shorter file": cut(FILES[0], 5),
    "a strength of NaN": put(FILES[1], b'"strength": 1.0', b'"strength": NaN'),
    "a strength in words": put(FILES[1], b'"strength": 1.0', b'"strength": "all"'),
    "no config": put(FILES[1], b'"config"', b'"confix"'),
    "half a config": cut(FILES[1], 40),
    "half a row": cut(FILES[2], 5),
    "no history": lambda folder: (folder / FILES[2]).write_bytes(b""),
    "a history in no letters": put(FILES[2], b"NA", b"\xff\xfe"),
    "a broken row": put(FILES[2], b"NA", b'N"A,'),
}
NEW = {
    "a tensor less": tensors(lambda t: {"a.weight": t["a.weight"]}),
    "another name": put(FILES[0], b"a.weight", b"a.weighs"),
    "another shape": put(FILES[0], b"[2,3]", b"[3,2]"),
    "no metadata": put(FILES[0], b"__metadata__", b"__metadatx__"),
    "no sum": put(FILES[0], b'"run"', b'"rum"'),
    "a word in the metadata": put(FILES[0], b"church|a", b"church|b"),
    "another method": put(FILES[1], b'"eap"', b'"esd"'),
    "a row less": cut(FILES[2], len("4,1,church|a,4.1\n")),
    "another number": put(FILES[2], b"1.1", b"1.2"),
}


@pytest.mark.parametrize("damage", [*BOTH, *NEW])
def test_a_damaged_erasure_is_refused(tmp_path, refused, damage):
    erasure().save(tmp_path / "run")
    (BOTH | NEW)[damage](tmp_path / "run")
    refused(Erasure.load, tmp_path / "run", says=[str(tmp_path / "run"), "damaged"])


@pytest.mark.parametrize("damage", BOTH)
def test_one_of_an_earlier_version_is_checked_for_what_can_be(tmp_path, refused, damage):
    as_earlier(tmp_path / "run")
    BOTH[damage](tmp_path / "run")
    refused(Erasure.load, tmp_path / "run", says=[str(tmp_path / "run"), "damaged"])


def test_no_bit_of_the_weights_flips_unnoticed(tmp_path, refused):
    path = erasure().save(tmp_path) / FILES[0]
    data = path.read_bytes()
    for place in random.Random(0).sample(range(8 * len(data)), 300):
        path.write_bytes(
            data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]
        )
        refused(Erasure.load, tmp_path, says="damaged")


@pytest.mark.parametrize("mixed", FILES)
def test_files_of_two_erasures_are_told_apart(tmp_path, refused, mixed):
    other = erasure(2.0, history=[], strength=0.5).save(tmp_path / "b")
    folder = erasure().save(tmp_path / "a")
    (folder / mixed).write_bytes((other / mixed).read_bytes())
    said = refused(Erasure.load, folder, says="delete")
    for name in FILES[1:]:  # as it says
        (folder / name).unlink()
    assert "erased.safetensors" in said and Erasure.load(folder).history == (
        [] if mixed == FILES[0] else erasure().history
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"strength": float("nan")}, "nan"),
        ({"tensors": {}}, "0 tensors"),
        ({"tensors": {"a": torch.tensor([float("inf")])}}, "finite"),
        ({"tensors": {"a": torch.ones(2, dtype=torch.int64)}}, "int64"),
        ({"tensors": {"a": torch.ones(0)}}, "expected finite"),
        ({"history": [{"step": object()}]}, "object"),
        ({"history": [{"step": torch.ones(3)}]}, "Tensor"),
        ({"history": [{"chosen": "\ud800"}]}, "surrogates"),
    ],
)
def test_what_load_would_refuse_is_not_saved(tmp_path, refused, given, says):
    before = erasure().save(tmp_path)
    refused(erasure(**given).save, tmp_path, says=["not saved", str(tmp_path), says])
    assert same(Erasure.load(before), erasure())


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: socket.socket(1).bind(str(path))])
def test_what_is_neither_file_nor_folder_is_not_replaced(tmp_path, monkeypatch, refused, make):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    make("x")
    before = os.lstat("x")
    refused(written, Path("x"), says=["x"])
    with pytest.raises(IsADirectoryError), whole(Path("x")) as (temporary,):
        temporary.write_text("new")
    assert os.lstat("x") == before and os.listdir() == ["x"]


@pytest.mark.parametrize(
    ("path", "says"),
    [("x" * 300, "too long"), ("loop/x", "links"), ("\ud800", "no path"), ("here", "gone")],
)
def test_a_path_that_can_be_none(tmp_path, monkeypatch, refused, path, says):
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    if says == "gone":
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    refused(as_path, path, says=[says])
    refused(Erasure.load, path, says=[says])
    refused(erasure().save, path, says=[says])


def snapshot(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", FILES[1:])
def test_saving_overwrites_no_file_of_another_kind(tmp_path, refused, name):
    (tmp_path / name).write_text("mine")
    refused(erasure().save, tmp_path, says=[str(tmp_path / name), "choose"])
    assert snapshot(tmp_path) == {tmp_path / name: b"mine"}


def test_what_lies_beside_is_never_touched(tmp_path):
    mine = ["x.tmp", "x.old", "config.json.tmp", "erased.safetensors.tmp", "history.csv.tmp"]
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    before = snapshot(tmp_path)
    for _ in range(2):
        erasure().save(tmp_path)
        with whole_folder(tmp_path / "x") as new:
            (new / "page.html").write_text("page")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "x") as new:
        raise RuntimeError
    after = snapshot(tmp_path)
    assert before.items() <= after.items() and (tmp_path / "x" / "page.html").is_file()
    assert {p.name for p in after if p.parent == tmp_path} == {*mine, *FILES, "x"}


def written(folder):
    with whole_folder(folder) as new:
        (new / "sub").mkdir()
        (new / "sub" / "model_index.json").write_text("{}")


HELD = {
    "a file of mine": lambda x: (x / "notes.txt").write_text("mine"),
    "a changed file": lambda x: (x / "sub" / "model_index.json").write_text('{"mine": 1}'),
    "a folder of mine": lambda x: ((x / "mine").mkdir(), (x / "mine" / "a").touch()),
    "a hidden file": lambda x: (x / ".env").write_text(""),
    "a link": lambda x: (x / "link").symlink_to(x.parent),
}


@pytest.mark.parametrize("held", HELD)
def test_a_folder_with_anything_of_a_users_is_not_replaced(tmp_path, refused, held):
    written(tmp_path / "x")
    written(tmp_path / "x")  # its own it replaces
    HELD[held](tmp_path / "x")
    before = snapshot(tmp_path)
    refused(written, tmp_path / "x", says=[str(tmp_path / "x"), "not written here"])
    assert snapshot(tmp_path) == before


def test_a_folder_that_looks_like_ours_is_not(tmp_path, refused):
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "model_index.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    os.mkfifo(tmp_path / "pipe")  # as a device is, neither a file nor a folder
    before = snapshot(tmp_path)
    for name in ("model", "file", "link", "pipe", "."):
        refused(written, tmp_path / name, says="not written here")
    assert snapshot(tmp_path) == before
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    (tmp_path / "there").symlink_to(tmp_path / "empty")
    written(tmp_path / "there")
    assert (tmp_path / "there").is_symlink()
    assert (tmp_path / "empty" / "sub" / "model_index.json").is_file()


def test_of_several_files_all_are_replaced_or_none(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OSError, match="is a folder"), whole(tmp_path / "a", tmp_path / "b"):
        raise AssertionError("the block is not begun")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with whole(tmp_path / "link") as (new,):
        new.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "link"}


READERS = {
    "concepts.csv": concepts.concept_table,
    "styles.csv": concepts.style_names,
    "neutral.csv": concepts.neutral_concepts,
    "vocabulary.csv": lambda: concepts.vocabulary("english"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("damage", ["half", "flip", "none"])
def test_a_damaged_table_of_data_is_refused(tmp_path, monkeypatch, refused, name, damage):
    (tmp_path / "emoji").mkdir()
    data = (files.DATA / "emoji" / name).read_bytes()
    half = data[: data.index(b"\n", len(data) // 2) + 1] if len(data) > 400 else data[:100]
    flip = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
    if damage != "none":
        (tmp_path / "emoji" / name).write_bytes(half if damage == "half" else flip)
    (tmp_path / "SHA256SUMS").write_bytes((files.DATA / "SHA256SUMS").read_bytes())
    monkeypatch.setattr(files, "DATA", tmp_path)
    monkeypatch.setattr(concepts, "EMOJI", tmp_path / "emoji")
    refused(READERS[name], says=[str(tmp_path / "emoji" / name), "copy it anew"])


def test_every_table_of_data_is_the_one_that_shipped():
    lines = (files.DATA / "SHA256SUMS").read_text().splitlines()
    named = {files.DATA / line[66:] for line in lines}
    assert named == {*files.DATA.glob("emoji/*.csv"), *files.DATA.glob("emoji/*.parquet")} | {
        files.DATA / "published.csv"
    }
    assert all(len(whole_table(path)) for path in named)


KILLED = """
import sys
from pathlib import Path
import torch
from erase_lib import EraseConfig, Erasure
from erase_lib.files import whole_folder

folder, base = Path(sys.argv[1]), Erasure.load(sys.argv[1] + "/run")
print("ready", flush=True)
for i in range(10**6):
    tensors = {name: torch.full_like(t, float(i)) for name, t in base.tensors.items()}
    config = EraseConfig(targets=[str(i)])
    Erasure(tensors, config, "b", [{"step": i}], float(i)).save(folder / "run")
    with whole_folder(folder / "pages") as new:
        for k in range(3):
            (new / str(k)).write_text(str(i))
"""


@pytest.mark.slow
def test_a_kill_leaves_an_erasure_whole_or_says_so(tmp_path):
    rng = random.Random(1)
    mine = tmp_path / "pages.old"
    mine.mkdir()
    (mine / "a").write_text("mine")
    for _ in range(3):
        tensors = {"a": torch.zeros(200_000)}
        Erasure(tensors, EraseConfig(targets=["0"]), "b", [{"step": 0}], 0.0).save(tmp_path / "run")
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        text, weights = load_checked(tmp_path / "run" / FILES[0])  # always whole, whichever it is
        i = json.loads(text)["strength"]
        assert (weights["a"] == i).all()
        try:
            found = Erasure.load(tmp_path / "run")
        except ValueError as error:
            assert "delete" in str(error)
            for name in FILES[1:]:
                (tmp_path / "run" / name).unlink(missing_ok=True)
            found = Erasure.load(tmp_path / "run")
        assert found.config.targets == (str(int(i)),) and found.history == [{"step": int(i)}]
        pages = [path.read_text() for path in (tmp_path / "pages").glob("?")]
        assert len(pages) in (0, 3) and len(set(pages)) <= 1
    assert (mine / "a").read_text() == "mine"


def test_what_is_read_lies_here_or_else_at_the_checkouts_root(tmp_path, monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(tmp_path)
    assert files.sought("README.md") == root / "README.md"
    Path("README.md").touch()
    assert files.sought("README.md") == Path("README.md")
    for absent in ("nowhere", str(tmp_path / "data")):
        assert files.sought(absent) == Path(absent)
    assert (
        load_pipeline("data/models/emoji-diffusion").config["_name_or_path"].startswith(f"{root}/")
    )
