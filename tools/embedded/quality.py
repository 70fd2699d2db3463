"""The quality of the shipped model by the judge: 30 DDIM steps, guidance scale 4, fixed seeds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from erase_lib.diffusion import generate
from erase_lib.measure import Judge, bootstrap, verdicts
from erase_lib.models import EMBEDDED, load_pipeline
from tools import one_line
from tools.embedded import common


def measure(
    others: int | None = None,
    model: Path = EMBEDDED,
    steps: int = 30,
    spacing: str | None = None,
) -> pd.DataFrame:
    """Concept and style accuracy on the ten classes and on `others` more concepts (None: all).

    Prompts "a {concept} in {style} style", each drawn once; intervals resample concepts. The
    judge is the one in data/models, whichever pipeline folder `model` is. `spacing`: another
    `timestep_spacing` of the scheduler than the model's own; "trailing" begins at more noise.
    """
    objects = pd.read_csv(common.DATA / "emoji" / "objects.csv")["concept"].tolist()
    rest = pd.read_csv(common.DATA / "emoji" / "concepts.csv", keep_default_na=False)["concept"]
    rest = sorted(set(rest) - set(objects))
    if others is not None:
        rest = sorted(np.random.default_rng(0).choice(rest, others, replace=False))
    asked = [(c, s) for c in objects + rest for s in common.STYLES]
    table = pd.DataFrame(asked, columns=["concept", "style"])
    table["prompt"] = "a " + table["concept"] + " in " + table["style"] + " style"
    table["seed"] = range(len(table))
    pipe = load_pipeline(model)
    if spacing:
        pipe.scheduler.register_to_config(timestep_spacing=spacing)
    pictures = generate(pipe, list(table["prompt"]), seed=0, steps=steps, batch_size=32)
    seen = verdicts(Judge.load(), pictures, table)
    parts = {"ten classes": seen["concept"].isin(objects), "all": seen["concept"].notna()}
    parts |= {style: seen["style"] == style for style in common.STYLES}
    rows = []
    for name, part in parts.items():
        chosen = seen[part]
        right = {"concept": chosen["rank"] == 0, "style": chosen["style_seen"] == chosen["style"]}
        for what, ok in right.items():
            low, high = bootstrap(ok.to_numpy(), chosen["concept"].to_numpy())
            row = {"on": name, "what": what, "value": ok.mean(), "low": low, "high": high}
            rows.append(row | {"n": len(chosen), "measured_by": chosen["measured_by"].iloc[0]})
    return pd.DataFrame(rows)


def save(table: pd.DataFrame, model: Path = EMBEDDED) -> None:
    """Write the table beside the weights that it is about."""
    rows = table.round(4).to_dict("records")
    (model / "quality.json").write_text(json.dumps(rows, indent=1))


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the embedded model, and save it for the default steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--others", type=int, help="so many concepts beside the ten; all if absent")
    parser.add_argument("--model", type=Path, default=EMBEDDED, help="another pipeline's folder")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--spacing", help="of the timesteps: leading, trailing or linspace")
    given = parser.parse_args(arguments)
    result = measure(given.others, given.model, given.steps, given.spacing)
    print(result.round(3).to_string(index=False))
    if given.steps == 30 and not given.spacing:
        save(result, given.model)


if __name__ == "__main__":
    sys.exit(main())
