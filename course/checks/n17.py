"""17_gone_or_hidden: the key to an edited model, a map without inverse, a control, the front."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from course.exercise import check, mistakes

LONGER = ("as long", "some times", "more than ten times")


def exercise1(longer: Any, key: float) -> None:
    """How much longer than c is the key T⁻¹c? `key`: how many times, as measured."""
    truth = LONGER[(key > 1.5) + (key > 10)]
    check(
        longer,
        (lambda a: a in LONGER, f"one of {', '.join(LONGER)}"),
        (lambda a: a == truth, f"T makes the step to the target small; here it is {key:.0f} times"),
        right=f"{key:.0f} times. What T shrinks, its inverse stretches.",
    )


def exercise2(without: Any) -> None:
    """Write T that takes a step d away and moves what M counts the least."""
    g = torch.Generator().manual_seed(0)
    d, root = torch.randn(5, generator=g).double(), torch.randn(5, 5, generator=g).double()
    m = root @ root.T + torch.eye(5, dtype=torch.float64)
    dual, one = torch.linalg.solve(m, d), torch.eye(5, dtype=torch.float64)
    truth = one - torch.outer(d, dual) / (d @ dual)

    def same(a: Any, b: Any) -> bool:
        return a.shape == b.shape and torch.allclose(a.double(), b, atol=1e-6)

    wrong = {
        "T takes d away, but moves what is preserved more than it must: M⁻¹ stands on the right of"
        " dᵀ": one - torch.outer(d, d) / (d @ d),
        "the outer product is the other way round: what comes out is a multiple of d": truth.T,
        "M itself stands where its inverse belongs": one - torch.outer(d, m @ d) / (d @ m @ d),
        "that is what is taken away; T is the rest, 1 less that": one - truth,
    }
    check(
        without,
        *mistakes(truth, wrong, same),
        (lambda a: torch.allclose(a.double() @ d, 0 * d, atol=1e-6), "T d is not 0"),
        (lambda a: same(a, truth), "T d is 0, but it is not the one of least movement"),
        given=(d, m),
        right="T d = 0 and T T = T: from what is 0 nobody gets d again.",
    )


def exercise3(control: Any, budget: int, smoke: bool) -> None:
    """Search the original with less than half of `budget`, and count what is found there."""
    check(
        control,
        (lambda a: 0 < a[0] < budget / 2, f"the first is a budget below {budget / 2:g}"),
        (lambda a: 0 <= a[1] <= 1, "the second is a share of pictures"),
        right=lambda a: (
            f"{a[1]:.2f} of the original's pictures. "
            + (
                "That is enough: a rate in the erased model would say something."
                if a[1] >= 0.5 and not smoke
                else "It does not find what is there: that it finds none elsewhere says nothing."
            )
        ),
    )


def exercise4(best: str | None, levels: pd.DataFrame) -> None:
    """Of the erasures left whole that keep within .05 of the best of them, which hides least?"""
    both = levels.pivot(index="setting", columns="group", values="value")
    both = both.filter(like="whole", axis=0)
    kept = both[both["near"] >= both["near"].max() - 0.05]
    true, least = kept["hidden"].idxmin(), both["hidden"].idxmin()
    cost = both["near"].max() - both["near"].round(2)
    check(
        best,
        (lambda a: a in both.index, f"one of {', '.join(both.index)}"),
        (
            lambda a: a in kept.index,
            lambda a: f"{a} keeps {cost[a]:.2f} less than the best: what does that leave to draw?",
        ),
        (lambda a: a == true, f"of those that keep, {', '.join(kept.index)}: which lies leftmost?"),
        right=lambda a: (
            f"{a} hides {both['hidden'][a]:.2f} and keeps {both['near'][a]:.2f} of the neighbours;"
            f" {least} hides {both['hidden'][least]:.2f} and keeps {both['near'][least]:.2f}."
        ),
    )
