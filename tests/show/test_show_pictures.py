"""One grid of pictures: what stands where, and what is said below."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from erase_lib import EraseError, show


def pictures(n, first=0):
    return [Image.new("RGB", (8, 8), (first + i, 0, 0)) for i in range(n)]


def reds(figure):
    """Of each picture's axes, by lines from the top, the picture's red."""
    lines: dict[float, list] = {}
    for ax in figure.axes:
        lines.setdefault(-round(ax.get_position().y0, 3), []).append(ax)
    ordered = [sorted(line, key=lambda a: a.get_position().x0) for _, line in sorted(lines.items())]
    return [[int(ax.images[0].get_array()[0, 0, 0]) for ax in line] for line in ordered]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def words_inside(figure):
    """Whether every letter lies within the figure, and no picture's letters meet another's."""
    figure.canvas.draw()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    ends = figure.bbox.max
    inside = all((box.min >= 0).all() and (box.max <= ends).all() for box in boxes)
    return inside and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_rows_go_on_below_after_eight_pictures():
    figure = show.grid({"a": pictures(8), "b": pictures(8, 100)})
    assert reds(figure) == [list(range(8)), list(range(100, 108))]
    figure = show.grid({"a": pictures(10), "b": pictures(9, 100)}, [f"h{i}" for i in range(10)])
    starts = ((0, 5), (100, 105), (5, 10), (105, 109))
    assert reds(figure) == [list(range(*ends)) for ends in starts]
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == [f"h{i}" for i in range(10)]
    assert figure.get_figwidth() <= 8.5


def test_a_group_that_fits_into_a_line_is_not_broken():
    groups = ["target"] * 3 + ["near"] * 5 + ["far"] * 7 + ["other"] * 2
    figure = show.grid({"": pictures(17)}, groups=groups)
    assert reds(figure) == [list(range(8)), list(range(8, 15)), [15, 16]]
    assert texts(figure) == ["target", "near", "far", "other"]


def test_letters_are_readable_inside_and_apart():
    heads = ["a very long name of a prompt in Van Gogh style"] * 9
    below = {"original": ["✓ hippopotamus"] * 9, "erased": ["✗ stained glass window"] * 9}
    rows = {"original": pictures(9), "erased": pictures(9)}
    figure = show.grid(rows, heads, below, "A title " * 20, ["target"] * 4 + ["far"] * 5)
    assert words_inside(figure)
    shown = [ax.title for ax in figure.axes] + [ax.xaxis.label for ax in figure.axes]
    sizes = [t.get_fontsize() for t in [*shown, *figure.texts]]
    assert min(sizes) / 72 * 816 / figure.get_figwidth() >= 11  # px where it is 816 px wide


@pytest.mark.parametrize(
    ("n", "given", "says"),
    [
        (0, {}, "0 pictures"),
        (2, {"heads": ["x"]}, "1 heads for 2"),
        (2, {"groups": ["x"] * 3}, "3 groups for 2"),
        (2, {"below": {"a": ["x"]}}, "1 words below 'a'"),
    ],
)
def test_a_wrong_number_of_anything_is_an_error(n, given, says):
    with pytest.raises(EraseError, match=says):
        show.grid({"a": pictures(n)}, **given)


def test_a_figure_of_ones_own_is_not_pyplots():
    own = Figure()
    assert show.grid({"a": pictures(1)}, figure=own) is own and not plt.get_fignums()


def test_a_verdict_is_a_mark_and_a_word():
    assert show.marked(["dog", "cat"], "dog") == ["✓ dog", "✗ cat"]
    assert show.marked(["dog", "cat"], ["cat", "cat"]) == ["✗ dog", "✓ cat"]


def verdicts(ranks, seen, **more):
    return pd.DataFrame({"concept": ["dog", "cat"], "rank": ranks, "seen": seen, **more})


def test_before_and_after_say_what_is_seen():
    old, new = verdicts([0, 0], ["dog", "cat"]), verdicts([3, 0], ["bus", "cat"])
    old["style"] = ["noto", None]
    figure = show.before_after(pictures(2), pictures(2, 100), old, new, ["dog"], "t")
    assert reds(figure) == [[0, 1], [100, 101]]
    assert [ax.get_xlabel() for ax in figure.axes] == ["✓ dog", "✓ cat", "✗ bus", "✓ cat"]
    assert [ax.get_title() for ax in figure.axes] == ["erase: dog\nnoto", "cat", "", ""]
    assert figure.axes[0].get_ylabel() == "original" and figure.axes[2].get_ylabel() == "erased"
    old["group"] = ["target", "far"]
    grouped = show.before_after(pictures(2), pictures(2), old, new, ["dog"])
    assert texts(grouped) == ["target", "far"] and grouped.axes[0].get_title() == "dog\nnoto"


def test_an_evaluation_shows_some_prompts_of_each_group():
    rows = [
        (group, prompt, seed, model)
        for model in ("original", "erased")
        for group in ("target", "styled", "theme")
        for prompt in "pqrs"
        for seed in (1, 2)
    ]
    table = pd.DataFrame(rows, columns=["group", "prompt", "seed", "model"])
    table = table.assign(seen="dog", style_seen="noto", style_rank=0.0)
    table["rank"] = np.where(table["model"] == "erased", 1.0, 0.0)
    table.loc[table["group"] == "theme", "rank"] = np.nan
    metrics = {"target": ("ESR-1",), "styled": ("ESR-1 style",), "theme": ("CLIP score",)}
    suite = SimpleNamespace(groups={g: SimpleNamespace(metrics=m) for g, m in metrics.items()})
    drawn = {"before": pictures(24), "after": pictures(24, 100)}
    found = SimpleNamespace(pictures=table, suite=suite, **drawn)
    figure = show.evaluation_pictures(found, each=3, title="t")
    # the first seed's alone, spread from the first to the last prompt
    assert reds(figure)[:2] == [[0, 2, 6, 8, 10, 14], [100, 102, 106, 108, 110, 114]]
    assert reds(figure)[2:] == [[16, 18, 22], [116, 118, 122]]
    said = [ax.get_xlabel() for ax in figure.axes]
    assert said[:6] == ["✓ dog"] * 3 + ["✓ noto dog"] * 3 and said[6:9] == ["✗ dog"] * 3
    assert said[12:] == ["dog"] * 6  # what was asked for is no class
    assert [ax.get_title() for ax in figure.axes][:3] == list("pqs")


def test_what_is_listened_to_is_bright():
    weights = torch.zeros(2, 2)
    weights[0, 1] = 3.0
    shown = np.asarray(show.overlay(Image.new("RGB", (16, 16), "white"), weights), dtype=int)
    assert shown.shape == (256, 256, 3)
    assert shown[8, -8].sum() > shown[-8, 8].sum() + 100
    show.overlay(Image.new("L", (16, 16)), torch.ones(2, 2))  # all alike


def test_every_concept_has_a_thumbnail(refused):
    assert show.thumbnails()["church"].size == (128, 128)
    refused(show.thumbnails, "nto", says="style 'nto' 'noto'")
