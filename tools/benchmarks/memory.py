"""What one update of an erasure holds in memory: the published arrangement against this library's.

    python -m tools.benchmarks.memory --out memory.json     # Stable Diffusion v1.4's shapes
    python -m tools.benchmarks.memory --small               # a toy of a few thousand weights

published: teacher and student are float32 UNets, without gradient checkpointing; the two concepts
pass the student one by one. checkpointed: the same with checkpointing, which the published code's
configuration asks for. ours: one UNet in bfloat16, float32 copies of what is trained, autocast and
checkpointing; both concepts in one batch. All train with Adam on one latent of the target and one
of the preserved concept. Weights are random. The published code is taken kindly: it also computes
gradients of the weights that it does not train, and keeps attention's matrices.

Every tensor that torch allocates is followed to its end, on any device. What kernels need for
themselves is no tensor: `process_mb` has it, from the system (CPU) or torch's allocator (CUDA).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from erase_lib.diffusion import predict
from erase_lib.files import whole
from erase_lib.hold import in_place, recomputing
from erase_lib.models import Pipeline, pick_device, trained_names
from tools import one_line
from tools.benchmarks import in_a_process, peak_memory
from tools.benchmarks.shapes import SHAPES, TINY, random_family

METHODS = ("xattn", "noxattn", "full")
PARTS = ("weights", "gradients", "optimiser", "activations")
LR, ETA, LAM = 1e-5, 1.0, 1.0  # as published; no matter for memory
MB = 1e6


class Live(TorchDispatchMode):
    """While active, bytes of the storages alive by kind, and the most there were.

    `held` now, `most` of each kind and `peak` of their sum. Whatever an operation returns, inputs
    too, is an activation until `mark` says otherwise. (torch's own MemTracker fails on weights
    that are frozen.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.peak = 0
        self.kinds: dict[int, str] = {}

    def mark(self, tensor: Tensor, kind: str) -> None:
        """From now on the tensor's storage is of this kind."""
        storage = tensor.untyped_storage()
        # torch keeps the Python object of a storage for as long as the storage
        key, size = id(storage), storage.nbytes()
        if key in self.kinds:
            self.held[self.kinds[key]] -= size
        else:
            weakref.finalize(storage, self._gone, key, size)
        self.kinds[key] = kind
        self.held[kind] += size
        self.most[kind] = max(self.most[kind], self.held[kind])
        self.peak = max(self.peak, self.held.total())

    def _gone(self, key: int, size: int) -> None:
        self.held[self.kinds.pop(key)] -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and follow what it allocated."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in self.kinds:
                self.mark(tensor, "activations")
        return out


class Arrangement:
    """UNets, what is trained of them, Adam, and one `update`."""

    weights: list[Tensor]
    trained: list[nn.Parameter]
    optimiser: torch.optim.Adam
    update: Callable[[], None]


def pipeline(shapes: dict[str, dict[str, Any]], dtype: torch.dtype, device: str) -> Pipeline:
    """The UNet of these shapes, made in `dtype`: cast afterwards, the making would be the peak."""
    torch.set_default_dtype(dtype)
    try:
        return random_family("sd", TINY["sd"] | {"model": shapes["model"]}).to(device)
    finally:
        torch.set_default_dtype(torch.float32)


def inputs(pipe: Pipeline) -> tuple[Tensor, Tensor, Tensor]:
    """z_t and t for the target and for the preserved concept, and embeddings of c_n, c_e, c_a."""
    size, dim = pipe.unet.config.sample_size, pipe.unet.config.cross_attention_dim
    z, embeddings = torch.randn(2, 4, size, size), torch.randn(3, 77, dim)
    t = torch.tensor([500, 500])
    return z.to(pipe.device), t.to(pipe.device), embeddings.to(pipe.device)


def published(
    shapes: dict[str, dict[str, Any]], train_method: str, device: str, recompute: bool = False
) -> Arrangement:
    """Two float32 UNets; the concepts pass the student one after the other."""
    pipe = pipeline(shapes, torch.float32, device)
    teacher, student = pipe.unet, copy.deepcopy(pipe.unet)
    parameters = dict(student.named_parameters())
    made = Arrangement()
    made.trained = [parameters[name] for name in trained_names(student, train_method)]
    for parameter in made.trained:
        parameter.requires_grad_(True)
    made.weights = [*teacher.parameters(), *student.parameters()]
    made.optimiser = torch.optim.Adam(made.trained, lr=LR)
    z, t, (c_n, c_e, c_a) = inputs(pipe)

    def at(unet: Any, i: int, c: Tensor) -> Tensor:
        return unet(z[i : i + 1], t[i : i + 1], c[None]).sample

    def update() -> None:
        made.optimiser.zero_grad()
        with torch.no_grad():
            neutral, target, still = at(teacher, 0, c_n), at(teacher, 0, c_e), at(teacher, 1, c_a)
        with recomputing(student, recompute):
            l1 = mse_loss(at(student, 0, c_e), neutral - ETA * (target - neutral))
            (l1 + LAM * mse_loss(at(student, 1, c_a), still)).backward()
        made.optimiser.step()

    made.update = update
    return made


def ours(
    shapes: dict[str, dict[str, Any]], train_method: str, device: str, recompute: bool = True
) -> Arrangement:
    """One bfloat16 UNet and float32 copies of what is trained, as in `erase_lib.run`."""
    pipe = pipeline(shapes, torch.bfloat16, device)
    pipe.unet.to(memory_format=torch.channels_last)  # as load_pipeline has it
    parameters = dict(pipe.unet.named_parameters())
    student = {
        name: nn.Parameter(parameters[name].detach().float().clone())
        for name in trained_names(pipe.unet, train_method)
    }
    made = Arrangement()
    made.trained = list(student.values())
    made.weights = [*parameters.values(), *made.trained]
    made.optimiser = torch.optim.Adam(made.trained, lr=LR)
    z, t, (c_n, c_e, c_a) = inputs(pipe)

    def at(i: int, c: Tensor) -> Tensor:
        return predict(pipe, z[i : i + 1], t[i : i + 1], c[None])

    def update() -> None:
        with recomputing(pipe.unet, recompute):
            with torch.no_grad():
                neutral, target, still = at(0, c_n), at(0, c_e), at(1, c_a)
            with in_place(pipe.unet, student):
                of_e, of_a = predict(pipe, z, t, torch.stack([c_e, c_a])).split(1)
                l1 = mse_loss(of_e, neutral - ETA * (target - neutral))
                loss = l1 + LAM * mse_loss(of_a, still)
                loss.backward()
            made.optimiser.step()
            made.optimiser.zero_grad()  # as in Run.descend

    made.update = update
    return made


ARRANGEMENTS: dict[str, Callable[..., Arrangement]] = {
    "published": published,
    "checkpointed": partial(published, recompute=True),
    "ours": ours,
}


def followed(made: Arrangement) -> tuple[Live, float]:
    """The tracker of an update, and its seconds; the update before it makes Adam's moments."""
    made.update()
    live = Live()
    kinds: dict[str, Iterable[Tensor | None]] = {
        "weights": made.weights,
        "gradients": (p.grad for p in made.trained),
        # a step count of each tensor is with the moments
        "optimiser": (t for state in made.optimiser.state.values() for t in state.values()),
    }
    for kind, tensors in kinds.items():
        for tensor in tensors:
            if tensor is not None:  # ours lets go of its gradients
                live.mark(tensor, kind)
    for parameter in made.trained:
        parameter.register_post_accumulate_grad_hook(lambda p: live.mark(p.grad, "gradients"))
    begin = time.perf_counter()
    with live:
        made.update()
    return live, time.perf_counter() - begin


def measure(arrangement: str, train_method: str, small: bool, device: str) -> dict[str, Any]:
    """One row: megabytes (10⁶ bytes) at their most by kind and in all, seconds of an update."""
    cuda = device.startswith("cuda")
    before = psutil.Process().memory_info().rss
    made = ARRANGEMENTS[arrangement]((TINY if small else SHAPES)["sd"], train_method, device)
    live, seconds = followed(made)
    resident = peak_memory()
    process = torch.cuda.max_memory_allocated() if cuda else resident - before
    row: dict[str, Any] = {"arrangement": arrangement, "train_method": train_method}
    row |= {f"{part}_mb": live.most[part] / MB for part in PARTS}
    row |= {"peak_mb": live.peak / MB, "process_mb": process / MB, "maxrss_mb": resident / MB}
    return row | {"seconds": seconds}


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ours holds as a fraction of the other arrangements, of each train_method."""
    table, found = {(r["train_method"], r["arrangement"]): r for r in rows}, []
    for (method, other), row in table.items():
        mine = table.get((method, "ours"))
        if mine and mine is not row:
            numbers = {k: mine[k] / v for k, v in row.items() if not isinstance(v, str)}
            found.append({"ours /": other, "train_method": method} | numbers)
    return found


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure every arrangement asked for, each in its own process; print and write the table."""
    parser = argparse.ArgumentParser(prog="tools.benchmarks.memory", description=__doc__)
    parser.add_argument("--out", type=Path, help="a JSON file, written anew after every row")
    parser.add_argument("--small", action="store_true", help="a toy instead of SD v1.4's shapes")
    parser.add_argument("--device", default="auto", help="cuda, cpu, or auto: cuda if there is one")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--row", choices=ARRANGEMENTS, help="only this, in this process, as JSON")
    chosen = parser.parse_args(arguments)
    device = str(pick_device(chosen.device))
    if chosen.row:
        print(json.dumps(measure(chosen.row, chosen.methods[0], chosen.small, device)))
        return
    machine = {
        "shapes": "toy" if chosen.small else "SD v1.4",
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    rows: list[dict[str, Any]] = []
    for train_method in chosen.methods:
        for arrangement in ARRANGEMENTS:
            asked = ["--row", arrangement, "--methods", train_method, "--device", device]
            rows.append(in_a_process("tools.benchmarks.memory", asked + ["--small"] * chosen.small))
            found = machine | {"rows": rows, "ratios": ratios(rows)}
            if chosen.out:
                with whole(chosen.out) as (name,):
                    name.write_text(json.dumps(found, indent=1) + "\n")
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    print()
    print(pd.DataFrame(found["ratios"]).round(3).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
