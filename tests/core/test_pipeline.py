"""A pipeline in many hands, in a state that is not as it was loaded, or nowhere to be found."""

from __future__ import annotations

import copy
import random
import shutil
import signal
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from IPython.core.interactiveshell import InteractiveShell

from erase_lib import EraseConfig, Erasure, erase, generate, load_pipeline, models, sweep
from erase_lib.checkpoint import Checkpoint
from erase_lib.files import ENDINGS
from erase_lib.hold import held, in_place, recomputing
from erase_lib.models import fingerprint
from erase_lib.text import encode_prompts
from erase_lib.train import Run


def smoke(**values):
    given = {"targets": ["church"], "steps": 2, "nearest": 6, "candidates": 3, "method": "esd"}
    return EraseConfig.from_profile("smoke", **(given | values))


def draw(pipe, **values):
    return generate(pipe, ["dog"], steps=1, progress=False, **values)


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def state(pipe):
    flags = [(n, p.requires_grad, p.grad) for n, p in pipe.unet.named_parameters()]
    return fingerprint(pipe.unet), flags, [module.training for module in pipe.unet.modules()]


def equal(a, b):
    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(tensor, b.tensors[name]) for name, tensor in a.tensors.items()
    )


@pytest.fixture(scope="module")
def edit(loaded):
    return erase(loaded, smoke(method="uce"))


# -- many hands ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the pipeline is in use")
def test_threads_on_one_pipeline_find_what_each_would_find_alone(tiny):
    given = [
        smoke(lr=1e-2),
        smoke(targets=["dog"], train_method="full", gradient_checkpointing=True),
    ]
    given.append(smoke(method="uce"))
    before = state(tiny)
    one = erase(tiny, given[0], [])

    def applied():
        with one.applied(tiny):
            time.sleep(0.01)  # others would draw with it now
            return draw(tiny)

    works = [lambda c=c: erase(tiny, c, []) for c in given] + [lambda: draw(tiny), applied]
    alone = [work() for work in works]
    assert not same(alone[3], alone[4])
    with ThreadPoolExecutor(5) as pool:
        together = [f.result() for f in [pool.submit(work) for work in works]]
    for i, found in enumerate(together):
        expected = alone[i]
        assert equal(found, expected) if isinstance(found, Erasure) else same(found, expected)
    assert state(tiny) == before


def test_another_thread_waits_and_is_told_for_whom(tiny, refused):
    def other():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fingerprint(tiny.unet)
        return [str(warning.message) for warning in said]

    with ThreadPoolExecutor(1) as pool:
        with held(tiny.unet, "erasing church"):
            at_once = pool.submit(held(tiny.unet, wait=False).__enter__)
            refused(at_once.result, says=["MainThread (erasing church since", "try again"])
            waiting = pool.submit(other)
            time.sleep(1.2)
            assert not waiting.done()
        (said,) = waiting.result(60)
    assert "in use by MainThread (erasing church since" in said and "waiting" in said


def test_a_stock_call_in_another_thread_never_sees_the_student(tiny, edit, refused, tmp_path):
    calls = {
        "call": lambda: tiny.unet(torch.zeros(1, 4, 4, 4), 1, torch.zeros(1, 16, 16)),
        "state": lambda: tiny.unet.state_dict(),
        "save": lambda: tiny.unet.save_pretrained(tmp_path / "x"),
    }
    before = state(tiny)
    with ThreadPoolExecutor(1) as pool, edit.applied(tiny):
        for call in calls.values():
            refused(pool.submit(call).result, says=["in use by MainThread", "try again"])
            call()  # who has applied it may
    with ThreadPoolExecutor(1) as pool:
        for call in calls.values():
            pool.submit(call).result()
    assert state(tiny) == before and not tiny.unet._forward_pre_hooks


def test_no_moment_of_an_interrupt_leaves_the_student_in_place(tiny):
    own = dict(tiny.unet.named_parameters())
    given = {n: torch.zeros_like(p) for n, p in own.items()}
    end, times = time.monotonic() + 20, 0
    with custom_signal(signal.SIGALRM):
        while times < 200 and time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + 3e-3 * random.random())
                lost = time.monotonic() + 1  # an interrupt within a callback of Python's own is
                while time.monotonic() < lost:
                    with in_place(tiny.unet, given):
                        pass
            except KeyboardInterrupt:
                times += 1
            assert all(tiny.unet.get_parameter(n) is p for n, p in own.items()), times
            assert not vars(tiny.unet)["_hold"].lock.locked()
            assert not tiny.unet._forward_pre_hooks
    assert times > 20 and signal.getsignal(signal.SIGALRM) is not signal.default_int_handler


