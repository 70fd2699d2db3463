"""Every figure at the widths it is shown at: letters that can be read, none of them smeared over
another; methods that can be told apart without their colours; a caption for each."""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import Collection, QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from erase_lib import show
from erase_lib.concepts import neutral_concepts
from erase_lib.show.charts import COLOURS, LOOKS, SHADES, series

PAGE, INLINE, LEAST = 816, 100, 9  # px: of the page, of an inch in a notebook, of a letter
METHODS = ["esd", "esd_neutral", "ca", "eap, random", "eap, gumbel", "eap, movement", "age"]
METHODS += ["uce", "rece", "speed", "eap_closed"]
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = list(show.thumbnails())[:40]
rng = np.random.default_rng(0)


def spread(names, column, **more):
    """A row a name: value, low and high of shares, and what else is given."""
    value = rng.uniform(0.6, 1, len(names))
    ends = {"low": value - 0.3, "high": value + 0.3}
    return pd.DataFrame({column: names, "value": value, **ends, **more})


def metrics(column="setting"):
    parts = [spread(METHODS, column, metric=m, runs=10, groups=5) for m in ("ESR-1", "PSR-1 near")]
    return pd.concat(parts, ignore_index=True)


def runs():
    parts = [metrics().assign(targets=t, model="erased") for t in NAMES[:10]]
    return pd.concat(parts, ignore_index=True)


def deltas(n=40, neutral=3):
    concepts = [*NAMES[:n], *neutral_concepts()[:neutral]]
    return spread(concepts, "concept", n=8).rename(columns={"value": "delta"})


def rates():
    told = {"group": "target", "n": 80, "measured_by": "a judge of a long name, c2ac5488"}
    both = [
        spread([f"NER-{τ}" for τ in (0.3, 0.5, 0.8)] + ["ESR-1", "FID"], "metric", model=m, **told)
        for m in ("original", "erased")
    ]
    return pd.concat(both, ignore_index=True)


def levels():
    axes = (("target", "ESR-1"), ("near", "PSR-1"))
    return pd.concat(
        [spread(METHODS, "setting", group=g, metric=m) for g, m in axes], ignore_index=True
    )


def history(n=60):
    pi = rng.dirichlet(np.ones(12), n).tolist()
    chosen = ["|".join(rng.choice(NAMES[:12], 4)) for _ in range(n)]
    falling = {"l1": np.exp(-np.arange(n) / 9), "l2": [1e-12, *rng.uniform(0.01, 0.02, n - 1)]}
    return pd.DataFrame({"step": range(n), **falling, "chosen": chosen, "pi": pi})


def pairs(n=10):
    ends = {"a": NAMES[:n], "b": NAMES[n : 2 * n], "forward": rng.normal(size=n)}
    return pd.DataFrame(ends | {"backward": rng.normal(size=n)}).assign(
        forward_error=0.4, backward_error=0.5
    )


def square(n=30):
    return pd.DataFrame(rng.normal(size=(n, n)), NAMES[:n], NAMES[:n])


