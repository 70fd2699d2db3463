"""Every mistake a user can make is one clear line: the value, what was expected, what to do."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from drawings import copied
from safetensors.torch import load_file, save_file

from erase_lib import EraseConfig, EraseError, Erasure, erase, generate, load_pipeline
from erase_lib.checkpoint import Checkpoint
from erase_lib.concepts import vocabulary
from erase_lib.measure import Judge, bootstrap, flipped, row_intervals
from erase_lib.search import Search
from erase_lib.study import Audit
from erase_lib.study.atlas import Delta, variance
from erase_lib.study.graph import against_labels, chance_modularity, symmetry
from erase_lib.text import candidates, encode_prompts
from erase_lib.train import Progress, Run


def smoke(**values):
    given = {"targets": ["church"], "steps": 2, "nearest": 6, "candidates": 3, "method": "esd"}
    return EraseConfig.from_profile("smoke", **(given | values))


@pytest.mark.parametrize(
    ("values", "pieces"),
    [
        ({"method": "eep"}, "'eep'|'eap'"),
        ({"method": "eap_close"}, "'eap_close'|'eap_closed'"),
        ({"train_method": "xatn"}, "'xatn'|'xattn'"),
        ({"schedule": "replays"}, "'replays'|'replay'"),
        ({"thinning": "kmeans"}, "thinning 'kmeans'"),
        ({"lamb": 1.0}, "'lamb'|'lam'"),
        ({"search": "movement", "train_method": "noxattn"}, "'movement'|K and V"),
        ({"search": "soft", "train_method": "noxattn"}, "'soft'|K and V"),
        ({"steps": -1}, "steps is -1|above 0"),
        ({"method": "uce", "rounds": 0}, "rounds is 0|above 0"),
        ({"steps": 1.5}, "1.5|int"),
        ({"hard": 1}, "hard is 1|bool"),
        ({"lam": -1.0}, "lam is -1.0|0 or more"),
        ({"method": "uce", "ridge": -0.1}, "ridge is -0.1|0 or more"),
        ({"lr": "1e-5"}, "lr is '1e-5'|float"),
        ({"lr": float("nan")}, "lr is nan|finite"),
        ({"seed": -1}, "seed is -1|4,294,967,295"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"batch": 10**12}, "batch is 1000000000000|1,024"),
        ({"preserve_batch": 1025}, "preserve_batch is 1025|1,024"),
        ({"steps": 10**7}, "steps is 10000000|1,000,000"),
        ({"nearest": 10**9}, "nearest is 1000000000|1,000,000"),
        ({"method": "uce", "rounds": 10**6}, "rounds is 1000000|1,000"),
        ({"lam": 1e30}, "lam is 1e+30|at most"),
        ({"candidates": 10**400}, "candidates|64 bits"),
        ({"lr": 10**5000}, "lr|expected float"),
        ({"targets": []}, "at least one concept"),
        ({"targets": [""]}, "at least one concept"),
        ({"targets": "church"}, "'church'|list"),
        ({"styles": "noto"}, "'noto'|list"),
        ({"neutral": " Church"}, "'Church'|target"),
        ({"method": "ca"}, "'ca'|anchors"),
        ({"anchors": ["a", "b"]}, "1 targets"),
        ({"anchors": ["Church"]}, "'Church'|target"),
        ({"search": "fixed"}, "'fixed'|preserved"),
        ({"search": "fixed", "preserved": ["dog", "church "]}, "preserved|'church'"),
        ({"method": "uce", "preserved": ["church"]}, "preserved|'church'"),
        ({"search": "random", "preserved": ["dog"]}, "preserved|'random'"),
        ({"method": "esd", "preserved": ["dog"]}, "preserved|'esd'"),
        ({"method": "age", "search": "movement"}, "'age'|mixture"),
        ({"method": "age", "anchors": ["dog"]}, "'age'|targets"),
        ({"method": "esd", "lam_kv": 1.0}, "lam_kv is 1.0|'esd'"),
        ({"train_method": "noxattn", "lam_kv": 1.0}, "lam_kv|K and V"),
        ({"candidates": 500}, "candidates is 500|400"),
    ],
)
def test_settings(refused, values, pieces):
    text = refused(EraseConfig.from_dict, {"targets": ["church"]} | values)
    assert all(piece in text for piece in pieces.split("|")), text


def test_a_missing_target_and_an_unknown_profile(refused):
    assert "argument: 'targets'" in refused(EraseConfig.from_dict, {"method": "esd"})
    assert "'course'" in refused(EraseConfig.from_profile, "corse", targets=["church"])


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", None])
def test_devices(refused, tiny_folder, device):
    for load, given in ((load_pipeline, [tiny_folder]), (Judge.load, [])):
        text = refused(load, *given, device=device)
        assert repr(device) in text and "device" in text and ("auto" in text or device is None)


def test_vocabularies(refused, tiny, tmp_path):
    assert "'englisch'" in refused(vocabulary, "englisch")
    file = tmp_path / "words.txt"
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(vocabulary, str(file))
    file.write_text("\n")
    assert "is empty" in refused(vocabulary, str(file))
    file.write_text("church\n Church \nCHURCH\ndog\n")
    assert "fewer than two" in refused(candidates, tiny, smoke(vocabulary=str(file)))
    file.write_text("dog\ncat\nbus\n")
    with pytest.warns(UserWarning, match="3 words"):
        found = candidates(tiny, smoke(vocabulary=str(file), nearest=9, candidates=6))
    assert sorted(found[0]) == ["bus", "cat", "dog"]


def test_the_search_follows_the_method_and_what_is_trained():
    esd = {"method": "esd", "train_method": "noxattn"}
    EraseConfig(targets=["church"], **esd, search="movement")  # of no matter
    for values in ({}, {"train_method": "noxattn"}, esd, {"method": "age"}):
        search = "gumbel" if values.get("method") == "age" else "random"
        assert EraseConfig(targets=["church"], **values).search == search


def test_a_setting_that_follows_from_others_follows_them_where_they_are_replaced():
    config = EraseConfig(("church",), nearest=300)
    assert (config.search, config.candidates) == ("random", 300)
    age = replace(config, method="age", nearest=40)
    assert (age.search, age.candidates) == ("gumbel", 40)
    assert age == EraseConfig(("church",), "age", nearest=40) == pickle.loads(pickle.dumps(age))
    assert replace(age, method="esd") == EraseConfig(("church",), "esd", nearest=40)
    said = EraseConfig(("church",), search="gumbel", candidates=7)  # what is given stays
    other = replace(said, method="age", nearest=300)
    assert (other.search, other.candidates) == ("gumbel", 7)
    assert json.loads(json.dumps(config.to_dict()))["search"] == "random"


def test_an_audit_with_nothing_to_see(refused, tiny):
    assert "moment 9" in refused(Audit, tiny, smoke(method="eap"), [0, 9])
    assert "searches nothing" in refused(Audit, tiny, smoke(), [0])


def test_a_checkpoint_of_another_search(refused, tiny, tmp_path):
    config = smoke(method="eap", search="movement")
    erase(tiny, config, [Checkpoint(tmp_path)])
    other = lambda config, words, embeddings, pipe: Search(words, embeddings)  # noqa: E731
    text = refused(erase, tiny, config, [Checkpoint(tmp_path)], search=other)
    assert "'MovementSearch'" in text and "'Search'" in text


def test_a_loss_that_diverges_names_its_target(tiny, monkeypatch):
    goal, dog = Run.goal, encode_prompts(tiny, ["dog"])

    def broken(run, z, t, c_n, c_e, *known):
        return goal(run, z, t, c_n, c_e, *known) * (float("nan") if (c_e == dog).all() else 1)

    monkeypatch.setattr(Run, "goal", broken)
    with pytest.warns(UserWarning, match="dog .* NaN"):
        erasure = erase(tiny, smoke(targets=["church", "dog"], styles=(), steps=20), [])
    assert 0 < len(erasure.history) < 20
    assert {row["target"] for row in erasure.history} == {"church"}


def test_numbers_that_no_seed_scale_or_strength_can_be(refused, tiny):
    edit = erase(tiny, EraseConfig(targets=["church"], method="uce"))
    for seed in (2**64, -1, [5, 2**70]):
        refused(generate, tiny, ["a dog"] * (2 if isinstance(seed, list) else 1), seed, says="seed")
    refused(generate, tiny, ["a dog"], itertools.count(5), says="seed")
    refused(generate, tiny, ["a dog"], guidance_scale=10**400, says="guidance_scale")
    refused(generate, tiny, ["a \ud800 dog"], says="half a character")
    for strength in (1e308, 10**400):
        refused(edit.scaled, tiny, strength, says="strength")
    half = generate(tiny, ["a dog"], guidance_scale=Fraction(7, 2), steps=1, progress=False)
    assert half == generate(tiny, ["a dog"], guidance_scale=3.5, steps=1, progress=False)
    refused(load_pipeline, dtype=torch.float64, says="float64 float16")


def test_callbacks_and_searches_that_are_none(refused, tiny, tmp_path):
    c = EraseConfig.from_profile("smoke", targets=["church"], method="eap")
    refused(erase, tiny, c, [Progress], says="Progress()")
    refused(erase, tiny, c, [], lambda *_: "text", says="text search.Search")

    def divides(run):
        raise FloatingPointError("mine")

    with pytest.raises(FloatingPointError, match="mine"):
        erase(tiny, c, [divides])

    def notes(run):
        if run.history:
            run.history[-1]["esr"] = np.float32(0.5)

    erase(tiny, c, [notes, Checkpoint(tmp_path, 1)])
    assert Checkpoint(tmp_path, 1) and (tmp_path / "checkpoint.safetensors").exists()


def test_an_error_is_one_line_whatever_it_names():
    text = str(EraseError(f"words is {['x'] * 100_000}\nand\r\nmore: expected fewer"))
    assert len(text) < 1000 and text.startswith("words is ['x'") and text.endswith("expected fewer")
    assert len(text.splitlines()) == 1 and " … " in text


DRAWN = [
    (bootstrap, [np.ones(3)], "n"),
    (row_intervals, [np.ones((2, 3))], "n"),
    (flipped, [np.ones(3)], "n"),
    (against_labels, [nx.DiGraph(), {}, {}], "shuffles"),
    (chance_modularity, [pd.DataFrame()], "shuffles"),
    (symmetry, [Delta(np.ones((4, 8, 2)), [*"abcd"], [*"abcdefgh"])], "draws"),
    (variance, [Delta(np.ones((4, 8, 2)), [*"abcd"], [*"abcdefgh"])], "draws"),
]


@pytest.mark.parametrize(("call", "given", "name"), DRAWN)
def test_no_number_multiplies_work_without_a_bound(refused, call, given, name):
    for value in (10**9, -1):
        assert f"{name} is {value}" in refused(call, *given, **{name: value})


def test_generate(refused, tiny):
    for values, words in (
        ({"seed": [1, 2, 3]}, "3 seeds for 2 prompts"),
        ({"seed": {1, 2}}, "seed is {1, 2} (set)"),
        ({"steps": 0}, "0 sampling steps"),
        ({"steps": 1001}, "1001 sampling steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        refused(generate, tiny, **{"prompts": ["dog", "cat"], "steps": 1} | values, says=[words])


def test_what_a_model_cannot_train_or_encode(refused, tiny, tiny_folder):
    assert "1001 sampling steps" in refused(erase, tiny, smoke(sampling_steps=1001), [])
    half = load_pipeline(tiny_folder, device="cpu", dtype=torch.float16)
    assert "bfloat16" in refused(erase, half, smoke())  # its gradients are too small
    assert "no prompts" in refused(encode_prompts, tiny, [])
    assert "prompt is 1000001" in refused(encode_prompts, tiny, ["dog", "x" * 1_000_001])
    wide = copied(tiny)
    wide.unet.register_to_config(cross_attention_dim=10**6)
    assert "gigabytes of 1,000" in refused(encode_prompts, wide, ["dog"] * 1000)
    with pytest.warns(UserWarning, match=r"'dog .*' is too long: '(dog )+cat' is cut off"):
        encode_prompts(tiny, ["dog " * 30 + "cat"])


def test_no_prompts_give_no_pictures_and_seeds_may_come_from_numpy(tiny):
    assert generate(tiny, [], progress=False) == []
    seeds = 3, np.int64(3), np.array([3, 4])
    drawn = [generate(tiny, ["dog", "cat"], seed=seed, steps=1, progress=False) for seed in seeds]
    assert len({tuple(x.tobytes() for x in pictures) for pictures in drawn}) == 1


def drop_tensor(path):
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path, {"format": "pt"})


def put(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new))


truncate = lambda path: path.write_bytes(path.read_bytes()[:1000])  # noqa: E731
scramble = lambda path: path.write_bytes(b"\x00" * 8 + path.read_bytes()[8:])  # noqa: E731
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (UNET, truncate, "cannot be loaded"),
        (UNET, scramble, "cannot be loaded"),
        (UNET, Path.unlink, "cannot be loaded"),
        (UNET, drop_tensor, "unet lacks 1"),
        ("text_encoder/model.safetensors", truncate, "cannot be loaded"),
        ("text_encoder/model.safetensors", drop_tensor, "text_encoder lacks 1"),
        ("vae", shutil.rmtree, "cannot be loaded"),
        ("tokenizer", shutil.rmtree, "tokenizer"),
        ("tokenizer/tokenizer.json", Path.unlink, "tokenizer"),
        ("scheduler", shutil.rmtree, "cannot be loaded"),
        ("model_index.json", lambda path: path.write_text("{"), "cannot be loaded"),
        ("model_index.json", lambda path: path.write_text("{}"), "cannot be loaded"),
        ("model_index.json", put("StableDiffusionP", "PixArtSigmaP"), "PixArtSigmaPipeline"),
        ("model_index.json", put("StableDiffusionP", "StableDiffusionXLP"), "text_encoder_2"),
        ("scheduler/scheduler_config.json", put("v_prediction", "sample"), "'sample'"),
    ],
)
def test_damaged_and_half_copied_models(refused, tiny_folder, tmp_path, file, damage, words):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    damage(broken / file)
    text = refused(load_pipeline, broken, device="cpu")
    assert words in text and str(broken) in text


def test_a_model_of_pictures_without_text(refused, tmp_path):
    small = {"sample_size": 8, "block_out_channels": (8, 8), "norm_num_groups": 4}
    small |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    DDPMPipeline(UNet2DModel(**small), DDIMScheduler()).save_pretrained(tmp_path)
    assert "is a DDPMPipeline" in refused(load_pipeline, tmp_path, device="cpu")


def test_erasures_of_another_model_or_damaged(refused, tiny, tmp_path):
    erasure = erase(tiny, smoke(), [])
    erasure.save(tmp_path)
    with torch.no_grad():
        tiny.unet.conv_in.weight.add_(0.5)
    assert "base model" in refused(erasure.applied(tiny).__enter__)
    assert "base model" in refused(erasure.export, tiny, tmp_path / "whole")
    other = Erasure({"conv_in.weigth": torch.zeros(1)}, erasure.config, erasure.base)
    assert "conv_in.weigth" in refused(other.applied(tiny).__enter__)
    for name, damage, words in (
        ("history.csv", lambda data: b'step,l1\n"' + data, "is damaged"),
        ("config.json", lambda data: data.replace(b'"base"', b'"bass"'), "is damaged"),
        ("config.json", lambda data: data.replace(b'"lam"', b'"lamb"'), "is damaged"),
        ("erased.safetensors", lambda data: data[:-100], "is damaged"),
    ):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(damage(data))
        assert words in refused(Erasure.load, tmp_path)
        (tmp_path / name).write_bytes(data)
    assert Erasure.load(tmp_path).history[0]["step"] == 0
    assert "Erasure.save" in refused(Erasure.load, tmp_path / "none")


def test_export_overwrites_nothing_but_an_export(refused, tiny, tiny_folder, tmp_path):
    erasure = erase(tiny, smoke(), [])
    erasure.save(tmp_path / "run")
    assert "not written here" in refused(erasure.export, tiny, tmp_path / "run")
    assert "holds the model that is being edited" in refused(erasure.export, tiny, tiny_folder)
    assert (tmp_path / "run" / "erased.safetensors").is_file()
    for _ in range(2):
        load_pipeline(erasure.export(tiny, tmp_path / "whole"), device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]


@contextmanager
def small_files():
    """This process may write no file above 3,000 bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(refused, tiny, tmp_path):
    erasure = erase(tiny, smoke(), [])
    erasure.save(tmp_path / "old")
    erasure.export(tiny, tmp_path / "old-pipeline")
    for name in ("old", "new", "old-pipeline", "new-pipeline"):
        write = erasure.save if "-" not in name else lambda path: erasure.export(tiny, path)
        with small_files():
            refused(write, tmp_path / name, says=[str(tmp_path / name), "File too large"])
    # what was there is whole, and nothing half-written is left
    Erasure.load(tmp_path / "old")
    load_pipeline(tmp_path / "old-pipeline", device="cpu")
    left = {p.name: sorted(q.name for q in p.iterdir()) for p in tmp_path.iterdir()}
    assert left.pop("old") == ["config.json", "erased.safetensors", "history.csv"]
    assert "model_index.json" in left.pop("old-pipeline")
    assert not any(left.values())
