"""The atlas: δ of many erasures × all concepts, taken apart into what was erased, who is fragile,
what is specific to a pair, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from erase_lib.errors import EraseError
from erase_lib.measure import read_table
from erase_lib.study.predict import PREDICTORS
from erase_lib.study.sensitivity import SCORES, check_score

FILES = {".csv": ["targets"], "_pairs.parquet": ["targets", "concept", "style", "seed", *SCORES]}
FILES["_predictions.parquet"] = ["targets", "concept"]
PARTS = ("erased", "harmed", "specific")


@dataclass(frozen=True)
class Delta:
    """δ(A → B) of every picture: `values (targets, concepts, pictures)`, NaN where B is A."""

    values: np.ndarray
    targets: list[str]
    concepts: list[str]

    @classmethod
    def from_pairs(cls, pairs: pd.DataFrame, score: str) -> Delta:
        """δ by `score` of pairs of pictures, neutral concepts left out.

        Picture k of a concept is the same prompt and noise in every run. Raises `EraseError` for an
        unknown score, fewer than 4 targets or 8 concepts, fewer than 2 pictures, and empty cells.
        """
        check_score(score)
        known = pairs[pairs["style"].notna()].dropna(subset=[score])
        targets, concepts = list(known["targets"].unique()), list(known["concept"].unique())
        shape = len(targets), len(concepts)
        if shape[0] < 4 or shape[1] < 8:
            raise EraseError(
                f"{shape[0]} targets × {shape[1]} concepts: an atlas needs 4 × 8 or more"
            )
        if strange := [target for target in targets if target not in concepts]:
            raise EraseError(
                f"target {strange[0]!r} is not among the concepts: measure every target"
            )
        sizes = known.groupby(["targets", "concept"]).size()
        n = sizes.iloc[0]
        if len(sizes) != shape[0] * shape[1] or n < 2 or (sizes != n).any():
            raise EraseError(
                "every target needs every concept, with equally many pictures, 2 or more:"
                " collect the atlas anew"
            )
        order = known.assign(
            targets=pd.Categorical(known["targets"], targets),
            concept=pd.Categorical(known["concept"], concepts),
        ).sort_values(["targets", "concept", "seed"])
        values = order[score].to_numpy(dtype=float, copy=True).reshape(*shape, n)
        values[range(len(targets)), [concepts.index(target) for target in targets]] = np.nan
        return cls(values, targets, concepts)

    def table(self) -> pd.DataFrame:
        """The mean over the pictures: erased concepts down, harmed ones across."""
        return pd.DataFrame(self.values.mean(2), self.targets, self.concepts)

    def among_targets(self) -> Delta:
        """Only those concepts that were erased too, in the order of the targets."""
        places = [self.concepts.index(target) for target in self.targets]
        return Delta(self.values[:, places], self.targets, list(self.targets))

    def doublings(self) -> Delta:
        """log₂ δ, where parts that multiply are added.

        Raises `EraseError` where a δ is not above 0, as by judge and clip, which are no distances.
        """
        if not np.nanmin(self.values) > 0:
            raise EraseError("δ is not above 0 everywhere: it has no logarithm, set doublings off")
        return replace(self, values=np.log2(self.values))


def read_atlas(prefix: str, targets: int | None = None) -> tuple[pd.DataFrame, ...]:
    """The runs, their pairs of pictures and their predictions: PREFIX.csv, PREFIX_pairs.parquet,
    PREFIX_predictions.parquet, as a published sweep has them; of `targets` of them only.

    Raises `EraseError` for a file that does not exist, is damaged or lacks a column, and for a run
    of several targets or a target of several runs.
    """
    found = []
    for ending, needed in FILES.items():
        try:
            table = read_table(prefix + ending)
        except EraseError as error:
            raise EraseError(f"{error}; make it with make results-atlas") from None
        if lacking := [name for name in needed if name not in table]:
            raise EraseError(f"{prefix + ending} lacks the column {lacking[0]!r}: make it anew")
        found.append(table)
    every = found[1]["targets"].unique()
    if several := [name for name in every if "+" in str(name)]:
        raise EraseError(f"a run erases {several[0]!r}: the atlas needs runs of one target")
    if "id" in found[1] and (found[1].groupby("targets")["id"].nunique() > 1).any():
        raise EraseError("a target was erased in several runs: the atlas needs one run each")
    if targets is not None:
        every = every[:: max(1, len(every) // targets)][:targets]
    return tuple(table[table["targets"].isin(every)] for table in found)


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


def specific(delta: Delta) -> Delta:
    """What is left of δ when the erased concept's and the harmed one's own part is taken off."""
    return replace(delta, values=additive(delta.values)[3])


def effects(delta: Delta) -> pd.DataFrame:
    """How much δ an erasure brings in all, and how fragile a concept is, against the mean.

    Columns: kind (erased or harmed), concept, effect, low, high (95 %: Student's t over the
    concepts of an erased one, and over the erasures of a harmed one, and the noise of pictures that
    `variance` finds in this part, for they are the same in all rows).
    """
    _, erased, harmed, rest = (part.mean(2) for part in additive(delta.values))
    parts, noise = [], _squares(delta.values)[1]
    for kind, effect, names, axis, luck in (
        ("erased", erased[:, 0], delta.targets, 1, noise[0]),
        ("harmed", harmed[0], delta.concepts, 0, noise[1]),
    ):
        number = (~np.isnan(rest)).sum(axis)
        error = np.nanstd(rest, axis, ddof=1) / np.sqrt(number) * stats.t.ppf(0.975, number - 1)
        error = np.hypot(error, stats.norm.ppf(0.975) * np.sqrt(luck))
        table = pd.DataFrame({"kind": kind, "concept": names, "effect": effect})
        parts.append(table.assign(low=effect - error, high=effect + error))
    return pd.concat(parts, ignore_index=True)


def variance(delta: Delta, draws: int = 200, seed: int = 0) -> pd.DataFrame:
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
    values, rng = delta.values, np.random.default_rng(seed)
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


def relations(delta: Delta, known: pd.DataFrame) -> pd.DataFrame:
    """Each target's mean δ in its own subgroup, in the rest of its category, and in all others.

    `known`: category and subgroup, indexed by concept. Columns: targets, relation, value; a target
    alone in its group has no such row. Ready for `measure.means`.
    """
    rows, categories, subgroups = [], known["category"], known["subgroup"]
    names = ("same subgroup", "same category", "another category")
    for target, row in delta.table().iterrows():
        same = categories[row.index] == categories[target]
        close = same & (subgroups[row.index] == subgroups[target])
        for name, chosen in zip(names, (close, same & ~close, ~same), strict=True):
            rows.append((target, name, row[chosen].mean()))
    return pd.DataFrame(rows, columns=["targets", "relation", "value"]).dropna()


def neutral_percentiles(pairs: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Where each neutral concept stands among all concepts, in the spectrum of every target.

    Columns: targets, concept, metric (the score), value: the percentage of concepts, the target not
    among them, that were harmed less; 50 is the middle. Ready for `measure.means`.
    """
    rows = []
    for target, run in pairs.groupby("targets", sort=False):
        mean = run.groupby("concept", sort=False)[list(scores)].mean()
        neutral = run.loc[run["style"].isna(), "concept"].unique()
        others = mean.drop(index=[*neutral, *str(target).split("+")], errors="ignore")
        for score in scores:
            for concept in neutral:
                place = stats.percentileofscore(others[score], mean.loc[concept, score], "mean")
                rows.append((target, concept, score, place))
    return pd.DataFrame(rows, columns=["targets", "concept", "metric", "value"])


