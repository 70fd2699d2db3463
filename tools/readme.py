"""The README's pictures: `python -m tools.readme`, and after `make book` `--tour build/book` and
`--book build/book/html`.

The first is of the default erasure: church is erased with every setting as it comes; what is shown
are the first prompts of each group, so none is chosen for how it came out. The tour's cards are
parts of the pictures that the book's notebooks drew, docs/RESULTS.md's are whole ones; the book's
own is two of its pages. Colours stay as they are drawn: a palette would turn the rare ones, which
mean something, into others.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path

import pandas as pd
from PIL import Image

from erase_lib import EraseConfig, erase, load_pipeline
from erase_lib.files import DATA
from erase_lib.measure import Judge, draw, evaluation_prompts, verdicts
from erase_lib.show import before_after
from tools.chromium import ARGUMENTS, chromium

SHOWN = {"target": 4, "near": 4, "far": 8}
DOCS = DATA.parent / "docs"
WIDE = 480  # a card is shown at half of it
# of a notebook's picture, known by how its caption begins: left, upper, right, lower, in shares
CARDS = {
    "01_quickstart": ("Each prompt before", (0, 0.03, 0.6, 0.345)),
    "02_concept_sensitivity": ("The five most and", (0, 0, 1, 0.46)),
    "03_embedding_map": ("Map by what is drawn", (0.02, 0.05, 0.83, 1)),
    "04_the_method": ("What the teacher predicts", (0, 0, 1, 1)),
    "05_erase": ("Each prompt before", (0, 0.345, 0.75, 0.657)),
    "06_evaluate": ("Every metric of each group", (0, 0, 1, 0.44)),
    "07_compare": ("A mark a method", (0, 0.03, 0.93, 0.9)),
}
FIGURES = {
    "neutral": ("02_concept_sensitivity", "All concepts by δ"),
    "plane": ("07_compare", "A mark a method"),
    "graph": ("09_damage_atlas", "Who hurts whom most"),
    "methods": ("13_many_runs", "δ of each setting"),
    "front": ("17_gone_or_hidden", "Robust and kept"),
    "hidden": ("17_gone_or_hidden", "What each probe finds"),
}

# the book on a screen and on a phone: a place in it, width, height, and by which light
SCREENS = (
    ("01_quickstart.html#before-and-after", 1180, 860, "light"),
    ("02_concept_sensitivity.html#how-uneven-is-it", 390, 860, "dark"),
)
LOADED = """() => Promise.all([...document.images].map((p) => {
  p.loading = "eager";
  return p.decode().catch(() => null);
}))"""
GAP = 24  # pixels between them


def screens(pages: Path) -> None:
    """Write docs/book.png of the pages of a book."""
    from playwright.sync_api import sync_playwright  # of `dev`, as the explorers' tests

    drawn = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        for place, width, height, light in SCREENS:
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=light)  # type: ignore[arg-type]
            page.goto(f"{pages.resolve().as_uri()}/{place}")
            page.evaluate(LOADED)
            page.evaluate("location.href = location.hash")  # where pictures have moved it away
            page.wait_for_timeout(500)
            drawn.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        browser.close()
    whole = Image.new("RGB", (sum(p.width for p in drawn) + GAP, drawn[0].height), "#b6bcc2")
    whole.paste(drawn[0], (0, 0))
    whole.paste(drawn[1], (drawn[0].width + GAP, 0))
    whole.save(DOCS / "book.png", optimize=True)


def picture(book: Path, name: str, caption: str) -> Image.Image | None:
    """What the notebook's cell drew whose comment begins so; None where the book has not run it."""
    for run in (book / "executed").glob(f"{name}-{'?' * 12}.ipynb"):
        for cell in json.loads(run.read_text("utf-8"))["cells"]:
            if "".join(cell["source"]).startswith(f"# {caption}"):
                found = (o.get("data", {}).get("image/png") for o in cell["outputs"])
                png = next(filter(None, found))
                return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    return None


def tour(book: Path) -> None:
    """Write docs/tour_NN.png and docs/RESULTS.md's from the notebooks that a book has run."""
    for name, (caption, part) in CARDS.items():
        if drawn := picture(book, name, caption):
            sizes = (drawn.width, drawn.height) * 2
            drawn = drawn.crop(tuple(round(a * b) for a, b in zip(part, sizes, strict=True)))
            card = drawn.resize((WIDE, WIDE * drawn.height // drawn.width), Image.LANCZOS)
            card.save(DOCS / f"tour_{name[:2]}.png", optimize=True)
    for file, of in FIGURES.items():
        if drawn := picture(book, *of):
            drawn.save(DOCS / f"{file}.png", optimize=True)


def first() -> None:
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
    figure.savefig(DOCS / "before_after.png", dpi=190)


def main() -> None:
    """The first picture, or the cards of the tour, or the book's."""
    parser = argparse.ArgumentParser(prog="tools.readme", description=__doc__)
    parser.add_argument("--tour", type=Path, metavar="BOOK", help="the folder of a built book")
    parser.add_argument("--book", type=Path, metavar="PAGES", help="the pages of a built book")
    given = parser.parse_args()
    if given.tour or given.book:
        for draw_from, draw_it in ((given.tour, tour), (given.book, screens)):
            draw_it(draw_from) if draw_from else None
    else:
        first()


if __name__ == "__main__":
    main()
