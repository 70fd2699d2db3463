"""Is the adversary adversarial? What a search preserves, ranked by what the student truly moved."""

from __future__ import annotations

import time
from collections.abc import Collection

import pandas as pd
import torch

from erase_lib.bank import fill_bank
from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError
from erase_lib.models import Pipeline
from erase_lib.search import Probe
from erase_lib.text import candidates, encode_prompts
from erase_lib.train import Run


class Audit:
    """A callback for `erase` that measures at the updates `moments` how far every candidate has
    moved: the exhaustive order, to be asked for `ranks` afterwards. The measurement is the same for
    all strategies (`Probe`, on a latent that the teacher drew of each candidate) and none of a
    method's evaluations; it took `seconds`. Of several targets it looks at the first. Raises
    `EraseError` for a method without a search, and moments outside the run."""

    def __init__(self, pipe: Pipeline, config: EraseConfig, moments: Collection[int]) -> None:
        if config.method not in ("eap", "age"):
            raise EraseError(f"method {config.method!r} searches nothing: expected eap or age")
        if outside := sorted(m for m in moments if not 0 <= m <= config.steps):
            raise EraseError(f"moment {outside[0]}: expected an update from 0 to {config.steps}")
        self.target, self.seconds = config.targets[0], 0.0
        self.words, self.moments = candidates(pipe, config)[0], frozenset(moments)
        embeddings = encode_prompts(pipe, self.words)
        g, every = torch.Generator().manual_seed(0), torch.arange(len(self.words))
        steps, empty = config.sampling_steps, encode_prompts(pipe, [""])
        bank = fill_bank(pipe, embeddings, every, empty, steps, config.guidance_scale, g)
        self.probe = Probe(pipe, bank.clean, embeddings)
        self.rows: list[tuple[int, str, float]] = []

    def __call__(self, run: Run) -> None:
        """Before the first update, and after each."""
        if (step := len(run.history)) in self.moments:
            begin = time.perf_counter()
            moved = self.probe(run.student).tolist()
            self.rows += [(step, *row) for row in zip(self.words, moved, strict=True)]
            self.seconds += time.perf_counter() - begin

    def movements(self) -> pd.DataFrame:
        """step, concept, moved (‖ẑ₀' − ẑ₀‖², mean), rank (0: the most moved) and percentile (100:
        the most moved)."""
        table = pd.DataFrame(self.rows, columns=["step", "concept", "moved"])
        rank = table.groupby("step")["moved"].rank(ascending=False, method="first") - 1
        share = 1 - rank / max(len(self.words) - 1, 1)
        return table.assign(rank=rank.astype(int), percentile=100 * share)

    def ranks(self, history: pd.DataFrame, window: int = 10) -> pd.DataFrame:
        """For each moment the candidates preserved in the `window` updates around it: the share of
        them that was the most moved (top1) or among the five most (top5), their mean percentile
        (chance: 1/n, 5/n, 50), and how many (n)."""
        truth, found = self.movements().set_index(["step", "concept"]), []
        for moment in sorted({step for step, *_ in self.rows}):
            latest = max(0, int(history["step"].max()) + 1 - window)
            start = min(max(0, moment - window // 2), latest)
            near = history[history["step"].between(start, start + window - 1)]
            near = near[near["target"] == self.target]
            chosen = near["chosen"].str.split("|").explode()
            at = truth.loc[moment].reindex(chosen[chosen.isin(self.words)])
            row = {"step": moment, "top1": (at["rank"] < 1).mean(), "top5": (at["rank"] < 5).mean()}
            found.append(row | {"percentile": at["percentile"].mean(), "n": len(at)})
        return pd.DataFrame(found, columns=["step", "top1", "top5", "percentile", "n"])
