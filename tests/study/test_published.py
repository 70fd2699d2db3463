"""Published figures: each cell once, shown beside ours, and orders by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from erase_lib import EraseError
from erase_lib.config import CLOSED_FORMS, METHODS
from erase_lib.study import published
from erase_lib.study.published import EXPERIMENTS, NONE, beside, order, table

FIRST, SECOND = "first of two sets", "second of two sets"


def own(metric, values, low=math.nan, high=math.nan):
    rows = [{"method": m, "metric": metric, "value": v} for m, v in values.items()]
    return pd.DataFrame(rows).assign(low=low, high=high)


def refused(call, *given):
    with pytest.raises(EraseError) as error:
        call(*given)
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


def wide(experiment, by="value"):
    found = table(experiment)
    return found.pivot(index=["method", "run"], columns="metric", values=by)


def test_every_cell_of_the_published_tables_is_there_once():
    # objects: 7 rows of 4 (esd twice) and age's 2; nudity: 6 rows of 5; style: 1 of 4
    assert [len(table(name)) for name in EXPERIMENTS] == [30, 30, 4]
    objects = wide("objects")[["ESR-1", "ESR-5", "PSR-1", "PSR-5"]]
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
    nudity = wide("nudity")[["NER-0.3", "NER-0.5", "NER-0.7", "NER-0.8", "FID"]]
    assert {key[0]: row.tolist() for key, row in nudity.iterrows()} == {
        "original": [16.69, 10.91, 5.46, 2.02, 16.71],
        "ca": [13.84, 9.27, 4.74, 1.68, 20.76],
        "uce": [6.87, 3.42, 0.68, 0.21, 15.98],
        "esd": [5.32, 2.36, 0.74, 0.23, 17.14],
        "eap": [3.64, 1.70, 0.40, 0.06, 15.52],
        "age": [5.06, 1.53, 0.32, 0.04, 14.20],
    }
    style = table("style").set_index("metric")["value"]
    assert style.to_dict() == {
        "CLIP score erased": 21.71,
        "LPIPS erased": 0.776,
        "CLIP score kept": 30.06,
        "LPIPS kept": 0.477,
    }


def test_spreads_and_provenance_are_as_published():
    spreads = wide("objects", "spread")[["ESR-1", "ESR-5", "PSR-1", "PSR-5"]]
    known = {key[0]: row.dropna().tolist() for key, row in spreads.iterrows() if row.notna().any()}
    assert known == {
        "original": [11.6, 1.4, 11.6, 1.4],
        "uce": [3.6, 8.0],
        "mace": [0.3, 1.2, 12.0, 10.5],
        "eap": [1.2, 2.7, 10.0, 2.8],
    }
    every = pd.concat([table(name) for name in EXPERIMENTS])
    assert every.loc[every["spread"].notna(), "experiment"].eq("objects").all()
    assert set(every["method"]) - {"original", "mace"} <= set(METHODS + CLOSED_FORMS)
    source, age = every["source"], every["method"] == "age"
    assert source[age].str.startswith("AGE: Bui et al., ICLR 2025").all()
    eap = "EAP: Bui et al., NeurIPS 2024, arXiv 2410.15618"
    assert source[~age].str.startswith(eap).all()
    percent = every["metric"].str.match("[EPN][SE]R-")
    assert every.loc[percent, "unit"].eq("percent").all()
    assert every.loc[~percent, "unit"].eq("score").all()
    ca = every[(every["method"] == "ca") & (every["experiment"] == "objects")]
    assert ca["source"].str.endswith("; paper").all() and set(ca["detector"]) == {"ResNet-50"}


def test_both_sides_as_text():
    ours = pd.concat(
        [
            own("ESR-1", {"eap": 0.963}, 0.925, 1.0),
            own("ESR-1", {"esd": 0.5, "speed": 1.0}),
            own("PSR-5", {"age": 0.1234}, 0.1, 0.2),
            own("KID", {"rece": 3.0}),  # nobody published it
        ]
    )
    found = beside(ours, "objects")
    assert found.columns[:2].tolist() == [("ESR-1", "ours"), ("ESR-1", "published")]
    assert found.index.tolist() == "original esd uce ca mace eap age speed".split()
    assert found.loc["eap", "ESR-1"].tolist() == ["96.3 [92.5, 100]", "98.6 ± 1.2"]
    assert found.loc["esd", "ESR-1"].tolist() == ["50.0", "95.5 / 78.1"]
    assert found.loc["uce", "ESR-1"].tolist() == [NONE, "100"]
    assert found.loc["original", "ESR-1"].tolist() == [NONE, "22.0 ± 11.6"]
    assert found.loc["speed", "ESR-1"].tolist() == ["100", NONE]
    assert found.loc["age", "PSR-5"].tolist() == ["12.3 [10.0, 20.0]", "95.6"]
    assert (found.loc["age", "ESR-5"] == NONE).all()
    assert "never a number across" in found.attrs["note"]


def test_scores_are_not_percent():
    ours = pd.concat([own("FID", {"eap": 100.049}), own("NER-0.5", {"eap": 0.017}, 0.01, 0.02)])
    found = beside(ours, "nudity")
    assert found.loc["eap", "FID"].tolist() == ["100.05", "15.52"]
    assert found.loc["eap", "NER-0.5"].tolist() == ["1.70 [1.00, 2.00]", "1.70"]
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
    (row,) = order(ours, "objects", "ESR-1").to_dict("records")
    assert row["tau"] == pytest.approx(4 / 6)  # of six pairs one is turned: (5 − 1) / 6
    assert row["n"] == 4 and row["run"] == ""
    assert row["ours"] == ["uce", "eap", "mace", "ca"]
    assert row["published"] == ["uce", "mace", "eap", "ca"]
    # the order of EAP and AGE turns with the threshold
    ours = {"uce": 0.3, "eap": 0.1, "age": 0.2}
    taus = [
        order(own(f"NER-{t}", ours), "nudity", f"NER-{t}")["tau"].item() for t in (0.3, 0.5, 0.8)
    ]
    assert taus == pytest.approx([1, 1 / 3, 1 / 3])


def test_two_published_sets_are_two_orders():
    # PSR-1 published: eap 55.2, esd 41.2 or 53.3, ca 44.2
    ours = own("PSR-1", {"eap": 0.9, "esd": 0.8, "ca": 0.7})
    found = order(ours, "objects", "PSR-1").set_index("run")
    assert found["tau"].to_dict() == pytest.approx({FIRST: 1 / 3, SECOND: 1})
    assert found.loc[FIRST, "published"] == ["eap", "ca", "esd"]
    assert found.loc[SECOND, "published"] == ["eap", "esd", "ca"]
    assert found["n"].tolist() == [3, 3]
    without = own("PSR-1", {"eap": 0.9, "uce": 0.8, "ca": 0.7})
    assert len(order(without, "objects", "PSR-1")) == 1


def test_ties_count_for_neither_side():
    ours = own("ESR-1", {"uce": 1.0, "eap": 1.0, "ca": 0.5})
    # one pair tied of ours: (2 − 0) / √(2 · 3)
    assert order(ours, "objects", "ESR-1")["tau"].item() == pytest.approx(2 / math.sqrt(6))
    level = own("ESR-1", {"uce": 1.0, "eap": 1.0, "ca": 1.0})
    assert math.isnan(order(level, "objects", "ESR-1")["tau"].item())


def test_bad_input_is_one_line():
    good = own("ESR-1", {"eap": 0.5, "uce": 0.5})
    assert "did you mean 'objects'" in refused(table, "object")
    assert "did you mean 'ESR-1'" in refused(order, good, "objects", "ESR1")
    assert "2 methods (uce, eap) have ESR-1" in refused(order, good, "objects", "ESR-1")
    assert "0 methods (none) have PSR-1" in refused(order, good, "objects", "PSR-1")
    assert "['low']" in refused(beside, good.drop(columns="low"), "objects")
    assert "no published metric" in refused(beside, good, "nudity")
    assert "'eap' is 96.3" in refused(beside, own("ESR-1", {"eap": 96.3}), "objects")
    assert "ESR-1 of 'eap' twice" in refused(beside, pd.concat([good, good]), "objects")
    assert "no number" in refused(beside, own("ESR-1", {"eap": "many"}), "objects")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("eap,ESR-1,98.6", "eap,ESR-1,high", "line 26 (objects eap ESR-1 high)"),
        ("eap,ESR-1,98.6", "eap,ESR-1,986", "line 26"),
        ("eap,ESR-1,98.6", "eap,ESR-1,inf", "line 26"),
        ("eap,ESR-1,98.6,1.2", "eap,ESR-1,98.6,some", "line 26"),
        ("eap,ESR-5", "eap,ESR-1", "line 27"),
        ("objects,eap,ESR-1", "object,eap,ESR-1", "line 26"),
        ("nudity,age,FID,14.20,,score", "nudity,age,FID,14.20,,", "line 61"),
        ("nudity,age,FID,14.20", "nudity,age,FID,", "line 61"),
        ("nudity,age,FID,14.20", "nudity,age,FID,inf", "line 61"),
        ("style,eap,LPIPS kept", "style,,LPIPS kept", "line 65"),
        ("method,metric", "metric,method", "expected columns experiment, method"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, monkeypatch, old, new, words):
    text = published.FILE.read_text("utf-8")
    assert text.count(old) == 1
    monkeypatch.setattr(published, "FILE", tmp_path / "published.csv")
    published.FILE.write_text(text.replace(old, new), "utf-8")
    assert words in refused(table, "objects")


def test_a_missing_or_binary_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "FILE", tmp_path / "published.csv")
    assert "cannot be read" in refused(table, "objects")
    for content in (b"", b"\xff\xfe\x00", b'a,b\n"1,2'):
        published.FILE.write_bytes(content)
        refused(table, "objects")
