"""How well a concept is gone (ESR) and how well the others stay (PSR), with intervals."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from erase_lib.errors import EraseError
from erase_lib.measure.classifiers import Classifier
from erase_lib.measure.judges import Judge, ranks
from erase_lib.measure.statistics import bootstrap, paired


def verdicts(
    judge: Classifier,
    pictures: Sequence[Image.Image] | Tensor,
    prompts: pd.DataFrame,
    model: str = "original",
) -> pd.DataFrame:
    """One row a picture: what was asked for and what the judge sees.

    `prompts` has one row a picture, in the same order: prompt, concept and, if known, style, seed.
    Columns: prompt, concept, style, seed, model, rank and probability (of the concept asked for,
    rank 0 = top), seen (the likeliest concept), style_seen (None where styles are not told apart),
    measured_by, seconds (judging time).
    """
    if lacking := {"prompt", "concept"} - set(prompts.columns):
        raise EraseError(f"the table of prompts lacks the columns {sorted(lacking)}")
    begin = time.perf_counter()
    columns = judge.index(prompts["concept"])
    likely, styles = likelihoods(judge, pictures)
    rank = ranks(likely, columns)
    table = pd.DataFrame(
        {name: prompts.get(name) for name in ("prompt", "concept", "style", "seed")}
    )
    return table.reset_index(drop=True).assign(
        model=model,
        rank=rank,
        probability=likely[np.arange(len(rank)), columns],
        seen=[judge.concepts[i] for i in likely.argmax(1)],
        style_seen=_styles(judge, styles),
        measured_by=judge.name,
        seconds=(time.perf_counter() - begin) / max(len(rank), 1),
    )


def likelihoods(
    judge: Classifier, pictures: Sequence[Image.Image] | Tensor
) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities `(n, concepts)`, and `(n, styles)` where the classifier tells styles."""
    if not isinstance(judge, Judge):
        return judge.concept_probabilities(pictures).numpy(), None
    concepts, styles = judge.logits(pictures).tensor_split([len(judge.concepts)], 1)
    return concepts.softmax(1).numpy(), styles.softmax(1).numpy()


def _styles(judge: Classifier, likely: np.ndarray | None) -> list[str] | None:
    if likely is None or not isinstance(judge, Judge):
        return None
    return [judge.styles[i] for i in likely.argmax(1)]


def esr(table: pd.DataFrame, targets: Iterable[str], k: int = 1) -> float:
    """ESR-k: share of the erased concepts' pictures *not* recognised in the judge's top k."""
    return float((_about(table, targets)["rank"] >= k).mean())


def psr(table: pd.DataFrame, kept: Iterable[str], k: int = 1) -> float:
    """PSR-k: share of the kept concepts' pictures that the judge recognises in its top k."""
    return float((_about(table, kept)["rank"] < k).mean())


def _about(table: pd.DataFrame, concepts: Iterable[str]) -> pd.DataFrame:
    wanted = list(concepts)
    chosen = table[table["concept"].isin(wanted)]
    if chosen.empty:
        raise EraseError(
            f"no picture of {wanted} among the verdicts; draw some, or name other concepts"
        )
    return chosen


def summary(
    verdicts_before: pd.DataFrame,
    verdicts_after: pd.DataFrame,
    targets: Iterable[str],
    near: Iterable[str] = (),
    k: int = 1,
) -> pd.DataFrame:
    """ESR-k of the targets, PSR-k of all other concepts: near the targets, far from them, together.

    Both tables hold the same prompts and seeds. Three rows a metric, told apart by column `model`:
    "original", "erased", "difference" (erased − original, picture by picture). Columns: metric,
    model, value, low, high (95 %, bootstrap over prompts), n (pictures), prompts, seeds,
    measured_by, seconds (spent judging). A metric without pictures is left out.
    Raises EraseError when the tables do not match picture by picture.
    """
    key = ["prompt", "concept", "seed"]
    before, after = (
        t.sort_values(key).reset_index(drop=True) for t in (verdicts_before, verdicts_after)
    )
    if not before[key].equals(after[key]) or before.duplicated(key).any():
        raise EraseError(
            "verdicts before and after must hold the same prompts and seeds, each pair once"
        )
    gone, concept = before["concept"].isin(list(targets)), before["concept"]
    close = concept.isin(list(near)) & ~gone
    parts = {
        f"ESR-{k}": gone,
        f"PSR-{k} near": close,
        f"PSR-{k} far": ~gone & ~close,
        f"PSR-{k}": ~gone,
    }
    rows = []
    for metric, part in parts.items():
        if not part.any():
            continue
        right = [(t.loc[part, "rank"] < k).to_numpy(dtype=float) for t in (before, after)]
        old, new = (1 - r for r in right) if metric.startswith("ESR") else right
        groups = before.loc[part, "prompt"].to_numpy()
        seconds = [float(t.loc[part, "seconds"].sum()) for t in (before, after)]
        values = {
            "original": (old.mean(), *bootstrap(old, groups), seconds[0]),
            "erased": (new.mean(), *bootstrap(new, groups), seconds[1]),
            "difference": ((new - old).mean(), *paired(old, new, groups), sum(seconds)),
        }
        common = {
            "n": int(part.sum()),
            "prompts": len(set(groups)),
            "seeds": before.loc[part, "seed"].nunique(),
            "measured_by": after["measured_by"].iloc[0],
        }
        for model, (value, low, high, spent) in values.items():
            row = {"metric": metric, "model": model, "value": value, "low": low, "high": high}
            rows.append(row | common | {"seconds": spent})
    return pd.DataFrame(rows)
