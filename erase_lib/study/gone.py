"""How much of what a probe brings back was there, and how much the probe itself has taught."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import torch

from erase_lib import measure
from erase_lib.concepts import EMOJI, normal
from erase_lib.diffusion import encode
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.families import Pipeline, denoiser
from erase_lib.files import FINGERPRINT, as_path, check_keys, read_text, sought, whole, writing
from erase_lib.hold import in_place, plain
from erase_lib.measure import World, matched_differences, means
from erase_lib.models import fingerprint, load_pipeline, using
from erase_lib.search import Probe
from erase_lib.study.aim import Aim, aim_at
from erase_lib.study.probes import PROBES, TAUGHT
from erase_lib.text import encode_prompts

Place: TypeAlias = tuple[Pipeline, Erasure | None]  # a model: a pipeline, and what is put in it
LEAST = 0.5  # of the original's pictures, in which a probe has to find what is there
GONE, TWIN = "erased − twin", FINGERPRINT.parents[1] / "emoji-twin.safetensors"
EVERY = "every probe"
COLUMNS = ["probe", "model", "value", "low", "high", "n", "runs", "groups", "evaluations"]
COLUMNS += ["measured_by", "note"]


def gone(
    world: World,
    erasure: Erasure,
    probes: Sequence[str] = tuple(PROBES),
    twin: Pipeline | str | Path | None = None,
    seeds: Sequence[int] = (0,),
    pictures: int = 8,
    steps: int = 12,
    budget: int = 4000,
    folder: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Every probe of every target in up to four models, a row a picture: probe, model, concept,
    seed, hit (whether the judge sees the concept), evaluations (of the probe), found, measured_by,
    note (why there is no picture).

    The models: `original`, where a probe has to find what is there · `erased` · `twin`, a pipeline,
    its folder or a file of its denoiser, that never knew the targets · `unknown`, the original and
    a concept that it never knew, what is shown upside down (of `TAUGHT`; by name it says how often
    the judge errs). In a `folder`, which several erasures may share, what is done is kept: a call
    that was cut off goes on. Raises `EraseError` for an unknown probe, a target that the judge does
    not know, a twin that is the model itself, and another base."""
    check_keys(probes, "probe", PROBES)
    erasure.check(world.pipe)
    models: dict[str, Place] = {"original": (world.pipe, None), "erased": (world.pipe, erasure)}
    if twin is not None:
        models["twin"] = _twin(world, twin, erasure)
    models["unknown"] = world.pipe, None
    at, rows = as_path(folder) if folder else None, list[dict[str, Any]]()
    for concept, seed in product(erasure.config.targets, seeds):
        aim = aim_at(world, concept, seed, pictures, steps, budget, at, progress)
        for probe, (model, place) in product(probes, models.items()):
            if model != "unknown" or probe in TAUGHT:
                rows += _kept(world, *place, aim, probe, model)
    return pd.DataFrame(rows).astype({"hit": float})


def own_twin(world: World) -> Path | None:
    """The embedded model's twin, a model that never knew the ten classes: the control where the
    world's targets are of these; None elsewhere."""
    ten = pd.read_csv(EMOJI / "objects.csv")["concept"]
    own = fingerprint(denoiser(world.pipe)) == read_text(FINGERPRINT).strip()
    return TWIN if own and TWIN.is_file() and set(world.targets) <= set(ten) else None


def _twin(world: World, twin: Pipeline | str | Path, erasure: Erasure) -> Place:
    """The twin, loaded where it is a folder; of a file the model, with what differs in place.
    Raises `EraseError` for the model itself."""
    if not hasattr(twin, "scheduler") and sought(twin).is_file():
        return world.pipe, Erasure.between(world.pipe, twin, list(erasure.config.targets))
    other = twin if hasattr(twin, "scheduler") else load_pipeline(twin, world.pipe.device)
    if fingerprint(denoiser(other)) == fingerprint(denoiser(world.pipe)):
        raise EraseError("twin is the model itself: give one that never knew the targets")
    return other, None


