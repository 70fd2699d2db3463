"""The checks of the tour's exercises: no answer, the notebook's solution, and likely mistakes."""

from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest

from course import checks
from course.exercise import NOT_YET
from erase_lib import measure, study


def nothing(*given):
    """A function that is not written yet."""


def test_a_module_a_notebook():
    assert checks.n01.exercise1.__doc__
    with pytest.raises(AttributeError):
        _ = checks.nothing


def test_quickstart_unchanged_pictures(solved, told):
    wrong = [(12, "recognised"), (7, "far"), (3, "0"), (-1, "12")]
    same = solved("01", 1)["same1"]
    told(checks.n01.exercise1, None, same, wrong, 0, 11, 7, False)


def test_quickstart_delta(solved, told):
    concept = ["church", "castle", "castle", "castle", "dog"]
    before = pd.DataFrame({"concept": concept, "probability": [0.9, 0.8, 0.6, 0.7, 0.9]})
    after = before.assign(probability=[0.1, 0.5, 0.7, 0.6, 0.8])
    right = solved("01", 2)["delta2"]
    wrong = [
        (lambda b, a, names: right(a, b, names), "upside down"),
        (lambda b, a, names: right(b, a, concept), "all pictures"),
        (lambda b, a, names: 3 * right(b, a, names), "sum"),
        (lambda b, a, names: b["probability"], "one number"),
    ]
    told(checks.n01.exercise2, nothing, right, wrong, before, after, ["castle"], ["dog"])


def test_quickstart_strength(solved, told, monkeypatch):
    class Erased:
        """Half of it leaves the target in three of four pictures, all of it in none."""

        def scaled(self, pipe, strength):
            self.seen = 3 if strength < 1 else 0
            return self

        def applied(self, pipe):
            return nullcontext()

    def generate(pipe, prompts, seed, steps, progress=True):
        return prompts

    erasure = Erased()
    judge = SimpleNamespace(sees=lambda pictures: ["church"] * erasure.seen + ["house"])
    rows = pd.DataFrame({"concept": "church", "prompt": "a church", "seed": range(4)})
    monkeypatch.setattr(checks.n01, "generate", generate)
    made = {"pipe": None, "erasure": erasure, "judge": judge, "steps": 4, "generate": generate}
    made |= {"prompts": rows, "styles": list("abcd"), "target": "church"}
    right = solved("01", 3, **made)["strength3"]
    wrong = [((0.5, 1), "gone"), ((0.5, 2), "3"), ((1, 0), "between"), ((0.5,), "two numbers")]
    told(checks.n01.exercise3, None, right, wrong, None, erasure, judge, rows, 4)


def test_quickstart_within_the_block_and_after_it(solved, told):
    before, after = [np.zeros((2, 2))] * 3, [np.ones((2, 2))] * 3
    wrong = [(("before", "before"), "within"), (("after", "after"), "over"), (("a", "b"), "after")]
    right = solved("01", 4)["shown4"]
    told(checks.n01.exercise4, None, right, wrong, after[:2], before[:2], before, after)


def test_sensitivity_two_scores(solved, told):
    n = np.arange(20)
    pairs = pd.DataFrame({"concept": [f"c{i}" for i in n], "judge": n, "pixels": (n + 6) % 20})
    left = pd.DataFrame({"concept": ["target", "neutral"], "judge": [30, 31], "pixels": [0, 0]})
    made = {"pairs": pd.concat([pairs, left]), "targets": ["target"], "neutral": ["neutral"]}
    right = solved("02", 1, **made)["shared1"]
    assert right == 4  # c10 to c13
    wrong = [(2, "left out"), (16, "one list or the other"), (7, "nlargest"), (4.5, "whole")]
    told(checks.n02.exercise1, None, right, wrong, *made.values())


