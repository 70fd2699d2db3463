"""A run that was cut off goes on to the very same tensors and history."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from erase_lib import EraseConfig, erase
from erase_lib.checkpoint import FILE, PREVIOUS, Checkpoint, checksum, load_checked, read, write
from erase_lib.config import SEARCHES
from erase_lib.models import fingerprint
from erase_lib.search import GumbelSearch
from erase_lib.train import Run


def smoke(**values):
    given = {"targets": ["church", "dog"], "steps": 6, "nearest": 6, "candidates": 3, "lr": 1e-2}
    given |= {"search": "gumbel", "preserve_at": "own", "sampling_steps": 2}
    return EraseConfig.from_profile("smoke", **(given | values)).settled(True)


def same(a, b):
    return a.history == b.history and equal(a, b)


def equal(a, b):
    return all(torch.equal(t, b.tensors[name]) for name, t in a.tensors.items())


def cut_off(pipe, config, folder, step=3, every=3):
    """A run that dies after update `step`, with checkpoints every `every` updates."""

    def stop(run):
        if len(run.history) == step + 1:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        erase(pipe, config, [Checkpoint(folder, every), stop])


def goes_on(pipe, config, folder, every=0):
    """The erasure, and the update that it went on from."""
    steps = []
    callbacks = [Checkpoint(folder, every), lambda run: steps.append(len(run.history))]
    again = erase(pipe, config, callbacks)
    assert steps == list(range(steps[0], config.steps + 1))
    return again, steps[0]


# auto is random, and gumbel_full holds what gumbel does
SAME = ("auto", "gumbel_full", "fixed")
GIVEN = [{"search": search} for search in SEARCHES if search not in SAME]
GIVEN += [{"search": "fixed", "preserved": ["cat", "cow"]}, {"schedule": "published"}]


# The bank is filled at updates 0, 2, 4: at 3 it was drawn by a student that is gone.
@pytest.mark.parametrize("given", [*GIVEN, {"method": "esd"}])
def test_a_run_cut_off_goes_on_to_the_very_same_erasure(tiny, tmp_path, given):
    config = smoke(**given)
    whole = erase(tiny, config, [])
    cut_off(tiny, config, tmp_path, step=4)
    again, start = goes_on(tiny, config, tmp_path, 3)
    assert start == 3 and same(again, whole)


@pytest.mark.parametrize("schedule", ["replay", "published"])
def test_an_interrupt_in_the_middle_of_an_update_loses_only_that(
    tiny, tmp_path, monkeypatch, schedule
):
    config = smoke(anneal=False, schedule=schedule)
    whole = erase(tiny, config, [])
    ascend, calls = GumbelSearch.ascend, []

    def interrupted(search, gradient):
        calls.append(gradient)
        if len(calls) == 4:  # θ' has moved, π has not
            raise KeyboardInterrupt
        ascend(search, gradient)

    monkeypatch.setattr(GumbelSearch, "ascend", interrupted)
    with pytest.raises(KeyboardInterrupt, match="4 of 6") as stopped:
        erase(tiny, config, [Checkpoint(tmp_path, 1)])
    kept = stopped.value.erasure
    monkeypatch.undo()
    four = erase(tiny, smoke(steps=4, anneal=False, schedule=schedule), [])
    assert equal(kept, four)
    assert same(goes_on(tiny, config, tmp_path)[0], whole)


def test_a_finished_run_is_not_run_again(tiny, tmp_path, monkeypatch):
    whole = erase(tiny, smoke(), [Checkpoint(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {FILE, PREVIOUS}
    monkeypatch.setattr(Run, "update", None)
    again = erase(tiny, smoke(), [Checkpoint(tmp_path)])
    assert same(again, whole) and again.config == whole.config and again.base == whole.base


def test_another_run_in_the_folder_is_refused(tiny, tmp_path, refused):
    words = tmp_path / "words.txt"
    words.write_text("cat\ncow\nhorse\n")
    config, checkpoint = smoke(vocabulary=str(words)), Checkpoint(tmp_path / "run")
    cut_off(tiny, config, tmp_path / "run")
    file = tmp_path / "run" / FILE
    before = file.read_bytes()
    other = smoke(vocabulary=str(words), lr=1e-3)
    assert "lr 0.01 instead of 0.001" in refused(erase, tiny, other, [checkpoint])
    words.write_text("cat\ncow\nsheep\n")
    assert "no longer those" in refused(erase, tiny, config, [checkpoint])
    with torch.no_grad():
        tiny.unet.conv_in.weight.add_(0.5)
    assert "base model" in refused(erase, tiny, config, [checkpoint])
    assert file.read_bytes() == before


def flipped(data):
    middle = len(data) * 3 // 4
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: data[:50], lambda _: b"", flipped]
)
def test_a_damaged_checkpoint_is_refused(tiny, tmp_path, refused, damage):
    config, file = smoke(method="esd"), tmp_path / FILE
    cut_off(tiny, config, tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    text = refused(erase, tiny, config, [Checkpoint(tmp_path)])
    assert f"{FILE} is damaged" in text and "delete" in text
    (tmp_path / PREVIOUS).write_bytes(b"")  # and so with both
    with pytest.warns(UserWarning, match=FILE):
        text = refused(erase, tiny, config, [Checkpoint(tmp_path)])
    assert f"{PREVIOUS} is damaged" in text


@pytest.mark.parametrize("damage", [lambda data: data[:-100], flipped, None])
def test_the_checkpoint_before_a_damaged_one_is_taken(tiny, tmp_path, damage):
    config, file = smoke(method="esd"), tmp_path / FILE
    whole = erase(tiny, config, [])
    cut_off(tiny, config, tmp_path, step=4, every=2)  # checkpoints after two and four updates
    if damage is None:  # killed between the two renamings of a write
        file.unlink()
        again, start = goes_on(tiny, config, tmp_path, 2)
    else:
        file.write_bytes(damage(file.read_bytes()))
        with pytest.warns(UserWarning, match=f"{FILE} is damaged"):
            again, start = goes_on(tiny, config, tmp_path, 2)
    assert start == 2 and same(again, whole)


def test_checkpoints_that_cannot_be_written_are_one_warning(tiny, tmp_path, monkeypatch):
    cut_off(tiny, smoke(), tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("erase_lib.checkpoint.save_file", full)
    with pytest.warns(UserWarning) as caught:
        again = erase(tiny, smoke(), [Checkpoint(tmp_path, 1)])
    (warning,) = (str(w.message) for w in caught)
    assert str(tmp_path) in warning and "No space left" in warning
    assert same(again, erase(tiny, smoke(), []))
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_state_without_its_checksum_is_refused(tmp_path, refused):
    write(tmp_path, {"lr": 1.0}, "base", {"a": torch.ones(2)})
    text, tensors = load_checked(tmp_path / FILE)
    for wrong in (
        {"run": text, "crc32": checksum(text, tensors)},
        {"run": text},
        {"text": text},
        None,
    ):
        save_file(tensors, tmp_path / FILE, wrong)
        refused(read, tmp_path, {"lr": 1.0}, "base", says="damaged")


def test_a_state_that_lacks_something_is_refused(tiny, tmp_path, refused):
    config = smoke(method="esd")
    write(tmp_path, config.to_dict(), fingerprint(tiny.unet), {"words": [None, None]})
    refused(erase, tiny, config, [Checkpoint(tmp_path)], says=[str(tmp_path), "start anew"])


def test_arguments_that_make_no_sense(tiny, tmp_path, refused):
    assert "every is -1" in refused(Checkpoint, tmp_path, -1)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(erase, tiny, smoke(), [Checkpoint(tmp_path / "file")])


def test_the_checksum_is_over_names_shapes_and_bytes():
    of = {"a": torch.arange(6.0), "b": torch.zeros(6)}
    others = [
        {"a": of["b"], "b": of["a"]},
        {"a": of["a"], "c": of["b"]},
        of | {"a": of["a"].view(2, 3)},
        of | {"b": of["b"].to(torch.int32)},  # the very same bytes
        of | {"b": of["b"] + 1},
    ]
    assert len({checksum("text", some) for some in [of, *others]} | {checksum("", of)}) == 7
    assert checksum("text", dict(reversed(of.items()))) == checksum("text", of)


def test_a_state_of_any_form_comes_back(tmp_path):
    state = {"none": None, "list": [1, "a"], "empty": {}, "bank": {"goal": None}}
    tensors = {"half": torch.ones(2, dtype=torch.bfloat16)}
    tensors["adam"] = {"state": {0: {"step": torch.tensor(3.0)}}}
    write(tmp_path, {"lr": 1.0}, "base", state | tensors)
    found = read(tmp_path, {"lr": 1.0}, "base")
    assert found["adam"]["state"][0]["step"] == 3 and found["half"].dtype == torch.bfloat16
    assert {name: found[name] for name in state} == state
