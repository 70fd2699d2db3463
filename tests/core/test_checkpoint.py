"""A run that was cut off goes on to the very same tensors and history."""

from __future__ import annotations

import pytest
import torch

from erase_lib import EraseConfig, EraseError, erase
from erase_lib.checkpoint import FILE, PREVIOUS, Checkpoint, checksum, read, write
from erase_lib.search import GumbelSearch
from erase_lib.train import Run


def smoke(**values):
    given = {"targets": ["church", "dog"], "steps": 6, "nearest": 6, "candidates": 3, "lr": 1e-2}
    given |= {"search": "gumbel", "preserve_at": "own"}
    return EraseConfig.from_profile("smoke", **(given | values))


def equal(a, b):
    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(t, b.tensors[name]) for name, t in a.tensors.items()
    )


def stop_at(step, error):
    """Raise the error after the update `step`."""

    def stop(run):
        if len(run.history) == step + 1:
            raise error

    return stop


def begun_at(steps):
    """Note how many updates were done before each call."""
    return lambda run: steps.append(len(run.history))


def cut_off(pipe, config, folder, step=3, every=3):
    """A run that dies after update `step`, with checkpoints every `every` updates."""
    with pytest.raises(RuntimeError, match="out of memory"):
        erase(
            pipe, config, [Checkpoint(folder, every), stop_at(step, RuntimeError("out of memory"))]
        )


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


