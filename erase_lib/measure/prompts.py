"""What is drawn: tables of prompts and the seeds of their noise, a row a picture."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from erase_lib.concepts import (
    STYLE,
    check_concepts,
    concept_table,
    is_style,
    style_names,
)
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA
from erase_lib.measure.suite import Group, Suite
from erase_lib.models import Pipeline
from erase_lib.text import distances, encode_prompts, near_each

COLUMNS = ("group", "prompt", "concept", "style", "seed", "noise")
TEMPLATE = "a {concept} in {style} style"
MOST = 32  # pictures of a concept: their seeds end where those of the predictions begin


def prompt_table(
    asked: Iterable[tuple[str, str | None]],
    template: str = TEMPLATE,
    words: Sequence[str] | None = None,
    **columns: Any,
) -> pd.DataFrame:
    """prompt, concept, style of the pairs (concept, style or None), and the given `columns`.

    `words` stand in the template instead of the concepts.
    """
    pairs = list(asked)
    rows = [
        (" ".join(template.format(concept=word, style=style or "").split()), concept, style)
        for (concept, style), word in zip(pairs, words or [c for c, _ in pairs], strict=True)
    ]
    table = pd.DataFrame(rows, columns=["prompt", "concept", "style"])
    return table.assign(**columns)


def suite_prompts(
    pipe: Pipeline, suite: Suite, targets: Sequence[str], most: int = 0
) -> pd.DataFrame:
    """What to draw, a row a picture: group, prompt, concept, style, seed, noise.

    `noise` is the seed of the picture's noise. It hangs on prompt and seed alone, so a prompt
    starts from the same noise in every suite, split and model. `most`: no more prompts of a group
    than that, spread over it (0: all). Raises `EraseError` for a suite that does not fit the
    targets, and for a group that comes out empty.
    """
    split = suite.split(targets)
    parts = []
    for name, group in suite.groups.items():
        rows = _rows(pipe, suite, group, list(targets), split)
        if rows.empty and group.words:
            continue  # no word for these targets
        if rows.empty:
            raise EraseError(f"suite {suite.name!r}: group {name!r} has no prompts for {targets}")
        if most:
            rows = rows.iloc[:: -(-len(rows) // most)]
        seeds = list(group.seeds)[: 1 if most else None]
        if "seed" not in rows:
            rows = rows.merge(pd.DataFrame({"seed": seeds}), how="cross")
        parts.append(rows.assign(group=name))
    table = pd.concat(parts, ignore_index=True)
    own = table["prompt"].map(lambda text: zlib.crc32(text.encode()) % 100_000)
    seed = table["seed"].astype(int)
    # a seed that comes with the prompt is the picture's own, as a benchmark gives it
    given = table["group"].map({name: "seed" in group.file for name, group in suite.groups.items()})
    return table.assign(seed=seed, noise=seed.where(given, seed * 100_000 + own))[list(COLUMNS)]


def _rows(
    pipe: Pipeline, suite: Suite, group: Group, targets: list[str], split: str
) -> pd.DataFrame:
    """prompt, concept, style (and seed, where a file has one) of a group."""
    if group.file:
        return _from_file(group.file, split)
    kept = [c for c in suite.classes if c not in targets]
    asked = [(c, c) for c in _concepts(pipe, suite, group, targets, kept)]
    if group.words:
        asked = [(target, word) for target in targets for word in group.words.get(target, [])]
    styles = [_styles(group, i, targets, kept) for i in range(len(asked))]
    pairs = [(concept, s) for (concept, _), some in zip(asked, styles, strict=True) for s in some]
    words = [word for (_, word), some in zip(asked, styles, strict=True) for _ in some]
    return prompt_table(pairs, group.template, words)


def _concepts(
    pipe: Pipeline, suite: Suite, group: Group, targets: list[str], kept: list[str]
) -> list[str]:
    if not isinstance(group.concepts, str):
        return list(group.concepts)
    if group.concepts in ("targets", "kept"):
        return targets if group.concepts == "targets" else kept
    others = [c for c in concept_table()["concept"] if c not in {*suite.classes, *targets}]
    objects = [t for t in targets if not t.endswith(STYLE)]
    count = next((g.most for g in suite.groups.values() if g.concepts == "near"), 0) or 4
    near = near_each(pipe, objects, others, count) if objects else []
    if group.concepts == "near":
        return near
    if any(of.concepts == "near" for of in suite.groups.values()):
        others = [c for c in others if c not in near]
    return others[:: max(1, len(others) // group.most)][: group.most] if group.most else others


def _styles(
    group: Group, i: int, targets: Sequence[str], kept: Sequence[str]
) -> Sequence[str | None]:
    if not isinstance(group.styles, str):
        return group.styles
    houses = style_names()
    named = [t.removesuffix(STYLE) for t in (targets if group.styles == "targets" else kept)]
    some: dict[str, Sequence[str | None]] = {"all": houses, "turn": [houses[i % len(houses)]]}
    return (some | {"none": [None]}).get(group.styles, named)


def _from_file(file: dict[str, Any], split: str) -> pd.DataFrame:
    """The rows of a CSV. Raises `EraseError` when it is not there or lacks a column."""
    path = DATA / str(file.get("path", ""))
    try:
        table = pd.read_csv(path, keep_default_na=False)
    except Exception as error:  # the system and pandas each raise their own kinds
        raise EraseError(f"prompts {path} cannot be read ({reason(error)})") from None
    keys = ("prompt", "concept", "style", *(["seed"] if "seed" in file else []))
    names = {key: str(file.get(key, key)) for key in keys}
    for column in {"prompt", *file} & set(keys):
        if names[column] not in table:
            raise EraseError(f"{path}: {unknown('column', names[column], table.columns)}")
    for column, value in file.get("where", {}).items():
        if column not in table:
            raise EraseError(f"{path}: {unknown('column', column, table.columns)}")
        table = table[table[column].astype(str) == str(value).format(split=split)]
    return pd.DataFrame({key: table.get(name) for key, name in names.items()}, table.index)


def near_and_far(
    pipe: Pipeline,
    targets: Sequence[str],
    near: int = 10,
    far: int = 50,
    seed: int = 0,
    words: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Kept concepts for PSR near and far: the nearest to the targets, and others drawn with a seed.

    Nearness is the mean of `distances` to the targets' bare words. `words` (default: the concepts
    of the embedded model) are what both lists are taken from, targets excepted; the near come
    nearest first, the far in the order of `words`. Give the near to `summary`, which calls the
    other concepts far. Raises `EraseError` for no target, or too few words.
    """
    if not targets or isinstance(targets, str):
        raise EraseError(f"targets is {targets!r}: expected a list of concepts, such as ['church']")
    pool = concept_table()["concept"].tolist() if words is None else list(dict.fromkeys(words))
    kept = [word for word in pool if word not in targets]
    if min(near, far) < 0 or near + far > len(kept):
        raise EraseError(
            f"{near} near and {far} far concepts: expected 0 or more, and together at most the"
            f" {len(kept)} that are no targets"
        )
    if not kept:
        return [], []
    every = encode_prompts(pipe, kept)
    apart = torch.stack([distances(every, encode_prompts(pipe, [t])) for t in targets]).mean(0)
    order = apart.argsort(stable=True).tolist()
    drawn = np.random.default_rng(seed).choice(sorted(order[near:]), far, replace=False)
    return [kept[i] for i in order[:near]], [kept[i] for i in sorted(drawn)]