def web(n=16):
    graph = nx.DiGraph()
    ties = [(NAMES[i], NAMES[(i + k) % n], 1.0 / k) for i in range(n) for k in (1, 2)]
    graph.add_weighted_edges_from(ties)
    return graph, {name: i // 3 for i, name in enumerate(NAMES[:n])}


def plots(n=4):
    return [show.thumbnails()[name] for name in NAMES[:n]]


def verdicts(n=4):
    return pd.DataFrame({"concept": NAMES[:n], "rank": 0, "seen": NAMES[:n]})


def evaluation():
    both = [verdicts().assign(prompt=NAMES[:4], group="far", seed=1, model=m) for m in "ab"]
    table = pd.concat(both).replace({"model": {"a": "original", "b": "erased"}})
    suite = SimpleNamespace(groups={"far": SimpleNamespace(metrics=("PSR-1",))})
    return SimpleNamespace(pictures=table, suite=suite, before=plots(), after=plots())


def shares():
    return pd.DataFrame(
        [
            {"score": s, "part": p, "share": v}
            for s in ("judge", "log₂ features")
            for p, v in (("erased", 0.3), ("harmed", 0.2), ("specific", 0.4), ("noise", 0.1))
        ]
    )


def bench():
    table = pd.DataFrame({"name": METHODS, "seconds": np.logspace(-1, 2, 11), "updates": 100})
    return table.assign(timed_updates=[20] + 10 * [100], evaluations=16200)


def held():
    table = pd.DataFrame({"train_method": ["xattn", "noxattn"], "arrangement": "checkpointed"})
    parts = ("weights", "gradients", "optimiser", "activations", "peak")
    return table.assign(**{f"{part}_mb": 4000.0 for part in parts})


def effects():
    kinds = [spread(NAMES, "concept", kind=kind) for kind in ("erased", "harmed")]
    return pd.concat(kinds).rename(columns={"value": "effect"})


def placed():
    flat = deltas(neutral=0).assign(x=rng.normal(size=40), y=rng.normal(size=40))
    return show.concept_map(flat, NAMES[0], show.thumbnails())


FIGURES = {
    "asymmetry": lambda: show.asymmetry(pairs(), pairs()[:4]),
    "before_after": lambda: show.before_after(plots(), plots(), verdicts(), verdicts(), NAMES[:1]),
    "choice_weights": lambda: show.choice_weights(
        [torch.rand(6, 12)] * 4, [0.1, 1.0, 5.0, 10.0], "six choices"
    ),
    "chosen_map": lambda: show.chosen_map(history(), NAMES[:12]),
    "concept_map": placed,
    "costs": lambda: show.costs(bench()),
    "delta_bars": lambda: show.delta_bars(
        deltas(), NAMES[:1], neutral_concepts()[:3], show.thumbnails()
    ),
    "dots": lambda: show.dots(spread(METHODS, "setting"), "setting"),
    "dumbbells": lambda: show.dumbbells(pairs()),
    "evaluation_pictures": lambda: show.evaluation_pictures(evaluation()),
    "extremes": lambda: show.extremes(effects()),
    "footnote": lambda: show.footnote(FIGURES["dots"]().figure, rates()),
    "forest": lambda: show.forest(metrics(), "setting", {"PSR-1 near": 0.9}),
    "graph": lambda: show.graph(*web()),
    "grid": lambda: show.grid({"original": plots(), "erased": plots()}, NAMES[:4], title="erased"),
    "heat_map": lambda: show.heat_map(
        square(), {name: f"kind {i % 9}" for i, name in enumerate(NAMES)}
    ),
    "intervals": lambda: show.intervals(rates()),
    "losses": lambda: show.losses(history()),
    "memory": lambda: show.memory(held()),
    "movement_bars": lambda: show.movement_bars(
        pd.DataFrame(rng.random((12, 2)), [*NAMES[:11], "neutral"], ["half", "end"]), "who moves?"
    ),
    "multiples": lambda: show.multiples(runs(), metrics(), "setting", "targets"),
    "parts": lambda: show.parts(shares()),
    "pi_map": lambda: show.pi_map(history(), NAMES[:12], NAMES[:12]),
    "pivots": lambda: show.pivots(runs(), "targets", "setting"),
    "plane": lambda: show.plane(levels()),
    "preserved": lambda: show.preserved(history()),
    "search_spectrum": lambda: show.search_spectrum(
        {m: pd.DataFrame({"concept": NAMES, "moved": np.arange(40.0, 0, -1)}) for m in METHODS[3:6]}
    ),
    "slopes": lambda: show.slopes(
        pd.Series(rng.random(12), NAMES[:12]), pd.DataFrame(rng.random((12, 2)), NAMES[:12])
    ),
    "spectrum": lambda: show.spectrum(deltas(neutral=12), NAMES[:1], neutral_concepts()),
    "thresholds": lambda: show.thresholds(rates()),
    "titled": lambda: show.titled(show.preserved(history()), "What was found, in words " * 5),
}


def draws(value):
    """Whether it makes a figure, or gives one back: by its hint."""
    hints = getattr(value, "__annotations__", {})
    return inspect.isfunction(value) and {"Axes", "Figure"} & set(map(str, hints.values()))


def test_every_figure_is_looked_at():
    assert {n for n, v in vars(show).items() if draws(v) or n == "titled"} == set(FIGURES)


@cache
def drawn(name):
    made = FIGURES[name]()
    figure = made.figure if isinstance(made, Axes) else made
    figure.set_dpi(INLINE)
    figure.draw_without_rendering()
    return figure


def letters(figure):
    """The texts that are seen, with their boxes."""
    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [(text, text.get_window_extent(renderer)) for text in texts]


@pytest.mark.parametrize("name", FIGURES)
def test_letters_can_be_read_and_no_two_names_of_an_axis_overlap(name):
    figure = drawn(name)
    shown = min(INLINE, PAGE / figure.get_figwidth())  # px an inch, where the page has 816
    small = {t.get_text() for t, _ in letters(figure) if t.get_fontsize() / 72 * shown < LEAST}
    assert figure.get_figwidth() <= 8.5 and not small
    boxes = {id(text): box for text, box in letters(figure)}
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            marks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            along = [t.label1 for t in marks if t.label1.get_visible() and id(t.label1) in boxes]
            # rotated names have upright boxes only when they stand upright
            assert all(t.get_rotation() % 90 == 0 for t in along)
            smeared = [
                (a.get_text(), b.get_text())
                for a, b in combinations(along, 2)
                if boxes[id(a)].shrunk(0.9, 0.7).overlaps(boxes[id(b)].shrunk(0.9, 0.7))
            ]
            assert not smeared


def lightness(colour):
    """CIE L*, 0 black to 100 white: what is left of a colour in grey."""
    linear = [x / 12.92 if x < 0.04 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
    return 116 * np.cbrt(np.dot([0.2126, 0.7152, 0.0722], linear)) - 16


ALIKE = ("oph8", "Dd", "PX")  # marks that look alike where they are small


def test_eleven_methods_are_told_apart_in_grey_too():
    looks = [series(place) for place in range(11)]
    marks = [look["marker"] for look in looks]
    assert len(set(marks)) == 11 and not {"*"} & set(marks)  # the star is the target's
    for a, b in combinations(looks, 2):
        if any(a["marker"] in some and b["marker"] in some for some in ALIKE):
            assert abs(lightness(a["color"]) - lightness(b["color"])) > 20
    for shades in (SHADES, SHADES[1:3]):
        assert min(-np.diff([lightness(shade) for shade in shades][::-1])) > 15


def test_the_colours_of_target_and_neutral_are_theirs_alone():
    own = {LOOKS[kind]["color"] for kind in ("target", "neutral")}
    assert len(own) == 2 and not own & {*COLOURS, *SHADES}
    for name in ("spectrum", "delta_bars"):
        figure = drawn(name)
        lines = [x for ax in figure.axes for x in ax.lines]
        plain = [x.get_marker() for x in lines if x.get_color() == LOOKS["neutral"]["color"]]
        assert "D" in plain and set(plain) <= {"D", "|"}  # | ends an interval
        assert {"“” (empty)", "“a photo”"} <= {t.get_text() for t in figure.findobj(Text)}


def seen(figure):
    """Every colour of lines, areas and their edges."""
    found = set()
    for line in figure.findobj(Line2D):
        found |= {line.get_color(), line.get_mfc(), line.get_mec()}
    found = {to_hex(colour) for colour in found if str(colour).lower() != "none"}
    for some in figure.findobj(lambda a: isinstance(a, (Patch, Collection))):
        for of in (some.get_facecolor, some.get_edgecolor):
            found |= {to_hex(colour) for colour in np.atleast_2d(of()) if len(colour)}
        if isinstance(some, QuadMesh):
            found |= {to_hex(c) for c in some.to_rgba(some.get_array()).reshape(-1, 4)}
    return found


@pytest.mark.parametrize("name", ["graph", "heat_map", "losses"])
def test_what_is_neither_target_nor_neutral_has_not_their_colours(name):
    colours = seen(drawn(name))
    own = {to_hex(LOOKS[kind]["color"]) for kind in ("target", "neutral")}
    assert len(colours) > 2 and not own & colours


def test_communities_have_shapes_and_categories_colours_of_their_own():
    graph, groups = web(30)
    rings = [x for x in show.graph(graph, groups).collections if len(x.get_offsets()) == 1]
    looks = {(to_hex(r.get_edgecolor()[0]), str(r.get_paths()[0].vertices)) for r in rings}
    assert len(rings) == 30 and len(looks) == len(set(groups.values())) == 10
    lines = {x.get_label(): x for x in drawn("losses").axes[0].lines}
    assert {x.get_linestyle() for k, x in lines.items() if k.startswith("L")} == {"-", "--"}
    strips = {patch.get_facecolor() for patch in drawn("heat_map").legends[0].get_patches()}
    assert len(strips) == 9


FIGURE = re.compile(rf"(?:show|figures)\.(?:{'|'.join(FIGURES)}|sheet|channels|clean_errors)\(")


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[01]*.ipynb")), ids=lambda path: path.stem)
def test_a_cell_that_draws_begins_with_a_caption_of_its_own(path):
    """The book takes it for the words of the picture, for those who do not see it."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    own = [c for c in code if not {"exercise", "solution"} & set(c["metadata"].get("tags", ()))]
    sources = ["".join(cell["source"]) for cell in own]
    captions = [s.split("\n")[0] for s in sources if FIGURE.search(s)]
    assert len(set(captions)) == len(captions)
    assert [c for c in captions if not re.fullmatch(r"# .{30,97}", c)] == []