@contextmanager
def custom_signal(number):
    """The alarm stands for Ctrl-C, and is one of those that are held back."""
    ENDINGS.append(number)
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)
        ENDINGS.remove(number)


def more_tokens(pipe):
    pipe.tokenizer = copy.deepcopy(pipe.tokenizer)  # which other tests have too
    pipe.tokenizer.add_tokens([f"<{i}>" for i in range(7000)])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (more_tokens, "16384|resize"),
        (lambda p: p.unet.to(torch.float64) and p.text_encoder.to(torch.float64), "float64"),
        (lambda p: setattr(p, "image_processor", None), "no image_processor"),
    ],
)
def test_more_that_a_pipeline_may_lack(refused, tiny, change, says):
    change(tiny)
    refused(draw, tiny, says=says.split("|"))
    refused(erase, tiny, smoke(), [], says=says.split("|"))


def test_a_base_is_not_exported_over_from_wherever_one_is(
    tiny, edit, tmp_path, monkeypatch, refused
):
    monkeypatch.chdir(tmp_path)
    edit.export(tiny, "base")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "base").rglob("*")}
    pipe = load_pipeline("base", device="cpu")
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    parts = pipe.components
    for one in (pipe, StableDiffusionPipeline(**parts, requires_safety_checker=False)):
        refused(edit.export, one, "../base", says="being edited")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "base").rglob("*")} == before


def test_blocks_left_in_any_order_and_in_another_thread(tiny):
    before, own = state(tiny), dict(tiny.unet.named_parameters())
    name = "conv_in.weight"
    a, b = (in_place(tiny.unet, {name: torch.full_like(own[name], x)}) for x in (1.0, 2.0))
    a.__enter__()
    b.__enter__()
    a.__exit__(None, None, None)
    assert (tiny.unet.conv_in.weight == 2).all()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(b.__exit__, None, None, None).result()
        assert tiny.unet.get_parameter(name) is own[name]
        pool.submit(draw, tiny).result(60)  # nobody holds it
    with pytest.raises(AttributeError), in_place(tiny.unet, {name: own[name], "no.such": None}):
        pass
    assert state(tiny) == before
    copy.deepcopy(tiny.unet)


def test_the_unets_own_recomputing_and_modes_stay(tiny):
    for own in (False, True):
        if own:
            tiny.unet.enable_gradient_checkpointing()
        erase(tiny, smoke(gradient_checkpointing=True), [])
        with recomputing(tiny.unet, True):
            assert tiny.unet.is_gradient_checkpointing
        assert tiny.unet.is_gradient_checkpointing == own and not tiny.unet.training


def test_an_erasure_taken_on_the_way_stays_what_it_was(tiny):
    taken = []
    end = erase(tiny, smoke(steps=3), [lambda run: taken.append(run.erasure())])
    assert [len(e.history) for e in taken] == [0, 1, 2, 3]
    assert [e.partial for e in taken] == [True, True, True, False] and not end.partial
    assert not equal(taken[1], taken[2]) and equal(taken[3], end)


def test_ctrl_c_stops_the_cell_and_keeps_what_is_done(tiny, capsys):
    def stop(run):
        if len(run.history) == 1:
            raise KeyboardInterrupt  # as Python does at Ctrl-C

    shell = InteractiveShell()
    shell.push({"work": lambda: erase(tiny, smoke(), [stop])})
    ran = shell.run_cell("work()\nwent_on = True")
    assert isinstance(ran.error_in_exec, KeyboardInterrupt) and "went_on" not in shell.user_ns
    found = shell.run_cell("import sys; kept = sys.last_value.erasure")
    assert (
        found.success and len(shell.user_ns["kept"].history) == 1 and shell.user_ns["kept"].partial
    )
    assert "1 of 2 updates are done" in capsys.readouterr().out


def test_a_state_is_taken_over_whole(tiny, monkeypatch):
    run = Run(tiny, smoke())
    run.update()
    seen, state = [], run.state_dict()
    monkeypatch.setattr("erase_lib.train.uninterrupted", lambda: seen.append(1) or held(tiny.unet))
    Run(tiny, smoke()).load_state_dict(state)
    assert seen


# -- the pipeline in hand --------------------------------------------------------------------------


def unet(**config):
    return lambda pipe: pipe.unet.register_to_config(**config)


def vae(scale):
    return lambda pipe: pipe.vae.register_to_config(scaling_factor=scale)


