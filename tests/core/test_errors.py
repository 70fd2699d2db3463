"""Every mistake a user can make is one clear line: the value, what was expected, what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

from erase_lib import EraseConfig, EraseError, Erasure, erase, generate, load_pipeline
from erase_lib.checkpoint import Checkpoint
from erase_lib.concepts import vocabulary
from erase_lib.measure import Judge
from erase_lib.search import Search
from erase_lib.study import Audit
from erase_lib.text import candidates, encode_prompts
from erase_lib.train import Run


def smoke(**values):
    given = {"targets": ["church"], "steps": 2, "nearest": 6, "candidates": 3, "method": "esd"}
    return EraseConfig.from_profile("smoke", **(given | values))


@pytest.fixture
def refused():
    """Calls a function that must raise `EraseError`, and returns its one line."""

    def call(function, *args, **kwargs):
        with pytest.raises(EraseError) as error:
            function(*args, **kwargs)
        text = str(error.value)
        assert "\n" not in text and 10 < len(text) < 400
        return text

    return call


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "eep"}, "unknown method 'eep': did you mean 'eap'"),
        ({"train_method": "xatn"}, "unknown train_method 'xatn': did you mean 'xattn'"),
        ({"schedule": "replays"}, "unknown schedule 'replays': did you mean 'replay'"),
        ({"thinning": "kmeans"}, "unknown thinning 'kmeans'"),
        ({"lamb": 1.0}, "unknown setting 'lamb': did you mean 'lam'"),
        ({"search": "movement", "train_method": "noxattn"}, "'movement' needs K and V trained"),
        ({"steps": -1}, "steps is -1: expected a number above 0"),
        ({"steps": 1.5}, "expected int"),
        ({"hard": 1}, "hard is 1 (int): expected bool"),
        ({"lam": -1.0}, "lam is -1.0: expected 0 or more"),
        ({"lr": "1e-5"}, "lr is '1e-5' (str): expected float"),
        ({"lr": float("nan")}, "lr is nan: expected a finite number"),
        ({"seed": -1}, "seed is -1: expected 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"targets": []}, "at least one concept"),
        ({"targets": [""]}, "at least one concept"),
        ({"targets": "church"}, "expected a list"),
        ({"styles": "noto"}, "styles is 'noto': expected a list"),
        ({"neutral": "church"}, "also a target"),
        ({"neutral": " Church"}, "also a target"),
        ({"method": "ca"}, "method 'ca' needs a concept that the target becomes: give anchors"),
        ({"anchors": ["a", "b"]}, "expected one for all, or one for each of the 1 targets"),
        ({"anchors": ["Church"]}, "anchors contains 'Church', which is a target"),
        ({"search": "fixed"}, "search 'fixed' needs concepts: give preserved"),
        ({"search": "fixed", "preserved": ["dog", "church "]}, "preserved contains 'church '"),
        ({"method": "uce", "preserved": ["church"]}, "preserved contains 'church'"),
        ({"search": "random", "preserved": ["dog"]}, "with search 'random' does not take it"),
        ({"method": "esd", "preserved": ["dog"]}, "method 'esd' with search"),
        ({"method": "age", "search": "movement"}, "method 'age' needs a mixture"),
        ({"method": "age", "anchors": ["dog"]}, "method 'age' searches what targets become"),
        ({"method": "esd", "lam_kv": 1.0}, "lam_kv is 1.0, but method 'esd'"),
        ({"train_method": "noxattn", "lam_kv": 1.0}, "holds nothing in K and V"),
        ({"candidates": 500}, "candidates is 500: expected at most nearest (400)"),
    ],
)
def test_settings(refused, values, words):
    assert words in refused(EraseConfig.from_dict, {"targets": ["church"]} | values)


def test_a_missing_target_and_an_unknown_profile(refused):
    assert "targets is missing" in refused(EraseConfig.from_dict, {"method": "esd"})
    text = refused(EraseConfig.from_profile, "corse", targets=["church"])
    assert text == "unknown profile 'corse': did you mean 'course'?"


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", None])
def test_devices(refused, tiny_folder, device):
    text = refused(load_pipeline, tiny_folder, device=device)
    assert text.startswith(f"device {device!r} cannot be used") and "try auto or cpu" in text
    if device == "gpu":
        assert refused(Judge.load, device=device) == text


def test_vocabularies(refused, tmp_path):
    assert "expected concepts, english or a text file" in refused(vocabulary, "englisch")
    file = tmp_path / "words.txt"
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(vocabulary, str(file))
    file.write_text("\n")
    assert "is empty" in refused(vocabulary, str(file))


def test_the_search_follows_the_method_and_what_is_trained():
    given = {"targets": ["church"]}
    for values, search in [
        ({}, "random"),
        ({"method": "age"}, "gumbel"),
        ({"train_method": "noxattn"}, "random"),
        ({"method": "esd", "train_method": "noxattn"}, "random"),
    ]:
        assert EraseConfig(**given, **values).search == search
    EraseConfig(**given, method="esd", train_method="noxattn", search="movement")  # of no matter


def test_an_audit_with_nothing_to_see(refused, tiny):
    text = refused(Audit, tiny, smoke(method="eap"), [0, 9])
    assert text == "moment 9: expected an update from 0 to 2"
    assert "searches nothing" in refused(Audit, tiny, smoke(), [0])


def test_a_checkpoint_of_another_search(refused, tiny, tmp_path):
    def stop(run):
        if run.history:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        erase(
            tiny, smoke(steps=3, method="eap", search="movement"), [Checkpoint(tmp_path, 1), stop]
        )
    other = lambda config, words, embeddings, pipe: Search(words, embeddings)  # noqa: E731
    again = smoke(steps=3, method="eap", search="movement")
    text = refused(erase, tiny, again, [Checkpoint(tmp_path, 1)], search=other)
    assert "with the searches ['MovementSearch'], this one has ['Search']" in text


def test_vocabularies_with_too_few_words(refused, tiny, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("church\n Church \nCHURCH\ndog\n")
    config = smoke(vocabulary=str(file))
    assert "fewer than two candidates besides the targets" in refused(candidates, tiny, config)
    file.write_text("dog\ncat\nbus\n")
    with pytest.warns(UserWarning, match="has 3 words besides the targets: all are searched"):
        found = candidates(tiny, smoke(vocabulary=str(file), nearest=9, candidates=6))
    assert sorted(found[0]) == ["bus", "cat", "dog"]


def test_a_loss_that_diverges_names_its_target(tiny, monkeypatch):
    goal = Run.goal

    def broken(run, z, t, c_n, c_e, known=None):
        return goal(run, z, t, c_n, c_e, known) * (float("nan") if (c_e == dog).all() else 1)

    dog = encode_prompts(tiny, ["dog"])
    config = smoke(method="esd", targets=["church", "dog"], styles=(), steps=20)
    monkeypatch.setattr(Run, "goal", broken)
    with pytest.warns(UserWarning, match="the loss of dog or its gradient became NaN"):
        erasure = erase(tiny, config, [])
    assert 0 < len(erasure.history) < 20
    assert {row["target"] for row in erasure.history} == {"church"}


def test_more_sampling_steps_than_the_model_has(refused, tiny):
    text = refused(erase, tiny, smoke(sampling_steps=1001), [])
    assert text == "1001 sampling steps: expected 1 to 1000"


def test_float16_has_too_small_gradients_to_train(refused, tiny_folder):
    pipe = load_pipeline(tiny_folder, device="cpu", dtype=torch.float16)
    assert "load it with dtype=torch.bfloat16" in refused(erase, pipe, smoke())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": [1, 2, 3]}, "3 seeds for 2 prompts: give one for each"),
        ({"steps": 0}, "0 sampling steps: expected 1 to 1000"),
        ({"steps": -5}, "-5 sampling steps: expected 1 to 1000"),
        ({"steps": 1001}, "1001 sampling steps: expected 1 to 1000"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan: expected a finite number"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf: expected a finite number"),
        ({"batch_size": 0}, "batch_size is 0: expected 1 or more"),
        ({"prompts": "dog"}, "prompts is 'dog': expected a list, such as ['dog']"),
    ],
)
def test_generate(refused, tiny, values, words):
    assert words in refused(generate, tiny, **({"prompts": ["dog", "cat"], "steps": 1} | values))


def test_no_prompts_give_no_pictures_but_no_embeddings(refused, tiny):
    assert generate(tiny, [], progress=False) == []
    assert "no prompts" in refused(encode_prompts, tiny, [])


def test_seeds_may_come_from_numpy(tiny):
    a, b, c = (
        generate(tiny, ["dog", "cat"], seed=seed, steps=1, progress=False)
        for seed in (3, np.int64(3), np.array([3, 4]))
    )
    assert [x.tobytes() for x in a] == [x.tobytes() for x in b] == [x.tobytes() for x in c]


def test_too_long_a_prompt_is_named(tiny):
    with pytest.warns(UserWarning, match=r"prompt 'dog .*' is too long: '(dog )+cat' is cut off"):
        encode_prompts(tiny, ["dog " * 30 + "cat"])


def test_missing_model_folders(refused, tiny_folder, tmp_path):
    assert "does not exist" in refused(load_pipeline, tmp_path / "nowhere", device="cpu")
    assert "model_index.json is missing" in refused(load_pipeline, tmp_path, device="cpu")
    file = tmp_path / "model.safetensors"
    file.touch()
    assert "model_index.json is missing" in refused(load_pipeline, file, device="cpu")


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def scramble(path):
    path.write_bytes(b"\x00" * 8 + path.read_bytes()[8:])


def drop_tensor(path):
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path, {"format": "pt"})


def other_class(path):
    path.write_text(path.read_text().replace("StableDiffusionP", "StableDiffusionXLP"))


def other_prediction(path):
    path.write_text(path.read_text().replace("v_prediction", "sample"))


UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (UNET, truncate, "cannot be loaded"),
        (UNET, scramble, "cannot be loaded"),
        (UNET, lambda path: path.unlink(), "cannot be loaded"),
        (UNET, drop_tensor, "unet lacks 1 tensors, the first"),
        ("text_encoder/model.safetensors", truncate, "cannot be loaded"),
        ("text_encoder/model.safetensors", drop_tensor, "text_encoder lacks 1 tensors"),
        ("vae", shutil.rmtree, "cannot be loaded"),
        ("tokenizer", shutil.rmtree, "files of its tokenizer are missing"),
        ("tokenizer/tokenizer.json", lambda path: path.unlink(), "files of its tokenizer"),
        ("scheduler", shutil.rmtree, "cannot be loaded"),
        ("model_index.json", lambda path: path.write_text("{"), "cannot be loaded"),
        ("model_index.json", lambda path: path.write_text("{}"), "cannot be loaded"),
        ("model_index.json", other_class, "is a StableDiffusionXLPipeline: expected a text-to-im"),
        ("scheduler/scheduler_config.json", other_prediction, "predicts 'sample': expected one"),
    ],
)
def test_damaged_and_half_copied_models(refused, tiny_folder, tmp_path, file, damage, words):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    damage(broken / file)
    text = refused(load_pipeline, broken, device="cpu")
    assert words in text and str(broken) in text


def test_a_model_of_pictures_without_text(refused, tmp_path):
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    DDPMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path)
    text = refused(load_pipeline, tmp_path, device="cpu")
    assert "is a DDPMPipeline: expected a text-to-image StableDiffusionPipeline" in text


def test_erasures_of_another_model_or_damaged(refused, tiny, tmp_path):
    erasure = erase(tiny, smoke(), [])
    erasure.save(tmp_path)
    with torch.no_grad():
        tiny.unet.conv_in.weight.add_(0.5)
    assert "was made for base model" in refused(erasure.applied(tiny).__enter__)
    assert "was made for base model" in refused(erasure.export, tiny, tmp_path / "whole")
    other = Erasure({"conv_in.weigth": torch.zeros(1)}, erasure.config, erasure.base)
    assert "edits conv_in.weigth (1,), which the loaded" in refused(other.applied(tiny).__enter__)
    for name, damage in {
        "history.csv": lambda data: b'step,l1\n"' + data,
        "config.json": lambda data: data.replace(b'"base"', b'"bass"'),
        "erased.safetensors": lambda data: data[:-100],
    }.items():
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(damage(data))
        assert "is damaged" in refused(Erasure.load, tmp_path)
        (tmp_path / name).write_bytes(data)
    assert Erasure.load(tmp_path).history[0]["step"] == 0
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["config"]["lamb"] = settings["config"].pop("lam")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert "unknown setting 'lamb': did you mean 'lam'" in refused(Erasure.load, tmp_path)
    assert "is missing" in refused(Erasure.load, tmp_path / "none")


def test_export_overwrites_nothing_but_an_export(refused, tiny, tiny_folder, tmp_path):
    erasure = erase(tiny, smoke(), [])
    erasure.save(tmp_path / "run")
    assert "is not an exported model" in refused(erasure.export, tiny, tmp_path / "run")
    assert "holds the model that is being edited" in refused(erasure.export, tiny, tiny_folder)
    assert (tmp_path / "run" / "erased.safetensors").is_file()
    for _ in range(2):
        load_pipeline(erasure.export(tiny, tmp_path / "whole"), device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]


FULL_DISK = """
import json, resource, sys, warnings
from pathlib import Path
from erase_lib import EraseConfig, EraseError, Erasure, erase, load_pipeline
from erase_lib.checkpoint import Checkpoint

