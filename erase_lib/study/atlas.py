"""The damage atlas: many erasures × all concepts, taken apart into who harms, who is fragile, what
is specific to a pair, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from erase_lib.errors import EraseError, reason
from erase_lib.files import DATA
from erase_lib.study.predict import PREDICTORS
from erase_lib.study.sensitivity import SCORES, check_score

FILES = {".csv": ["targets"], "_pairs.parquet": ["targets", "concept", "style", "seed", *SCORES]}
FILES["_predictions.parquet"] = ["targets", "concept"]
PARTS = {
    "erased": "what was erased",
    "harmed": "who is fragile",
    "specific": "specific to the pair",
}


@dataclass(frozen=True)
class Harm:
    """δ(A → B) of every picture: `values (targets, concepts, pictures)`, NaN where B is A."""

    values: np.ndarray
    targets: list[str]
    concepts: list[str]

    def table(self) -> pd.DataFrame:
        """The mean over the pictures: erased concepts down, harmed ones across."""
        return pd.DataFrame(self.values.mean(2), self.targets, self.concepts)

    def among_targets(self) -> Harm:
        """Only those concepts that were erased too, in the order of the targets."""
        places = [self.concepts.index(target) for target in self.targets]
        return Harm(self.values[:, places], self.targets, list(self.targets))

    def doublings(self) -> Harm:
        """log₂ δ, where parts that multiply are added.

        Raises `EraseError` where a δ is not above 0, as by judge and clip, which are no distances.
        """
        if not np.nanmin(self.values) > 0:
            raise EraseError("δ is not above 0 everywhere: it has no logarithm, set doublings off")
        return replace(self, values=np.log2(self.values))


def read_atlas(prefix: str, targets: int | None = None) -> tuple[pd.DataFrame, ...]:
    """The runs, their pairs of pictures and their predictions: PREFIX.csv, PREFIX_pairs.parquet,
    PREFIX_predictions.parquet, as `collect.publish` writes them; of `targets` of them only.

    A relative path is looked for here and beside the library. Raises `EraseError` for a file that
    does not exist, is damaged or lacks a column, and for a run of several targets or a target of
    several runs.
    """
    found = []
    for ending, needed in FILES.items():
        paths = (Path(prefix + ending), DATA.parent / (prefix + ending))
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            raise EraseError(f"{prefix + ending} does not exist: make it with make results-atlas")
        try:
            table = pd.read_csv(path) if ending == ".csv" else pd.read_parquet(path)
        except Exception as error:  # pandas and pyarrow each raise their own kinds
            raise EraseError(
                f"{path} is damaged ({reason(error)}): fetch or make it anew"
            ) from None
        if lacking := [name for name in needed if name not in table]:
            raise EraseError(f"{path} lacks the column {lacking[0]!r}: make it anew")
        found.append(table)
    every = found[1]["targets"].unique()
    if several := [name for name in every if "+" in str(name)]:
        raise EraseError(f"a run erases {several[0]!r}: the atlas needs runs of one target")
    if "id" in found[1] and (found[1].groupby("targets")["id"].nunique() > 1).any():
        raise EraseError("a target was erased in several runs: the atlas needs one run each")
    if targets is not None:
        every = every[:: max(1, len(every) // targets)][:targets]
    return tuple(table[table["targets"].isin(every)] for table in found)


def harm(pairs: pd.DataFrame, score: str) -> Harm:
    """The pairs of pictures as `Harm`, neutral concepts left out.

    Picture k of a concept is the same prompt and noise in every run. Raises `EraseError` for an
    unknown score, fewer than 4 targets or 8 concepts, fewer than 2 pictures, and empty cells.
    """
    check_score(score)
    kept = pairs[pairs["style"].notna()].dropna(subset=[score])
    targets = list(dict.fromkeys(kept["targets"]))
    concepts = list(dict.fromkeys(kept["concept"]))
    if len(targets) < 4 or len(concepts) < 8:
        raise EraseError(
            f"{len(targets)} targets × {len(concepts)} concepts: an atlas needs 4 × 8 or more"
        )
    if unknown := [target for target in targets if target not in concepts]:
        raise EraseError(f"target {unknown[0]!r} is not among the concepts: measure every target")
    cells = len(targets) * len(concepts)
    pictures = len(kept) // cells
    if pictures < 2 or (kept.groupby(["targets", "concept"]).size() != pictures).any():
        raise EraseError("every target needs every concept, with equally many pictures, 2 or more")
    if len(kept) != cells * pictures:
        raise EraseError("some concepts were not measured for all targets: collect the atlas anew")
    order = kept.assign(
        targets=pd.Categorical(kept["targets"], targets),
        concept=pd.Categorical(kept["concept"], concepts),
    ).sort_values(["targets", "concept", "seed"])
    values = order[score].to_numpy(dtype=float).reshape(len(targets), len(concepts), pictures)
    values = values.copy()
    for row, target in enumerate(targets):
        values[row, concepts.index(target)] = np.nan
    return Harm(values, targets, concepts)


def additive(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """values = overall + erased + harmed + residual, by least squares over what is not NaN.

    Of `(targets, concepts, pictures)`, each picture by itself: overall `(1, 1, pictures)`, erased
    `(targets, 1, pictures)`, harmed `(1, concepts, pictures)`, and the residual, whose rows and
    columns have a mean of 0: two-way analysis of variance without replicates.
    """
    seen = ~np.isnan(values)
    rest = np.where(seen, values, 0.0)
    number = seen.sum((0, 1), keepdims=True)
    overall = rest.sum((0, 1), keepdims=True) / number
    erased, harmed = np.zeros_like(rest[:, :1]), np.zeros_like(rest[:1])
    rest = np.where(seen, rest - overall, 0.0)
    for _ in range(100):  # exact after one where nothing is missing
        row = rest.sum(1, keepdims=True) / seen.sum(1, keepdims=True)
        rest = np.where(seen, rest - row, 0.0)
        column = rest.sum(0, keepdims=True) / seen.sum(0, keepdims=True)
        rest = np.where(seen, rest - column, 0.0)
        erased, harmed = erased + row, harmed + column
        if max(np.abs(row).max(), np.abs(column).max()) < 1e-9 * np.abs(rest).max():
            break
    for effect in (erased, harmed):  # each with a mean of 0, so that overall is their middle
        overall = overall + effect.mean((0, 1), keepdims=True)
        effect -= effect.mean((0, 1), keepdims=True)
    return overall, erased, harmed, np.where(seen, rest, np.nan)


def specific(found: Harm) -> Harm:
    """What is left of δ when the erased concept's and the harmed one's own part is taken off."""
    return replace(found, values=additive(found.values)[3])


def effects(found: Harm) -> pd.DataFrame:
    """How much damage an erasure does in all, and how fragile a concept is, against the mean.

    Columns: kind (erased or harmed), concept, effect, low, high (95 %: Student's t over the
    concepts of an erased one, and over the erasures of a harmed one, and the noise of pictures that
    `variance` finds in this part, for they are the same in all rows).
    """
    _, erased, harmed, rest = (part.mean(2) for part in additive(found.values))
    parts, noise = [], _squares(found.values)[1]
    for kind, effect, names, axis, luck in (
        ("erased", erased[:, 0], found.targets, 1, noise[0]),
        ("harmed", harmed[0], found.concepts, 0, noise[1]),
    ):
        number = (~np.isnan(rest)).sum(axis)
        error = np.nanstd(rest, axis, ddof=1) / np.sqrt(number) * stats.t.ppf(0.975, number - 1)
        error = np.hypot(error, stats.norm.ppf(0.975) * np.sqrt(luck))
        table = pd.DataFrame({"kind": kind, "concept": names, "effect": effect})
        parts.append(table.assign(low=effect - error, high=effect + error))
    return pd.concat(parts, ignore_index=True)


def variance(found: Harm, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """How much of the variance over the cells is each part, and how much is noise.

    The parts of `additive` of the mean over K pictures have the mean squares `observed`. Of these
    `noise` = Σ_k mean (part_k − part)² / (K (K − 1)), for K = 2 the square of half the difference
    of the two halves; observed − noise is the covariance of a part between different pictures.
    `true` moves back to the specific part what the means of finitely many rows and columns hold of
    it: the estimate of random effects (Searle et al. 1992), which may be below 0. Rows: the parts,
    then "noise" with that of all three. Columns: part, observed, noise, true, share (of all
    observed), low, high (of the share, 95 %: targets and concepts drawn with replacement, Owen
    2007, the pigeonhole bootstrap). What differs between two erasures of the same concept counts as
    true.
    """
    values, rng = found.values, np.random.default_rng(seed)
    observed, noise = _squares(values)
    drawn = []
    for _ in range(draws):
        rows, columns = (rng.integers(0, n, n) for n in values.shape[:2])
        drawn.append(_shares(*_squares(values[np.ix_(rows, columns)]), values.shape))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if draws else np.full((2, 4), np.nan)
    table = pd.DataFrame({"part": [*PARTS, "noise"], "observed": [*observed, noise.sum()]})
    table["noise"] = [*noise, noise.sum()]
    table["true"] = [*_true(observed, noise, values.shape), 0.0]
    return table.assign(share=_shares(observed, noise, values.shape), low=low, high=high)


def _squares(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean squares of the three parts, and of the noise in them."""
    seen, pictures = ~np.isnan(values[..., 0]), values.shape[2]
    observed, noise = [], []
    for part in additive(values)[1:]:
        every = np.broadcast_to(part, values.shape)[seen]
        mean = every.mean(1, keepdims=True)
        observed.append((mean**2).mean())
        noise.append(((every - mean) ** 2).sum(1).mean() / (pictures * (pictures - 1)))
    return np.array(observed), np.array(noise)


