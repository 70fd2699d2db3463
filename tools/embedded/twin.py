"""What the twin that never knew draws for the ten names, and for their neighbours and others.

Model and twin draw the same prompts from the same noise; the judge says what it sees in each. What
the twin does to the neighbours and the others is no damage of an erasure: it is what leaving ten
classes out of the training, and another course of it, does by itself. With `--runs` instead, of
every erasure of a sweep: how far is it from the twin, which is what it would be if it were perfect?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from erase_lib import measure
from erase_lib.concepts import without
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, check_range
from erase_lib.files import whole, writing
from erase_lib.models import load_pipeline
from erase_lib.study import from_twin
from erase_lib.study.gone import TWIN
from tools import one_line
from tools.embedded import common

PATH = common.DATA / "results" / "twin.csv"
DISTANCES = PATH.with_name("twin_distances.csv")
SEED = 90_000  # of the first picture


def ten_classes() -> list[str]:
    """What the twin has never seen."""
    return pd.read_csv(common.DATA / "emoji" / "objects.csv")["concept"].tolist()


def compared(
    twin: Path = TWIN, pictures: int = 6, steps: int = 30, near: int = 10, far: int = 20
) -> pd.DataFrame:
    """A row for each concept and model (original, twin): group, n, `right` (share in which the
    judge sees what was asked for), `seen` most often and its `share`, `entropy` (nats, of the
    judge's answer, a mean), `moved` (1 − cos between the two models' pictures, features of the
    small CLIP), model, twin, measured_by. The styles take turns."""
    check_range("pictures", pictures, 1, 1000)
    pipe, judge, clip = load_pipeline(), measure.Judge.load(), measure.load_clip()
    ten = ten_classes()
    edit = Erasure.between(pipe, twin, ten)
    groups = dict(zip(("near", "far"), measure.near_and_far(pipe, ten, near, far), strict=True))
    named = [(g, c) for g, of in ({"ten classes": ten} | groups).items() for c in of]
    asked = [(c, common.STYLES[i % 4]) for _, c in named for i in range(pictures)]
    table = measure.prompt_table(asked, group=[g for g, _ in named for _ in range(pictures)])
    given = table["prompt"], range(SEED, SEED + len(table)), steps
    drawn = {"original": measure.draw(pipe, *given)}
    drawn["twin"] = measure.draw(pipe, *given, erasure=edit)
    features = [clip.image_features(list(some)) for some in drawn.values()]
    table["moved"] = measure.feature_distance(*features)
    rows, instruments = [], f"{judge.name}; moved: {clip.name}"
    for name, some in drawn.items():
        likely = judge.concept_probabilities(list(some))
        entropy = -(likely * likely.clamp(min=1e-12).log()).sum(1)
        seen = measure.verdicts(judge, list(some), table).assign(entropy=entropy.numpy())
        for (group, concept), part in seen.groupby(["group", "concept"], sort=False):
            most = part["seen"].value_counts(normalize=True)
            row = {"group": group, "concept": concept, "model": name, "n": len(part)}
            row |= {"right": (part["rank"] == 0).mean(), "seen": most.index[0]}
            row |= {"share": most.iloc[0], "entropy": part["entropy"].mean()}
            rows.append(row | {"moved": part["moved"].mean(), "measured_by": instruments})
    return pd.DataFrame(rows).assign(base=edit.base, twin=edit.digest()).round(4)


def apart(runs: Path, twin: Path = TWIN, near: int = 5, far: int = 5) -> pd.DataFrame:
    """A row for each run below `runs`, each of its targets and of `near` and `far` concepts that
    the twin knows: id, targets, method, group, concept, `from_twin`'s distances (original, erased,
    share), and how far pictures are from the twin's (`seen_apart`). `EraseError` for no run."""
    pipe, tables = load_pipeline(), []
    folders = sorted(path.parent for path in runs.glob("*/erased.safetensors"))
    if not folders:
        raise EraseError(f"{runs} holds no erasures: expected the folder of a sweep")
    ten = ten_classes()
    words, other = without(measure.World(pipe).words, ten), Erasure.between(pipe, twin, ten)
    for folder in folders:
        erasure = Erasure.load(folder)
        targets = list(erasure.config.targets)
        world = measure.World(pipe, targets)
        around = measure.near_and_far(pipe, targets, near, far, words=words)
        both = zip(("near", "far"), around, strict=True)
        named = [(g, c) for g, of in ({"target": targets} | dict(both)).items() for c in of]
        concepts = [c for _, c in named]
        table = from_twin(world, erasure, twin, concepts)
        edits = {"original": None, "erased": erasure}
        table = table.join(seen_apart(world, edits, other, concepts))
        about = {"id": folder.name, "targets": "+".join(targets), "method": erasure.config.method}
        tables.append(table.assign(**about, group=[g for g, _ in named]))
        print(folder.name, table.groupby(tables[-1]["group"])["share"].mean().round(3).to_dict())
    return pd.concat(tables, ignore_index=True).round(6)


def seen_apart(
    world: measure.World,
    edits: dict[str, Erasure | None],
    twin: Erasure,
    concepts: Sequence[str],
    pictures: int = 2,
) -> pd.DataFrame:
    """1 − cos between each edit's pictures of a concept and the twin's from the same noise, by the
    small CLIP, a mean; a column "pictures NAME" for each edit."""
    prompts = [world.prompt(concept, i) for concept in concepts for i in range(pictures)]
    given = world.pipe, prompts, range(SEED, SEED + len(prompts)), 12

    def features(edit: Erasure | None) -> Tensor:
        drawn = measure.draw(*given, progress=False, erasure=edit)
        return world.clip.image_features(list(drawn))

    own, found = features(twin), {}
    for name, edit in edits.items():
        gaps = measure.feature_distance(features(edit), own)
        found[f"pictures {name}"] = gaps.reshape(-1, pictures).mean(1)
    return pd.DataFrame(found)


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table and print its means, a concept the unit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--twin", type=Path, default=TWIN)
    parser.add_argument("--pictures", type=int, default=6, help="of each concept")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--runs", type=Path, help="of a sweep: how far is each from the twin")
    parser.add_argument("--out", type=Path, help="a table; data/results if absent")
    given = parser.parse_args(arguments)
    out = given.out or (DISTANCES if given.runs else PATH)
    if given.runs:
        table = apart(given.runs, given.twin)
    else:
        table = compared(given.twin, given.pictures, given.steps)
    with writing(out), whole(out) as (temporary,):
        table.to_csv(temporary, index=False)
    for what in () if given.runs else ("right", "entropy", "moved"):
        every = measure.means(table.assign(value=table[what]), ["group", "model"], "concept")
        print(what, every.round(3).to_string(index=False), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
