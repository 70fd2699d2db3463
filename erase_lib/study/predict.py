"""Sensitivity predicted: who will be hurt, before the erasure is made.

One number a concept, larger where more δ is expected; only their order means something. None trains
for more than `UPDATES` updates or sees the noise of the pictures that it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from erase_lib.concepts import is_style, without
from erase_lib.config import EraseConfig
from erase_lib.diffusion import predict, predict_clean, start_noise
from erase_lib.erasure import Erasure
from erase_lib.families import Pipeline, denoiser, tokens
from erase_lib.files import check_keys
from erase_lib.hold import in_place
from erase_lib.kv import kv_weights, movement
from erase_lib.measure import prompt_table, sensitivity_prompts, styles_of
from erase_lib.measure.pictures import Told
from erase_lib.study.sensitivity import SCORES, check_score, measure_pairs, reliability
from erase_lib.text import distances, encode_prompts
from erase_lib.train import Run, erase

PREDICTORS = {
    "distance": "embedding distance to the target, small",
    "cosine": "cosine of the embeddings",
    "kv": "movement of K and V under a closed-form edit",
    "noise_closed": "movement of the predicted noise under a closed-form edit",
    "gradient": "movement of the predicted noise after one gradient step of L1",
    "noise": "movement of the predicted noise after ten updates of ESD",
    "draft": "change of four-step drafts after ten updates of ESD, by the same score",
    "both": "mean of the ranks of distance and draft",
}
UPDATES, DRAFT_STEPS = 10, 4
FORMS, SEED = 4, 60_000  # prompts of a concept, in the styles in turn; the predictions' own noise
# which edit a predictor looks at
EDITS = {"kv": "uce", "noise_closed": "uce", "gradient": "gradient", "noise": "esd", "draft": "esd"}


def predict_sensitivity(
    pipe: Pipeline,
    target: str | Sequence[str],
    concepts: Sequence[str],
    method: str = "draft",
    score: str = "features",
    neutral: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """How much each concept, and each neutral one, is expected to be hurt: concept, prediction.
    `method` is one of `PREDICTORS`; `score` (of `SCORES`) is what a draft is compared by.
    Evaluations of the UNet a concept: distance, cosine and kv none; noise, noise_closed and
    gradient 8; draft 64, half of them cached; those with updates some hundreds more, once. Raises
    `EraseError` for an unknown method or score, and as `sensitivity_prompts`."""
    check_score(score)
    targets = [target] if isinstance(target, str) else list(target)
    methods = ["distance", "draft"] if method == "both" else [method]
    table = predictions(pipe, targets, concepts, methods, neutral, seed)
    return table[["concept"]].assign(prediction=predicted(table, method, score))


def predictions(
    pipe: Pipeline,
    targets: Sequence[str],
    concepts: Sequence[str],
    methods: Sequence[str] = tuple(PREDICTORS),
    neutral: Sequence[str] = (),
    seed: int = 0,
    **given: Any,
) -> pd.DataFrame:
    """Several predictions at once: concept, and a column a method; of draft one a score, "draft
    judge" and so on; `given` goes to `measure_pairs`. Else as `predict_sensitivity`."""
    check_keys(methods, "predictor", PREDICTORS)
    prompts = sensitivity_prompts(concepts, FORMS, neutral, styles_of(pipe), SEED)
    kinds = dict.fromkeys(EDITS[method] for method in methods if method in EDITS)
    told = given.get("progress", False)
    edits = {kind: short_edit(pipe, targets, kind, seed, told) for kind in kinds}
    table = prompts[["concept"]].copy()
    for method in methods:
        if method in ("distance", "cosine"):
            table[method] = nearness(pipe, targets, prompts, method)
        elif method == "kv":
            table[method] = kv_movement(pipe, edits["uce"].tensors, list(prompts["prompt"]))
        elif method == "draft":
            look = {"progress": False} | given | {"steps": DRAFT_STEPS}
            pairs = measure_pairs(pipe, edits["esd"], prompts, **look)
            table = table.join(pairs[list(SCORES)].add_prefix("draft "))
        elif method in EDITS:
            table[method] = noise_movement(pipe, edits[EDITS[method]].tensors, prompts)
    return table.groupby("concept", as_index=False, sort=False).mean()


def predicted(table: pd.DataFrame, method: str, score: str) -> pd.Series:
    """The column of `predictions` that a method has for δ by this score."""
    if method == "both":
        return (table["distance"].rank() + table[f"draft {score}"].rank()) / 2
    return table[f"draft {score}" if method == "draft" else method]


