"""The damage atlas: its parts, its symmetry and its communities, on tables whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erase_lib import EraseError
from erase_lib.study.atlas import (
    Harm,
    additive,
    effects,
    harm,
    neutral_percentiles,
    predictability,
    read_atlas,
    specific,
    variance,
)
from erase_lib.study.graph import chance_modularity, communities, compared, harm_graph, strength_of
from erase_lib.study.mutual import asymmetries, symmetry
from erase_lib.study.sensitivity import SCORES

TARGETS, CONCEPTS = 30, 60


def simulated(erased=1.0, harmed=1.0, pair=1.0, noise=1.0, seed=0, targets=TARGETS):
    """A table of known parts: standard deviations of what is erased, who is harmed, the pair, and
    of one picture; the targets are the first concepts."""
    rng = np.random.default_rng(seed)
    values = (
        5
        + erased * rng.normal(size=(targets, 1, 1))
        + harmed * rng.normal(size=(1, CONCEPTS, 1))
        + pair * rng.normal(size=(targets, CONCEPTS, 1))
        + noise * rng.normal(size=(targets, CONCEPTS, 2))
    )
    values[np.arange(targets), np.arange(targets)] = np.nan
    names = [f"c{i}" for i in range(CONCEPTS)]
    return Harm(values, names[:targets], names)


def test_the_parts_of_a_table_by_hand():
    # overall 10, rows −1 and +1, columns −2, 0, +2, and a pair's own of ∓1 in the outer columns
    table = np.array([[8.0, 9.0, 10.0], [8.0, 11.0, 14.0]])[..., None]
    overall, erased, harmed, rest = additive(table)
    assert overall.item() == pytest.approx(10)
    assert erased.ravel() == pytest.approx([-1, 1])
    assert harmed.ravel() == pytest.approx([-2, 0, 2])
    assert rest[..., 0] == pytest.approx(np.array([[1, 0, -1], [-1, 0, 1]]))


def test_parts_without_a_residual_are_found_although_cells_are_missing():
    found = simulated(pair=0, noise=0)
    rest = additive(found.values)[3]
    assert np.nanmax(np.abs(rest)) < 1e-6 and np.isnan(rest).sum() == 2 * TARGETS
    assert np.nanmax(np.abs(specific(found).table())) < 1e-6


def test_the_shares_of_the_variance_are_those_that_were_put_in():
    found = simulated(erased=1.0, harmed=2.0, pair=1.5, noise=1.0)
    shares = variance(found, draws=50).set_index("part")
    true = shares["true"]
    overall, erased, harmed, rest = (part for part in additive(found.values))
    assert true["erased"] == pytest.approx(1.0, rel=0.5)  # thirty draws of it
    assert true["harmed"] == pytest.approx(4.0, rel=0.4)
    assert true["specific"] == pytest.approx(1.5**2, rel=0.1)
    assert shares.loc["noise", "observed"] == pytest.approx(0.5, rel=0.1)  # 1²/2 pictures
    assert shares["share"].sum() == pytest.approx(1)
    assert (shares["low"] <= shares["high"]).all()


def test_pure_noise_has_no_true_part():
    tables = [simulated(0, 0, 0, 1, seed=seed) for seed in range(12)]
    share = np.mean([variance(t, draws=0)["share"] for t in tables], 0)
    assert share == pytest.approx([0, 0, 0, 1], abs=0.05)


def test_few_erasures_do_not_make_concepts_fragile():
    # the mean of eight cells holds an eighth of what is specific to them
    tables = [simulated(0, 0, 1, 0.5, seed=seed, targets=8) for seed in range(12)]
    share = np.mean([variance(t, draws=0)["share"] for t in tables], 0)
    assert share == pytest.approx([0, 0, 8 / 9, 1 / 9], abs=0.03)


def test_the_most_harmful_and_the_most_fragile_are_found():
    found = simulated(0.1, 0.1, 0.1, 0.1)
    found.values[3] += 3
    found.values[:, 7] += 2
    table = effects(found)
    first = table.sort_values("effect", ascending=False).groupby("kind").first()
    assert first.loc["erased", "concept"] == "c3" and first.loc["harmed", "concept"] == "c7"
    assert (first["low"] > 0).all()


def test_a_planted_asymmetry_is_found_among_all_pairs():
    found = simulated(1, 1, 0, 0.3)
    found.values[2, 5] += 4  # an erasure of c2 harms c5, not the reverse
    table = asymmetries(specific(found))
    assert len(table) == TARGETS * (TARGETS - 1) // 2
    first = table.iloc[0]
    assert {first["a"], first["b"]} == {"c2", "c5"} and first["q"] < 0.05
    assert first["difference"] == pytest.approx(first["forward"] - first["backward"])
    assert first["low"] > 0 if first["a"] == "c2" else first["high"] < 0


def test_symmetric_pairs_are_rarely_called_lopsided():
    false = 0
    for seed in range(5):
        found = simulated(0, 0, 0, 1, seed=seed)
        false += (asymmetries(found)["q"] < 0.05).sum()
    assert false <= 5  # of 2,175 pairs


def test_how_mutual_harm_is_against_its_ceiling():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(TARGETS, TARGETS))
    found = simulated(0, 0, 0, 0.5)
    found.values[:, :TARGETS] += ((own + own.T) / 2**0.5)[..., None]
    both = symmetry(found, "pearson", draws=40)
    # the pair's variance 1, the mean's noise 0.25/2
    assert both["value"] == pytest.approx(1 / 1.125, abs=0.05)
    assert both["ceiling"] == pytest.approx(1 / 1.125, abs=0.05)
    assert both["corrected"] == pytest.approx(1, abs=0.05)
    assert both["pairs"] == TARGETS * (TARGETS - 1) // 2
    assert abs(symmetry(simulated(0, 0, 1, 0.1), draws=0)["value"]) < 0.1


def test_planted_communities_are_recovered():
    rng, names = np.random.default_rng(0), [f"c{i}" for i in range(24)]
    family = {name: "abc"[i % 3] for i, name in enumerate(names)}
    table = pd.DataFrame(rng.random((24, 24)), names, names)
    for a in names:
        table.loc[a, [b for b in names if family[b] == family[a]]] += 2
    web = harm_graph(table, most=3)
    assert all(family[a] == family[b] for a, b in web.edges) and web.number_of_edges() == 72
    groups = communities(web)
    check = compared(web, groups, family, shuffles=99)
    assert check["modularity p"] == pytest.approx(0.01) and check["modularity"] > 0.6
    assert strength_of(web, groups) > chance_modularity(table, 3, shuffles=5)[1]
    for group in set(groups.values()):  # none mixes families
        assert len({family[name] for name in names if groups[name] == group}) == 1
    with pytest.raises(EraseError, match="a graph needs 3"):
        harm_graph(table.iloc[:2, :2])


def rows(deltas, target="c0", style="noto"):
    """Pairs of pictures: two of each concept, δ by every score the same."""
    return [
        {"id": target, "targets": target, "prompt": c, "concept": c, "style": style, "seed": k}
        | dict.fromkeys(SCORES, d)
        for c, d in deltas.items()
        for k in range(2)
    ]


def test_where_a_neutral_concept_stands():
    plain = rows({"": 0.25, "a photo": 9.0}, style=None)
    pairs = pd.DataFrame(rows({"c0": 5, "x": 0.1, "y": 0.2, "z": 0.3, "u": 0.4}) + plain)
    found = neutral_percentiles(pairs, ["pixels"]).set_index("concept")["value"]
    assert found.to_dict() == {"": 50, "a photo": 100}  # the target counts for nothing


@pytest.fixture
def pairs():
    rng, names = np.random.default_rng(0), [f"c{i}" for i in range(10)]
    parts = [rows(dict(zip(names, rng.random(10), strict=True)), t) for t in names[:5]]
    table = pd.DataFrame(sum(parts, []))
    for score in SCORES:
        table[score] += 0.01 * rng.random(len(table))
    return table


def test_the_table_of_an_atlas_and_its_predictions(pairs):
    found = harm(pairs, "features")
    cell = pairs[(pairs["targets"] == "c1") & (pairs["concept"] == "c3")]["features"].mean()
    assert found.table().loc["c1", "c3"] == pytest.approx(cell)
    assert np.isnan(found.table().loc["c1", "c1"])
    assert found.doublings().values[1, 3, 0] == pytest.approx(np.log2(found.values[1, 3, 0]))
    mean = pairs.groupby(["targets", "concept"], as_index=False)["features"].mean()
    known = mean.rename(columns={"features": "distance"}).assign(kv=lambda t: -t["distance"])
    told = predictability(found, known)
    told = told[told["metric"] == "δ"].groupby("predictor")["value"].mean()
    assert told.to_dict() == pytest.approx({"distance": 1, "kv": -1})


def test_an_atlas_that_is_not_whole(pairs, tmp_path):
    with pytest.raises(EraseError, match="unknown score 'pixel'"):
        harm(pairs, "pixel")
    with pytest.raises(EraseError, match="2 targets × 10 concepts: an atlas needs 4 × 8"):
        harm(pairs[pairs["targets"].isin(["c0", "c1"])], "judge")
    with pytest.raises(EraseError, match="every target needs every concept"):
        harm(pairs.drop(index=pairs.index[3]), "judge")
    with pytest.raises(EraseError, match="target 'c4' is not among the concepts"):
        harm(pairs[pairs["concept"] != "c4"], "judge")
    negative = pairs.assign(judge=-pairs["judge"])
    with pytest.raises(EraseError, match="it has no logarithm"):
        harm(negative, "judge").doublings()
    with pytest.raises(EraseError, match="does not exist: make it with make results-atlas"):
        read_atlas(str(tmp_path / "atlas"))
    pd.DataFrame({"targets": ["c0"]}).to_csv(tmp_path / "atlas.csv")
    (tmp_path / "atlas_pairs.parquet").write_bytes(b"damaged")
    with pytest.raises(EraseError, match=r"atlas_pairs\.parquet is damaged"):
        read_atlas(str(tmp_path / "atlas"))