def test_sensitivity_neutral_concepts(solved, told):
    made = {"concept": "a photo", "metric": ["clip", "features"], "value": [55.0, 98.0]}
    wrong = [("middle", "fit"), ("lowest", "hold"), ("top", "choose")]
    right = solved("02", 2)["third2"]
    told(checks.n02.exercise2, "", right, wrong, pd.DataFrame(made), False)


def test_sensitivity_percentile(solved, told):
    others = {f"c{i}": i / 10 for i in range(10)}
    pairs = pd.DataFrame((others | {"target": 0.1, "neutral": 0.35}).items())
    pairs.columns = ["concept", "clip"]
    places = pd.DataFrame({"concept": ["neutral"], "metric": "clip", "value": 40.0})
    wrong = [
        (lambda *given: 0.4, "share"),
        (lambda *given: 60, "upside down"),
        (lambda *given: 100 * 5 / 12, "neutral concepts"),
        (lambda *given: 4, "number of concepts"),
        (lambda *given: 1 / 0, "ZeroDivisionError"),
    ]
    right = solved("02", 3)["percentile3"]
    told(checks.n02.exercise3, nothing, right, wrong, pairs, places, ["target"], ["neutral"])


def test_sensitivity_what_noise_allows(solved, told, capsys):
    trust, pooled = pd.Series({"judge": 0.49}), pd.DataFrame({"metric": ["judge"], "value": [0.4]})
    right = solved("02", 4, trust=trust, table="a")["most4"]
    wrong = [(1.0, "reach 1"), (0.49, "only one"), (0.24, "square"), (0.6, "root"), (7, "between")]
    told(checks.n02.exercise4, None, right, wrong, trust, pooled)
    checks.n02.exercise4(solved("02", 4, table="")["most4"], {}, pooled)
    assert capsys.readouterr().out == f"{NOT_YET}\n"


@pytest.fixture
def atlas():
    """A made-up atlas of 100 concepts and two targets, as notebook 03 has it."""
    g = np.random.default_rng(0)
    concepts = [f"c{i}" for i in range(100)]
    spaces = {"text": g.normal(size=(100, 3)) + 5, "pictures": 9 * g.normal(size=(100, 2))}
    flat = pd.DataFrame(g.normal(size=(100, 2)), columns=["x", "y"])
    pairs = pd.DataFrame({"concept": concepts * 2, "targets": np.repeat(["c0", "c1"], 100)})
    pairs = pairs.assign(**{score: g.normal(size=200) for score in study.SCORES})
    rows = []
    for gone, part in pairs.groupby("targets"):
        for metric in study.SCORES:
            hurt = part.set_index("concept")[metric]
            for space, points in (spaces | {"text, UMAP": flat.to_numpy()}).items():
                rho = study.nearness_rho(points, concepts, gone, hurt)
                rows.append({"targets": gone, "metric": metric, "space": space, "value": rho})
    made = {"concepts": concepts, "spaces": spaces, "pairs": pairs, "rhos": pd.DataFrame(rows)}
    made |= {"target": "c0", "score": "features", "projection": "umap", "worst": 12}
    return made | {"maps": {"text, UMAP": flat.assign(concept=concepts)}, "show": MagicMock()}


def test_map_nearest_and_most_hurt(solved, told, atlas):
    line = np.arange(100.0)[:, None]  # near to the target, c0: c1 to c10
    delta = pd.Series(0.0, atlas["concepts"])
    delta.iloc[[0, 1, 2, 3, 4, 5, *range(20, 27)]] = 1.0
    made = atlas | {"spaces": {"text": line, "pictures": -line}, "delta": delta}
    right = solved("03", 1, **made)["near1"]
    assert right == 5
    wrong = [(12, "perfect"), (1, "chance"), (8, "5 are"), (13, "0 to 12")]
    context = (made[name] for name in ("spaces", "concepts", "delta", "worst"))
    told(checks.n03.exercise1, None, right, wrong, *context)


