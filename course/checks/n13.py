"""13_many_runs: what matching brings, and what hangs on one target."""

from __future__ import annotations

from typing import Any

import pandas as pd

from course.exercise import check
from erase_lib import measure


def exercise1(guess: Any, ratio: float, few: bool) -> None:
    """Is the matched interval of a difference narrower than that of unmatched runs, or wider?

    `ratio` of their widths; with `few` targets there is no telling.
    """
    found = "narrower" if ratio < 0.9 else "wider" if ratio > 1.1 else "as wide"
    check(
        guess,
        (
            lambda a: a in ("narrower", "wider", "as wide"),
            "choose “narrower”, “wider” or “as wide”",
        ),
        (
            lambda a: few or a == found,
            f"“{found}”, by the median {ratio:.2f} over the settings. Think of a target that is"
            " hard for all methods: what does it do to each mean, and what to the difference?",
        ),
        right="too few targets to tell; with more, see the shipped table."
        if few
        else f"{ratio:.2f} of the width, at no cost. It works as far as the runs of a target have"
        " something in common; look at the row of ESR-1, where there may be nothing left to share.",
    )


def exercise2(gain: Any, runs: pd.DataFrame, base: str, rival: str) -> None:
    """Write the matched difference of two settings, of a table with a hole.

    `runs` of one metric: columns metric, targets, seed, setting, value.
    """
    own = runs[runs["setting"] == base]
    holed = runs.drop(own["value"].idxmin()) if len(own) > 1 else runs  # its hardest run is missing
    holed = holed.sample(frac=1, random_state=0)[["targets", "seed", "setting", "value"]]
    truth = _gaps(holed, base, rival).mean()
    means = holed.groupby("setting")["value"].mean()
    loose = means[rival] - means[base]
    check(
        gain,
        (lambda a: a == a + 0, "one number is asked for, and no NaN: drop what has no match"),
        (
            lambda a: abs(a - truth) < 1e-9 or abs(a - loose) > 1e-9,
            f"{loose:+.3f} is the difference of two means, of which one includes a hard target that"
            " the other lacks: match the runs first",
        ),
        (lambda a: abs(a - truth) < 1e-9 or abs(a + truth) > 1e-9, "upside down: other minus base"),
        (lambda a: abs(a - truth) < 1e-9, lambda a: f"{a:+.3f}, but the runs say {truth:+.3f}"),
        given=(holed, base, rival),
        right=f"{truth:+.3f} for {rival} over {base} in {runs['metric'].iloc[0]}; unmatched, one"
        f" missing run would have made it {loose:+.3f}.",
    )


def exercise3(without: Any, runs: pd.DataFrame, base: str, rival: str) -> None:
    """Without which target does the difference of `rival` from `base` change most?"""
    gaps = _gaps(runs, base, rival)
    whole, names = gaps.mean(), gaps.index.get_level_values("targets")
    moved = pd.Series({name: gaps[names != name].mean() - whole for name in names.unique()})
    check(
        without,
        (lambda a: a in moved, f"choose one of {', '.join(moved.index)}"),
        (
            lambda a: abs(moved[a]) > moved.abs().max() - 1e-9,
            lambda a: (
                f"without {a} it changes by {moved[a]:+.3f} from {whole:+.3f}; without another one"
                f" by {moved[moved.abs().idxmax()]:+.3f}. Both directions count"
            ),
        ),
        right=lambda a: (
            f"without {a} {whole:+.3f} becomes {whole + moved[a]:+.3f}. A finding that hangs on one"
            " target is a finding about that target."
        ),
    )


def exercise4(times: Any, runs: pd.DataFrame, base: str, rival: str) -> None:
    """How many times as many targets make a matched interval of half the width?"""
    both = runs[runs["setting"].isin([base, rival])]
    tried = times if isinstance(times, int) and 1 <= times <= 50 else 1
    copies = [both.assign(targets=both["targets"] + f" {i}") for i in range(tried)]
    once, more = (
        measure.matched_differences(t, "setting", base).iloc[0] for t in (both, pd.concat(copies))
    )
    shrunk = (once["high"] - once["low"]) / max(more["high"] - more["low"], 1e-9)
    check(
        times,
        (lambda a: a == tried, "a whole number from 1 to 50 is asked for"),
        (lambda a: a != 1, "as many targets give the interval that there is"),
        (
            lambda a: a != 2,
            f"twice as many make it {shrunk:.1f} times as narrow: the root of 2 only",
        ),
        (
            lambda a: abs(shrunk - 2) < 0.2 or a == 4,  # of few targets t narrows it further
            lambda a: f"{a} times as many make it {shrunk:.1f} times as narrow",
        ),
        right=f"{times} × {both['targets'].nunique()} targets. A matched design is the cheaper way:"
        " see exercise 1 for what it saved.",
    )


def _gaps(runs: pd.DataFrame, base: str, rival: str) -> pd.Series:
    """The differences of the matched runs of two settings, by target and seed."""
    side = runs.pivot_table(index=["targets", "seed"], columns="setting", values="value")
    return (side[rival] - side[base]).dropna()
