"""A suite's prompts for given targets: a table with a row a picture."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pandas as pd

from erase_lib.concepts import STYLE, concept_table, style_names
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.models import Pipeline
from erase_lib.neighbours import near_each
from erase_lib.paths import DATA
from erase_lib.suites import Group, Suite

COLUMNS = ("group", "prompt", "concept", "style", "seed", "noise")


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
    rows = []
    for i, (concept, word) in enumerate(asked):
        for style in _styles(group, i, targets, kept):
            prompt = " ".join(group.template.format(concept=word, style=style or "").split())
            rows.append((prompt, concept, style))
    return pd.DataFrame(rows, columns=["prompt", "concept", "style"])


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
    far = [c for c in others if c not in near] if _has_near(suite) else others
    return far[:: max(1, len(far) // group.most)][: group.most] if group.most else far


def _has_near(suite: Suite) -> bool:
    return any(group.concepts == "near" for group in suite.groups.values())


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
