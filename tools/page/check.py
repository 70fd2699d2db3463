"""What the page's rounding of the weights costs: the judge's verdicts that stay.

python -m tools.page.check [--bits 8] [--concepts 40]: so many concepts × 4 styles, eight DDIM
steps, guidance scale 4, drawn from the shipped weights and from those that the page reads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from erase_lib import generate, load_pipeline
from erase_lib.concepts import EMOJI, concept_table, style_names
from erase_lib.files import whole_table
from erase_lib.measure import Judge, bootstrap, prompt_table, verdicts
from tools import one_line
from tools.page.export import as_shipped

STEPS = 8  # as the page begins


def asked(concepts: int) -> pd.DataFrame:
    """The ten classes and as many more concepts, spread over all, in every style."""
    classes = whole_table(EMOJI / "objects.csv")["concept"].tolist()
    rest = [c for c in concept_table()["concept"] if c not in classes]
    names = [*classes, *rest[:: -(-len(rest) // max(1, concepts - len(classes)))]][:concepts]
    return prompt_table([(c, s) for c in names for s in style_names()])


def measure(bits: int, concepts: int = 40, steps: int = STEPS) -> pd.DataFrame:
    """Rows `what` (concept, style), value (share of verdicts that are as before the rounding), low,
    high (95 %, bootstrap over concepts), n, before and after (how often each is right)."""
    table = asked(concepts)
    seen, judge = list[pd.DataFrame](), Judge.load()
    for change in (lambda pipe: pipe, lambda pipe: as_shipped(pipe, bits)):
        pipe = change(load_pipeline(device="cpu"))
        pictures = generate(pipe, list(table["prompt"]), seed=0, steps=steps)
        seen.append(verdicts(judge, pictures, table))
    rows = []
    for what, column in (("concept", "rank"), ("style", "style_rank")):
        before, after = (np.asarray(one[column] == 0) for one in seen)
        low, high = bootstrap(before == after, table["concept"].to_numpy())
        row = {"what": what, "value": np.mean(before == after), "low": low, "high": high}
        row |= {"n": len(table), "before": before.mean(), "after": after.mean()}
        rows.append(row | {"measured_by": seen[0]["measured_by"].iloc[0]})
    return pd.DataFrame(rows)


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a weight")
    parser.add_argument("--concepts", type=int, default=40)
    given = parser.parse_args(arguments)
    print(measure(given.bits, given.concepts).round(4).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