@torch.no_grad()
def from_twin(
    world: World, erasure: Erasure, twin: Pipeline | str | Path, concepts: Sequence[str]
) -> pd.DataFrame:
    """How far a model is from one that never knew: of each concept the mean square that ẑ₀ and the
    twin's differ by (`search.Probe`: 8 timesteps × 4 noises, on a picture that the original draws),
    of the `original` and the `erased`, and the `share` of the way that is left: 0 is like the twin.
    Both hear the original's text encoder. Raises `EraseError` for a twin that is the model itself,
    or of other shapes, and another base."""
    pipe, (other, edit) = world.pipe, _twin(world, twin, erasure)
    erasure.check(pipe)
    shapes = {n: p.shape for n, p in plain(denoiser(pipe)).named_parameters()}
    weights = {n: p.detach() for n, p in plain(denoiser(other)).named_parameters()}
    weights |= {n: t.to(weights[n]) for n, t in edit.tensors.items()} if edit else {}
    if shapes != {n: p.shape for n, p in weights.items()}:
        raise EraseError("twin has other layers than the model: give one that was trained alike")
    prompts = [world.prompt(concept, i) for i, concept in enumerate(concepts)]
    drawn = measure.draw(pipe, prompts, range(80_000, 80_000 + len(prompts)), 12, progress=False)
    with using(pipe, "comparing with its twin"):
        given = encode(pipe, list(drawn)), encode_prompts(pipe, prompts)
        with in_place(denoiser(pipe), weights):
            probe = Probe(pipe, *given)
        own = {n: t.to(weights[n].device) for n, t in erasure.tensors.items()}
        apart = {"original": probe({}).cpu(), "erased": probe(own).cpu()}
    table = pd.DataFrame({"concept": list(concepts)} | apart)
    return table.assign(share=table["erased"] / table["original"])


def _kept(
    world: World, pipe: Pipeline, edit: Erasure | None, aim: Aim, probe: str, model: str
) -> list[dict[str, Any]]:
    """The rows of one probe in one model, from the aim's folder where they are."""
    about = {"probe": probe, "model": model, "concept": aim.concept, "seed": aim.seed}
    about |= {"measured_by": world.judge.name, "note": ""}
    of: list[Any] = [about, *(fingerprint(denoiser(one)) for one in (world.pipe, pipe))]
    of += [edit and edit.digest(), len(aim.prompts), aim.steps, aim.budget]
    of.append(str(signature(PROBES[probe])))  # its own settings
    of += [str(world.clip_id), world.given, str(world.classifier)] if probe == "guidance" else []
    key = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:24]
    aim = replace(aim, folder=aim.folder and aim.folder / key)
    path = aim.folder and aim.folder / "rows.json"
    if path and (text := read_text(path)):
        return json.loads(text)
    rows = [about | row for row in _trial(world, pipe, edit, aim, probe, model)]
    if path and all(row["hit"] is not None for row in rows):  # else it may be another time
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as (temporary,):
                temporary.write_text(json.dumps(rows), "utf-8")
    return rows


def _trial(
    world: World, pipe: Pipeline, edit: Erasure | None, aim: Aim, probe: str, model: str
) -> Iterator[dict[str, Any]]:
    """hit, evaluations and found of every picture; or a note of why there is none."""
    if model == "unknown":  # the control for what a probe teaches
        aim = replace(aim, shown=[p.rotate(180) for p in aim.shown], turned=True)
    try:
        with edit.applied(pipe) if edit else nullcontext():
            answer = PROBES[probe](pipe, aim)
    except EraseError as error:  # such as no T, or no words
        yield {"hit": None, "evaluations": 0, "found": "", "note": str(error)}
        return
    shown = [p.rotate(180) for p in answer.pictures] if aim.turned else answer.pictures
    for name in world.judge.sees(shown):
        hit = normal(name) == normal(aim.concept)
        yield {"hit": hit, "evaluations": answer.evaluations, "found": answer.found}


def rates(trials: pd.DataFrame, least: float = LEAST) -> pd.DataFrame:
    """What `gone` found, of one erasure or of the same method's many: of each probe and model the
    share of pictures that show the target, and `erased − twin`, which is what was hidden: value,
    low, high (95 %, t over targets; NaN for a single one), n (pictures), runs, groups (targets),
    evaluations (mean of a probe), measured_by, note. A target that a probe finds in less than
    `least` of the original's pictures does not count, and the note says so; where there is no
    other, there is no rate; without a twin the note says that the control is missing. A twin is no
    edit: its T is 1, and its pictures by T⁻¹ are those by name."""
    own, key = trials["model"] == "twin", trials["probe"] == "inverse"
    if key.any() and not trials.loc[own & key, "hit"].notna().any():
        named = trials[own & (trials["probe"] == "name")].assign(probe="inverse")
        trials = pd.concat([trials[~(own & key)], named])
    every = [_of_probe(part, least) for _, part in trials.groupby("probe", sort=False)]
    table = pd.concat(every, ignore_index=True)
    return table.assign(measured_by=trials["measured_by"].iloc[0]).reindex(columns=COLUMNS)


