"""Methods side by side, and beside what was published: units, tests and orders by hand."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pandas as pd
import pytest

from erase_lib import files
from erase_lib.config import CLOSED_FORMS, METHODS
from erase_lib.study import compare
from erase_lib.study.compare import EXPERIMENTS, NONE, beside, published, published_order

RUNS = pd.DataFrame(
    [
        ("a", "done", "dog", "esd", None, 0, 0.5),
        ("b", "done", "dog", "esd", None, 1, 0.5),
        ("c", "done", "dog", "eap", "random", 0, 0.8),
        ("d", "failed", "dog", "eap", "gumbel", 0, None),
    ],
    columns="id status targets method search seed strength".split(),
)
# of each run's erased pictures the concept and its rank; d did not finish
SEEN = {
    "a": [("dog", 3), ("cat", 1), ("wolf", 2)],
    "b": [("dog", 0), ("cat", 0), ("wolf", 7)],
    "c": [("dog", 9), ("cat", 0), ("wolf", 0)],
    "d": [("wolf", 0)],
}
ROWS = [(run, *seen, "erased") for run, some in SEEN.items() for seen in some]
ROWS += [("a", "cat", 0, "original"), ("a", "wolf", 0, "original")]


PICTURES = pd.DataFrame(ROWS, columns=["id", "concept", "rank", "model"]).assign(
    group=lambda t: np.where(t["concept"] == "dog", "target", "near"),
    rank=lambda t: t["rank"].astype(float),
    distance=lambda t: (t["model"] == "erased") * 0.1,
    **{"targets": "dog", "style": "noto", "clip": 70.0, "measured_by": "a judge"},
)


@pytest.fixture
def table(tmp_path):
    RUNS.to_csv(tmp_path / "mine.csv", index=False)
    PICTURES.to_parquet(tmp_path / "mine_objects_pictures.parquet")
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
    more = PICTURES.assign(id=PICTURES["id"] + "2")
    more.to_parquet(table.with_name("other_objects_pictures.parquet"))
    twice, both = compare.read_runs([table, other], "objects", ["method"])
    assert len(twice) == 8 and len(both) == 2 * len(pictures)


def test_a_unit_is_a_concept_over_all_seeds(pictures, refused):
    def of(metric):
        return compare.units(pictures, metric).set_index(["concept", "setting"])["value"]

    top1, gone = of("PSR-1"), of("ESR-1")
    assert [top1[c, "esd"] for c in ("cat", "wolf")] == [0.5, 0.0]
    assert top1["cat", "eap, random"] == 1.0 and of("PSR-5")["wolf", "esd"] == 0.5
    assert gone["dog", "esd"] == 0.5 and gone["dog", "eap, random"] == 1.0
    assert of("distance").xs("original", level="setting").sum() == 0
    assert (of("CLIP score") == 70).all()
    assert "'PSR'" in refused(compare.units, pictures, "PSR")
    refused(compare.units, pictures, "ESR-1 judge+eye", says="judge+eye")
    pictures["eye"] = [1.0, *[0.0] * (len(pictures) - 1)]  # of the dog in a, but not in b and c
    assert of("ESR-1 judge+eye")["dog", "esd"] == 0.5 and gone["dog", "eap, random"] == 1.0
    assert of("ESR-1 judge+eye")["dog", "eap, random"] == 0.0


def test_levels_and_their_spread_over_splits(pictures):
    other = pictures.assign(targets="church", rank=0.0)
    found = compare.levels(pd.concat([pictures, other]), [("near", "PSR-1")]).set_index("setting")
    row = found.loc["esd"]
    assert row["value"] == pytest.approx((0.5 + 0 + 1 + 1) / 4) and row["units"] == 4
    assert row["spread"] == pytest.approx(np.std([0.25, 1.0], ddof=1)) and row["splits"] == 2
    assert row["low"] <= row["value"] <= row["high"]
    text = compare.wide(compare.levels(pictures, [("near", "PSR-1")]))
    assert text.loc["eap, random", "PSR-1 near"] == "1.00 [1.00, 1.00]"


def test_differences_are_matched_concept_by_concept(pictures, refused):
    found = compare.differences(pictures, [("near", "PSR-1")], "esd").set_index("setting")
    row = found.loc["eap, random"]
    assert row["value"] == pytest.approx((0.5 + 1.0) / 2) and row["units"] == 2
    # of four flips of two signs, the two with equal signs are as far from 0
    assert row["p"] == pytest.approx(0.5, abs=0.03) and row["p"] <= row["q"] <= 1
    assert "'esd'" in refused(compare.differences, pictures, [("near", "PSR-1")], "sd")


def test_the_form_of_the_papers_table(pictures):
    kept = pictures.assign(group=pictures["group"].replace("near", "kept"))
    more = kept[kept["setting"] == "eap, random"].assign(setting="eap, gumbel")
    asked = [("target", "ESR-1"), ("kept", "PSR-1"), ("kept", "distance")]
    form = compare.paper_form(compare.levels(pd.concat([kept, more]), asked))
    assert {"esd", "eap"} <= set(form["method"])
    assert {"eap, random", "eap, gumbel"} & set(form["method"])  # the second keeps its name
    table = beside(form, "objects").loc["esd"]
    assert table["PSR-1", "published"] == "41.2 / 53.3"
    assert table["ESR-1", "ours"].startswith("50.0")


def test_the_caption_says_of_how_much(table):
    runs, pictures = compare.read_runs([table], "objects", ["method"])
    text = compare.caption(pictures, runs[runs["status"] == "done"])
    for words in ("3 erasures (1 splits, seeds 0, 1)", "9 pictures of 3 concepts", "by a judge"):
        assert words in text


def test_tables_that_cannot_be_read(table, tmp_path, refused):
    def line(tables, vary=("method",), suite="objects"):
        return refused(compare.read_runs, tables, suite, list(vary))

    assert "list" in line([]) and "list" in line("mine.csv")
    assert "'a'" in line([table, table])
    assert "none.csv" in line([tmp_path / "none.csv"])
    assert "'methd'" in line([table], ["methd"])
    assert "mine_theme_pictures.parquet" in line([table], suite="theme")
    RUNS.assign(status="failed").to_csv(table, index=False)
    assert "finished" in line([table])
    (tmp_path / "mine_objects_pictures.parquet").write_bytes(b"PAR1")
    assert "mine_objects_pictures.parquet" in line([table])


FIRST, SECOND = "first of two sets", "second of two sets"


def own(metric, values, low=math.nan, high=math.nan):
    rows = [{"method": m, "metric": metric, "value": v} for m, v in values.items()]
    return pd.DataFrame(rows).assign(low=low, high=high)


def published_wide(experiment, by="value"):
    found = published(experiment)
    return found.pivot(index=["method", "run"], columns="metric", values=by)


def test_every_cell_of_the_published_tables_is_there_once():
    # objects: 7 rows of 4 (esd twice) and age's 2; nudity: 6 rows of 5; style: 1 of 4
    assert [len(published(name)) for name in EXPERIMENTS] == [30, 30, 4]
    objects = published_wide("objects")[["ESR-1", "ESR-5", "PSR-1", "PSR-5"]]
    assert {key: row.dropna().tolist() for key, row in objects.iterrows()} == {
        ("original", ""): [22.0, 2.4, 78.0, 97.6],
        ("esd", FIRST): [95.5, 88.9, 41.2, 56.1],
        ("esd", SECOND): [78.1, 66.3, 53.3, 77.9],
        ("uce", ""): [100, 100, 24.4, 49.5],
        ("ca", ""): [98.4, 96.8, 44.2, 66.5],
        ("mace", ""): [99.3, 97.6, 47.5, 72.8],
        ("eap", ""): [98.6, 96.1, 55.2, 79.9],
        ("age", ""): [98.1, 95.6],
    }
    assert objects.loc[("age", "")].notna().tolist() == [True, False, False, True]
    nudity = published_wide("nudity")[["NER-0.3", "NER-0.5", "NER-0.7", "NER-0.8", "FID"]]
    assert {key[0]: row.tolist() for key, row in nudity.iterrows()} == {
        "original": [16.69, 10.91, 5.46, 2.02, 16.71],
        "ca": [13.84, 9.27, 4.74, 1.68, 20.76],
        "uce": [6.87, 3.42, 0.68, 0.21, 15.98],
        "esd": [5.32, 2.36, 0.74, 0.23, 17.14],
        "eap": [3.64, 1.70, 0.40, 0.06, 15.52],
        "age": [5.06, 1.53, 0.32, 0.04, 14.20],
    }
    style = published("style").set_index("metric")["value"]
    erased = {"CLIP score erased": 21.71, "LPIPS erased": 0.776}
    assert style.to_dict() == erased | {"CLIP score kept": 30.06, "LPIPS kept": 0.477}


def test_spreads_and_provenance_are_as_published():
    spreads = published_wide("objects", "spread")[["ESR-1", "ESR-5", "PSR-1", "PSR-5"]]
    assert {key[0]: row.dropna().tolist() for key, row in spreads.dropna(how="all").iterrows()} == {
        "original": [11.6, 1.4, 11.6, 1.4],
        "uce": [3.6, 8.0],
        "mace": [0.3, 1.2, 12.0, 10.5],
        "eap": [1.2, 2.7, 10.0, 2.8],
    }
    every = pd.concat([published(name) for name in EXPERIMENTS])
    assert set(every["method"]) - {"original", "mace"} <= {*METHODS, *CLOSED_FORMS}
    age = every["method"] == "age"
    assert every["source"][age].str.contains("ICLR 2025").all()
    assert every["source"][~age].str.contains("arXiv 2410.15618").all()
    assert every["unit"].eq("percent").equals(every["metric"].str.match("[EPN][SE]R-"))


def test_both_sides_as_text():
    ours = [own("ESR-1", {"eap": 0.963}, 0.925, 1.0), own("ESR-1", {"esd": 0.5, "speed": 1.0})]
    ours += [own("PSR-5", {"age": 0.1234}, 0.1, 0.2), own("KID", {"rece": 3.0})]  # none published
    found = beside(pd.concat(ours), "objects")
    assert found.columns[:2].tolist() == [("ESR-1", "ours"), ("ESR-1", "published")]
    assert found.index.tolist() == "original esd uce ca mace eap age speed".split()
    for method, metric, texts in (
        ("eap", "ESR-1", ["96.3 [92.5, 100]", "98.6 ± 1.2"]),
        ("esd", "ESR-1", ["50.0", "95.5 / 78.1"]),
        ("uce", "ESR-1", [NONE, "100"]),
        ("original", "ESR-1", [NONE, "22.0 ± 11.6"]),
        ("speed", "ESR-1", ["100", NONE]),
        ("age", "PSR-5", ["12.3 [10.0, 20.0]", "95.6"]),
        ("age", "ESR-5", [NONE, NONE]),
    ):
        assert found.loc[method, metric].tolist() == texts
    assert found.attrs["note"]
    # scores are not percent
    ours = pd.concat([own("FID", {"eap": 100.049}), own("NER-0.5", {"eap": 0.017}, 0.01, 0.02)])
    found = beside(ours, "nudity").loc["eap"]
    assert found["FID"].tolist() == ["100.05", "15.52"]
    assert found["NER-0.5"].tolist() == ["1.70 [1.00, 2.00]", "1.70"]
    found = beside(own("LPIPS kept", {"eap": 0.5}), "style")
    assert found.loc["eap", "LPIPS kept"].tolist() == ["0.500", "0.477"]


@pytest.mark.parametrize("none", [None, math.nan, pd.NA])
def test_what_was_not_measured_is_a_dash(none):
    ours = own("ESR-1", {"eap": none, "uce": 0.9}, none, none)
    for kind in (ours, ours.convert_dtypes()):
        found = beside(kind, "objects")["ESR-1", "ours"]
        assert found[["eap", "uce"]].tolist() == [NONE, "90.0"]


def test_tau_by_hand():
    # published ESR-1: uce 100 > mace 99.3 > eap 98.6 > ca 98.4
    ours = own("ESR-1", {"uce": 0.9, "eap": 0.8, "mace": 0.7, "ca": 0.6, "rece": 0.1})
    (row,) = published_order(ours, "objects", "ESR-1").to_dict("records")
    assert row["tau"] == pytest.approx(4 / 6)  # of six pairs one is turned: (5 − 1) / 6
    assert row["n"] == 4 and row["run"] == ""
    assert row["ours"] == ["uce", "eap", "mace", "ca"]
    assert row["published"] == ["uce", "mace", "eap", "ca"]
    # the order of EAP and AGE turns with the threshold
    for metric, tau in {"NER-0.3": 1, "NER-0.5": 1 / 3, "NER-0.8": 1 / 3}.items():
        ours = own(metric, {"uce": 0.3, "eap": 0.1, "age": 0.2})
        assert published_order(ours, "nudity", metric)["tau"].item() == pytest.approx(tau)


def test_two_published_sets_are_two_orders():
    # PSR-1 published: eap 55.2, esd 41.2 or 53.3, ca 44.2
    ours = own("PSR-1", {"eap": 0.9, "esd": 0.8, "ca": 0.7})
    found = published_order(ours, "objects", "PSR-1").set_index("run")
    assert found["tau"].to_dict() == pytest.approx({FIRST: 1 / 3, SECOND: 1})
    orders = {FIRST: ["eap", "ca", "esd"], SECOND: ["eap", "esd", "ca"]}
    assert found["published"].to_dict() == orders and found["n"].tolist() == [3, 3]
    without = own("PSR-1", {"eap": 0.9, "uce": 0.8, "ca": 0.7})
    assert len(published_order(without, "objects", "PSR-1")) == 1


def test_ties_count_for_neither_side():
    # one pair tied of ours: (2 − 0) / √(2 · 3); and all of them
    for last, tau in ((0.5, 2 / math.sqrt(6)), (1.0, math.nan)):
        ours = own("ESR-1", {"uce": 1.0, "eap": 1.0, "ca": last})
        found = published_order(ours, "objects", "ESR-1")["tau"].item()
        assert found == pytest.approx(tau, nan_ok=True)


def test_tables_that_cannot_stand_beside_the_published(refused):
    good = own("ESR-1", {"eap": 0.5, "uce": 0.5})
    for words, call, *given in (
        ("'objects'", published, "object"),
        ("'ESR-1'", published_order, good, "objects", "ESR1"),
        ("2 methods", published_order, good, "objects", "ESR-1"),
        ("0 methods", published_order, good, "objects", "PSR-1"),
        ("'low'", beside, good.drop(columns="low"), "objects"),
        ("no published metric", beside, good, "nudity"),
        ("'eap' is 96.3", beside, own("ESR-1", {"eap": 96.3}), "objects"),
        ("'eap' twice", beside, pd.concat([good, good]), "objects"),
        ("no number", beside, own("ESR-1", {"eap": "many"}), "objects"),
    ):
        assert words in refused(call, *given)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("eap,ESR-1,98.6", "eap,ESR-1,986"),
        ("eap,ESR-1,98.6,1.2", "eap,ESR-1,98.6,some"),
        ("eap,ESR-5", "eap,ESR-1"),
        ("objects,eap,ESR-1", "object,eap,ESR-1"),
        ("nudity,age,FID,14.20", "nudity,age,FID,"),
        ("style,eap,LPIPS kept", "style,,LPIPS kept"),
        ("method,metric", "method,metrics"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, monkeypatch, refused, old, new):
    text = compare.FILE.read_text("utf-8")
    assert text.count(old) == 1
    shutil.copy(files.DATA / "SHA256SUMS", tmp_path)
    monkeypatch.setattr(files, "DATA", tmp_path)
    monkeypatch.setattr(compare, "FILE", tmp_path / "published.csv")
    compare.FILE.write_text(text, "utf-8", newline="\r\n")  # as git may write it
    assert len(published("objects")) == 30
    compare.FILE.write_text(text.replace(old, new), "utf-8")
    refused(published, "objects", says=["published.csv", "SHA256SUMS"])


def test_a_missing_or_binary_file_is_refused(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(compare, "FILE", tmp_path / "published.csv")
    for content in (None, b"", b"\xff\xfe\x00", b'a,b\n"1,2'):
        if content is not None:
            compare.FILE.write_bytes(content)
        assert "published.csv" in refused(published, "objects")
