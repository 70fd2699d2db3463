"""Checks of 09_damage_atlas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from course.exercise import check, mistakes
from erase_lib import study


def exercise1(answer: str, own: pd.DataFrame, smoke: bool) -> None:
    """Which part is the largest share of the variance?

    `own` has a row a part, its column share; in a `smoke` run any of the names will do.
    """
    share = own["share"]
    top = share.index[share > share.max() - 0.02]  # two as good as equal are both right
    told = ", ".join(f"{name} {value:.0%}" for name, value in share.items())
    because = {
        "erased": "the stripes from left to right catch the eye, but they are not the most",
        "harmed": "whoever looks fragile may only have a fragile *picture*, and that is noise",
        "noise": "a good guess with two pictures, but with this score they agree better",
        "specific": "with this score two pictures are mostly luck",
    }
    check(
        answer,
        (lambda a: a in share.index, f"answer one of {', '.join(share.index)}"),
        (lambda a: smoke or a in top, lambda a: f"{because[a]}: {told}"),
        right=f"{told}. What A does to all and B suffers from all explain"
        f" {share[['erased', 'harmed']].sum():.0%}; beyond that one has to know the pair.",
    )


def exercise2(answer: Callable, clean: pd.DataFrame) -> None:
    """A table (erased, harmed) without the means of its rows and columns."""
    values = clean.to_numpy()
    rest = study.additive(values[..., None])[3][..., 0]  # the library's own
    row, column = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    wrong = {
        "only the rows are taken off: some concepts still suffer from everyone": values - row,
        "only the columns are taken off: some erasures still hurt everyone": values - column,
        "every row mean holds μ, and every column mean too: you took it off twice": values
        - row
        - column,
        "μ has the wrong sign: it was taken off twice and is to be put *back* once": rest
        - 2 * values.mean(),
        "that is the sum of μ, row and column: asked is what they do *not* explain": values - rest,
        "only the mean of all cells is taken off": values - values.mean(),
        "upside down: the cell, less what rows and columns explain": -rest,
    }
    check(
        answer,
        (
            lambda a: np.shape(a) == values.shape,
            lambda a: (
                f"the shape is {np.shape(a)}, not {values.shape}. In pandas, table -"
                " table.mean(axis=1) looks for columns with the rows' names: use .sub(..., axis=0),"
                " or numpy"
            ),
        ),
        (
            lambda a: np.isfinite(np.asarray(a)).all(),
            "there are NaN: do the names of the axes fit?",
        ),
        *mistakes(rest, wrong, lambda a, b: np.allclose(a, b, atol=1e-6)),
        (
            lambda a: np.allclose(a, rest, atol=1e-6),
            lambda a: (
                f"the means of the rows go up to {np.abs(np.asarray(a).mean(1)).max():.3f}, of the"
                f" columns to {np.abs(np.asarray(a).mean(0)).max():.3f}: both should be 0"
            ),
        ),
        given=(clean,),
        right=lambda a: (
            f"of the variance {np.var(np.asarray(a)) / values.var():.0%} is left, that of the pairs"
            " and of luck. The library does this with gaps as well, over and over until all means"
            " are 0."
        ),
    )


def exercise3(answer: float | None, pairs: pd.DataFrame, targets: int) -> None:
    """How many of all pairs of the `targets` have p < 0.05 if harm is mutual?

    `pairs` as `study.asymmetries` makes them.
    """
    tried = len(pairs)
    mean = 0.05 * tried
    striking, sure = ((pairs[name] < 0.05).sum() for name in ("p", "q"))

    def near(a: float, value: float) -> bool:
        """Whether this is the answer, where it is not also the right one."""
        return abs(a - value) <= 0.02 * mean and not abs(a - mean) <= 0.02 * mean + 1

    check(
        answer,
        (lambda a: a >= 0, "a number of pairs is wanted, 0 or more"),
        (
            lambda a: a > 0,
            "p < 0.05 is no proof: chance alone looks so striking in one case of twenty",
        ),
        (lambda a: not near(a, 0.05), "that is the share; how many pairs are that?"),
        (lambda a: not near(a, 5), "that is the share in %; how many pairs are that?"),
        (
            lambda a: not near(a, 0.05 * targets),
            "that counts targets: how many *pairs* do they make?",
        ),
        (
            lambda a: not near(a, 2 * mean) and not near(a, 0.05 * targets**2),
            "that counts A with B and B with A: a pair is tried once",
        ),
        (lambda a: not near(a, tried), "those are all pairs that were tried"),
        (lambda a: not near(a, 0.95 * tried), "those are the pairs with p above 0.05"),
        (
            lambda a: abs(a - mean) <= 0.02 * mean + 1,
            f"{tried} pairs are tried, and each looks striking by chance once in twenty",
        ),
        right=(
            f"about {mean:.0f}. In fact {striking} of the specific harms have"
            f" p < 0.05, and no p says which of them chance made. With q < 0.05 there are {sure}."
        ),
    )


def exercise4(
    answer: tuple[int, float] | None, own: pd.DataFrame, delta: pd.DataFrame, arrows: int
) -> None:
    """Another number of arrows than `arrows`, and the share of them that is returned.

    Tables (erased, harmed) of the specific harm, `own`, and of δ itself.
    """

    def back(number: int, table: pd.DataFrame = own) -> float:
        """The share of arrows returned, with so many from each concept."""
        made = study.delta_graph(table, number)
        return sum(made.has_edge(b, a) for a, b in made.edges) / max(1, made.number_of_edges())

    def said(a: tuple[int, float], value: float) -> bool:
        """Whether this share was answered, where it is not also the right one."""
        return abs(a[1] - value) < 0.006 and not abs(a[1] - back(a[0])) < 0.006

    others, shown = len(own) - 1, back(arrows)
    check(
        answer,
        (lambda a: len(a) == 2, "two are wanted: the number of arrows and the share returned"),
        (
            lambda a: a[0] == int(a[0]) and 1 <= a[0] <= others,
            f"a whole number of arrows is wanted, from 1 to {others}, then the share",
        ),
        (
            lambda a: a[0] != arrows,
            f"{arrows} arrows are what the graph above has: choose another",
        ),
        (
            lambda a: 0 <= a[1] <= 1,
            "a share between 0 and 1 is wanted, no percentage and no number",
        ),
        (
            lambda a: not said(a, shown),
            f"that is the share with {arrows} arrows, from the graph above",
        ),
        (
            lambda a: not said(a, back(a[0]) / 2),
            "a mutual pair has two arrows, and both are returned: divide by arrows, not by pairs",
        ),
        (lambda a: not said(a, 1 - back(a[0])), "that is the share that is *not* returned"),
        (
            lambda a: not said(a, back(a[0], delta)),
            "that is δ itself: take the specific harm, own_harm.table()",
        ),
        (
            lambda a: abs(a[1] - back(a[0])) < 0.006,
            lambda a: f"with {a[0]} arrows each it is {back(a[0]):.2f}, not {a[1]:.2f}",
        ),
        right=lambda a: (
            f"{a[1]:.0%} with {a[0]}, {shown:.0%} with {arrows}; at random about"
            f" {a[0] / others:.0%} and {arrows / others:.0%}. What matters is how far a share lies"
            " above its own chance."
        ),
    )
