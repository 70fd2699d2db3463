"""Methods side by side: units, intervals, tests and forms, against hand calculations."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from erase_lib import EraseError
from erase_lib.study import compare, published

RUNS = pd.DataFrame(
    [
        ("a", "done", "dog", "esd", None, 0, 0.5),
        ("b", "done", "dog", "esd", None, 1, 0.5),
        ("c", "done", "dog", "eap", "random", 0, 0.8),
        ("d", "failed", "dog", "eap", "gumbel", 0, None),
    ],
    columns="id status targets method search seed strength".split(),
)


def picture(run, group, concept, rank, model="erased", distance=0.1):
    return {
        "targets": "dog",
        "id": run,
        "group": group,
        "concept": concept,
        "style": "noto",
        "seed": 1,
        "model": model,
        "rank": float(rank),
        "style_rank": float(rank),
        "probability": 0.5,
        "clip": 70.0,
        "distance": distance,
        "measured_by": "a judge",
    }


PICTURES = [
    picture("a", "target", "dog", 3),
    picture("b", "target", "dog", 0),
    picture("c", "target", "dog", 9),
    picture("a", "near", "cat", 1),
    picture("b", "near", "cat", 0),
    picture("c", "near", "cat", 0),
    picture("a", "near", "wolf", 2),
    picture("b", "near", "wolf", 7),
    picture("c", "near", "wolf", 0),
    picture("d", "near", "wolf", 0),
    picture("a", "near", "cat", 0, "original", 0.0),
    picture("a", "near", "wolf", 0, "original", 0.0),
]


@pytest.fixture
def table(tmp_path):
    RUNS.to_csv(tmp_path / "mine.csv", index=False)
    pd.DataFrame(PICTURES).to_parquet(tmp_path / "mine_objects_pictures.parquet")
    return tmp_path / "mine.csv"


@pytest.fixture
def pictures(table):
    return compare.read_runs([table], "objects", ["method", "search"])[1]


def test_a_run_is_named_by_what_varies_and_unfinished_ones_are_left_out(table, pictures):
    runs, _ = compare.read_runs([table], "objects", ["method", "search"])
    assert list(runs["setting"]) == ["esd", "esd", "eap, random", "eap, gumbel"]
    assert set(pictures["setting"]) == {"esd", "eap, random", "original"}
    assert (pictures["setting"] == "original").equals(pictures["model"] == "original")
    other = table.with_name("other.csv")
    RUNS.assign(id=RUNS["id"] + "2").to_csv(other, index=False)
    more = pd.DataFrame(PICTURES).assign(id=lambda t: t["id"] + "2")
    more.to_parquet(table.with_name("other_objects_pictures.parquet"))
    twice, both = compare.read_runs([table, other], "objects", ["method"])
    assert len(twice) == 8 and len(both) == 2 * len(pictures)


def test_a_unit_is_a_concept_over_all_seeds(pictures):
    found = compare.units(pictures, "PSR-1").set_index(["group", "concept", "setting"])["value"]
    assert found["near", "cat", "esd"] == 0.5 and found["near", "wolf", "esd"] == 0.0
    assert found["near", "cat", "eap, random"] == 1.0
    assert compare.units(pictures, "PSR-5").query("concept == 'wolf' and setting == 'esd'")[
        "value"
    ].tolist() == [0.5]
    gone = compare.units(pictures, "ESR-1").query("concept == 'dog'").set_index("setting")["value"]
    assert gone["esd"] == 0.5 and gone["eap, random"] == 1.0
    assert compare.units(pictures, "distance").query("setting == 'original'")["value"].sum() == 0
    assert (compare.units(pictures, "CLIP score")["value"] == 70).all()
    with pytest.raises(EraseError, match="unknown metric 'PSR'"):
        compare.units(pictures, "PSR")


def test_levels_and_their_spread_over_splits(pictures):
    other = pictures.assign(targets="church", rank=0.0)
    found = compare.levels(pd.concat([pictures, other]), [("near", "PSR-1")]).set_index("setting")
    row = found.loc["esd"]
    assert row["value"] == pytest.approx((0.5 + 0 + 1 + 1) / 4) and row["units"] == 4
    assert row["spread"] == pytest.approx(np.std([0.25, 1.0], ddof=1)) and row["splits"] == 2
    assert row["low"] <= row["value"] <= row["high"]
    text = compare.wide(compare.levels(pictures, [("near", "PSR-1")]))
    assert text.loc["eap, random", "PSR-1 near"] == "1.00 [1.00, 1.00]"


def test_differences_are_matched_concept_by_concept(pictures):
    found = compare.differences(pictures, [("near", "PSR-1")], "esd").set_index("setting")
    row = found.loc["eap, random"]
    assert row["value"] == pytest.approx((0.5 + 1.0) / 2) and row["units"] == 2
    # of four flips of two signs, the two with equal signs are as far from 0
    assert row["p"] == pytest.approx(0.5, abs=0.03) and row["p"] <= row["q"] <= 1
    with pytest.raises(EraseError, match="unknown setting 'sd': did you mean 'esd'"):
        compare.differences(pictures, [("near", "PSR-1")], "sd")


def test_p_is_that_of_all_flips():
    gaps = np.array([0.3, 0.1, -0.2, 0.4, 0.0, 0.25, -0.05, 0.3])
    sums = [abs(np.dot(signs, gaps)) for signs in itertools.product([-1, 1], repeat=8)]
    exact = np.mean(np.array(sums) >= gaps.sum() - 1e-9)
    assert compare.flipped(gaps, 20_000) == pytest.approx(exact, abs=0.01)
    assert compare.flipped(np.full(12, 0.2)) < 0.003 and compare.flipped(np.zeros(5)) == 1


def test_holm_by_hand():
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.6, 0.7]) == [1, 1] and compare.holm([]) == []


def test_the_form_of_the_papers_table(pictures):
    kept = pictures.assign(group=pictures["group"].replace("near", "kept"))
    more = kept[kept["setting"] == "eap, random"].assign(setting="eap, gumbel")
    asked = [("target", "ESR-1"), ("kept", "PSR-1"), ("kept", "distance")]
    form = compare.paper_form(compare.levels(pd.concat([kept, more]), asked))
    assert {"esd", "eap"} <= set(form["method"])
    assert {"eap, random", "eap, gumbel"} & set(form["method"])  # the second keeps its name
    beside = published.beside(form, "objects")
    assert beside.loc["esd", ("PSR-1", "published")] == "41.2 / 53.3"
    assert beside.loc["esd", ("ESR-1", "ours")].startswith("50.0")


def test_the_card_says_of_how_much(table):
    runs, pictures = compare.read_runs([table], "objects", ["method"])
    card = compare.card(pictures, runs[runs["status"] == "done"])
    assert "3 erasures (1 splits, seeds 0, 1) · 9 pictures of 3 concepts" in card
    assert "measured by a judge" in card and "bootstrap over concepts" in card


def test_tables_that_cannot_be_read(table, tmp_path):
    def refused(tables, vary=("method",), suite="objects"):
        with pytest.raises(EraseError) as error:
            compare.read_runs(tables, suite, list(vary))
        return str(error.value)

    assert "expected a list" in refused([]) and "expected a list" in refused("mine.csv")
    assert "run 'a' is in" in refused([table, table])
    assert "none.csv does not exist" in refused([tmp_path / "none.csv"])
    assert "unknown column 'methd': did you mean 'method'" in refused([table], ["methd"])
    assert "mine_theme_pictures.parquet does not exist" in refused([table], suite="theme")
    RUNS.assign(status="failed").to_csv(table, index=False)
    assert "no picture of a finished run" in refused([table])
    (tmp_path / "mine_objects_pictures.parquet").write_bytes(b"PAR1")
    assert "is damaged" in refused([table])
