"""The one training loop: ESD, ESD + neutral, CA, EAP and AGE are its settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from erase_lib.checkpoint import read
from erase_lib.config import CLOSED_FORMS, EraseConfig
from erase_lib.edit import erase_closed_form
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.models import Pipeline, fingerprint, precision, recomputing
from erase_lib.resume import keep, restore
from erase_lib.run import NewSearch, Run
from erase_lib.searches import new_search


def erase(
    pipe: Pipeline,
    config: EraseConfig,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 0,
    callback: Callable[[dict[str, Any]], object] | None = None,
    search: NewSearch = new_search,
    watch: Callable[[int, Mapping[str, Tensor]], object] | None = None,
) -> Erasure:
    """Erase `config.targets` and return the edited tensors; the pipeline itself is left untouched.

    min_θ' E_{c_e} max_{c_a} L1(θ'; c_e) + λ L2(θ'; c_a), in alternation (Bui et al. 2024, eq. 5
    and alg. 1). A NaN or infinite loss or gradient, or Ctrl-C, ends the run with the tensors of the
    last whole update of θ', all finite, and a warning that says so (`EraseError` for such a loss
    before any update). `callback` is given each
    update's row of the history. A `search` of your own makes, from the config, the words to search,
    their embeddings `(templates, n, tokens, dim)` and the pipeline, an `adversarial.Search`.
    `watch` is given the student's tensors before each update and after the last, to look at.

    With a folder `checkpoint` the state of the run is written there every `checkpoint_every`
    updates (0: a tenth of the run) and at the end. The same call goes on from there, to the very
    same tensors and history on the same machine; when the run was done, it returns them at once.
    A checkpoint that cannot be written is a warning. Raises `EraseError` when the folder holds a
    damaged checkpoint or another run's, and for a pipeline in float16.

    The methods of `CLOSED_FORMS` need no training: they take seconds, and ignore `checkpoint`,
    `search` and `watch`.
    """
    if config.method in CLOSED_FORMS:
        erasure = erase_closed_form(pipe, config)
        if callback is not None:
            for row in erasure.history:
                callback(row)
        return erasure
    if precision(pipe) == torch.float16:
        raise EraseError("a float16 pipeline cannot be trained: load it with dtype=torch.bfloat16")
    if checkpoint_every < 0 or (checkpoint_every and checkpoint is None):
        raise EraseError(
            f"checkpoint_every is {checkpoint_every}: expected 0 or more, and a folder `checkpoint`"
        )
    base = fingerprint(pipe.unet)
    state = None if checkpoint is None else read(checkpoint, config, base)
    if state and len(state.values["history"]) == config.steps:
        tensors = {name: t.to(pipe.device) for name, t in state.part("student").items()}
        return Erasure(tensors, config, base, state.values["history"])
    run, unwritten = Run(pipe, config, search), False
    if state:
        restore(run, state)
    first, last = len(run.history), config.steps - 1
    every = checkpoint_every or max(1, config.steps // 10)
    bar = tqdm(
        range(first, config.steps),
        desc=f"erase ({config.method})",
        initial=first,
        total=config.steps,
        disable=not progress,
    )
    try:
        with recomputing(pipe.unet, config.gradient_checkpointing):
            for step in bar:
                if watch is not None:
                    watch(step, run.student)
                row = run.update(step)
                bar.set_postfix(l1=f"{row['l1']:.4f}", l2=f"{row['l2']:.4f}")
                due = (step + 1) % every == 0 or step == last
                if checkpoint is not None and due:
                    unwritten = not keep(run, checkpoint, base, quietly=unwritten)
                if callback is not None:
                    callback(row)
            if watch is not None:
                watch(config.steps, run.student)
    except FloatingPointError as error:
        what = f"the loss of {error} or its gradient became NaN or infinite at update {step}"
        hint = f"lower lr ({config.lr}) or lam ({config.lam})"
        if not run.history:
            raise EraseError(f"{what}: {hint}") from None
        warnings.warn(f"{what}: stopped with the last finite tensors; {hint}", stacklevel=2)
    except KeyboardInterrupt:
        done = len(run.history)
        warnings.warn(f"interrupted: {done} of {config.steps} updates kept", stacklevel=2)
    tensors = {name: p.detach() for name, p in run.student.items()}
    return Erasure(tensors, config, base, run.history)