def predictability(delta: Delta, predictions: pd.DataFrame) -> pd.DataFrame:
    """How well each prediction orders the concepts: by δ, and by what is specific to the pair.

    Columns: targets, predictor, metric ("δ" or "specific"), value (Spearman's ρ over the concepts,
    the target not among them), ceiling (the root of what the pictures' halves have in common,
    stepped up: no prediction can be expected above it). Ready for `measure.means`.
    """
    rows = []
    methods = [name for name in PREDICTORS if name in predictions]
    table = predictions.set_index(["targets", "concept"])[methods]
    for metric, part in (("δ", delta), ("specific", specific(delta))):
        halves = [part.values[..., k::2].mean(2) for k in (0, 1)]
        for i, target in enumerate(delta.targets):
            others = [j for j, concept in enumerate(delta.concepts) if concept != target]
            half = correlation(halves[0][i, others], halves[1][i, others], "spearman")
            ceiling = np.sqrt(max(0.0, 2 * half / (1 + half)))
            truth = part.values[i, others].mean(1)
            guess = table.loc[target].loc[[delta.concepts[j] for j in others]]
            for method in methods:
                rho = correlation(truth, guess[method].to_numpy(), "spearman")
                rows.append((target, method, metric, rho, ceiling))
    columns = ["targets", "predictor", "metric", "value", "ceiling"]
    return pd.DataFrame(rows, columns=columns)
