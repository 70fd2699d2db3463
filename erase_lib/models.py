"""Loading a text-to-image pipeline, and choosing what of its UNet is trained."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import fetch_diffusers_config
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import model_info, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from torch import nn
from transformers.utils import logging as transformers_logging

from erase_lib import ldm
from erase_lib.config import TRAIN_METHODS
from erase_lib.doors import gate
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.families import PIPELINES, Pipeline, denoiser, encoders, family, noise_faults
from erase_lib.files import DATA, sought
from erase_lib.hold import held, own_device, plain
from erase_lib.hold import in_place as in_place  # where 04 looks for it

EMBEDDED = DATA / "models" / "emoji-diffusion"
# what a UNet may ask for besides z_t, t and a text
ASKS = """time_cond_proj_dim class_embed_type num_class_embeds encoder_hid_dim_type
    addition_embed_type""".split()
# the usual download has model.fp16.safetensors alone
WEIGHTS = re.compile(r"[^.]*\.(safetensors|bin|(?P<variant>[^.-]+)[^.]*\.safetensors)")
ADAPTER = re.compile(r"lora_|base_layer|adapter|parametrizations|\.processor")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """`auto`: CUDA if there is one, else the CPU. Raises `EraseError` if it cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except Exception as error:  # each kind of device raises its own
        raise EraseError(f"no device {device!r} ({reason(error)}): try auto or cpu") from None
    return chosen


@gate
@torch.inference_mode(False)  # weights made within could never be trained
def load_pipeline(
    model_id: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | str | None = None,
    config: str | Path | None = None,
    variant: str | None = None,
) -> Pipeline:
    """The teacher: a frozen text-to-image pipeline without progress bar or safety checker.

    Default: the embedded model. Otherwise a folder in diffusers' format, a hub id, or a single
    .safetensors file; then `config` is the folder or hub id of a model of its kind, which says what
    the file does not and has the parts that it lacks. `dtype`: float32 on a CPU, bfloat16 on a GPU,
    unless given, also by name. `variant`: of a folder's weights, such as fp16. Raises `EraseError`
    when the model is missing, damaged, of another kind or a pickle, for a hub id that is nowhere to
    be found, and for an unknown dtype or variant.
    """
    place = pick_device(device)
    dtype = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if dtype not in (None, *DTYPES.values()):
        raise unknown("dtype", str(dtype).removeprefix("torch."), DTYPES)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    model_id = EMBEDDED if model_id is None else model_id
    file = path if (path := sought(model_id)).is_file() else None
    if given := (variant if file else config):
        what = "single file takes no variant" if file else "folder takes no config"
        raise EraseError(f"a {what}, but {str(given)!r} is given for {model_id}: leave it out")
    source, files = _config(file, config) if file else _find(model_id)
    with own_device(), nullcontext() if files else quiet():  # a download keeps its bars
        pipe = _read(source, dtype, files, variant, file)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "unet"):
        pipe.unet.to(memory_format=torch.channels_last)  # its convolutions are faster so
    check_pipeline(pipe, weights=True, draws="Inpaint" not in type(pipe).__name__)
    return pipe.to(place)


def _find(model_id: str | Path) -> tuple[str, list[str] | None]:
    """The model's folder, or its hub id with the files there. The hub is asked but once, for its
    own clients try for half a minute."""
    folder, text = sought(model_id), str(model_id)
    if (folder / "model_index.json").is_file():
        return os.path.abspath(folder), None  # wherever one goes from here
    if folder.exists():
        raise EraseError(f"{folder} is no whole model: it lacks model_index.json, copy it anew")
    owner = text.partition("/")[0]
    if isinstance(model_id, Path) or text.count("/") != 1 or sought(owner or "/").is_dir():
        there = [p.parent.name for p in sought(folder.parent).glob("*/model_index.json")]
        near = get_close_matches(folder.name, there, 1)
        hint = f"did you mean {folder.parent / near[0]}?" if near else "give a folder or a hub id"
        raise EraseError(f"model folder {folder} does not exist: {hint} (owner/name)")
    try:
        return text, [file.rfilename for file in model_info(text, timeout=10).siblings or []]
    except (RepositoryNotFoundError, HFValidationError):
        raise EraseError(f"no model {text} here or on the hub: give its folder or its id") from None
    except Exception as error:  # of the network, of whichever client the hub's library uses
        if isinstance(cached := try_to_load_from_cache(text, "model_index.json"), str):
            return str(Path(cached).parent), None
        missing = f"no model {text} on this machine, and the hub cannot be reached"
        raise EraseError(f"{missing} ({reason(error)}): connect, or give a folder") from None