# The bank is filled at updates 0, 2, 4: at 3 it was drawn by a student that is gone.
@pytest.mark.parametrize("schedule", ["replay", "published"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_a_run_cut_off_goes_on_to_the_very_same_erasure(tiny, tmp_path, schedule, error):
    config = smoke(schedule=schedule)
    whole = erase(tiny, config, [])
    if isinstance(error, KeyboardInterrupt):
        with pytest.warns(UserWarning, match="5 of 6 updates kept"):
            cut = erase(tiny, config, [Checkpoint(tmp_path, 3), stop_at(4, error)])
        assert len(cut.history) == 5
    else:
        cut_off(tiny, config, tmp_path, step=4)
    steps = []
    again = erase(tiny, config, [Checkpoint(tmp_path, 3), begun_at(steps)])
    assert steps == [3, 4, 5, 6]
    assert again.history == whole.history and equal(again, whole)


@pytest.mark.parametrize("method", ["esd", "esd_neutral"])
def test_the_other_methods_go_on_too(tiny, tmp_path, method):
    config = smoke(method=method)
    whole = erase(tiny, config, [])
    cut_off(tiny, config, tmp_path)
    again = erase(tiny, config, [Checkpoint(tmp_path)])
    assert again.history == whole.history and equal(again, whole)


def test_an_interrupt_in_the_middle_of_an_update_loses_only_that(tiny, tmp_path, monkeypatch):
    config = smoke(anneal=False)
    whole = erase(tiny, config, [])
    ascend, calls = GumbelSearch.ascend, []

    def interrupted(search, gradient):
        calls.append(gradient)
        if len(calls) == 4:  # θ' has moved, π has not
            raise KeyboardInterrupt
        ascend(search, gradient)

    monkeypatch.setattr(GumbelSearch, "ascend", interrupted)
    with pytest.warns(UserWarning, match="4 of 6 updates kept"):
        kept = erase(tiny, config, [Checkpoint(tmp_path, 1)])
    monkeypatch.undo()
    four = erase(tiny, smoke(steps=4, anneal=False), [])
    assert equal(kept, four)
    again = erase(tiny, config, [Checkpoint(tmp_path)])
    assert again.history == whole.history and equal(again, whole)


def test_a_finished_run_is_not_run_again(tiny, tmp_path, monkeypatch):
    whole = erase(tiny, smoke(), [Checkpoint(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {FILE, PREVIOUS}
    monkeypatch.setattr(Run, "update", None)
    again = erase(tiny, smoke(), [Checkpoint(tmp_path)])
    assert again.history == whole.history and equal(again, whole)
    assert again.config == whole.config and again.base == whole.base


def test_another_run_in_the_folder_is_refused(tiny, tmp_path):
    cut_off(tiny, smoke(), tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(EraseError) as error:
        erase(tiny, smoke(lr=1e-3), [Checkpoint(tmp_path)])
    assert "of another run, with lr 0.01 instead of 0.001" in one_line(error)
    with torch.no_grad():
        tiny.unet.conv_in.weight.add_(0.5)
    with pytest.raises(EraseError) as error:
        erase(tiny, smoke(), [Checkpoint(tmp_path)])
    assert "is of base model" in one_line(error)
    assert (tmp_path / FILE).read_bytes() == before


def test_other_candidates_are_refused(tiny, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("cat\ncow\nhorse\n")
    config = smoke(vocabulary=str(words))
    cut_off(tiny, config, tmp_path / "run")
    words.write_text("cat\ncow\nsheep\n")
    with pytest.raises(EraseError) as error:
        erase(tiny, config, [Checkpoint(tmp_path / "run")])
    assert "no longer those of the checkpoint" in one_line(error)


def flipped(data):
    middle = len(data) * 3 // 4
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: data[:50], lambda _: b"", flipped]
)
def test_a_damaged_checkpoint_is_refused(tiny, tmp_path, damage):
    cut_off(tiny, smoke(method="esd"), tmp_path)
    file = tmp_path / FILE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(EraseError) as error:
        erase(tiny, smoke(method="esd"), [Checkpoint(tmp_path)])
    assert f"{FILE} is damaged" in one_line(error) and "delete" in one_line(error)


@pytest.mark.parametrize("damage", [lambda data: data[:-100], flipped, None])
def test_the_checkpoint_before_a_damaged_one_is_taken(tiny, tmp_path, damage):
    config, steps = smoke(method="esd"), []
    whole = erase(tiny, config, [])
    cut_off(tiny, config, tmp_path, step=4, every=2)  # checkpoints after two and four updates
    file = tmp_path / FILE
    if damage is None:  # killed between the two renamings of a write
        file.unlink()
        again = erase(tiny, config, [Checkpoint(tmp_path, 2), begun_at(steps)])
    else:
        file.write_bytes(damage(file.read_bytes()))
        with pytest.warns(UserWarning, match=f"{FILE} is damaged .* goes on from the one before"):
            again = erase(tiny, config, [Checkpoint(tmp_path, 2), begun_at(steps)])
    assert steps == [2, 3, 4, 5, 6]
    assert again.history == whole.history and equal(again, whole)


def test_two_damaged_checkpoints_are_refused(tiny, tmp_path):
    cut_off(tiny, smoke(method="esd"), tmp_path, step=4, every=2)
    for name in (FILE, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=FILE), pytest.raises(EraseError) as error:
        erase(tiny, smoke(method="esd"), [Checkpoint(tmp_path)])
    assert f"{PREVIOUS} is damaged" in one_line(error)


def test_checkpoints_that_cannot_be_written_are_one_warning(tiny, tmp_path, monkeypatch):
    cut_off(tiny, smoke(), tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("erase_lib.checkpoint.save_file", full)
    with pytest.warns(UserWarning) as caught:
        again = erase(tiny, smoke(), [Checkpoint(tmp_path, 1)])
    assert [str(w.message) for w in caught] == [
        f"no checkpoint in {tmp_path} ([Errno 28] No space left on device): free space;"
        " the run goes on"
    ]
    assert equal(again, erase(tiny, smoke(), []))
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_arguments_that_make_no_sense(tiny, tmp_path):
    with pytest.raises(EraseError, match="every is -1"):
        Checkpoint(tmp_path, -1)
    (tmp_path / "file").write_text("")
    with pytest.raises(EraseError) as error:
        erase(tiny, smoke(), [Checkpoint(tmp_path / "file")])
    assert "is a file" in one_line(error)


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
    state = {"adam": {"state": {0: {"step": torch.tensor(3.0)}}}, "none": None, "list": [1, "a"]}
    state |= {"empty": {}, "half": torch.ones(2, dtype=torch.bfloat16), "bank": {"goal": None}}
    write(tmp_path, {"lr": 1.0}, "base", state)
    found = read(tmp_path, {"lr": 1.0}, "base")
    assert found["adam"]["state"][0]["step"] == 3 and found["half"].dtype == torch.bfloat16
    assert {k: found[k] for k in ("none", "list", "empty", "bank")} == {
        k: state[k] for k in ("none", "list", "empty", "bank")
    }