def scheduler(kind=DDIMScheduler, **config):
    given = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    plain = {} if kind in (EDMEulerScheduler, FlowMatchEulerDiscreteScheduler) else given
    return lambda pipe: setattr(pipe, "scheduler", kind(**(plain | config)))


def adapted(part, name):
    return lambda pipe: getattr(pipe, part).add_module(name, torch.nn.Linear(2, 2))


def ip_adapter(pipe):
    pipe.unet.config.encoder_hid_dim_type = "ip_image_proj"  # as load_ip_adapter does


def nan(part):
    def spoil(pipe):
        with torch.no_grad():
            next(getattr(pipe, part).parameters())[-1] = float("nan")

    return spoil


def dropout(pipe):
    pipe.unet.conv_act = torch.nn.Dropout(0.1).train()


def no_limit(pipe):
    pipe.tokenizer = copy.deepcopy(pipe.tokenizer)
    pipe.tokenizer.model_max_length = 10**30


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda pipe: pipe.fuse_qkv_projections(), "fused|load it anew"),
        (adapted("unet", "lora_A"), "adapter|lora_A|fuse_lora"),
        (adapted("unet", "base_layer"), "adapter|base_layer"),
        (adapted("text_encoder", "lora_B"), "adapter|lora_B"),
        (ip_adapter, "'ip_image_proj'|more than a text"),
        (unet(time_cond_proj_dim=4), "time_cond_proj_dim 4"),
        (unet(class_embed_type="timestep"), "class_embed_type"),
        (unet(num_class_embeds=3), "num_class_embeds"),
        (unet(encoder_hid_dim_type="text_proj"), "encoder_hid_dim_type"),
        (unet(addition_embed_type="text_time"), "addition_embed_type"),
        (unet(in_channels=9), "wants more than a text"),
        (unet(out_channels=8), "wants more than a text"),
        *(
            (unet(sample_size=n), f"sample_size is {n!r}")
            for n in (None, 0, "64", [8], True, [4, -1])
        ),
        *((vae(scale), f"scaling_factor {scale!r}") for scale in (0, float("nan"), "0.18", None)),
        (scheduler(FlowMatchEulerDiscreteScheduler), "None|epsilon"),
        (scheduler(EDMEulerScheduler), "EDMEulerScheduler|DDIM"),
        (scheduler(DDPMScheduler, beta_schedule="sigmoid"), "DDPMScheduler|DDIM"),
        (
            scheduler(
                EulerDiscreteScheduler, timestep_type="continuous", prediction_type="v_prediction"
            ),
            "EulerDiscreteScheduler|DDIM",
        ),
        (scheduler(rescale_betas_zero_snr=True), "zero terminal SNR|v_prediction"),
        (scheduler(prediction_type="sample"), "'sample'|epsilon"),
        (lambda pipe: pipe.unet.to(torch.bfloat16), "bfloat16|float32|pipe.to"),
        (lambda pipe: pipe.text_encoder.to(torch.bfloat16), "bfloat16|float32|pipe.to"),
        (lambda pipe: pipe.unet.conv_in.half(), "float16|float32|pipe.to"),
        (lambda pipe: pipe.unet.to("meta"), "meta"),
        (lambda pipe: setattr(pipe, "vae", None), "no vae|load_pipeline"),
        (dropout, "dropout|eval()"),
        (no_limit, "model_max_length = 16"),
    ],
)
def test_a_pipeline_that_is_not_as_it_was_loaded(refused, tiny, edit, change, says):
    change(tiny)
    for call in (
        lambda: erase(tiny, smoke(), []),
        lambda: draw(tiny),
        lambda: edit.applied(tiny).__enter__(),
        lambda: edit.export(tiny, "runs/no-such"),
    ):
        refused(call, says=says.split("|"))
    assert not Path("runs/no-such").exists()


@pytest.mark.parametrize("pipe", [None, 5, "runs/church", torch.nn.Linear(1, 1)])
def test_what_is_no_pipeline(refused, edit, pipe):
    refused(erase, pipe, smoke(), says="load_pipeline")
    refused(edit.export, pipe, "runs/no-such", says="load_pipeline")
    for call in (draw, edit.applied, lambda p: edit.scaled(p, 0.5)):
        refused(call, pipe, says="load_pipeline")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_weight_that_is_nan_is_said_before_anything_is_made_of_it(refused, tiny, part):
    nan(part)(tiny)
    for config in (smoke(), smoke(method="uce")):
        refused(erase, tiny, config, says="NaN weights")


def test_pictures_that_are_nan_are_none(refused, tiny):
    with torch.no_grad():
        tiny.unet.conv_in.weight.fill_(float("nan"))
    refused(draw, tiny, says="NaN float32")