def _config(file: Path, config: str | Path | None) -> tuple[str, list[str] | None]:
    """Where what a single file does not say stands, as `_find`; by default for all of its kind."""
    kind = config or fetch_diffusers_config(ldm.heading(file)[0])["pretrained_model_name_or_path"]
    try:
        if config is None and "stable-diffusion-2" in str(kind):
            raise EraseError("SD 2 predicts epsilon or v")
        return _find(kind)
    except EraseError as error:
        what = f"{file} does not say all of itself: give config=, a folder of a model of its kind"
        raise (EraseError(f"{what} ({reason(error)})") if config is None else error) from None


def _read(
    source: str, dtype: torch.dtype, files: list[str] | None, variant: str | None, file: Path | None
) -> Pipeline:
    """The pipeline as stored. `EraseError` for another kind of model, or one that is not whole."""
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": files is None}
    if files is None:
        files = [p.relative_to(source).as_posix() for p in Path(source).rglob("*.safetensors")]
    try:
        config = diffusers.DiffusionPipeline.load_config(source, **options)
        if (kind := config["_class_name"]) not in PIPELINES:
            kinds = ", ".join(PIPELINES)
            raise EraseError(f"model {source} is a {kind}: expected a text-to-image {kinds}")
        parts, models = dict[str, Any](), _models(config)
        held = ldm.heading(file)[0] if file else {}
        of = {name: _variants(files, name) for name, _ in models}
        if variant and variant not in (known := {v for found in of.values() for v in found}):
            has = ", ".join(sorted(filter(None, known))) or "none"
            raise EraseError(f"model {source} has no weights of variant {variant!r}: it has {has}")
        for name, model in models:  # one by one, for only so do they say what is missing
            if any(key.startswith(ldm.HELD.get(name, ())) for key in held):
                continue
            if file and (name == PIPELINES[kind].part or not of[name]):
                raise EraseError(f"{file} has no {name} in LDM's keys, nor has {source} one for it")
            fit = (v for v in (variant, None, *of[name]) if v in of[name])
            options["variant"] = next(fit, None)
            given = options | {"subfolder": name, "output_loading_info": True}
            parts[name], seen = model.from_pretrained(source, **given)
            if missing := sorted(seen["missing_keys"]):
                lacks = f"{name} lacks {len(missing)} tensors, the first {missing[0]}"
                raise EraseError(f"model {source} is damaged: {lacks}; copy it anew")
        if "safety_checker" in config:
            parts |= {"safety_checker": None, "requires_safety_checker": False}
        made = getattr(diffusers, kind)
        read = partial(ldm.read, file, made) if file else made.from_pretrained
        pipe = read(source, **options, **parts)
    except EraseError:
        raise
    except Exception as error:  # every library in the stack raises its own kind
        what = f"model {file or source} cannot be loaded ({reason(error)})"
        whole = f"of the kind of config {source}" if file else "a whole Stable Diffusion folder"
        raise EraseError(f"{what}: is it {whole}?") from None
    for encoder, tokenizer in encoders(pipe):
        # a tokenizer without its files loads silently, with two tokens
        if not encoder.config.vocab_size / 2 < len(tokenizer):
            raise EraseError(f"model {source}: files of its tokenizer are missing; copy it anew")
        # and one without its config knows no limit; T5 has none, and 77 are as many as CLIP's
        limit = getattr(encoder.config, "max_position_embeddings", 77)
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return pipe


def _variants(files: list[str], part: str) -> list[str | None]:
    """Which variant each file of a part's weights is of, None for none."""
    found = [WEIGHTS.fullmatch(f) for f in files if f.startswith(f"{part}/")]
    return [match["variant"] for match in found if match]


