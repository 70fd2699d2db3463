"""What pictures are found to show, each instrument's word on each of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from erase_lib.measure.instruments import Instruments
from erase_lib.measure.judges import Judge, ranks
from erase_lib.measure.metrics import likelihoods
from erase_lib.measure.suite import Suite


def look(
    suite: Suite,
    prompts: pd.DataFrame,
    pictures: Sequence[Image.Image],
    instruments: Instruments,
    spent: dict[str, float],
) -> tuple[pd.DataFrame, Tensor]:
    """The prompts with what each picture is found to show; and CLIP features `(n, dim)`.

    Columns: seen (the likeliest concept), rank and probability of the concept asked for, style_seen
    and style_rank, clip (score), score (of the detector), each where it can be told. `spent` gets
    the seconds by column.
    """
    table = prompts.copy()
    begin = time.perf_counter()
    judge = instruments.classifier
    likely, of_style = likelihoods(judge, pictures)
    table["seen"] = [judge.concepts[i] for i in likely.argmax(1)]
    counts = {
        g
        for g, of in suite.groups.items()
        if any(m[:3] in ("ESR", "PSR") and not m.endswith(" style") for m in of.metrics)
    }
    known = (table["group"].isin(counts) & table["concept"].notna()).to_numpy(copy=True)
    columns = judge.index(table["concept"][known])
    table["rank"], table["probability"] = np.nan, np.nan
    table.loc[known, "rank"] = ranks(likely[known], columns)
    table.loc[known, "probability"] = likely[np.flatnonzero(known), columns]
    if of_style is not None and isinstance(judge, Judge) and table["style"].notna().any():
        table["style_seen"] = [judge.styles[i] for i in of_style.argmax(1)]
        named = table["style"].isin(judge.styles).to_numpy()
        wanted = np.array([judge.styles.index(s) for s in table["style"][named]], dtype=int)
        table["style_rank"] = np.nan
        table.loc[named, "style_rank"] = ranks(of_style[named], wanted)
    spent["rank"] = spent.get("rank", 0) + time.perf_counter() - begin
    begin = time.perf_counter()
    text = instruments.clip.text_features(list(table["prompt"]))
    features = instruments.clip.image_features(pictures)
    fit = (features * text).sum(1)
    table["clip"] = 100 * fit.clamp(min=0).numpy()
    spent["clip"] = spent.get("clip", 0) + time.perf_counter() - begin
    if instruments.detector is not None:
        begin = time.perf_counter()
        table["score"] = instruments.detector.scores(pictures)
        spent["score"] = spent.get("score", 0) + time.perf_counter() - begin
    return table, features