def test_map_words_or_pictures(solved, told):
    gap = pd.DataFrame({"metric": ["features", "judge"], "value": [-0.07, 0.01]})
    gap = gap.assign(low=[-0.09, -0.03], high=[-0.05, 0.04])
    for score, other in (("features", "without 0"), ("judge", "holds 0")):
        right = solved("03", 2, score=score)["bet2"]
        wrong = [({"words": "neither", "neither": "words"}[right], other), ("both", "answer")]
        told(checks.n03.exercise2, "", right, wrong, gap, score, False)
    told(checks.n03.exercise2, "", "words", [("pictures", "alike")], gap, "features", False)


def test_map_another_score(solved, told, atlas):
    right = solved("03", 3, **atlas, thumbnails={})["other3"]
    rho = atlas["rhos"].query("targets == 'c0'").set_index(["metric", "space"])["value"]
    assert right == ("judge", rho["judge", "text"])
    wrong = [
        (("judge", -right[1]), "upside down"),
        (("judge", rho["features", "text"]), "by features"),
        (("judge", rho["judge", "pictures"]), "in pictures"),
        (("judge", rho["judge", "text, UMAP"]), "flat"),
        (("judge", 0.9), "0.90"),
        (("features", 0.1), "another"),
        (("eyes", 0.1), "judge"),
    ]
    told(checks.n03.exercise3, None, right, wrong, atlas["rhos"], "c0", "features")


def test_map_both_spaces(solved, told, atlas):
    right = solved("03", 4)["both4"]

    def by(scale):
        return lambda *spaces: np.concatenate([points / scale(points) for points in spaces], 1)

    wrong = [
        (by(lambda p: 1), "unscaled"),
        (by(np.std), "standard deviation"),
        (by(lambda p: p.std(0)), "each column"),
        (by(lambda p: (p**2).sum(1).mean() ** 0.5), "mean point"),
        (lambda one, two: one, "shape"),
        (by(lambda p: 0 * p), "NaN"),
    ]
    context = (atlas[name] for name in ("spaces", "concepts", "pairs", "score"))
    with np.errstate(all="ignore"):
        told(checks.n03.exercise4, nothing, right, wrong, *context)


def test_erase_near_or_far(solved, told):
    prompts = pd.DataFrame({"concept": list("abcdef"), "group": ["near"] * 3 + ["far"] * 3})
    delta = pd.Series([0.5, 0.6, 0.7, 0.0, 0.01, 0.02])
    right = solved("05", 1)["more1"]
    told(
        checks.n05.exercise1, "", right, [("far", "near ones"), ("b", "one of")], prompts, delta, 0
    )
    delta[2] = -0.7  # the intervals touch: either answer stands
    told(checks.n05.exercise1, "", "far", [("both", "one of")], prompts, delta, False)


def test_erase_what_n_of_n_leave_open(solved, told):
    verdicts = pd.DataFrame({"concept": ["church"] * 8 + ["dog"] * 3})
    wrong = [
        (lambda n: 0.05 ** (1 / n), "other part"),
        (lambda n: 1 - 0.95 ** (1 / n), "*one with*"),
        (lambda n: 0.05 / n, "multiply"),
        (lambda n: 0.0, "behind"),
        (lambda n: 0.5, "0.500"),
        (lambda n: n, "between 0 and 1"),
    ]
    right = solved("05", 2)["most_left2"]
    told(checks.n05.exercise2, nothing, right, wrong, verdicts, ["church"])


def test_erase_lost_and_won(solved, told):
    before = pd.DataFrame({"concept": ["church", "dog", "cat"], "rank": [0, 0, 4]})
    after = before.assign(rank=[3, 2, 0])
    right = solved("05", 3)["lost_and_won3"]
    wrong = [
        (lambda b, a, targets: right(b, a, []), "targets"),
        (lambda b, a, targets: right(a, b, targets), "order"),
        (lambda b, a, targets: (0.1, 0.2), "whole"),
        (lambda b, a, targets: 3, "TypeError"),
    ]
    told(checks.n05.exercise3, nothing, right, wrong, before, after, ["church"])