def _models(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """Name and class of the parts with weights, but for the safety checker."""
    every = ((n, p) for n, p in config.items() if isinstance(p, list) and n != "safety_checker")
    homes = {"diffusers": diffusers, "transformers": transformers}
    found = [(name, getattr(homes.get(library), cls or "", None)) for name, (library, cls) in every]
    return [(name, kind) for name, kind in found if issubclass(kind or object, nn.Module)]


@contextmanager
def using(
    pipe: Pipeline, doing: str, weights: bool = False, wait: bool = True, draws: bool = True
) -> Iterator[None]:
    """A pipeline checked and `held`: what each public function that needs one begins with."""
    with held(denoiser(pipe), doing, wait):
        check_pipeline(pipe, weights, draws)
        # whatever the caller's: where half precision is wanted, `predict` says so
        with torch.autocast(denoiser(pipe).device.type, enabled=False), own_device():
            yield


def latent_shape(pipe: Pipeline) -> tuple[int, int, int]:
    """Channels, height and width of the latents; `EraseError` if the model says no size."""
    channels, size = family(pipe).shape(pipe)
    h, w = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size, size)
    if all(type(n) is int and 0 < n <= 4096 for n in (h, w)):
        return channels, h, w
    form = "expected 64, or [height, width] as such"
    raise EraseError(f"the model's sample_size is {size!r}: {form}")


def check_pipeline(pipe: Pipeline, weights: bool = False, draws: bool = True) -> None:
    """Raise `EraseError`, with what to do, for a pipeline that lacks a part that its kind needs, or
    cannot be erased from or drawn with as it is, whatever was done to it since it was loaded;
    `weights`: are they all finite, too? Not to be drawn with (`draws`) it may want a picture, too:
    a closed form does not look."""
    for name in ("vae", "scheduler", "image_processor", *family(pipe).words):
        if getattr(pipe, name, None) is None:
            whose = f"{type(pipe).__name__} {getattr(pipe, 'name_or_path', None) or ''}".strip()
            raise EraseError(f"{whose} has no {name}: copy it whole, and give load_pipeline's")
    latent_shape(pipe)
    for fault in _faults(pipe, weights, draws):
        raise EraseError(f"model {getattr(pipe, 'name_or_path', None) or 'in hand'} {fault}")


def _faults(pipe: Pipeline, weights: bool, draws: bool) -> Iterator[str]:
    model, kind, vae = plain(denoiser(pipe)), family(pipe), plain(pipe.vae)
    c, scale, texts = model.config, vae.config.scaling_factor, encoders(pipe)
    own = "text_time" if hasattr(pipe, "text_encoder_2") else None  # of SDXL
    for name in ASKS:
        if (value := getattr(c, name, None)) not in (None, own):
            yield f"asks for more than a text ({name} {value!r}): take off what was loaded onto it"
    takes = c.in_channels // (4 if kind.patched else 1)
    drawn = draws or "Inpaint" not in type(pipe).__name__
    if drawn and not takes == kind.shape(pipe)[0] == vae.config.latent_channels:
        yield "wants more than a text, such as a picture or its depth: choose another"
    every: list[nn.Parameter] = []
    parts = [model, *(plain(encoder) for encoder, _ in texts)]
    for name, module in [named for part in parts for named in part.named_modules()]:
        every += [p for p in module._parameters.values() if p is not None]
        if ADAPTER.search(name):
            yield f"carries an adapter ({name}): pipe.fuse_lora(), pipe.unload_lora_weights()"
        if getattr(module, "fused_projections", False):
            yield "had its projections fused: load it anew, without fuse_qkv_projections()"
        if module.training and isinstance(module, nn.Dropout) and module.p:
            yield "is in training mode, with dropout: call pipe.unet.eval()"
    with held(model) as hold:  # what stands there for a while may have a dtype of its own
        inside = {id(tensor) for layer in hold.layers for tensor in layer.values()}
    every = [p for p in every if id(p) not in inside]
    # a text encoder may wait on the CPU (`placed`)
    waits = {id(p) for encoder, _ in texts for p in encoder.parameters() if p.device.type == "cpu"}
    at = ((p, every[0].device if id(p) in waits else p.device) for p in every)
    kinds = {f"{p.dtype} on {device}".removeprefix("torch.") for p, device in at}
    if len(kinds) > 1 or every[0].dtype not in DTYPES.values() or every[0].is_meta:
        yield f"is in {' and '.join(sorted(kinds))}: give all one, as by pipe.to(torch.float32)"
    if any(p.is_inference() for p in every):
        yield "was loaded under torch.inference_mode(): load it outside"
    if weights:
        sums = [p.detach().sum(dtype=torch.float32).cpu() for p in [*every, *vae.parameters()]]
        if not torch.stack(sums).isfinite().all():
            yield "has weights that are NaN or infinite: copy it anew, or load it in float32"
    if type(scale) not in (int, float) or not 0 < scale < math.inf:
        yield f"has a VAE of scaling_factor {scale!r}: expected a number, such as 0.18215"
    for encoder, tokenizer in texts:
        limit = getattr(encoder.config, "max_position_embeddings", 512)
        if tokenizer.model_max_length > limit:
            yield f"cuts no prompt: set its tokenizer's model_max_length = {limit}"
        rows = encoder.get_input_embeddings().num_embeddings
        if len(tokenizer) > max(rows, encoder.config.vocab_size):
            more = f"{len(tokenizer)} tokens, of which its text encoder knows {rows}"
            yield f"has {more}: call text_encoder.resize_token_embeddings"
    yield from noise_faults(pipe)


