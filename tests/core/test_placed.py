"""What training does not need waits on the CPU, and comes back for the moment it is asked for. Of a
machine without an accelerator, cpu:0 plays one: a device of another name, where all can compute."""

from __future__ import annotations

import pytest
import torch
from drawings import copied
from torch import nn

from erase_lib import EraseConfig, EraseError, erase, generate, load_pipeline, text
from erase_lib.hold import placed
from tools.benchmarks.shapes import random_family

CPU, FAST = torch.device("cpu"), torch.device("cpu", 0)
SMALL = {"targets": ("church",), "steps": 3, "sampling_steps": 2, "nearest": 12, "candidates": 12}


def idle(pipe):
    """The parts that a training has no use for."""
    return [p for n, p in pipe.components.items() if n == "vae" or n.startswith("text_encoder")]


def moves(part, log):
    """A part that says where it is, and logs where it goes."""

    def to(self, device=None, *args, **kwargs):
        self.at = torch.device(device)
        log.append((type(self).__name__, self.at))
        return self

    kind = type(part)
    part.at = FAST
    told = {"device": property(lambda self: self.at), "to": to}
    part.__class__ = type(kind.__name__, (kind,), told)


@pytest.fixture(scope="module", params=["sd", "sd3"])
def whole(request, loaded, tmp_path_factory):
    if request.param == "sd":
        return loaded
    random_family("sd3").save_pretrained(folder := tmp_path_factory.mktemp("sd3"))
    return load_pipeline(folder, device="cpu")


@pytest.fixture
def twins(whole):
    """Two equal pipelines, one of them on an accelerator, and where its parts go."""
    log, pipe, other = [], copied(whole), copied(whole)
    for part in filter(lambda p: isinstance(p, nn.Module), other.components.values()):
        moves(part, log)
    return pipe, other, log


def test_nothing_moves_where_it_is_already():
    class Part:
        device, gone = CPU, ()

        def to(self, device):
            assert not torch.is_inference_mode_enabled()
            self.device, self.gone = torch.device(device), (*self.gone, str(device))

    stays, goes = Part(), Part()
    goes.device = torch.device("meta")
    with pytest.raises(EraseError), torch.inference_mode(), placed([stays, goes], "cpu"):
        assert goes.device == CPU
        raise EraseError("whatever happens within")
    assert stays.gone == () and goes.gone == ("cpu", "meta")


@pytest.mark.parametrize("schedule", ["replay", "published"])
def test_encoders_and_autoencoder_wait_while_the_denoiser_is_trained(twins, schedule):
    pipe, other, log = twins
    where = {"trained": [], "encoded": []}

    def seen(kind):
        return lambda *_: where[kind].append({part.device for part in idle(other)})

    model = getattr(other, "transformer", None) or other.unet
    model.register_forward_pre_hook(seen("trained"))
    config = EraseConfig(**SMALL, schedule=schedule, search="random", preserve_at="own")
    expected = erase(pipe, config, [])

    def begin(run):  # what is encoded before the first update has not moved
        if not run.history:
            assert all(part.device == CPU for part in idle(other))
            other.text_encoder.register_forward_pre_hook(seen("encoded"))

    found = erase(other, config, [begin])
    # the same but for rounding, for those encoded together are others
    for row, same in zip(found.history, expected.history, strict=True):
        assert row["chosen"] == same["chosen"] and row["evaluations"] == same["evaluations"]
        assert row["l1"] == pytest.approx(same["l1"], rel=1e-4)
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-3, atol=1e-5)
    assert where["trained"] and all(at == {CPU} for at in where["trained"])
    # the encoders alone come back, and with them the other prompts that may be asked for
    assert 0 < len(where["encoded"]) <= 2 and all(at == {CPU, FAST} for at in where["encoded"])
    assert {part.device for part in idle(other)} == {FAST} == {model.device}
    assert not any(name == type(model).__name__ for name, _ in log)


def test_a_callback_may_draw(twins):
    pipe, other, _ = twins
    drawn = generate(pipe, ["a dog"], steps=2, progress=False)
    seen = []
    config = EraseConfig(**SMALL | {"steps": 1}, method="esd")
    erase(other, config, [lambda run: seen.append(generate(other, ["a dog"], 0, 2, 4.0, 1, False))])
    assert len(seen) == 2 and {part.device for part in idle(other)} == {FAST}
    assert seen[0][0].tobytes() == drawn[0].tobytes()


def test_on_a_cpu_nothing_moves(tiny, monkeypatch):
    def to(part, *args, **kwargs):
        raise AssertionError(f"{type(part).__name__} is moved to {args}")

    for part in (tiny.unet, tiny.vae, tiny.text_encoder):
        monkeypatch.setattr(type(part), "to", to)
    erase(tiny, EraseConfig(**SMALL), [])
    generate(tiny, ["a dog"], steps=1, progress=False)


def test_the_words_near_a_target_are_found_in_parts(tiny, monkeypatch):
    words, targets = ["dog", "cat", "house", "bus", "rose"], ["church", "car"]
    whole = text.near_each(tiny, targets, words, 2)
    d = text.distances(text.encode_prompts(tiny, words), text.encode_prompts(tiny, ["church"]))
    assert words[int(d.argmin())] == whole[0]
    most, encode = [], text.encode_prompts
    monkeypatch.setattr(text, "AT_ONCE", 2)
    monkeypatch.setattr(text, "encode_prompts", lambda p, w: (most.append(len(w)), encode(p, w))[1])
    assert text.near_each(tiny, targets, words, 2) == whole and max(most) == 2


def test_another_default_device_of_the_caller_does_not_matter(tiny):
    config = EraseConfig(**SMALL | {"steps": 1}, method="esd")
    expected = erase(tiny, config, [])
    torch.set_default_device("meta")
    try:
        pipe = load_pipeline(tiny.name_or_path, device="cpu")
        found = erase(pipe, config, [])
        embeddings = text.encode_prompts(pipe, ["a dog"])
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(t, found.tensors[name]) for name, t in expected.tensors.items())
    assert torch.equal(embeddings, text.encode_prompts(tiny, ["a dog"]))


def test_a_prompt_that_is_cut_off_says_so_and_a_short_one_is_not_read_for_it(tiny, monkeypatch):
    asked, kind = [], type(tiny.tokenizer)
    call = kind.__call__

    def counted(self, *args, **kwargs):
        asked.append(args)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", counted)
    text.encode_prompts(tiny, ["a dog", "x" * 13])
    assert len(asked) == 2  # by the stock pipeline alone
    for prompt in ("a b c d e f g h i j k l m n o p", "\u4f60" * 13):  # of letters, and of bytes
        with pytest.warns(match="is too long"):
            text.encode_prompts(tiny, ["a dog", prompt])
