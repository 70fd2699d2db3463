"""An erasure tried by hand, and two of the same targets beside each other: on the same prompts and
noise, and on request where each first erases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from erase_lib import measure
from erase_lib.concepts import STYLE, normal, without
from erase_lib.erasure import Erasure
from erase_lib.measure import Classifier, World, near_and_far, sensitivity_prompts, verdicts
from erase_lib.measure.evaluate import compared
from erase_lib.measure.judges import by_style
from erase_lib.measure.pictures import Images, Told
from erase_lib.measure.prompts import target_prompts

NEAR, FAR, SHOWN = 8, 16, 4  # concepts of a trial; of each group so many are shown
TIMES = 2  # pictures of a concept; of a target in each style
LEVEL = 0.95  # the ESR-1 that edits are matched at


def trial_prompts(
    world: World,
    targets: Sequence[str],
    preserved: Sequence[str] = (),
    predicted: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """What a trial draws: prompt, concept, style, target, group (target, preserved, near,
    predicted, far), seed, and `shown`, whether it is one of the few that are looked at. A concept
    stands in the first group that has it. A target twice in every style, all others twice."""
    words = without(world.words, [*targets, *preserved])
    n = min(NEAR, len(words))
    near, far = near_and_far(world.pipe, targets, n, min(FAR, len(words) - n), words=words)
    known = without(without(predicted, [*targets, *preserved]), near)[:NEAR]
    groups = {"preserved": list(preserved), "near": near, "predicted": known}
    groups["far"] = without(far, known)
    asked = target_prompts(world.pipe, targets, TIMES, 20_000 + seed)
    tables = [asked.assign(group="target", shown=asked.index < max(SHOWN, SHOWN * len(targets)))]
    styles = [s for s in world.styles if f"{s}{STYLE}" not in targets]
    for group, names in groups.items():
        if names:
            part = sensitivity_prompts(names, TIMES, styles=styles, seed=30_000 + seed)
            some = part["concept"].isin(names[: 0 if group == "far" else SHOWN])
            shown = some & ~part["concept"].duplicated()
            tables.append(part.assign(group=group, target="", shown=shown))
    return pd.concat(tables, ignore_index=True)


def trial_verdicts(judge: Classifier, pictures: Images, prompts: pd.DataFrame) -> pd.DataFrame:
    """`verdicts` of pictures, one a row of `trial_prompts`: of a target that is a style the rank
    among the styles, and no rank for a concept that the judge does not know."""
    known = prompts["concept"].map(normal).isin(judge.place).to_numpy()
    return by_style(verdicts(judge, pictures, prompts, ranked=known))


def trial_rows(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """ESR-1 of the targets, PSR-1 of every other group, from `trial_verdicts` of two models on the
    same prompts: the rows of `measure.evaluate`, in which "original" is the first model, "erased"
    the second, "difference" second − first, with 95 % intervals over prompts and n."""
    rows = []
    for group in first["group"].unique():
        metric = "ESR-1" if group == "target" else "PSR-1"
        told = (first["group"] == group) & first["rank"].notna() & second["rank"].notna()
        if told.any():
            old, new = (measure.successes(metric, table[told]) for table in (first, second))
            about = {"metric": metric, "group": group, "measured_by": first["measured_by"][0]}
            rows += compared(about, old, new, first[told], (0.0, 0.0, 0.0))
    columns = ["metric", "group", "model", "value", "low", "high", "n", "measured_by"]
    return pd.DataFrame(rows, columns=columns)


def most_hurt(before: pd.DataFrame, after: pd.DataFrame, most: int = 6) -> pd.Series:
    """δ of the concepts that lost most of the judge's probability, largest first, no targets."""
    lost = (before["probability"] - after["probability"])[before["group"] != "target"]
    return lost.groupby(before["concept"]).mean().dropna().nlargest(most)


def matched(
    world: World, erasure: Erasure, judge: Classifier, eye: bool = False, progress: Told = False
) -> tuple[Erasure, bool]:
    """The erasure scaled to where its ESR-1 first reaches `LEVEL`, and whether it does; with `eye`
    by both witnesses (`measure.Eye`). From few pictures, by noise that no trial uses
    (`measure.first_strength`)."""
    how: dict[str, Any] = {"eye": world.eye if eye else None, "progress": progress}
    strength, reached = measure.first_strength(world.pipe, erasure, judge, LEVEL, **how)
    return erasure.scaled(world.pipe, strength), reached
