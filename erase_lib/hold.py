"""One denoiser in memory, and tensors in its place for a while: one thread's at a time."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from erase_lib.errors import EraseError
from erase_lib.files import uninterrupted


class _Hold:
    """Whose a UNet is, and the tensors that stand in it, the last on top."""

    def __init__(self) -> None:
        # no RLock, for a block may be left in another thread than it was entered in
        self.lock, self.depth, self.doing = threading.Lock(), 0, ""
        self.thread: threading.Thread | None = None
        self.layers: list[dict[str, Tensor]] = []
        self.own: dict[str, tuple[dict[str, Any], str, nn.Parameter]] = {}

    def busy(self) -> str:
        """Who has it, and for what."""
        return f"the pipeline is in use by {getattr(self.thread, 'name', '?')} ({self.doing})"

    def __reduce__(self) -> Any:
        return _Hold, ()  # a copy of the UNet is nobody's


def plain(model: Any) -> Any:
    """The model that `torch.compile` may have wrapped, which changes its parameters' names."""
    return getattr(model, "_orig_mod", model)


@contextmanager
def held(unet: nn.Module, doing: str = "work", wait: bool = True) -> Iterator[_Hold]:
    """Within the block, which may hold others, the UNet is this thread's alone: no other sees what
    stands in it. Another waits, and a warning says for whom; `EraseError` if not to `wait`."""
    hold: _Hold = vars(plain(unet)).setdefault("_hold", _Hold())
    me, tries = threading.current_thread(), 0
    with uninterrupted() as let:
        while hold.thread is not me and not hold.lock.acquire(timeout=0.2 if wait else 0):
            if not wait:
                raise EraseError(f"{hold.busy()}: try again when that is done")
            if (tries := tries + 1) == 5:
                warnings.warn(f"{hold.busy()}: waiting until that is done", stacklevel=3)
            with let():
                pass
        if hold.thread is not me:
            hold.thread, hold.doing = me, f"{doing} since {time.strftime('%X')}"
        hold.depth += 1
        try:
            with let():
                yield hold
        finally:
            hold.depth -= 1
            if not hold.depth:
                hold.thread = None
                hold.lock.release()


def refuse_others(unet: nn.Module, *_: Any) -> None:
    """A hook of the UNet while tensors stand in it: a stock call, or saving it, from another thread
    than their own would take them for the model's. Raises `EraseError`."""
    hold: _Hold | None = vars(unet).get("_hold")  # a copy of the UNet has its own
    if hold and hold.layers and hold.thread is not threading.current_thread():
        raise EraseError(f"{hold.busy()}: try again when that is done")


@contextmanager
def in_place(unet: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put tensors in place of the UNet's parameters of the same names, and the very same ones back.

    Holds for forward *and* backward: gradient checkpointing recomputes the forward during the
    backward, so a swap undone between the two would silently use the teacher. `held` meanwhile;
    blocks may be left in any order.
    """
    # a hook would have a compiled one compiled anew
    compiled = unet is not plain(unet) or getattr(unet, "_compiled_call_impl", None)
    unet, layer = plain(unet), dict(tensors)
    with held(unet, "tensors in its place") as hold, uninterrupted() as let:
        doors: list[Any] = [unet.register_forward_pre_hook, unet.register_state_dict_pre_hook]
        hooks = [] if compiled else [register(refuse_others) for register in doors]
        try:
            hold.layers.append(layer)
            for name, tensor in layer.items():
                path, _, leaf = name.rpartition(".")
                owner: dict[str, Any] = unet.get_submodule(path)._parameters
                hold.own.setdefault(name, (owner, leaf, owner[leaf]))
                owner[leaf] = tensor
            with let():
                yield
        finally:
            hold.layers = [other for other in hold.layers if other is not layer]
            for name in [name for name in layer if name in hold.own]:
                owner, leaf, parameter = hold.own[name]
                left = [other[name] for other in hold.layers if name in other]
                owner[leaf] = left[-1] if left else hold.own.pop(name)[2]
            for hook in hooks:
                hook.remove()


@contextmanager
def placed(parts: Iterable[Any], device: torch.device | str) -> Iterator[None]:
    """Within the block the parts are on the device, and afterwards each is where it was. Nothing is
    moved that is there already."""
    moved = [(part, part.device) for part in parts if part.device != torch.device(device)]

    def move(places: Iterable[tuple[Any, Any]]) -> None:
        with torch.inference_mode(False):  # or weights could never be trained again
            for part, place in places:
                part.to(place)

    with uninterrupted() as let:
        try:
            move((part, device) for part, _ in moved)
            with let():
                yield
        finally:
            move(moved)


def own_device() -> AbstractContextManager[Any]:
    """Within the block what is made on no device in particular is on the CPU, though the caller has
    set another default."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


@contextmanager
def recomputing(unet: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing, if wanted, and the UNet's own setting back afterwards."""
    unet = plain(unet)
    with ExitStack() as after:
        if wanted and not unet.is_gradient_checkpointing:
            after.callback(unet.disable_gradient_checkpointing)
            unet.enable_gradient_checkpointing()
        yield
