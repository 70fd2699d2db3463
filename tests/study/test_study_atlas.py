"""The atlas: its parts and what it says of predictions, on tables whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated import TARGETS, simulated

from erase_lib.study import atlas
from erase_lib.study.sensitivity import SCORES


def test_the_parts_of_a_table_by_hand():
    # overall 10, rows −1 and +1, columns −2, 0, +2, and a pair's own of ∓1 in the outer columns
    table = np.array([[8.0, 9.0, 10.0], [8.0, 11.0, 14.0]])[..., None]
    overall, erased, harmed, rest = atlas.additive(table)
    assert overall.item() == pytest.approx(10)
    assert erased.ravel() == pytest.approx([-1, 1])
    assert harmed.ravel() == pytest.approx([-2, 0, 2])
    assert rest[..., 0] == pytest.approx(np.array([[1, 0, -1], [-1, 0, 1]]))


def test_parts_without_a_residual_are_found_although_cells_are_missing():
    found = simulated(pair=0, noise=0)
    rest = atlas.additive(found.values)[3]
    assert np.nanmax(np.abs(rest)) < 1e-6 and np.isnan(rest).sum() == 2 * TARGETS
    assert np.nanmax(np.abs(atlas.specific(found).table())) < 1e-6


def test_the_shares_of_the_variance_are_those_that_were_put_in():
    found = simulated(erased=1.0, harmed=2.0, pair=1.5, noise=1.0)
    shares = atlas.variance(found, draws=50).set_index("part")
    true = shares["true"]
    overall, erased, harmed, rest = (part for part in atlas.additive(found.values))
    assert true["erased"] == pytest.approx(1.0, rel=0.5)  # thirty draws of it
    assert true["harmed"] == pytest.approx(4.0, rel=0.4)
    assert true["specific"] == pytest.approx(1.5**2, rel=0.1)
    assert shares.loc["noise", "observed"] == pytest.approx(0.5, rel=0.1)  # 1²/2 pictures
    assert shares["share"].sum() == pytest.approx(1)
    assert (shares["low"] <= shares["high"]).all()


def test_shares_are_not_moved_by_noise_or_few_erasures():
    for parts, targets, expected, near in (
        ((0, 0, 0, 1), TARGETS, [0, 0, 0, 1], 0.05),  # pure noise has no true part
        # the mean of eight cells holds an eighth of what is specific to them
        ((0, 0, 1, 0.5), 8, [0, 0, 8 / 9, 1 / 9], 0.03),
    ):
        tables = [simulated(*parts, seed=seed, targets=targets) for seed in range(12)]
        share = np.mean([atlas.variance(t, draws=0)["share"] for t in tables], 0)
        assert share == pytest.approx(expected, abs=near)


def test_the_most_harmful_and_the_most_fragile_are_found():
    found = simulated(0.1, 0.1, 0.1, 0.1)
    found.values[3] += 3
    found.values[:, 7] += 2
    table = atlas.effects(found)
    first = table.sort_values("effect", ascending=False).groupby("kind").first()
    assert first.loc["erased", "concept"] == "c3" and first.loc["harmed", "concept"] == "c7"
    assert (first["low"] > 0).all()


def rows(deltas, target="c0", style="noto"):
    """Pairs of pictures: two of each concept, δ by every score the same."""
    given = {"id": target, "targets": target, "style": style}
    return [
        given | {"prompt": c, "concept": c, "seed": seed} | dict.fromkeys(SCORES, d)
        for c, d in deltas.items()
        for seed in range(2)
    ]


def test_where_a_neutral_concept_stands():
    plain = rows({"": 0.25, "a photo": 9.0}, style=None)
    pairs = pd.DataFrame(rows({"c0": 5, "x": 0.1, "y": 0.2, "z": 0.3, "u": 0.4}) + plain)
    found = atlas.neutral_percentiles(pairs, ["pixels"]).set_index("concept")["value"]
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
    found = atlas.Delta.from_pairs(pairs, "features")
    cell = pairs[(pairs["targets"] == "c1") & (pairs["concept"] == "c3")]["features"].mean()
    assert found.table().loc["c1", "c3"] == pytest.approx(cell)
    assert np.isnan(found.table().loc["c1", "c1"])
    assert found.doublings().values[1, 3, 0] == pytest.approx(np.log2(found.values[1, 3, 0]))
    mean = pairs.groupby(["targets", "concept"], as_index=False)["features"].mean()
    known = mean.rename(columns={"features": "distance"}).assign(kv=lambda t: -t["distance"])
    told = atlas.predictability(found, known)
    told = told[told["metric"] == "δ"].groupby("predictor")["value"].mean()
    assert told.to_dict() == pytest.approx({"distance": 1, "kv": -1})


def test_an_atlas_that_is_not_whole(pairs, refused):
    for words, some, score in (
        ("'pixel'", pairs, "pixel"),
        ("2 targets × 10 concepts", pairs[pairs["targets"].isin(["c0", "c1"])], "judge"),
        ("every concept", pairs.drop(index=pairs.index[3]), "judge"),
        ("every concept", pairs[(pairs["targets"] != "c1") | (pairs["concept"] != "c7")], "judge"),
        ("'c4'", pairs[pairs["concept"] != "c4"], "judge"),
    ):
        assert words in refused(atlas.Delta.from_pairs, some, score)
    negative = atlas.Delta.from_pairs(pairs.assign(judge=-pairs["judge"]), "judge")
    assert "logarithm" in refused(negative.doublings)


def test_an_atlas_is_read_whole_or_in_part(pairs, tmp_path, refused):
    prefix, names = str(tmp_path / "atlas"), [f"c{i}" for i in range(5)]
    text = refused(atlas.read_atlas, prefix)
    assert "atlas.csv" in text and "make results-atlas" in text
    pd.DataFrame({"id": names, "targets": names, "status": "done"}).to_csv(prefix + ".csv")
    (tmp_path / "atlas_pairs.parquet").write_bytes(b"damaged")
    assert "atlas_pairs.parquet" in refused(atlas.read_atlas, prefix)
    guesses = pairs[["id", "targets", "concept"]].drop_duplicates()
    guesses.to_parquet(prefix + "_predictions.parquet")
    for words, part in (
        ("'seed'", pairs.drop(columns="seed")),
        ("c0+c1", pairs.assign(targets="c0+c1")),
        ("several runs", pairs.assign(id=pairs["seed"].astype(str))),
    ):
        part.to_parquet(prefix + "_pairs.parquet")
        assert words in refused(atlas.read_atlas, prefix)
    pairs.to_parquet(prefix + "_pairs.parquet")
    assert [len(table) for table in atlas.read_atlas(prefix)] == [5, len(pairs), 50]
    for n in (0, -1):
        refused(atlas.read_atlas, prefix, targets=n, says=f"targets is {n}")
    for table in atlas.read_atlas(prefix, targets=2):
        assert table["targets"].unique().tolist() == ["c0", "c2"]


def test_relations_of_a_target_to_its_own_and_to_others(pairs):
    found = atlas.Delta.from_pairs(pairs, "pixels")
    known = pd.DataFrame({"category": ["a"] * 5 + ["b"] * 5}, found.concepts)
    known["subgroup"] = ["x", "x", "y", "y", "w", "z", "z", "z", "z", "z"]
    told = atlas.relations(found, known).set_index(["targets", "relation"])["value"]
    row = found.table().loc["c0"].tolist()
    expected = {"same subgroup": row[1], "same category": np.mean(row[2:5])}
    expected["another category"] = np.mean(row[5:])
    assert told["c0"].to_dict() == pytest.approx(expected)
    assert ("c4", "same subgroup") not in told  # alone in it
