"""The checks of 05_erase."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from course.exercise import check, mistakes
from erase_lib.measure import Judge, bootstrap, summary


def exercise1(more: str, prompts: pd.DataFrame, delta: pd.Series, smoke: bool) -> None:
    """Whose pictures lose more, those of the near or of the far concepts?

    `prompts` has a row a picture, with concept and group; `delta` is δ of each.
    """
    parts = prompts.assign(delta=delta).groupby(["group", "concept"])["delta"].mean()
    mean = {name: float(parts[name].mean()) for name in ("near", "far")}
    span = {name: bootstrap(parts[name].to_numpy()) for name in mean}
    worse, better = max(mean, key=mean.__getitem__), min(mean, key=mean.__getitem__)
    told = span[worse][0] > span[better][1]  # the intervals, over concepts, do not touch
    said = " and ".join(
        f"{mean[name]:.3f} [{span[name][0]:.3f}, {span[name][1]:.3f}] {name}" for name in mean
    )
    check(
        more,
        (lambda a: a in mean, 'one of "near" and "far" is asked for'),
        (
            lambda a: smoke or not told or a == worse,
            f"δ is {said}: here the {worse} ones lost more. What do they share, or not?",
        ),
        right=f"δ is {said}. "
        + (
            "The target's neighbours pay first." * (worse == "near")
            if told
            else "The intervals touch, so either answer stands: one run of this size cannot tell."
        ),
    )


def exercise2(
    most_left: Callable[[int], float] | None, verdicts: pd.DataFrame, targets: Sequence[str]
) -> None:
    """Write the largest share p of pictures with the target that n of n without it do not refute.

    n is how many pictures of `targets` there are among the `verdicts`.
    """
    n = int(verdicts["concept"].isin(targets).sum())
    wrong = {
        "that is the chance that one picture comes out without the target: p is the other part": (
            0.05 ** (1 / n)
        ),
        "that is the chance of 5 % for *one with* the target: all n are without it": (
            1 - 0.95 ** (1 / n)
        ),
        "that is the chance divided by n, but chances of independent pictures multiply": 0.05 / n,
        "n of n is what was seen; what is asked is what may be left behind it": 0.0,
    }
    check(
        most_left,
        (lambda p: 0 <= p <= 1, "a share is wanted, between 0 and 1"),
        *(
            (lambda p, w=value: abs((1 - p) ** n - 0.05) < 1e-3 or abs(p - w) > 1e-6, text)
            for text, value in wrong.items()
        ),
        (
            lambda p: abs((1 - p) ** n - 0.05) < 1e-3,
            lambda p: f"with p = {p:.3f} all {n} are without it in {(1 - p) ** n:.1%} of tries",
        ),
        given=(n,),
        right=lambda p: (
            f"even if all {n} pictures here were gone, {p:.0%} could still show the target. The"
            f" bootstrap's interval would be {bootstrap([1.0] * n)}, so read n before it."
        ),
    )


def exercise3(
    lost_and_won: Callable[..., tuple[int, int]] | None,
    before: pd.DataFrame,
    after: pd.DataFrame,
    targets: Sequence[str],
) -> None:
    """Write how many pictures of all concepts but the targets were lost, and how many won.

    `before` and `after` are verdicts, a row a picture, in the same order.
    """
    # a few made-up rows beside the measured ones, so that each mistake shows
    made = pd.DataFrame({"concept": [targets[0], *["made up"] * 7]})
    tables = [
        pd.concat([real[["concept", "rank"]], made.assign(rank=rank)], ignore_index=True)
        for real, rank in (
            (before, [0, 0, 0, 0, 4, 0, 2, 1]),
            (after, [5, 3, 1, 9, 0, 0, 7, 6]),
        )
    ]
    old, new = (table["rank"].eq(0).to_numpy() for table in tables)
    others = ~tables[0]["concept"].isin(targets).to_numpy()
    crossed = [old & ~new, ~old & new]
    truth = tuple(int((others & some).sum()) for some in crossed)
    wrong = {
        "the targets are in it: that they are lost is wanted": [
            int(some.sum()) for some in crossed
        ],
        "in the wrong order: first the lost, then the won": truth[::-1],
        "those that were wrong before cannot be lost, nor those right before be won": [
            int((others & some).sum()) for some in (~new, new)
        ],
    }
    check(
        lost_and_won,
        (lambda a: len(a) == 2, "two numbers are wanted: lost and won"),
        (lambda a: all(x == int(x) for x in a), "count pictures: whole numbers, no shares"),
        *mistakes(truth, wrong, lambda a, b: tuple(a) == tuple(b)),
        (
            lambda a: tuple(a) == truth,
            lambda a: f"{tuple(a)}, but of these tables {truth} are lost and won",
        ),
        given=(*tables, list(targets)),
        right=lambda a: (
            f"in this run {a[0] - 3} lost and {a[1] - 1} won (the check's table has four more)."
            " PSR-1 shows their difference; who cares for a single concept wants both."
        ),
    )


def exercise4(
    table: pd.DataFrame | None,
    falls: str,
    before: pd.DataFrame,
    after: pd.DataFrame,
    targets: Sequence[str],
    near: pd.DataFrame,
    judge: Judge,
) -> None:
    """The summary with a k above 1, and which of ESR and PSR can only fall as k grows.

    `before` and `after` are the verdicts that it is of, `near` has the concepts that count as near.
    """
    every = len(judge.concepts)  # the longest list there is
    ends = summary(before, after, targets, near["concept"], k=every).query("model == 'erased'")
    ends = ends.set_index("metric")["value"]
    fall = [name for name in ("ESR", "PSR") if ends[f"{name}-{every}"] == 0]

    def same(given: pd.DataFrame) -> bool:
        """Whether it is the summary with the k that its names give."""
        k = int(given["metric"].iloc[0].split("-")[1])
        again = summary(before, after, targets, near["concept"], k=k)
        return len(again) == len(given) and (again["value"].values == given["value"].values).all()

    check(
        falls,
        (
            lambda a: a in ("ESR", "PSR", "both", "neither"),
            'one of "ESR", "PSR", "both", "neither"',
        ),
        (lambda a: table is not None, "and the table: call summary and keep it as table4"),
        (lambda a: table["metric"].iloc[0] != "ESR-1", "k is still 1: give k=5, or another one"),
        (lambda a: table["metric"].str.endswith("near").any(), "give near as well, as above"),
        (lambda a: same(table), "not the table of these verdicts: first before, then after"),
        (
            lambda a: a != "PSR",
            "a longer list is easier to be on, so more of the kept are recognised",
        ),
        (lambda a: a != "both", "one counts who is *not* on the list, the other who is"),
        (
            lambda a: [a] == fall,
            f"on a list of all {every} concepts nothing is missing: what is ESR?",
        ),
        right=f"on a list of all {every} concepts ESR is 0 and PSR 1. A larger k asks more of an"
        " erasure and less of what is kept, so the same k must stand beside both.",
    )
