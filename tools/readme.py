"""The README's first picture, by the default erasure: `python -m tools.readme`.

Church is erased with every setting as it comes; what is shown are the first prompts of each group,
so none is chosen for how it came out.
"""

from __future__ import annotations

import pandas as pd

from erase_lib import EraseConfig, erase, load_pipeline
from erase_lib.files import DATA
from erase_lib.measure import Judge, draw, evaluation_prompts, verdicts
from erase_lib.show import before_after

SHOWN = {"target": 4, "near": 4, "far": 8}


def main() -> None:
    """Erase, draw and write docs/before_after.png."""
    pipe, judge, config = load_pipeline(), Judge.load(), EraseConfig(targets=("church",))
    asked = evaluation_prompts(pipe, config.targets, near=SHOWN["near"], far=SHOWN["far"])
    asked = asked.drop_duplicates(["concept", "style"])
    near = asked[asked["group"] == "near"].drop_duplicates("concept")
    groups = [near if name == "near" else asked[asked["group"] == name] for name in SHOWN]
    prompts = pd.concat([of.head(n) for of, n in zip(groups, SHOWN.values(), strict=True)])
    erasure = erase(pipe, config, [])
    seen = []
    for name, given in (("original", None), ("erased", erasure)):
        pictures = draw(
            pipe, list(prompts["prompt"]), list(prompts["seed"]), 30, erasure=given, keep=False
        )
        table = verdicts(judge, pictures, prompts, name).assign(group=prompts["group"].to_list())
        seen.append((list(pictures), table))
    (before, old), (after, new) = seen
    figure = before_after(before, after, old, new, config.targets)
    figure.savefig(DATA.parent / "docs" / "before_after.png", dpi=190)


if __name__ == "__main__":
    main()
