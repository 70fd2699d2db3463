"""What is drawn: tables of prompts and the seeds of their noise, a row a picture."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence, Sized
from itertools import product
from typing import Any

import pandas as pd
import torch

from erase_lib.concepts import STYLE, check_concepts, concept_table, is_style, style_names, without
from erase_lib.config import VOCABULARY
from erase_lib.errors import EraseError, check_range
from erase_lib.families import Pipeline, is_embedded
from erase_lib.files import DATA, check_keys, whole_table
from erase_lib.measure.statistics import chance
from erase_lib.measure.suite import Group, Suite, check_once, fill
from erase_lib.text import distances_each, near_each, searchable

COLUMNS = ("group", "prompt", "concept", "style", "seed", "noise")
LARGEST = 1_000_000  # pictures of a group
MOST = 32  # pictures of a concept: their seeds end where those of the predictions begin


def words_of(pipe: Pipeline, words: Sequence[str] | None = None) -> list[str]:
    """The concepts that a model is asked for: the given, or else the embedded model's own, of any
    other common English words."""
    if words is not None:
        return list(dict.fromkeys(words))
    return searchable(pipe, VOCABULARY[is_embedded(pipe)], [])


def styles_of(pipe: Pipeline) -> list[str]:
    """Four styles that prompts are asked for in, in turn: the embedded model's; of any other four
    times none, for as many pictures."""
    return style_names() if is_embedded(pipe) else [""] * 4


def prompt_table(
    asked: Iterable[tuple[str, str | None]],
    template: str = Group.template,
    words: Sequence[str] | None = None,
    **columns: Any,
) -> pd.DataFrame:
    """prompt, concept, style of the pairs (concept, style or None), and the given `columns`;
    `words` stand in the template instead of the concepts. Without a style "in … style" goes."""
    pairs = list(asked)
    for name, of in (columns | {"words": words or pairs}).items():
        if isinstance(of, Sized) and not isinstance(of, str) and len(of) != len(pairs):
            raise EraseError(f"{len(of)} {name} for {len(pairs)} concepts: give one for each")
    plain = template.replace(" in {style} style", "")
    rows = [
        (" ".join(fill(template if style else plain, word, style or "").split()), concept, style)
        for (concept, style), word in zip(pairs, words or [c for c, _ in pairs], strict=True)
    ]
    return pd.DataFrame(rows, columns=["prompt", "concept", "style"]).assign(**columns)


def suite_prompts(
    pipe: Pipeline,
    suite: Suite,
    targets: Sequence[str],
    most: int = 0,
    words: Sequence[str] | None = None,
) -> pd.DataFrame:
    """What to draw, a row a picture: group, prompt, concept, style, seed, and noise, whose seed
    hangs on prompt and seed alone: it is the same in every suite, split and model. `most` prompts
    of a group, spread over it (0: all). `words`: of which near and far are (`words_of`).
    `EraseError` for other targets, and an empty group."""
    check_range("most", most, 0, LARGEST)
    split, parts = suite.split(targets), []
    known = _concepts(pipe, suite, list(targets), words)
    for name, group in suite.groups.items():
        rows = _rows(pipe, group, split, known)
        if rows.empty and group.words:
            continue  # no word for these targets
        if rows.empty:
            raise EraseError(f"suite {suite.name!r}: group {name!r} has no prompts for {targets}")
        if most:
            rows = rows.iloc[:: -(-len(rows) // most)]
        seeds = list(group.seeds)[: 1 if most else None]
        check_range(f"group {name!r}: prompts × seeds", len(rows) * len(seeds), 1, LARGEST)
        if "seed" not in rows:
            rows = rows.merge(pd.DataFrame({"seed": seeds}), how="cross")
        parts.append(rows.assign(group=name))
    if not parts:
        raise EraseError(f"suite {suite.name!r} has no prompts for {targets}: no word of theirs")
    table = pd.concat(parts, ignore_index=True)
    own = table["prompt"].map(lambda text: zlib.crc32(text.encode()) % 100_000)
    seed = table["seed"].astype(int)
    # a seed that comes with the prompt is the picture's own, as a benchmark gives it
    given = table["group"].map({name: "seed" in group.file for name, group in suite.groups.items()})
    return table.assign(seed=seed, noise=seed.where(given, seed * 100_000 + own))[list(COLUMNS)]


def _concepts(
    pipe: Pipeline, suite: Suite, targets: list[str], words: Sequence[str] | None
) -> dict[str, list[str]]:
    """What a group may say instead of a list; far is what no group has near a target."""
    some = any(of.concepts in ("near", "far") for of in suite.groups.values())
    others = without(words_of(pipe, words), [*suite.classes, *targets]) if some else []
    objects = [target for target in targets if not is_style(target)]
    counts = [of.most for of in suite.groups.values() if of.concepts == "near"]
    near = near_each(pipe, objects, others, counts[0] or 4) if objects and counts else []
    far = [c for c in others if c not in near]
    return {"targets": targets, "kept": without(suite.classes, targets), "near": near, "far": far}


def _rows(pipe: Pipeline, group: Group, split: str, known: dict[str, list[str]]) -> pd.DataFrame:
    """prompt, concept, style (and seed, where a file has one) of a group."""
    if group.file:
        return _from_file(group.file, split)
    if group.words:
        asked = [(c, word) for c in known["targets"] for word in group.words.get(c, [])]
    else:
        some = known[group.concepts] if isinstance(group.concepts, str) else group.concepts
        if group.concepts == "far" and group.most:
            some = some[:: max(1, len(some) // group.most)][: group.most]
        asked = [(c, c) for c in some]
    houses, own = styles_of(pipe), known["targets" if group.styles == "targets" else "kept"]
    named = [name.removesuffix(STYLE) for name in own]
    rows: list[tuple[tuple[str, str | None], str]] = []
    for i, (concept, word) in enumerate(asked):
        turn: dict[str, Any] = {"all": houses, "turn": [houses[i % len(houses)]], "none": [None]}
        styles = turn.get(group.styles, named) if isinstance(group.styles, str) else group.styles
        rows += [((concept, style), word) for style in styles]
    return prompt_table([pair for pair, _ in rows], group.template, [word for _, word in rows])


def _from_file(file: dict[str, Any], split: str) -> pd.DataFrame:
    """The rows of a CSV. Raises `EraseError` when it is not there or lacks a column."""
    path = DATA / str(file.get("path", ""))
    table = whole_table(path)
    keys = ("prompt", "concept", "style", *(["seed"] if "seed" in file else []))
    names, where = {key: str(file.get(key, key)) for key in keys}, file.get("where", {})
    asked = (*(names[key] for key in keys if key in ("prompt", *file)), *where)
    check_keys(asked, "column", table.columns, f"{path}: ")
    for column, value in where.items():
        table = table[table[column].astype(str) == str(value).replace("{split}", split)]
    found = pd.DataFrame({key: table.get(name) for key, name in names.items()}, table.index)
    if "seed" in found:
        seed = pd.to_numeric(found["seed"], errors="coerce")
        if not (fit := seed.between(0, 2**53) & (seed % 1 == 0)).all():
            bad = f"{names['seed']} is {str(found['seed'][~fit].iloc[0])!r}"
            raise EraseError(f"{path}: {bad}: expected whole numbers of 0 or more")
    return found


def near_and_far(
    pipe: Pipeline,
    targets: Sequence[str],
    near: int = 10,
    far: int = 50,
    seed: int = 0,
    words: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Kept concepts for PSR near and far, both of `words_of` without the targets: the nearest by
    the mean of `distances` to the targets' bare words, nearest first, and others drawn with a seed,
    in the order of `words`. `summary` takes the near, and calls all others far. Raises `EraseError`
    for no target, or too few words."""
    if not targets:
        raise EraseError(f"targets is {targets!r}: expected a list of concepts, such as ['church']")
    kept = without(words_of(pipe, words), targets)
    if min(near, far) < 0 or near + far > len(kept):
        most = f"together at most the {len(kept)} that are no targets"
        raise EraseError(f"{near} near and {far} far concepts: expected 0 or more, {most}")
    order = torch.stack(distances_each(pipe, kept, targets)).mean(0).argsort(stable=True).tolist()
    drawn = chance(seed).choice(sorted(order[near:]), far, replace=False)
    return [kept[i] for i in order[:near]], [kept[i] for i in sorted(drawn)]


