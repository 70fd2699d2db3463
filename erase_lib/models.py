"""Loading a text-to-image pipeline, and choosing what of its UNet is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from torch import Tensor, nn
from transformers import CLIPTextModel
from transformers.utils import logging as transformers_logging

from erase_lib.config import TRAIN_METHODS
from erase_lib.doors import gate
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA, uninterrupted

# a StableDiffusionPipeline: diffusers registers its parts (unet, vae, …) where no type checker
# sees them
Pipeline: TypeAlias = Any

EMBEDDED = DATA / "models" / "emoji-diffusion"
PREDICTION_TYPES = ("epsilon", "v_prediction")
KV = (".attn2.to_k.weight", ".attn2.to_v.weight")  # the text enters the UNet here alone
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PARTS: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """`auto`: CUDA if there is one, else the CPU. Raises `EraseError` if it cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise EraseError(
            f"device {device!r} cannot be used ({reason(error)[:80]}): try auto or cpu"
        ) from None
    return chosen


@gate
def load_pipeline(
    model_id: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | str | None = None,
) -> Pipeline:
    """The teacher: a frozen text-to-image pipeline without progress bar or safety checker.

    Default: the embedded model. Otherwise a folder in diffusers' format or a hub id. `dtype`:
    float32 on a CPU, bfloat16 on a GPU, unless given, also by name. Raises `EraseError` when the
    folder is missing, damaged or holds another kind of model, and for an unknown dtype.
    """
    place = pick_device(device)
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        dtype = DTYPES[dtype]
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    source = Path(model_id) if model_id is not None else EMBEDDED
    if source.exists() and not (source / "model_index.json").is_file():
        raise EraseError(
            f"{source} is not a diffusers model: model_index.json is missing; copy the whole folder"
        )
    if not source.exists() and (model_id is None or str(model_id).count("/") != 1):
        raise EraseError(
            f"model folder {source} does not exist: give a folder or a hub id owner/name"
        )
    with quiet() if source.exists() else nullcontext():  # a download keeps its bars
        pipe = _read(str(model_id or EMBEDDED), dtype, local=source.exists())
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.to(memory_format=torch.channels_last)  # its convolutions are faster so
    return pipe.to(place)


def _read(source: str, dtype: torch.dtype, local: bool) -> Pipeline:
    """The pipeline as stored. `EraseError` for another kind of model, or one that is not whole."""
    options = {"dtype": dtype, "local_files_only": local}
    parts = {}
    try:
        kind = StableDiffusionPipeline.load_config(source, local_files_only=local)["_class_name"]
        if kind != "StableDiffusionPipeline":
            raise EraseError(
                f"model {source} is a {kind}: expected a text-to-image StableDiffusionPipeline"
            )
        for name, model in PARTS.items():  # one by one, for only so do they say what is missing
            parts[name], found = model.from_pretrained(
                source, subfolder=name, output_loading_info=True, **options
            )
            if missing := sorted(found["missing_keys"]):
                raise EraseError(
                    f"model {source} is damaged: {name} lacks {len(missing)} tensors, the first"
                    f" {missing[0]}; copy it anew"
                )
        pipe = StableDiffusionPipeline.from_pretrained(
            source, **parts, safety_checker=None, requires_safety_checker=False, **options
        )
    except EraseError:
        raise
    except Exception as error:  # every library in the stack raises its own kind
        raise EraseError(
            f"model {source} cannot be loaded ({reason(error)}): is it a whole Stable Diffusion"
            " folder?"
        ) from None
    # a tokenizer without its files loads silently, with two tokens
    if not pipe.text_encoder.config.vocab_size / 2 < len(pipe.tokenizer):
        raise EraseError(f"model {source}: files of its tokenizer are missing; copy it anew")
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        raise EraseError(f"model {source} wants more than a text, such as a picture or its depth")
    if (kind := pipe.scheduler.config.prediction_type) not in PREDICTION_TYPES:
        raise EraseError(
            f"model {source} predicts {kind!r}: expected one of {', '.join(PREDICTION_TYPES)}"
        )
    return pipe


def precision(pipe: Pipeline) -> torch.dtype:
    """The teacher's dtype; the text encoder's, as the student's float32 may stand in the UNet."""
    return pipe.text_encoder.dtype


def trained_names(unet: nn.Module, train_method: str) -> list[str]:
    """Names of the UNet's parameters that `train_method` trains.

    kv: cross-attention's keys and values, where the text enters · xattn: all of cross-attention
    (`attn2`) · noxattn: all but it · full: all · selfattn: `attn1`. As in
    ESD (Gandikota et al. 2023, §4) and Bui et al. 2024.
    """
    if train_method not in TRAIN_METHODS:
        raise unknown("train_method", train_method, TRAIN_METHODS)
    names = [name for name, _ in unet.named_parameters()]
    chosen = {
        "kv": [n for n in names if n.endswith(KV)],
        "xattn": [n for n in names if ".attn2." in n],
        "noxattn": [n for n in names if ".attn2." not in n],
        "full": names,
        "selfattn": [n for n in names if ".attn1." in n],
    }[train_method]
    if not chosen:
        raise EraseError(f"train_method {train_method!r} finds nothing to train in this UNet")
    return chosen


def fingerprint(unet: nn.Module) -> str:
    """Short hash of the UNet's shapes and a few weights: which base an erasure is for.

    The weights are hashed as bfloat16, so a model loaded in float32 and in bfloat16 is the same.
    """
    digest = hashlib.sha256()
    for name, tensor in unet.state_dict().items():
        sample = tensor.flatten()[:: max(1, tensor.numel() // 8)][:8].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def in_place(unet: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put tensors in place of the UNet's parameters of the same names, and the very same ones back.

    Holds for forward *and* backward: gradient checkpointing recomputes the forward during the
    backward, so a swap undone between the two would silently use the teacher.
    """
    kept: list[tuple[dict[str, nn.Parameter | None], str, nn.Parameter | None]] = []
    try:
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            owner = unet.get_submodule(path)._parameters
            kept.append((owner, leaf, owner[leaf]))
            owner[leaf] = tensor  # type: ignore[assignment]
        yield
    finally:
        with uninterrupted():
            for owner, leaf, parameter in reversed(kept):
                owner[leaf] = parameter


@contextmanager
def recomputing(unet: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing, if wanted, and the UNet's own setting back afterwards."""
    if not wanted:
        yield
        return
    unet.enable_gradient_checkpointing()
    unet.train()  # diffusers recomputes in training mode only; these UNets have no dropout
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()
        unet.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """No such bars within the block; afterwards the libraries' settings are what they were."""
    shown = [
        library
        for library in (diffusers_logging, transformers_logging)
        if library.is_progress_bar_enabled()
    ]
    hub_disabled = are_progress_bars_disabled()
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        if hub_disabled:  # transformers switches the hub's bars on together with its own
            disable_progress_bars()
