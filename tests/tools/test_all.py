"""The whole build in one process, tiny and on a CPU; and the models' way back in parts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tools.embedded import all as everything
from tools.embedded import export, parts, unet


def weights(folder):
    return load_file(folder / parts.WEIGHTS)


@pytest.mark.slow
def test_all_stages_in_seconds_and_back_through_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(unet, "SHOWN", ["church", "dog"])
    work, out = tmp_path / "work", tmp_path / "out"
    export.restore_words(work)
    arguments = {"device": "cpu", "sizes": everything.SMOKE, "without": ["abacus"]}
    arguments["begin"] = export.MODELS / "emoji-diffusion" / "vae"
    stages = ("vae", "unet", "redraw", "decoder")
    done = everything.build(work, out, 2, stages=stages, **arguments)
    assert list(done) == list(stages) and all(done[name]["steps"] for name in ("vae", "unet"))
    before = {path: path.stat().st_mtime_ns for path in work.glob("*.ckpt")}
    # the same command again does what is left
    done = everything.build(work, out, 1, **arguments)
    assert list(done) == list(everything.SHARES) and done["twin"]["steps"] > 0
    assert done["twin"]["seconds"] <= done["unet"]["seconds"] + 5
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert json.loads((out / "summary.json").read_text()) == done
    names = parts.unpack(out, back := tmp_path / "back")
    assert names == ["twin", "unet", "vae_sharp"]
    for name in names:
        for key, tensor in weights(work / name).items():
            assert torch.equal(weights(back / name)[key], tensor.half())
    models = tmp_path / "models"
    export.export(work, models)
    pipe = export.StableDiffusionPipeline.from_pretrained(models / "emoji-diffusion")
    drawn = pipe("a church", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert drawn.images[0].size == (128, 128) and pipe.unet.config.in_channels == 24


def test_parts_are_small_and_a_missing_one_is_named(tmp_path, refused):
    folder = export.MODELS / "emoji-diffusion" / "vae"
    paths = parts.pack(folder, tmp_path / "out", part=1 << 20)
    assert len(paths) > 3 and max(path.stat().st_size for path in paths) <= 1 << 20
    assert parts.unpack(tmp_path / "out", tmp_path) == ["vae"]
    paths[1].unlink()
    refused(parts.unpack, tmp_path / "out", tmp_path, says="vae damaged")
    refused(parts.unpack, tmp_path, tmp_path, says="parts embedded.all")


def test_an_unknown_stage_is_named(tmp_path, refused):
    refused(everything.build, tmp_path, tmp_path, 1, "cpu", ["decoda"], says="decoda decoder")
