"""The README's pictures: `python -m tools.readme`, and `--tour build/book` after `make book`.

The first is of the default erasure: church is erased with every setting as it comes; what is shown
are the first prompts of each group, so none is chosen for how it came out. The tour's cards are
parts of the pictures that the book's notebooks drew.
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

SHOWN = {"target": 4, "near": 4, "far": 8}
DOCS = DATA.parent / "docs"
WIDE = 480  # a card is shown at half of it
# which picture of a notebook, and its part: left, upper, right, lower as shares of it
CARDS = {
    "01_quickstart": (2, (0, 0.03, 0.6, 0.345)),
    "03_embedding_map": (1, (0.02, 0.05, 0.83, 1)),
    "04_the_method": (1, (0, 0, 1, 1)),
    "05_erase": (2, (0, 0.345, 0.75, 0.657)),
}


def tour(book: Path) -> None:
    """Write docs/tour_NN.png from the notebooks that a book has run."""
    for name, (number, part) in CARDS.items():
        (run,) = (book / "executed").glob(f"{name}-{'?' * 12}.ipynb")
        cells = json.loads(run.read_text("utf-8"))["cells"]
        drawn = [o["data"] for cell in cells for o in cell.get("outputs", []) if "data" in o]
        pictures = [data["image/png"] for data in drawn if "image/png" in data]
        picture = Image.open(io.BytesIO(base64.b64decode(pictures[number]))).convert("RGB")
        sizes = (picture.width, picture.height) * 2
        picture = picture.crop(tuple(round(a * b) for a, b in zip(part, sizes, strict=True)))
        card = picture.resize((WIDE, WIDE * picture.height // picture.width), Image.LANCZOS)
        card.quantize(128).save(DOCS / f"tour_{name[:2]}.png", optimize=True)


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
    """The first picture, or the cards of the tour."""
    parser = argparse.ArgumentParser(prog="tools.readme", description=__doc__)
    parser.add_argument("--tour", type=Path, metavar="BOOK", help="the folder of a built book")
    book = parser.parse_args().tour
    tour(book) if book else first()


if __name__ == "__main__":
    main()