model, folder = Path(sys.argv[1]), Path(sys.argv[2])
config = EraseConfig.from_profile("smoke", targets=["church"], steps=2, method="esd")
pipe = load_pipeline(model, device="cpu")
erasure = erase(pipe, config, [])
erasure.save(folder / "old")
erasure.export(pipe, folder / "old-pipeline")
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
said = {}
for name, write in {
    "old": erasure.save,
    "new": erasure.save,
    "old-pipeline": lambda folder: erasure.export(pipe, folder),
    "new-pipeline": lambda folder: erasure.export(pipe, folder),
}.items():
    try:
        write(folder / name)
    except EraseError as error:
        said[name] = str(error)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    done = erase(pipe, config, [Checkpoint(folder / "run", 1)])
said["run"] = [str(w.message) for w in caught]
said["updates"] = len(done.history)
print(json.dumps(said))
"""


def test_a_full_disk(tiny_folder, tmp_path):
    # a process of its own, which may write no file above 3,000 bytes
    command = [sys.executable, "-c", FULL_DISK, str(tiny_folder), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    for name in ("old", "new", "old-pipeline", "new-pipeline"):
        assert said[name].startswith(f"cannot write to {tmp_path / name} (")
        assert "File too large" in said[name] and "\n" not in said[name]
    (warning,) = said["run"]
    assert "File too large" in warning and warning.endswith("the run goes on")
    assert said["updates"] == 2
    # what was there is whole, and nothing half-written is left
    Erasure.load(tmp_path / "old")
    load_pipeline(tmp_path / "old-pipeline", device="cpu")
    left = {p.name: sorted(q.name for q in p.iterdir()) for p in tmp_path.iterdir()}
    assert left.pop("old") == ["config.json", "erased.safetensors", "history.csv"]
    assert "model_index.json" in left.pop("old-pipeline")
    assert not any(left.values())