def precision(pipe: Pipeline) -> torch.dtype:
    """The teacher's dtype; the text encoder's, as the student's float32 may stand in the UNet."""
    return pipe.text_encoder.dtype


def trained_names(unet: nn.Module, train_method: str) -> list[str]:
    """Names of the denoiser's parameters that `EraseConfig.train_method` trains, as in ESD
    (Gandikota et al. 2023, §4, and its code of 2025) and Bui et al. 2024; of a transformer xattn is
    what it adds for the text."""
    kind = family(unet)
    if train_method not in TRAIN_METHODS:
        raise unknown("train_method", train_method, TRAIN_METHODS)
    names = [name for name, _ in plain(unet).named_parameters()]
    cross = [n for n in names if any(part in n for part in kind.cross)]
    layers = {n for n, m in plain(unet).named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    others = [n for n in names if n not in set(cross)]
    chosen = {
        "kv": [n for n in names if n.endswith(kind.kv)],
        "xattn": cross,
        "noxattn": [n for n in others if not n.startswith(kind.ends)],
        "esd-u": [n for n in others if n.rpartition(".")[0] in layers],
        "full": names,
        "selfattn": [n for n in names if any(part in n for part in kind.within)],
    }[{"esd-x": "xattn", "esd-x-strict": "kv"}.get(train_method, train_method)]
    if not chosen:
        raise EraseError(f"train_method {train_method!r} finds nothing to train in this UNet")
    return chosen


def fingerprint(unet: nn.Module, earlier: bool = False) -> str:
    """Short hash of the UNet's shapes and of weights' signs: which base an erasure is for.

    No rounding changes a sign, so a model is the same in float32, bfloat16 and float16; among 512
    weights of each tensor a training flips some. `earlier`: as of erasures saved before 0.2.0, of
    8 weights as bfloat16, which float16 has rounded differently.
    """
    digest, most = hashlib.sha256(), 8 if earlier else 512
    with held(unet, "reading its weights"):
        for name, tensor in plain(unet).state_dict().items():
            sample = tensor.flatten()[:: max(1, tensor.numel() // most)][:most].cpu()
            told = sample.bfloat16().view(torch.int16) if earlier else sample.signbit()
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + told.numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars within the block; afterwards the libraries' settings are what they were."""
    with ExitStack() as after:
        if are_progress_bars_disabled():  # the hub's: transformers enables them with its own
            after.callback(disable_progress_bars)
        for library in (diffusers_logging, transformers_logging):
            if library.is_progress_bar_enabled():
                after.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield
