"""One grid of pictures, and the pictures' own marks: everything that shows what a model draws.
What a judge sees stands below a picture as a mark and a word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import groupby

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from torch import Tensor

from erase_lib.concepts import EMOJI
from erase_lib.errors import EraseError, unknown
from erase_lib.files import whole_table
from erase_lib.measure import Evaluation
from erase_lib.show.charts import SCALE
from erase_lib.show.page import LARGE, LETTER, MEDIUM, SMALL, WIDTH, wrapped

ACROSS = 8  # pictures in a line
FRAME = "#999999"
_LINE = 1.25 * SMALL / 72  # inches from one line of small letters to the next


def grid(
    rows: Mapping[str, Sequence[Image.Image]],
    heads: Sequence[str] = (),
    below: Mapping[str, Sequence[str]] | None = None,
    title: str = "",
    groups: Sequence[str] = (),
    figure: Figure | None = None,
) -> Figure:
    """A named row of pictures above the other, a column a prompt or a setting; `heads` above the
    columns, `below` a row's words under its pictures. `groups`, one a column, those alike beside
    each other, are written over their columns. After eight pictures all rows go on below, a group
    unbroken if it fits into one line; a row may be shorter. `figure`: one of your own, for a
    thread, where pyplot's may not be used. Raises `EraseError` without pictures, or where heads,
    words or groups are too few or too many."""
    n, below = max((len(pictures) for pictures in rows.values()), default=0), below or {}
    if not n:
        raise EraseError("0 pictures to show: give at least one row with one picture")
    counted = [("heads", heads, n), ("groups", groups, n)]
    counted += [(f"words below {k!r}", below.get(k, ()), len(p)) for k, p in rows.items()]
    for what, given, wanted in counted:
        if len(given) not in (0, wanted):
            raise EraseError(f"{len(given)} {what} for {wanted} pictures: expected one each")
    names = {name: wrapped(name, 0.96, SMALL) for name in rows}
    letters = max(len(line) for text in names.values() for line in text.split("\n"))
    left = 0.12 + LETTER * SMALL * letters
    lines = _lines(groups or [""] * n)
    side = min(1.4, (WIDTH - left) / max(map(len, lines)))
    width = left + side * max(map(len, lines))
    narrow = (0.97 * side, SMALL)
    heads = [wrapped(head, *narrow) for head in heads] or [""] * n
    words = {name: [wrapped(word, *narrow) for word in below.get(name, ())] for name in rows}
    title = wrapped(title, width, LARGE)
    # first where everything stands, in inches from the top; the height is known at the end
    bands, top = [], 0.08 + 0.2 * _height([title])
    for columns in lines:
        over, top = top, top + 0.3 * any(groups) + _LINE * _height(heads[i] for i in columns) + 0.06
        at = {}
        for name in rows:
            at[name] = top
            top += side + 0.04 + _LINE * _height(words[name][i] for i in columns if words[name][i:])
        bands.append((columns, over, at))
    figure = figure or plt.figure()
    figure.set_size_inches(width, top + 0.04)
    inch = 1 / figure.get_size_inches()
    for columns, over, at in bands:
        for name, pictures in rows.items():
            for k, i in enumerate(i for i in columns if i < len(pictures)):
                x, y = left + k * side, top + 0.1 - at[name] - side
                ax = figure.add_axes(np.array([x, y, side - 0.06, side - 0.06]) * [*inch, *inch])
                head = heads[i] if name == next(r for r in rows if i < len(rows[r])) else ""
                ax.imshow(pictures[i].convert("RGB").resize((256, 256), Image.Resampling.LANCZOS))
                ax.set(xticks=[], yticks=[])
                ax.set_title(head, fontsize=SMALL, pad=3)
                ax.set_xlabel(words[name][i] if words[name] else "", fontsize=SMALL, labelpad=2)
                ax.spines[:].set(color=FRAME, linewidth=1)
                if k == 0:
                    ax.set_ylabel(names[name], fontsize=SMALL, rotation=0, ha="right", va="center")
        y = top - over - 0.18
        for group, run in groupby(columns if groups else (), key=groups.__getitem__):
            some = [columns.index(i) for i in run]
            x = inch[0] * np.array([left + some[0] * side, left + (some[-1] + 1) * side - 0.06])
            figure.text(x[0], (y + 0.04) * inch[1], group, fontsize=MEDIUM, weight="bold")
            figure.add_artist(Line2D(x, [y * inch[1]] * 2, color=FRAME, lw=1))
    if title:
        figure.suptitle(title, fontsize=LARGE, x=0.01, ha="left", y=1 - 0.06 * inch[1], va="top")
    return figure


def _height(texts: Iterable[str]) -> int:
    """Lines of the highest of these texts."""
    return max((text.count("\n") + 1 for text in texts if text), default=0)


def _lines(groups: Sequence[str]) -> list[list[int]]:
    """The columns of each line: a group begins a new one if it does not fit behind the last, and
    one that fits into no line is broken into even ones."""
    lines: list[list[int]] = [[]]
    for _, run in groupby(range(len(groups)), key=groups.__getitem__):
        some = list(run)
        if len(lines[-1]) + len(some) <= ACROSS:
            lines[-1] += some
        else:
            lines += [list(part) for part in np.array_split(some, -(-len(some) // ACROSS))]
    return [line for line in lines if line]


def marked(seen: Iterable[str], asked: str | Sequence[str]) -> list[str]:
    """What a judge sees as a mark and a word: ✓ it was asked for, ✗ it was not."""
    words = list(seen)
    wanted = [asked] * len(words) if isinstance(asked, str) else asked
    return [f"{'✓' if w == want else '✗'} {w}" for w, want in zip(words, wanted, strict=True)]


def seen_words(verdicts: pd.DataFrame, styled: bool = False) -> list[str]:
    """Mark and word of each row of a table of verdicts; no mark where the rank is not known."""
    ranks, seen = verdicts["style_rank" if styled else "rank"], verdicts["seen"]
    marks = np.select([ranks.isna(), ranks == 0], ["", "✓ "], "✗ ")
    return list(marks + (verdicts["style_seen"] + " " + seen if styled else seen))


def before_after(
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    verdicts_before: pd.DataFrame,
    verdicts_after: pd.DataFrame,
    targets: Sequence[str],
    title: str = "",
) -> Figure:
    """The same prompts and noise, original above erased, and below what the judge sees. Verdicts: a
    row a picture, in the same order: concept, rank, seen and, if known, style. Where the first has
    a column `group` (in the groups' order), the groups stand over their pictures; else "erase:"
    over each picture of a target."""
    groups, heads = list(verdicts_before.get("group", ())), list(verdicts_before["concept"])
    if not groups:
        heads = [f"erase: {concept}" if concept in targets else concept for concept in heads]
    for i, style in enumerate(verdicts_before.get("style", ())):
        heads[i] += f"\n{style}" if isinstance(style, str) else ""
    below = {"original": seen_words(verdicts_before), "erased": seen_words(verdicts_after)}
    return grid({"original": before, "erased": after}, heads, below, title, groups)


def evaluation_pictures(evaluation: Evaluation, each: int = 8, title: str = "") -> Figure:
    """Of each group of the suite up to `each` prompts, spread over it: original above erased, and
    below what the classifier sees, the style too where the group counts styles; without a mark
    where what was asked for is no class of it."""
    table = evaluation.pictures
    old, new = (table[table["model"] == m].reset_index(drop=True) for m in ("original", "erased"))
    chosen: list[int] = []
    below: dict[str, list[str]] = {"original": [], "erased": []}
    for group, counted in evaluation.suite.groups.items():
        seeds = old["seed"][old["group"] == group]
        places = seeds.index[seeds == seeds.min()]
        spread = np.linspace(0, len(places) - 1, min(each, len(places)))
        some = list(places[np.unique(spread.astype(int))])
        styled = any(metric.endswith(" style") for metric in counted.metrics)
        below["original"] += seen_words(old.loc[some], styled)
        below["erased"] += seen_words(new.loc[some], styled)
        chosen += some
    drawn = {"original": evaluation.before, "erased": evaluation.after}
    rows = {name: [pictures[i] for i in chosen] for name, pictures in drawn.items()}
    return grid(rows, list(old["prompt"][chosen]), below, title, list(old["group"][chosen]))


def overlay(picture: Image.Image, weights: Tensor) -> Image.Image:
    """The picture in grey, and over it how much each place listens `(h, w)`: bright is much. The
    colours of one map run from its least to its most, so they say where, not how much."""
    size, low = (256, 256), weights.min()
    scaled = ((weights - low) / (weights.max() - low).clamp(min=1e-12)).float().numpy()
    mask = Image.fromarray((scaled * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    heard = mpl.colormaps[SCALE](np.asarray(mask), bytes=True)
    grey = (np.asarray(picture.convert("L").resize(size), dtype=float) + 120) / 375 * 255
    below, over = (Image.fromarray(a).convert("RGB") for a in (grey.astype(np.uint8), heard))
    return Image.blend(below, over, 0.6)


def thumbnails(style: str = "noto") -> dict[str, Image.Image]:
    """The artists' own picture of every concept of the embedded model, 128 × 128."""
    table = whole_table(EMOJI / "pictures.parquet", columns=["concept", "style", "png"])
    if (rows := table[table["style"] == style]).empty:
        raise unknown("style", style, table["style"].unique())
    return {row.concept: Image.open(BytesIO(row.png)) for row in rows.itertuples()}
