"""A run's state out of it and back into it, for checkpoints."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from erase_lib.checkpoint import State, adam_tensors, load_adam, write
from erase_lib.errors import EraseError
from erase_lib.latents import Bank
from erase_lib.run import Run


def state(run: Run) -> State:
    """What an interrupted run needs to go on; the rest follows from config and pipeline."""
    parts: dict[str, dict[str, Tensor]] = {
        "student": dict(run.student),
        "adam": adam_tensors(run.optimiser),
        "generator": {"state": run.g.get_state()},
    }
    for i, search in enumerate(run.searches):
        if search is not None:
            parts[f"search {i}"] = search.tensors()
    for kind, banks in _banks(run).items():
        parts |= {f"{kind} bank {i}": bank.tensors() for i, bank in banks.items()}
    tensors = {f"{part}/{name}": t for part, of in parts.items() for name, t in of.items()}
    words = [search and search.words for search in run.searches]
    kinds = [type(search).__name__ for search in run.searches]
    values = {"history": run.history, "evaluations": run.evaluations}
    return State(tensors, values | {"words": words, "searches": kinds})


def restore(run: Run, found: State) -> None:
    """Go on from a state. `EraseError` when the vocabulary gives other candidates now."""
    if found.values["words"] != [search and search.words for search in run.searches]:
        raise EraseError(
            f"the candidates from vocabulary {run.config.vocabulary!r} are no longer those of"
            " the checkpoint: restore the vocabulary, or choose another folder"
        )
    kinds = [type(search).__name__ for search in run.searches]
    if found.values["searches"] != kinds:
        raise EraseError(
            f"the checkpoint is of a run with the searches {found.values['searches']}, this one has"
            f" {kinds}: choose another folder"
        )
    run.history, run.evaluations = found.values["history"], found.values["evaluations"]
    run.g.set_state(found.tensors["generator/state"])
    load_adam(run.optimiser, found.part("adam"))
    with torch.no_grad():
        for name, tensor in found.part("student").items():
            run.student[name].copy_(tensor)
        for i, search in enumerate(run.searches):
            if search is not None:
                search.load(found.part(f"search {i}"))
    for kind, banks in _banks(run).items():
        for i in range(len(run.targets)):
            if tensors := found.part(f"{kind} bank {i}"):
                banks[i] = Bank(**{k: t.to(run.pipe.device) for k, t in tensors.items()})


def keep(run: Run, folder: str | Path, base: str, quietly: bool = False) -> bool:
    """Write a checkpoint; whether that was possible. If not, a warning says so, once is enough."""
    try:
        write(folder, run.config, base, state(run))
    except EraseError as error:
        if not quietly:
            warnings.warn(f"{error}; the run goes on", stacklevel=3)
        return False
    return True


def _banks(run: Run) -> dict[str, dict[int, Bank]]:
    return {"target": run.target_banks, "kept": run.kept_banks}