def test_erase_a_larger_k(solved, told):
    before = pd.DataFrame({"concept": ["church", "dog", "cat"], "rank": [0, 0, 1]})
    before = before.assign(prompt=before["concept"], seed=0, measured_by="j", seconds=0.0)
    after = before.assign(rank=[2, 0, 2])
    made = {"verdicts_before": before, "verdicts_after": after}
    made["config"], made["near"] = SimpleNamespace(targets=["church"]), before[1:2]
    done = solved("05", 4, **made)
    right = done["table4"], done["falls4"]
    first = measure.summary(before, after, ["church"], ["dog"])
    wrong = [
        ((right[0], "PSR"), "longer"),
        ((right[0], "both"), "*not*"),
        ((right[0], "neither"), "ESR?"),
        ((right[0], "k"), "one of"),
        ((None, "ESR"), "table4"),
        ((first, "ESR"), "still 1"),
        ((measure.summary(before, after, ["church"], k=2), "ESR"), "near"),
        ((measure.summary(after, before, ["church"], ["dog"], k=2), "ESR"), "before"),
    ]
    context = (before, after, ["church"], before[1:2], SimpleNamespace(concepts=list("abcdef")))
    told(lambda a, *c: checks.n05.exercise4(*a, *c), (None, ""), right, wrong, *context)


def test_evaluate_what_is_left_of_the_clip_score(solved, told):
    pictures = pd.DataFrame({"concept": ["church"] * 2, "style": "noto", "clip": [30.0, 18.0]})
    pictures["model"] = ["original", "erased"]
    rows = pd.DataFrame({"metric": ["ESR-1"], "model": "erased", "value": 0.9})
    found = SimpleNamespace(pictures=pictures, rows=rows, targets=["church"])
    right = solved("06", 1)["remains1"]
    wrong = [(0.1, "no zero"), (0.95, "notice"), (0.25, "0.60"), (60, "between 0 and 1")]
    told(checks.n06.exercise1, None, right, wrong, found, "course")
    told(checks.n06.exercise1, None, 0.1, [(60, "between")], found, "smoke")


def test_evaluate_concepts_lost(solved, told):
    ranks = {"church": (0, 9), "dog": (0, 3), "cat": (0, 0), "owl": (1, 1)}
    pictures = pd.DataFrame(
        [
            {"concept": concept, "model": model, "rank": float(rank)}
            for concept, of in ranks.items()
            for model, rank in zip(("original", "erased"), of, strict=True)
        ]
    )
    found = SimpleNamespace(pictures=pictures, targets=["church"])
    right = solved("06", 2)["lost2"]

    def never(pictures, targets):
        rank = pictures.query("model == 'erased'").groupby("concept")["rank"].min()
        return int((rank.drop(targets) > 0).sum())

    wrong = [
        (lambda pictures, targets: right(pictures, []), "targets"),
        (never, "original"),
        (lambda pictures, targets: 77, "77"),
        (lambda pictures, targets: 0.5, "whole"),
    ]
    told(checks.n06.exercise2, nothing, right, wrong, found)


def test_evaluate_what_an_interval_is_drawn_over(solved, told):
    g = np.random.default_rng(0)
    some = pd.DataFrame({"concept": np.repeat(list("abcdef"), 8)})
    some["prompt"] = some["concept"] + pd.Series(np.arange(48) // 2 % 4).astype(str)
    some["distance"] = np.repeat(g.normal(size=6), 8) + 0.5 * g.normal(size=48)
    low, high = measure.bootstrap(some["distance"], some["prompt"])
    right = solved("06", 3, some=some, width=high - low)["times3"]
    single = np.ptp(measure.bootstrap(some["distance"])) / (high - low)
    assert right > 1.2
    wrong = [(1 / right, "upside down"), (single, "single"), (9.0, "9.00"), (-1, "negative")]
    wrong.append((right * (high - low), "divide"))
    told(checks.n06.exercise3, None, right, wrong, some, high - low)
