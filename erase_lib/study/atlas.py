"""The atlas, δ of many erasures × all concepts: what was erased, who is fragile, pairs, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from erase_lib.errors import EraseError, check_range
from erase_lib.measure import read_table
from erase_lib.measure.statistics import chance
from erase_lib.study.predict import PREDICTORS
from erase_lib.study.sensitivity import SCORES, check_score

FILES = {".csv": ["targets"], "_pairs.parquet": ["targets", "concept", "style", "seed", *SCORES]}
FILES["_predictions.parquet"] = ["targets", "concept"]


@dataclass(frozen=True)
class Delta:
    """δ(A → B) of every picture: `values (targets, concepts, pictures)`, NaN where B is A."""

    values: np.ndarray
    targets: list[str]
    concepts: list[str]

    @classmethod
    def from_pairs(cls, pairs: pd.DataFrame, score: str) -> Delta:
        """δ by `score` of pairs of pictures, neutral concepts left out. Raises `EraseError` for an
        unknown score, fewer than 4 targets, 8 concepts or 2 pictures, and empty cells."""
        check_score(score)
        known = pairs[pairs["style"].notna()].dropna(subset=[score])
        targets, concepts = list(known["targets"].unique()), list(known["concept"].unique())
        if (n := len(targets)) < 4 or len(concepts) < 8:
            raise EraseError(f"{n} targets × {len(concepts)} concepts: an atlas needs 4 × 8")
        if strange := [target for target in targets if target not in concepts]:
            raise EraseError(f"target {strange[0]!r} is not among the concepts: measure it too")
        ordered = known.sort_values("seed", kind="stable").groupby(["targets", "concept"])[score]
        cells = ordered.agg(list).unstack().loc[targets, concepts]
        sizes = cells.map(len, na_action="ignore")
        if not (sizes == max(2, sizes.iloc[0, 0])).all(axis=None):
            raise EraseError("an atlas needs 2 pictures or more of every concept of every target")
        values = np.array(cells.to_numpy().tolist(), dtype=float)
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
        """log₂ δ, where parts that multiply are added. Raises `EraseError` where δ is not above 0,
        as by judge and clip, which are no distances."""
        if not np.nanmin(self.values) > 0:
            raise EraseError("δ is not above 0 everywhere: it has no logarithm, set doublings off")
        return replace(self, values=np.log2(self.values))


def read_atlas(prefix: str, targets: int | None = None) -> tuple[pd.DataFrame, ...]:
    """A published sweep's runs, their pairs of pictures and their predictions, of `targets` of them
    only: PREFIX.csv, PREFIX_pairs.parquet, PREFIX_predictions.parquet. Raises `EraseError` for a
    file that is missing, damaged or lacks a column, for a run of several targets, and for a target
    of several runs."""
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
        check_range("targets", targets, 1, 100_000)
        every = every[:: max(1, len(every) // targets)][:targets]
    return tuple(table[table["targets"].isin(every)] for table in found)


def additive(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """values `(targets, concepts, pictures)` = overall `(1, 1, pictures)` + erased `(targets, 1,
    pictures)` + harmed `(1, concepts, pictures)` + residual, each picture by itself. Least squares
    over what is not NaN (two-way analysis of variance without replicates): the rows and columns of
    the residual have a mean of 0."""
    seen = ~np.isnan(values)
    rest = np.where(seen, values, 0.0)
    overall = rest.sum((0, 1), keepdims=True) / seen.sum((0, 1), keepdims=True)
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
    """How much δ an erasure brings in all, and how fragile a concept is, against the mean. Columns:
    kind (erased or harmed), concept, effect, low, high (95 %: Student's t over concepts or
    erasures, and the noise of pictures that `variance` finds, the same in all rows)."""
    _, erased, harmed, rest = (part.mean(2) for part in additive(delta.values))
    parts, noise = [], _squares(delta.values)[1]
    sides = ("erased", erased[:, 0], delta.targets, 1), ("harmed", harmed[0], delta.concepts, 0)
    for (kind, effect, names, axis), luck in zip(sides, noise[:2], strict=True):
        number = (~np.isnan(rest)).sum(axis)
        error = np.nanstd(rest, axis, ddof=1) / np.sqrt(number) * stats.t.ppf(0.975, number - 1)
        error = np.hypot(error, stats.norm.ppf(0.975) * np.sqrt(luck))
        table = pd.DataFrame({"kind": kind, "concept": names, "effect": effect})
        parts.append(table.assign(low=effect - error, high=effect + error))
    return pd.concat(parts, ignore_index=True)


def variance(delta: Delta, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """How much of the variance over the cells is each part, and how much is noise.

    The parts of `additive` of the mean over K pictures have the mean squares `observed`. Of these
    `noise` = Σ_k mean (part_k − part)² / (K (K − 1)); observed − noise is the covariance of a part
    between different pictures. `true` moves back to the specific part what the means of finitely
    many rows and columns hold of it: the estimate of random effects (Searle et al. 1992), which may
    be below 0. Rows: the parts, then "noise" with that of all three. Columns: part, observed,
    noise, true, share (of all observed), low, high (of the share, 95 %: targets and concepts drawn
    with replacement, the pigeonhole bootstrap, Owen 2007). What differs between two erasures of the
    same concept counts as true."""
    check_range("draws", draws, 0, 100_000)
    values, rng = delta.values, chance(seed)
    observed, noise = _squares(values)
    true, drawn = _true(observed, noise, values.shape), []
    for _ in range(draws):
        rows, columns = (rng.integers(0, n, n) for n in values.shape[:2])
        again = _squares(values[np.ix_(rows, columns)])
        drawn.append(_true(*again, values.shape) / again[0].sum())
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if draws else np.full((2, 4), np.nan)
    table = pd.DataFrame({"part": ["erased", "harmed", "specific", "noise"]})
    table = table.assign(observed=[*observed, noise.sum()], noise=[*noise, noise.sum()])
    return table.assign(true=[*true[:3], 0.0], share=true / observed.sum(), low=low, high=high)


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
    """The parts without noise (the mean of n cells holds 1/n of their specific part), and noise."""
    erased, harmed, own = observed - noise
    leaks = own / (shape[1] - 1), own / (shape[0] - 1)
    return np.array([erased - leaks[0], harmed - leaks[1], own + sum(leaks), noise.sum()])


def relations(delta: Delta, known: pd.DataFrame) -> pd.DataFrame:
    """Each target's mean δ in its own subgroup, the rest of its category, and all others: targets,
    relation, value, for `measure.means`; a target alone in its group has no such row. `known`:
    category and subgroup, indexed by concept."""
    rows, categories, subgroups = [], known["category"], known["subgroup"]
    for target, row in delta.table().iterrows():
        same = categories[row.index] == categories[target]
        close = same & (subgroups[row.index] == subgroups[target])
        parts = {"same subgroup": close, "same category": same & ~close, "another category": ~same}
        rows += [(target, name, row[chosen].mean()) for name, chosen in parts.items()]
    return pd.DataFrame(rows, columns=["targets", "relation", "value"]).dropna()


def neutral_percentiles(pairs: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Where each neutral concept stands in the spectrum of every target, for `measure.means`.
    Columns: targets, concept, metric (the score), value: the percentage of concepts, the target not
    among them, that were harmed less."""
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
    stepped up: no prediction can be expected above it). For `measure.means`."""
    rows, methods = [], [name for name in PREDICTORS if name in predictions]
    table = predictions.set_index(["targets", "concept"])[methods]
    for metric, part in (("δ", delta), ("specific", specific(delta))):
        halves = [part.values[..., k::2].mean(2) for k in (0, 1)]
        for i, target in enumerate(delta.targets):
            others = [j for j, concept in enumerate(delta.concepts) if concept != target]
            half = stats.spearmanr(*(values[i, others] for values in halves)).statistic
            ceiling = np.sqrt(max(0.0, 2 * half / (1 + half)))
            truth = part.values[i, others].mean(1)
            guess = table.loc[target].loc[[delta.concepts[j] for j in others]]
            for method in methods:
                rho = stats.spearmanr(truth, guess[method]).statistic
                rows.append((target, method, metric, rho, ceiling))
    return pd.DataFrame(rows, columns=["targets", "predictor", "metric", "value", "ceiling"])