def test_any_scheduler_with_the_same_betas(tiny):
    before = draw(tiny)
    for kind in (PNDMScheduler, DDPMScheduler, EulerDiscreteScheduler):
        tiny.scheduler = kind.from_config(tiny.scheduler.config)
        assert same(draw(tiny), before)


@pytest.mark.parametrize("stance", ["force_eager", pytest.param("default", marks=pytest.mark.slow)])
def test_a_compiled_pipeline_is_the_same_pipeline(tiny, tiny_folder, tmp_path, stance):
    with torch.compiler.set_stance(stance):
        compiled(tiny, tiny_folder, tmp_path)


def compiled(tiny, tiny_folder, tmp_path):
    expected = erase(tiny, smoke(), [])
    with expected.applied(tiny):
        erased = draw(tiny)
    pipe = load_pipeline(tiny_folder, device="cpu")
    for part in ("unet", "text_encoder", "vae"):
        setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager"))
    before = state(pipe)
    found = erase(pipe, smoke(), [])
    assert equal(found, expected) and found.base == expected.base
    with expected.applied(pipe):
        assert same(draw(pipe), erased)
    assert same(draw(pipe), draw(tiny)) and state(pipe) == before
    again = load_pipeline(found.export(pipe, tmp_path / "whole"), device="cpu")
    assert same(draw(again), erased)


def test_pictures_that_are_not_square(tiny, tmp_path):
    tiny.unet.register_to_config(sample_size=[4, 8])
    edit = erase(tiny, smoke(method="eap", search="exhaustive"), [])
    with edit.applied(tiny):
        (picture,) = erased = draw(tiny)
    assert picture.width == 2 * picture.height
    assert same(draw(load_pipeline(edit.export(tiny, tmp_path / "whole"), device="cpu")), erased)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_no_grad_and_inference_mode(tiny, tiny_folder, mode):
    expected = erase(tiny, smoke(), [])
    with mode():
        pipe = load_pipeline(tiny_folder, device="cpu")
        assert equal(erase(pipe, smoke(), []), expected)
        inside = draw(pipe)
    assert same(draw(pipe), inside) and equal(erase(pipe, smoke(), []), expected)


def test_weights_made_in_inference_mode(refused, tiny):
    with torch.inference_mode():
        for parameter in list(tiny.unet.parameters()):
            parameter.data = parameter.clone()
        tiny.unet.conv_in = copy.deepcopy(tiny.unet.conv_in)
        tiny.unet.conv_in.weight = torch.nn.Parameter(torch.ones(16, 4, 3, 3), requires_grad=False)
    refused(erase, tiny, smoke(), [], says="inference_mode")


def test_a_callers_autocast_changes_no_number(tiny, tiny_folder):
    for pipe in (tiny, load_pipeline(tiny_folder, device="cpu", dtype="bfloat16")):
        expected = erase(pipe, smoke(steps=3), []).history
        with torch.autocast("cpu", torch.bfloat16):
            found = erase(pipe, smoke(steps=3), []).history
        rows = zip(found, expected, strict=True)
        assert all(a["l1"] == pytest.approx(b["l1"], rel=0.05) for a, b in rows)


def test_a_pipeline_built_from_components(tiny, tmp_path):
    built = StableDiffusionPipeline(**tiny.components, requires_safety_checker=False)
    built.unet.requires_grad_(True)
    before = state(built)
    edit = erase(built, smoke(), [])
    assert state(built) == before  # no gradients are left in it either
    with edit.applied(built):
        erased = draw(built)
    assert same(draw(load_pipeline(edit.export(built, tmp_path / "a"), device="cpu")), erased)