def _true(observed: np.ndarray, noise: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The three parts without noise; the mean of n cells holds 1/n of their specific part."""
    erased, harmed, own = observed - noise
    leaks = own / (shape[1] - 1), own / (shape[0] - 1)
    return np.array([erased - leaks[0], harmed - leaks[1], own + sum(leaks)])


def _shares(observed: np.ndarray, noise: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.append(_true(observed, noise, shape), noise.sum()) / observed.sum()


def correlation(one: np.ndarray, two: np.ndarray, kind: str) -> float:
    """Spearman's or Pearson's, as `kind` says, of two vectors."""
    if kind == "spearman":
        one, two = stats.rankdata(one), stats.rankdata(two)
    return float(np.corrcoef(one, two)[0, 1])


def relations(found: Harm, known: pd.DataFrame) -> pd.DataFrame:
    """The mean harm of each target to its own subgroup, to the rest of its category, to all others.

    `known`: category and subgroup, indexed by concept. Columns: targets, relation, value; a target
    alone in its group has no such row. Ready for `intervals.means`.
    """
    rows, categories, subgroups = [], known["category"], known["subgroup"]
    names = ("same subgroup", "same category", "another category")
    for target, harms in found.table().iterrows():
        same = categories[harms.index] == categories[target]
        close = same & (subgroups[harms.index] == subgroups[target])
        for name, chosen in zip(names, (close, same & ~close, ~same), strict=True):
            rows.append((target, name, harms[chosen].mean()))
    return pd.DataFrame(rows, columns=["targets", "relation", "value"]).dropna()


def neutral_percentiles(pairs: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Where each neutral concept stands among all concepts, in the spectrum of every target.

    Columns: targets, concept, metric (the score), value: the percentage of concepts, the target not
    among them, that were harmed less; 50 is the middle. Ready for `intervals.means`.
    """
    rows = []
    for target, run in pairs.groupby("targets", sort=False):
        delta = run.groupby("concept", sort=False)[list(scores)].mean()
        neutral = run.loc[run["style"].isna(), "concept"].unique()
        others = delta.drop(index=[*neutral, *str(target).split("+")], errors="ignore")
        for score in scores:
            for concept in neutral:
                place = stats.percentileofscore(others[score], delta.loc[concept, score], "mean")
                rows.append((target, concept, score, place))
    return pd.DataFrame(rows, columns=["targets", "concept", "metric", "value"])


def predictability(found: Harm, predictions: pd.DataFrame) -> pd.DataFrame:
    """How well each prediction orders the concepts: by δ, and by what is specific to the pair.

    Columns: targets, predictor, metric ("δ" or "specific"), value (Spearman's ρ over the concepts,
    the target not among them), ceiling (the root of what the pictures' halves have in common,
    stepped up: no prediction can be expected above it). Ready for `intervals.means`.
    """
    rows = []
    methods = [name for name in PREDICTORS if name in predictions]
    table = predictions.set_index(["targets", "concept"])[methods]
    for metric, part in (("δ", found), ("specific", specific(found))):
        halves = [part.values[..., k::2].mean(2) for k in (0, 1)]
        for i, target in enumerate(found.targets):
            kept = [j for j, concept in enumerate(found.concepts) if concept != target]
            half = correlation(halves[0][i, kept], halves[1][i, kept], "spearman")
            ceiling = np.sqrt(max(0.0, 2 * half / (1 + half)))
            delta = part.values[i, kept].mean(1)
            guess = table.loc[target].loc[[found.concepts[j] for j in kept]]
            for method in methods:
                rho = correlation(delta, guess[method].to_numpy(), "spearman")
                rows.append((target, method, metric, rho, ceiling))
    columns = ["targets", "predictor", "metric", "value", "ceiling"]
    return pd.DataFrame(rows, columns=columns)
