"""An erasure measured on a suite: pictures before and after, what they are found to show, and rows
that each say what measured them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, unwritable
from erase_lib.files import whole
from erase_lib.measure.instruments import Instruments, load_instruments
from erase_lib.measure.pictures import CACHE, draw
from erase_lib.measure.prompts import suite_prompts
from erase_lib.measure.rows import summarise
from erase_lib.measure.suite import Suite
from erase_lib.models import Pipeline


@dataclass
class Evaluation:
    """What one erasure does on one suite."""

    suite: Suite
    rows: pd.DataFrame
    """Tidy, see `rows.COLUMNS`."""
    pictures: pd.DataFrame
    """A row a picture: the suite's prompt, model (original, erased), and what was found."""
    before: Sequence[Image.Image]
    after: Sequence[Image.Image]
    targets: tuple[str, ...]

    def save(self, folder: str | Path) -> Path:
        """NAME_rows.csv and NAME_pictures.parquet. `EraseError` if they cannot be written."""
        folder, name = Path(folder), self.suite.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole(folder / f"{name}_rows.csv", folder / f"{name}_pictures.parquet") as (
                rows,
                pictures,
            ):
                self.rows.to_csv(rows, index=False)
                self.pictures.to_parquet(pictures, index=False)
        except OSError as error:
            raise unwritable(folder, error) from None
        return folder


def evaluate(
    pipe: Pipeline,
    erasure: Erasure,
    suite: Suite,
    instruments: Instruments,
    folder: str | Path | None = None,
    most: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Draw the suite with and without the erasure, from the same noise, and count.

    The unedited model's pictures are cached for all; the erased ones in `folder`, where the results
    go too. Cut off, the same call goes on with the pictures that are there. `most` prompts of a
    group at most (0: all). 2 · steps evaluations of the UNet a picture. Raises `EraseError` for an
    erasure of another base model or other targets than the suite's, and as `Evaluation.save`.
    """
    erasure.check(pipe)
    prompts = suite_prompts(pipe, suite, erasure.config.targets, most)
    instruments.check(suite, prompts)
    ask = list(prompts["prompt"]), list(prompts["noise"]), suite.steps, suite.guidance_scale
    own = Path(folder) / "pictures" if folder else CACHE
    before = draw(pipe, *ask, progress=progress)
    after = draw(pipe, *ask, folder=own, progress=progress, erasure=erasure)
    found, rows = summarise(suite, prompts, before, after, instruments)
    evaluation = Evaluation(suite, rows, found, before, after, erasure.config.targets)
    if folder:
        evaluation.save(folder)
    return evaluation


def evaluate_runs(
    pipe: Pipeline,
    runs: Sequence[str | Path],
    suite: Suite,
    most: int = 0,
    progress: bool = True,
    **given: Any,
) -> tuple[dict[str, Evaluation], dict[str, str]]:
    """Each run folder on the suite, and beside it what was wrong with those that could not be.

    A folder that is not whole, of another model or of other targets does not stop the others.
    `given` goes to `load_instruments`. Raises `EraseError` for no folder at all, and for what would
    stop every one of them, such as a classifier that does not know the concepts.
    """
    if not runs or isinstance(runs, (str, Path)):
        raise EraseError(f"runs is {runs!r}: expected a list of at least one run's folder")
    found: dict[str, Evaluation] = {}
    wrong: dict[str, str] = {}
    for run in map(Path, runs):
        try:
            erasure = Erasure.load(run)
            erasure.check(pipe)
            suite.split(erasure.config.targets)
        except EraseError as error:
            wrong[str(run)] = str(error)
            continue
        instruments = load_instruments(suite, erasure.config.targets, **given)
        found[str(run)] = evaluate(pipe, erasure, suite, instruments, run, most, progress)
    return found, wrong