PROMPTS = [
    "",
    "a church in noto style",
    "dog " * 40,
    "Église, “d'été” 🐶",
    "<hat> on a cat",
    "\t \n",
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.filterwarnings("ignore:prompt")
def test_the_denoiser_hears_what_the_pipelines_own_encoding_says(tiny, masked):
    tiny.tokenizer = copy.deepcopy(tiny.tokenizer)
    tiny.tokenizer.add_tokens(["<hat>", "<hat>_1"])  # a textual inversion of two vectors
    tiny.text_encoder.resize_token_embeddings(len(tiny.tokenizer))
    tiny.text_encoder.config.use_attention_mask = masked
    theirs = tiny.encode_prompt(PROMPTS, "cpu", 1, True)
    ours = encode_prompts(tiny, PROMPTS)
    assert torch.equal(ours, theirs[0]) and torch.equal(ours[:1], theirs[1][:1])
    hat, bare = encode_prompts(tiny, ["<hat> <hat>_1"]), encode_prompts(tiny, ["<hat>"])
    assert torch.equal(hat[:, :3], bare[:, :3])  # both vectors are there


# -- finding the model -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_export_of_any_dtype_is_loaded_by_a_plain_call(tiny_folder, tmp_path, dtype):
    pipe = load_pipeline(tiny_folder, device="cpu", dtype=dtype)
    folder = erase(pipe, smoke(method="uce")).export(pipe, tmp_path / "whole")
    stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    assert stock.unet.dtype == stock.text_encoder.dtype == stock.vae.dtype == torch.float32
    embeddings = stock.encode_prompt(["dog"], "cpu", 1, False)[0]
    with torch.no_grad():
        stock.unet(torch.zeros(1, 4, 4, 4), 1, embeddings)


def test_a_folder_with_a_variant_alone(tiny_folder, tmp_path):
    whole = draw(load_pipeline(tiny_folder, device="cpu"))
    stored = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    for variant, parts in (("fp16", ["unet", "vae", "text_encoder"]), ("ema", ["unet"])):
        folder = tmp_path / variant
        shutil.copytree(tiny_folder, folder)
        for part in parts:
            getattr(stored, part).save_pretrained(folder / part, variant=variant)
            (plain,) = [f for f in (folder / part).glob("*.safetensors") if variant not in f.name]
            plain.unlink()
        assert same(draw(load_pipeline(folder, device="cpu")), whole)
    # where both are there, the whole one is taken
    nan("unet")(stored)
    stored.unet.save_pretrained(tmp_path / "both" / "unet", variant="fp16")
    shutil.copytree(tiny_folder, tmp_path / "both", dirs_exist_ok=True)
    assert same(draw(load_pipeline(tmp_path / "both", device="cpu")), whole)


@pytest.fixture
def no_hub(monkeypatch):
    """The hub cannot be reached; how often it was asked."""
    asked = []

    def model_info(name, **given):
        asked.append(name)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(models, "model_info", model_info)
    return asked


def test_models_that_are_not_there(refused, tiny_folder, tmp_path, monkeypatch, no_hub):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_folder, tmp_path / "runs" / "church-pipeline")
    (tmp_path / "sd.safetensors").touch()
    for name, says in (
        ("runs/church-pipelin", ["does not exist", "did you mean", "church-pipeline?"]),
        ("~/runs", [str(tmp_path), "model_index.json"]),
        ("~/church", [f"{tmp_path}/church does not exist"]),
        ("./church", ["does not exist"]),
        ("../church", ["does not exist"]),
        ("/church", ["does not exist"]),
        ("a/b/c", ["does not exist"]),
        ("church", ["does not exist"]),
        (Path("owner/name"), ["does not exist"]),
        ("sd.safetensors", ["sd.safetensors is no safetensors file"]),
        ("", ["is no path"]),
        ("runs\0", ["is no path"]),
        (5, ["model_id is 5"]),
    ):
        refused(load_pipeline, name, device="cpu", says=says)
    assert not no_hub
    refused(load_pipeline, "owner/name", device="cpu", says=["cannot be reached", "not known"])
    assert no_hub == ["owner/name"]
    load_pipeline("~/runs/church-pipeline", device="cpu")


def test_a_hub_id_that_is_none(refused, monkeypatch):
    wrong = huggingface_hub.errors.HFValidationError("Repo id must use alphanumeric chars")
    monkeypatch.setattr(models, "model_info", lambda *_, **__: (_ for _ in ()).throw(wrong))
    refused(load_pipeline, "owner/na me!", device="cpu", says=["here or on the hub", "na me!"])


def test_home_is_home_at_every_door(refused, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    edit = erase(tiny, smoke(), [Checkpoint("~/checkpoint")])
    assert edit.save("~/run") == tmp_path / "home" / "run"
    assert equal(Erasure.load("~/run"), edit)
    assert edit.export(tiny, "~/whole") == tmp_path / "home" / "whole"
    sweep.start("course", "~/sweep")
    there = {path.name for path in (tmp_path / "home").iterdir()}
    assert there >= {"checkpoint", "run", "whole", "sweep"} and not (tmp_path / "~").exists()
    refused(sweep.collect, "~/sweep", says=[f"{tmp_path}/home/sweep"])
    for call in (edit.save, Erasure.load, Checkpoint, lambda path: edit.export(tiny, path)):
        for path in ("", "run\0"):
            refused(call, path, says="is no path")