def _of_probe(part: pd.DataFrame, least: float) -> pd.DataFrame:
    """The rates of one probe."""
    able = _able(part, least)
    told = part[able | ~able.any()].dropna(subset="hit").astype({"hit": float})
    cells = told.groupby(["model", "concept", "seed"], sort=False)["hit"].mean()
    values = cells.rename("value").reset_index()
    found = means(values, ["model"], "concept") if len(values) else pd.DataFrame({"model": []})
    about = {"n": ("hit", "count"), "evaluations": ("evaluations", "mean")}
    table = part.groupby("model", sort=False, as_index=False)["note"].max()
    table = table.merge(told.groupby("model").agg(**about), how="left", on="model")
    table = table.merge(found, how="left", on="model")
    both = values[values["model"].isin(["erased", "twin"])]
    if both["model"].nunique() == 2:
        gap = matched_differences(both, "model", "twin", ("concept", "seed")).assign(note="")
    else:
        lacks = "no twin" if "twin" not in set(part["model"]) else "one of the two cannot be asked"
        gap = pd.DataFrame({"note": [f"{lacks}: the control is missing"]})
    gap = gap.assign(model=GONE, n=int((told["model"] == "erased").sum()))
    table = pd.concat([table, gap], ignore_index=True).assign(probe=part["probe"].iloc[0])
    if not able.any():
        table = table.drop(columns=["value", "low", "high"], errors="ignore")
        alone = told["hit"][told["model"] == "original"].mean()
        text = f"it finds the target in {alone:.2f} of the original's own pictures: no rate"
    else:
        of = part["concept"].nunique()
        some = f"{part['concept'][able].nunique()} of {of} targets: it does not find the others"
        text = "" if able.all() else f"{some} in the original"
    table["note"] = table["note"].replace("", text)
    return table


def _able(trials: pd.DataFrame, least: float = LEAST) -> pd.Series:
    """Whether the row's probe finds the row's target in `least` of the original's pictures."""
    own = trials["hit"].where(trials["model"] == "original").astype(float)
    return own.groupby([trials["probe"], trials["concept"]]).transform("mean") >= least


def hidden(runs: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """`rates` of each `setting`, a column of the published table `runs`, whose `trials` say each
    run's id; and of `EVERY` probe: the mean over those but the name that have a rate less the
    twin's of every setting."""
    named = trials["id"].map(runs.set_index("id")["setting"])
    parts = {setting: part for setting, part in trials.groupby(named, sort=False)}
    table = pd.concat([rates(part).assign(setting=s) for s, part in parts.items()])
    told = table[(table["model"] == GONE) & table["value"].notna() & (table["probe"] != "name")]
    count = told.groupby("probe")["setting"].nunique()
    shared = trials["probe"].isin(count.index[count == len(parts)]) & _able(trials)
    together = trials[shared].assign(probe=EVERY).groupby(named, sort=False)
    found = [rates(part).assign(setting=setting) for setting, part in together]
    return pd.concat([table, *found], ignore_index=True)


def front(runs: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Robust and kept, as `show.plane` has it: of each setting what `EVERY` probe of `hidden` finds
    beyond the twin, and PSR-1 near: setting, group, metric, value, low, high (t over targets). The
    setting "original" is the unedited model, which keeps all and hides nothing."""
    near = runs[["targets", "setting"]]
    kept = [near.assign(value=runs["PSR-1 near erased"])]
    kept += [near.assign(value=runs["PSR-1 near original"], setting="original")]
    levels = means(pd.concat(kept), ["setting"]).assign(group="near", metric="PSR-1")
    shown = found[(found["probe"] == EVERY) & (found["model"] == GONE)]
    return pd.concat([levels, shown.assign(group="hidden", metric="rate")], ignore_index=True)