def agreement(pairs: pd.DataFrame, table: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """How well `predictions`, the `table`, order the concepts by what `measure_pairs` found of one
    erasure, targets and neutral concepts left out: score, predictor, rho (Spearman's), reliability
    (as the function, with its errors), n (concepts)."""
    others = without(pairs["concept"].unique(), targets)
    kept, rows = pairs[pairs["style"].notna() & pairs["concept"].isin(others)], []
    for score in SCORES:
        delta = kept.groupby("concept")[score].mean().dropna()
        found = table.set_index("concept").loc[delta.index]
        shared = {"reliability": reliability(kept, score), "n": len(delta)}
        for method in PREDICTORS:
            with suppress(KeyError):  # not predicted
                rho = delta.corr(predicted(found, method, score), "spearman")
                rows.append({"score": score, "predictor": method, "rho": rho} | shared)
    return pd.DataFrame(rows)


def short_edit(
    pipe: Pipeline, targets: Sequence[str], kind: str, seed: int = 0, progress: Told = False
) -> Erasure:
    """The edit that a predictor looks at: uce, a `gradient` step, or `UPDATES` updates of esd, at
    each of which `progress` may end it."""
    if kind == "uce":
        return erase(pipe, EraseConfig(targets=tuple(targets), method="uce"), callbacks=[])
    given = {"targets": tuple(targets), "method": "esd", "batch": 8, "lr": 1e-3, "seed": seed}
    config = EraseConfig.from_dict(given | {"steps": UPDATES})
    if kind == "gradient":
        return gradient_step(pipe, config)
    return erase(pipe, config, [lambda run: progress(0.0)] if callable(progress) else [])


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_step(pipe: Pipeline, config: EraseConfig, latents: int = 32) -> Erasure:
    """θ − α ∇L1, L1 over `latents` of each target, as far from θ as one step of Adam would go. The
    gradient of L2 at θ is 0; what the step does to L2 begins with α² ‖J_c ∇L1‖², the movement of
    c's prediction."""
    run = Run(pipe, config)
    names, student = list(run.student), list(run.student.values())
    total = [torch.zeros_like(p) for p in student]
    for k in range(len(config.targets)):
        for _ in range(latents // config.batch):
            which, z, t, goal = run.at_target(k, config.batch)
            with in_place(denoiser(pipe), run.student):
                clean = predict_clean(pipe, z, t, run.targets[k][which])
                assert goal is not None  # the bank of schedule replay has it
                found = torch.autograd.grad((clean - goal).pow(2).mean(), student)
            total = [a + b for a, b in zip(total, found, strict=True)]
    size = torch.sqrt(sum((g.pow(2).sum() for g in total), torch.zeros(())))
    alpha = config.lr * sum(g.numel() for g in total) ** 0.5 / float(size)
    tensors = {n: (p - alpha * g).detach() for n, p, g in zip(names, student, total, strict=True)}
    return Erasure(tensors, run.config, run.base)


def nearness(
    pipe: Pipeline, targets: Sequence[str], prompts: pd.DataFrame, method: str
) -> np.ndarray:
    """How near each prompt is to the same prompt of the nearest target: the negative L2 distance
    of the embeddings, or their cosine."""
    every, found = encode_prompts(pipe, list(prompts["prompt"])), []
    for target in targets:
        same = prompt_table([(target, style) for style in prompts["style"].fillna("")])["prompt"]
        texts = same.where(prompts["style"].notna() & (not is_style(target)), target)
        at = encode_prompts(pipe, texts.tolist())
        cosine = torch.cosine_similarity(every.flatten(1), at.flatten(1))
        found.append(cosine if method == "cosine" else -distances(every, at))
    return torch.stack(found).amax(0).cpu().numpy()


def kv_movement(pipe: Pipeline, tensors: Mapping[str, Tensor], prompts: list[str]) -> np.ndarray:
    """‖(W' − W)c‖ / ‖Wc‖ of each prompt over all cross-attention K and V."""
    model = denoiser(pipe)
    original = kv_weights(model)
    edited = {name: tensors.get(name, w) for name, w in original.items()}
    return movement(original, edited, tokens(model, encode_prompts(pipe, prompts))).cpu().numpy()


@torch.no_grad()
def noise_movement(
    pipe: Pipeline, tensors: Mapping[str, Tensor], prompts: pd.DataFrame, batch: int = 64
) -> np.ndarray:
    """How far the UNet's output (ε or v) moves for each prompt, root mean square, at pure noise
    from its own seed, where a picture's layout is decided."""
    last, found = pipe.scheduler.config.num_train_timesteps - 1, []
    for start in range(0, len(prompts), batch):
        part = prompts.iloc[start : start + batch]
        z, c = start_noise(pipe, list(part["seed"])), encode_prompts(pipe, list(part["prompt"]))
        given = pipe, z, torch.full((len(z),), last, device=z.device), c
        before = predict(*given)
        model = denoiser(pipe)
        with in_place(model, {n: e.to(model.dtype) for n, e in tensors.items()}):
            after = predict(*given)
        found.append((after - before).pow(2).mean((1, 2, 3)).sqrt().cpu())
    return torch.cat(found).numpy()
