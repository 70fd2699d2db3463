"""The tour's pages: what they show of a notebook and what not, and those that are in docs/tour."""

import base64
import io
import re
import warnings

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from course import tour
from course.plan import ROOT, notebook, tagged, title_of

DOCS = ROOT / "docs" / "tour"
PICTURE = re.compile(r"!\[(.*?)\]\((\S+)\)")


def picture(wide, high, noise=False):
    """A picture as a notebook holds it."""
    shape = high, wide, 3
    values = np.random.default_rng(0).integers(0, 255, shape) if noise else np.zeros(shape)
    file = io.BytesIO()
    Image.fromarray(values.astype("uint8")).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def made(*cells):
    """A notebook of (source, tags, outputs); a source that begins with # is a text."""
    nb = nbformat.v4.new_notebook()
    for source, tags, outputs in cells:
        new = nbformat.v4.new_markdown_cell if source[0] == "#" else nbformat.v4.new_code_cell
        nb.cells.append(new(source, metadata={"tags": tags}))
        if outputs:
            nb.cells[-1].outputs = outputs
    return nb


def data(**kinds):
    kinds = {kind.replace("_", "/"): value for kind, value in kinds.items()}
    return nbformat.v4.new_output("display_data", kinds)


def test_a_page_folds_code_shows_results_and_keeps_solutions_to_itself(tmp_path):
    table = pd.DataFrame({"n": [1, 2]}).style.to_html() + "\n"
    stream = nbformat.v4.new_output("stream", text="\x1b[1m3 of 4\x1b[0m\n")
    nb = made(
        (
            "# A [b](02_concept_sensitivity.ipynb#x), [c](GLOSSARY.md#c) and [d](https://d.org)",
            [],
            [],
        ),
        ("import os", [], []),
        ("n = 3", [], [stream]),
        (
            "show()",
            [],
            [data(image_png=picture(900, 90), text_plain="The [title]"), data(text_html=table)],
        ),
        ("answer = None", ["exercise"], []),
        ("answer = 42", ["solution"], []),
        (
            "checks.n01.exercise1(answer)",
            ["check"],
            [nbformat.v4.new_output("stream", text="right: 42")],
        ),
    )
    page = tour.Page("01.md", nb, title_of(nb))
    text = "\n\n".join(tour.body(page, tmp_path))
    assert "[b](02.md#x), [c](../../notebooks/GLOSSARY.md#c) and [d](https://d.org)" in text
    assert "import os\n\nn = 3\n```\n\n</details>\n\n```text\n3 of 4\n```" in text
    assert "![The title](01_1.webp)" in text and "answer = None" in text
    assert "42" not in text and "style" not in text and "\n\n<t" not in text.split("<table>")[1]
    assert Image.open(tmp_path / "01_1.webp").size == (816, 82)


def test_a_busy_picture_is_pressed(tmp_path):
    busy = picture(500, 400, noise=True)
    tour.small(busy, tmp_path / "a.webp")
    assert (tmp_path / "a.webp").stat().st_size < len(busy) / 4


def test_a_page_is_stale_once_its_notebook_says_something_else(monkeypatch):
    nb = made(("# A", [], []), ("n = 3", [], []))
    monkeypatch.setattr(tour, "notebook", lambda name: nb)
    page = f"sources `{tour.sources(nb)}`"
    nb.cells[1].outputs = [nbformat.v4.new_output("stream", text="other")]
    assert not tour.stale(page, "01_quickstart")
    nb.cells[1].source = "n = 4"
    assert tour.stale(page, "01_quickstart")


@pytest.mark.parametrize(("name", "file"), tour.TOUR.items())
def test_the_page_of_a_notebook(name, file):
    text = (DOCS / file).read_text("utf-8")
    assert f'href="docs/tour/{file}"' in (ROOT / "README.md").read_text("utf-8")
    assert f"(../../notebooks/{name}.ipynb)" in text and title_of(notebook(name)) in text
    assert "embedded model `" in text and "commit `" in text and "in its course profile" in text
    assert not re.search(r"(?<![\w./])/(home|tmp|work|root|Users|opt|var)/", text), (
        "a machine's path"
    )
    for cell in notebook(name).cells:
        if tagged(cell, "solution") or tagged(cell, "check"):
            assert cell.source not in text
    assert not re.search(r"^(right|not right|not yet)\b", text, re.MULTILINE)
    drawn = PICTURE.findall(text)
    assert len(drawn) >= 2 and [path for _, path in drawn] == sorted(
        (p.name for p in DOCS.glob(f"{file[:2]}_*.webp")), key=lambda n: int(n[3:-5])
    )
    for alt, path in drawn:
        assert len(alt) > 5 and Image.open(DOCS / path).width <= tour.WIDE
    if tour.stale(text, name):  # prose may be mended without hours of drawing
        warnings.warn(f"docs/tour/{file} is older than its notebook: make tour", stacklevel=1)


def test_the_tour_is_light():
    assert sum(path.stat().st_size for path in DOCS.iterdir()) <= 3_000_000
