"""Metrics: shares and intervals against hand values; judge and CLIP score on real pictures."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from erase_lib.errors import EraseError
from erase_lib.measure.clip import clip_score, load_clip
from erase_lib.measure.judges import JUDGE, Judge, picture_tensor, ranks
from erase_lib.measure.metrics import esr, psr, summary, verdicts
from erase_lib.measure.prompts import evaluation_prompts, near_and_far
from erase_lib.measure.statistics import bootstrap, gains, long, means, paired
from erase_lib.text import encode_prompts

DATA = Path(__file__).resolve().parents[2] / "data" / "emoji"


def table(rank: list[int], model: str) -> pd.DataFrame:
    """Eight pictures: two of the target (church), two near it (castle), four far away."""
    concept = ["church"] * 2 + ["castle"] * 2 + ["dog"] * 2 + ["pizza"] * 2
    return pd.DataFrame(
        {
            "prompt": [f"a {c}" for c in concept],
            "concept": concept,
            "seed": [0, 1] * 4,
            "model": model,
            "rank": rank,
            "measured_by": "by hand",
            "seconds": 0.5,
        }
    )


BEFORE = table([0, 0, 0, 0, 0, 0, 0, 3], "original")
AFTER = table([9, 1, 0, 2, 0, 0, 0, 0], "erased")


def one_line(error: pytest.ExceptionInfo[EraseError]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


def test_esr_and_psr_of_a_hand_made_table() -> None:
    assert esr(BEFORE, ["church"]) == 0
    assert esr(AFTER, ["church"]) == 1
    assert esr(AFTER, ["church"], k=5) == 0.5  # rank 9 is outside the top five, rank 1 inside
    assert psr(AFTER, ["castle"]) == 0.5
    assert psr(AFTER, ["castle"], k=3) == 1
    assert psr(BEFORE, ["dog", "pizza"]) == 0.75


def test_esr_of_a_concept_without_pictures_says_so() -> None:
    with pytest.raises(EraseError) as error:
        esr(AFTER, ["trumpet"])
    assert "trumpet" in one_line(error)


def test_summary_of_a_hand_made_table() -> None:
    shuffled = AFTER.sample(frac=1, random_state=0)  # rows are matched by prompt and seed
    rows = summary(BEFORE, shuffled, ["church"], ["castle"]).set_index(["metric", "model"])
    expected = {
        "ESR-1": (0, 1, 1),
        "PSR-1 near": (1, 0.5, -0.5),
        "PSR-1 far": (0.75, 1, 0.25),
        "PSR-1": (5 / 6, 5 / 6, 0),
    }
    for metric, values in expected.items():
        assert rows.loc[metric, "value"].tolist() == pytest.approx(values)
    assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    assert rows.loc[("PSR-1", "erased"), ["n", "prompts", "seeds"]].tolist() == [6, 3, 2]
    assert rows.loc[("PSR-1 far", "difference"), "seconds"] == pytest.approx(4.0)


def test_near_and_far_against_distances_by_hand(tiny) -> None:
    words = ["church", "castle", "dog", "pizza", "cow", "mosque", "tree", "boat", "dog"]
    targets = ["church", "dog"]
    near, far = near_and_far(tiny, targets, near=2, far=3, words=words)
    kept = ["castle", "pizza", "cow", "mosque", "tree", "boat"]
    with torch.no_grad():
        e = {w: encode_prompts(tiny, [w]).flatten() for w in words}
    apart = {w: sum(float((e[w] - e[t]).norm()) for t in targets) / 2 for w in kept}
    order = sorted(kept, key=apart.__getitem__)
    assert near == order[:2]
    assert len(far) == 3 and set(far) < set(order[2:])
    assert far == [w for w in kept if w in far]
    assert near_and_far(tiny, targets, near=2, far=3, words=words) == (near, far)
    drawn = {tuple(near_and_far(tiny, targets, 2, 3, s, words)[1]) for s in range(8)}
    assert len(drawn) > 1


def test_near_and_far_of_the_embedded_concepts_feed_the_summary(tiny) -> None:
    near, far = near_and_far(tiny, ["church"])
    assert (len(near), len(far)) == (10, 50)
    assert not {"church"} & set(near + far) and not set(near) & set(far)
    concepts = ["church", *near, *far]
    seen = pd.DataFrame({"prompt": concepts, "concept": concepts, "seed": 0, "rank": 0})
    seen = seen.assign(measured_by="by hand", seconds=0.0)
    rows = summary(seen, seen, ["church"], near).set_index(["metric", "model"])["n"]
    assert rows["PSR-1 near", "erased"] == 10 and rows["PSR-1 far", "erased"] == 50


@pytest.mark.parametrize(
    ("targets", "near", "far", "words"),
    [
        ([], 1, 1, "expected a list of concepts"),
        ("church", 1, 1, "expected a list of concepts"),
        (["church"], 2, 2, "together at most the 3 that are no targets"),
        (["church"], -1, 2, "-1 near and 2 far concepts: expected 0 or more"),
    ],
)
def test_near_and_far_refuses_what_it_cannot_give(tiny, targets, near, far, words) -> None:
    with pytest.raises(EraseError) as error:
        near_and_far(tiny, targets, near, far, words=["church", "castle", "dog", "cow"])
    assert words in one_line(error)


def test_summary_refuses_tables_of_different_prompts() -> None:
    with pytest.raises(EraseError) as error:
        summary(BEFORE, AFTER.assign(seed=[5, 6] * 4), ["church"])
    assert "same prompts and seeds" in one_line(error)


def test_summary_refuses_a_picture_given_twice() -> None:
    twice = [pd.concat([t, t.head(1)]) for t in (BEFORE, AFTER)]
    with pytest.raises(EraseError):
        summary(twice[0], twice[1], ["church"])


def test_bootstrap_covers_the_true_share() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        low, high = bootstrap(rng.random(100) < 0.6, n=400, seed=trial)
        inside += low <= 0.6 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_bootstrap_draws_whole_prompts() -> None:
    groups = np.repeat(np.arange(20), 10)
    values = np.repeat(np.arange(20) % 2, 10)  # ten pictures of a prompt always agree
    low, high = bootstrap(values, groups)
    narrow_low, narrow_high = bootstrap(values)
    assert high - low > 2 * (narrow_high - narrow_low)
    # twenty prompts: the interval of 20 coins, whose deviation is .5 / √20
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.15)


def test_bootstrap_is_repeatable_and_refuses_nothing_at_all() -> None:
    values = np.arange(10.0)
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(np.ones(5)) == (1.0, 1.0)
    with pytest.raises(EraseError):
        bootstrap(np.array([]))


def test_paired_interval_is_narrower_than_the_two_alone() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(0, 1, 200)
    after = before + 0.1 + rng.normal(0, 0.05, 200)
    low, high = paired(before, after)
    assert low < 0.1 < high and high - low < 0.03
    assert bootstrap(after)[1] - bootstrap(after)[0] > 0.2


def test_rank_is_the_place_in_the_sorted_row() -> None:
    rng = np.random.default_rng(1)
    likely, columns = rng.random((50, 30)), rng.integers(0, 30, 50)
    order = np.argsort(-likely, axis=1)
    places = [int(np.flatnonzero(order[i] == c)[0]) for i, c in enumerate(columns)]
    assert ranks(likely, columns).tolist() == places


def test_pictures_of_any_kind_become_one_tensor() -> None:
    clear = Image.new("RGBA", (128, 96), (255, 0, 0, 0))
    tensor = picture_tensor([clear])
    assert tensor.shape == (1, 3, 64, 64)
    assert torch.equal(tensor, torch.ones(1, 3, 64, 64))  # transparent is white
    assert picture_tensor(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 64, 64)
    with pytest.raises(EraseError) as error:
        picture_tensor(torch.zeros(3, 64, 64))
    assert "(3, 64, 64)" in one_line(error)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    rows = pd.read_parquet(DATA / "pictures.parquet").sample(100, random_state=0)
    pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in rows["png"]]
    prompts = "a " + rows["concept"] + " in " + rows["style"] + " style"
    return rows.assign(picture=pictures, prompt=prompts, seed=0).reset_index(drop=True)


def test_the_judge_knows_the_original_pictures(judge: Judge, sample: pd.DataFrame) -> None:
    seen = verdicts(judge, list(sample["picture"]), sample)
    assert (seen["rank"] == 0).mean() >= 0.95
    assert (seen["style_seen"] == seen["style"]).mean() >= 0.95
    right = seen[seen["rank"] == 0]
    assert (right["seen"] == right["concept"]).all()
    assert seen["measured_by"].str.startswith("emoji-judge, ConvNeXtV2, ").all()


def test_the_judge_knows_every_concept_of_the_data_set(judge: Judge) -> None:
    assert judge.concepts == sorted(pd.read_csv(DATA / "concepts.csv", comment="#")["concept"])
    assert judge.styles == ["noto", "twemoji", "fluent", "openmoji"]


def test_probabilities_sum_to_one(judge: Judge, sample: pd.DataFrame) -> None:
    pictures = list(sample["picture"][:5])
    concepts, styles = judge.concept_probabilities(pictures), judge.style_probabilities(pictures)
    assert concepts.shape == (5, len(judge.concepts)) and styles.shape == (5, 4)
    assert torch.allclose(concepts.sum(1), torch.ones(5))
    assert torch.allclose(styles.sum(1), torch.ones(5))


def test_a_verdict_does_not_depend_on_the_batch(judge: Judge, sample: pd.DataFrame) -> None:
    pictures = picture_tensor(list(sample["picture"]))
    together = judge.concept_probabilities(pictures)
    alone = torch.cat([judge.concept_probabilities(p[None]) for p in pictures])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(together.argmax(1), alone.argmax(1))


def test_rank_of_wants_a_known_name_for_each_picture(judge: Judge, sample: pd.DataFrame) -> None:
    pictures = list(sample["picture"][:2])
    with pytest.raises(EraseError) as error:
        judge.rank_of(pictures, ["church", "churchh"])
    assert "did you mean 'church'" in one_line(error)
    with pytest.raises(EraseError) as error:
        judge.rank_of(pictures, ["church"])
    assert "2 pictures but 1 names" in one_line(error)


def test_a_missing_judge_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(EraseError) as error:
        Judge.load(tmp_path / "nowhere")
    assert "nowhere is missing" in one_line(error)


def test_a_truncated_judge_is_refused(judge: Judge, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(JUDGE, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(EraseError) as error:
        Judge.load(folder)
    assert "damaged" in one_line(error)


def test_a_half_copied_judge_is_refused(judge: Judge, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(JUDGE, folder)
    (folder / "config.json").unlink()
    with pytest.raises(EraseError) as error:
        Judge.load(folder)
    assert "config.json is missing" in one_line(error)


def test_a_classifier_without_styles_is_no_judge(judge: Judge, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(JUDGE, folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"style: ', '"'))
    with pytest.raises(EraseError) as error:
        Judge.load(folder)
    assert "style: NAME" in one_line(error)


def test_clip_score_prefers_the_prompt_of_the_picture(sample: pd.DataFrame) -> None:
    clip = load_clip()
    pictures, prompts = list(sample["picture"]), list(sample["prompt"])
    fitting = clip_score(clip, pictures, prompts)
    wrong = clip_score(clip, pictures, prompts[1:] + prompts[:1])
    assert fitting.shape == (100,) and fitting.min() >= 0 and fitting.max() <= 100
    assert (fitting > wrong).mean() >= 0.95
    with pytest.raises(EraseError) as error:
        clip_score(clip, pictures, prompts[:3])
    assert "100 pictures but 3 prompts" in one_line(error)


def test_a_missing_clip_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(EraseError) as error:
        load_clip(tmp_path, tmp_path)
    assert "text_encoder is missing" in one_line(error)


def runs_table():
    """Two targets, two seeds, two methods; eap is better by .1, .2, .3, .4."""
    rows = [
        {"targets": t, "seed": s, "method": m, "metric": "PSR-1", "value": 0.1 * i + better}
        for i, (t, s) in enumerate([("church", 0), ("church", 1), ("dog", 0), ("dog", 1)])
        for m, better in (("esd", 0.0), ("eap", 0.1 * (i + 1)))
    ]
    return pd.DataFrame(rows)


def test_means_of_runs_by_hand():
    found = means(runs_table(), ["metric", "method"]).set_index("method")
    assert found.loc["esd", "value"] == pytest.approx(0.15)
    # two targets, of mean .05 and .25: each resample is one of them twice, or both
    assert found.loc["esd", ["low", "high"]].tolist() == pytest.approx([0.05, 0.25])
    assert found.loc["eap", "runs"] == 4 and found.loc["eap", "groups"] == 2


def test_gains_are_differences_of_matched_runs():
    (row,) = gains(runs_table(), "method", "esd").to_dict("records")
    assert row["method"] == "eap" and row["runs"] == 4
    assert row["value"] == pytest.approx(0.25)
    assert [row["low"], row["high"]] == pytest.approx([0.15, 0.35])
    by_truth = runs_table().assign(hard=lambda runs: (runs["method"] == "esd").astype(object))
    (again,) = gains(by_truth, "hard", True).to_dict("records")  # True and False are names here
    assert again | {"method": "eap"} == row | {"hard": False}
    lost = runs_table().drop(index=1)  # eap on (church, 0) failed: its esd has no match
    assert gains(lost, "method", "esd")["value"].tolist() == pytest.approx([0.3])
    with pytest.raises(EraseError, match="no run with method 'uce'"):
        gains(runs_table(), "method", "uce")
    with pytest.raises(EraseError, match="has a match"):
        gains(runs_table().iloc[[0, 3]], "method", "esd")


def test_a_table_of_runs_becomes_long():
    table = pd.DataFrame(
        {"id": ["a", "b"], "status": ["done", "failed"], "ESR-1 erased": [0.5, None]}
        | {
            f"ESR-1 erased {name}": [value, None]
            for name, value in zip(("low", "high", "n"), (0, 1, 8), strict=True)
        }
    )
    (row,) = long(table).to_dict("records")
    assert row == {"id": "a", "status": "done", "metric": "ESR-1", "model": "erased"} | {
        "value": 0.5,
        "low": 0,
        "high": 1,
        "n": 8,
    }


def test_evaluation_prompts_cover_every_style_and_never_change(tiny):
    table = evaluation_prompts(tiny, ["church", "dog"], near=4, far=8)
    sizes = table.groupby("group")["concept"].agg(["size", "nunique"])
    assert sizes.T.to_dict() == {
        "target": {"size": 16, "nunique": 2},
        "near": {"size": 8, "nunique": 4},
        "far": {"size": 8, "nunique": 8},
    }
    assert (
        table["seed"].tolist() == list(range(1000, 1032)) and not table["prompt"].isin([""]).any()
    )
    assert table[table["concept"] == "dog"]["style"].value_counts().tolist() == [2, 2, 2, 2]
    pd.testing.assert_frame_equal(table, evaluation_prompts(tiny, ["church", "dog"], 4, 8))
    with pytest.raises(EraseError, match="unknown target 'trumpett': did you mean 'trumpet'"):
        evaluation_prompts(tiny, ["trumpett"])