def evaluation_prompts(
    pipe: Pipeline,
    targets: Sequence[str],
    near: int = 10,
    far: int = 50,
    seed: int = 0,
    words: Sequence[str] | None = None,
) -> pd.DataFrame:
    """What ESR and PSR are measured on: prompt, concept, style, group (target, near, far), seed.
    Targets twice in every style, the `near` in two, the `far` in one; seeds 1000, 1001, …, the same
    for every model; `words` and `styles_of`. `EraseError` for a target that is no object, and as
    `near_and_far`."""
    if is_embedded(pipe):
        check_concepts(targets)
    if styled := [target for target in targets if is_style(target)]:
        raise EraseError(f"target {styled[0]!r} is a style: expected objects, such as ['church']")
    styles = styles_of(pipe)
    close, others = near_and_far(pipe, targets, near, far, seed, words)
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
    A `neutral` concept is its own prompt, "" or "a photo", without a style. Of an embedded
    concept they hang on nothing beside it. `EraseError` for no concept, one twice, no picture."""
    every = [*concepts, *neutral]
    styles = style_names() if styles is None else list(styles)
    for name, value in (("concepts", concepts), ("styles", styles)):
        if not value:
            raise EraseError(f"{name} is {value!r}: expected a list of at least one")
    check_once("concepts", every)
    check_range("pictures", pictures, 1, MOST)
    place = {concept: i for i, concept in enumerate(concept_table()["concept"])}
    place |= {c: len(place) + i for i, c in enumerate(every) if c not in place}
    asked = list(product(every, range(pictures)))
    pairs = [(c, None if c in neutral else styles[(place[c] + k) % len(styles)]) for c, k in asked]
    table = prompt_table(pairs, seed=[seed + 1000 * k + place[c] for c, k in asked])
    return table.assign(prompt=table["prompt"].where(table["style"].notna(), table["concept"]))


def target_prompts(
    pipe: Pipeline, targets: Sequence[str], pictures: int, seed: int = 5000
) -> pd.DataFrame:
    """What each target is looked for in: prompt, concept, style, target, seed. `pictures` of an
    object in every style, and as many of a style, each of another object. `EraseError` for none."""
    check_range("targets of prompts", len(targets), 1, LARGEST)
    check_range("pictures", pictures, 1, 1000)
    objects = words_of(pipe)[::7]  # any; not those it is trained on
    styles, rows = styles_of(pipe), []
    for k, target, i in product(range(pictures), targets, range(len(styles))):
        thing = objects[(4 * k + i) % len(objects)]
        own = (thing, target[: -len(STYLE)]) if is_style(target) else (target, styles[i])
        rows.append((own, target))
    pairs, names = zip(*rows, strict=True)
    return prompt_table(pairs, target=names, seed=range(seed, seed + len(pairs)))