def evaluation_prompts(
    pipe: Pipeline, targets: Sequence[str], near: int = 10, far: int = 50, seed: int = 0
) -> pd.DataFrame:
    """What ESR and PSR are measured on: prompt, concept, style, group (target, near, far), seed.

    Each target twice in every style, the `near` in two styles, the `far` in one. The pictures'
    seeds are 1000, 1001, …: every model draws the same prompts from the same noise. Raises
    `EraseError` for a target that is no concept of the embedded model, and as `near_and_far`.
    """
    check_concepts(targets)
    if styled := [target for target in targets if is_style(target)]:
        raise EraseError(f"target {styled[0]!r} is a style: expected objects, such as ['church']")
    styles = style_names()
    close, others = near_and_far(pipe, targets, near, far, seed)
    asked = [(c, s, "target") for c in targets for s in 2 * styles]
    asked += [(c, styles[(i + k) % 4], "near") for i, c in enumerate(close) for k in (0, 2)]
    asked += [(c, styles[i % 4], "far") for i, c in enumerate(others)]
    pairs, groups = [(c, s) for c, s, _ in asked], [group for *_, group in asked]
    return prompt_table(pairs, group=groups, seed=range(1000, 1000 + len(asked)))


def sensitivity_prompts(
    concepts: Sequence[str],
    pictures: int = 4,
    neutral: Sequence[str] = (),
    styles: Sequence[str] | None = None,
    seed: int = 20_000,
) -> pd.DataFrame:
    """What δ is measured on: prompt, concept, style, seed; `pictures` of each, the styles in turn.

    A `neutral` concept is its own prompt, "" or "a photo", without a style. Picture k of a concept
    has the same prompt and noise whatever else is asked for beside it, if the concept is one of
    the embedded model. Raises `EraseError` for an empty list, one twice, or less than a picture.
    """
    every = [*concepts, *neutral]
    if not concepts or isinstance(concepts, str):
        raise EraseError(f"concepts is {concepts!r}: expected a list of at least one, ['dog']")
    if double := {c for c in every if every.count(c) > 1}:
        raise EraseError(f"concept {min(double)!r} is there twice: give each once")
    if not 1 <= pictures <= MOST:
        raise EraseError(f"pictures is {pictures}: expected 1 to {MOST} of each concept")
    styles = style_names() if styles is None else list(styles)
    if isinstance(neutral, str) or not styles:
        raise EraseError(
            f"neutral is {neutral!r}, styles is {styles}: expected lists, the styles not empty"
        )
    place = {concept: i for i, concept in enumerate(concept_table()["concept"])}
    place |= {c: len(place) + i for i, c in enumerate(every) if c not in place}
    pairs: list[tuple[str, str | None]] = []
    seeds = []
    for concept in every:
        for k in range(pictures):
            style = None if concept in neutral else styles[(place[concept] + k) % len(styles)]
            pairs.append((concept, style))
            seeds.append(seed + 1000 * k + place[concept])
    table = prompt_table(pairs, seed=seeds)
    table["prompt"] = table["prompt"].where(table["style"].notna(), table["concept"])
    return table


def target_prompts(targets: Sequence[str], pictures: int, seed: int = 5000) -> pd.DataFrame:
    """What each target is looked for in: prompt, concept, style, target, seed. `pictures` of an
    object in every style, and as many of a style, each of another object."""
    objects = concept_table()["concept"].iloc[::7].tolist()  # any; not those it is trained on
    styles, pairs = style_names(), []
    each = [
        (target, k, i) for k in range(pictures) for target in targets for i in range(len(styles))
    ]
    for target, k, i in each:
        thing = objects[(4 * k + i) % len(objects)]
        pairs.append(
            (thing, target.removesuffix(STYLE)) if is_style(target) else (target, styles[i])
        )
    names = [target for target, *_ in each]
    return prompt_table(pairs, target=names, seed=range(seed, seed + len(pairs)))
