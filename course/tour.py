"""The tour as pages that GitHub shows, pictures and all: notebooks 01 to 07 as they ran.

python -m course.tour [--profile smoke] [--work build/book] [--out docs/tour]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import posixpath
import re
import shutil
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from course.book import Page
from course.execute import executed
from course.plan import NOTEBOOKS, OWN, ROOT, notebook, tagged, title_of
from erase_lib import load_pipeline
from erase_lib.files import as_path, check_ours, whole_folder
from erase_lib.models import fingerprint
from tools import one_line

STEMS = sorted(path.stem for path in NOTEBOOKS.glob("0[1-7]_*.ipynb"))
TOUR = {name: f"{name[:2]}.md" for name in STEMS if OWN.fullmatch(name)}
WIDE, HEAVY = 816, 60_000  # pixels and bytes of a picture; a busy one may weigh more
SMOKE = "**A smoke run: a few steps to see that everything works. Do not quote its numbers.**"


def sources(nb: nbformat.NotebookNode) -> str:
    """A short hash of what a notebook's cells say, not of what they gave."""
    told = "\0".join(cell.cell_type + cell.source for cell in nb.cells)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def stale(page: str, name: str) -> bool:
    """Whether the notebook says something else than when its page was written."""
    return f"`{sources(notebook(name))}`" not in page


def led(source: str) -> str:
    """A text of a notebook whose links lead on from docs/tour."""

    def to(link: re.Match[str]) -> str:
        file, mark, anchor = link[1].partition("#")
        if not file or re.match(r"[a-z]+:", file):
            return link[0]
        there = posixpath.normpath(f"../../notebooks/{file}")
        return f"]({TOUR.get(file.removesuffix('.ipynb'), there)}{mark}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", to, source)


def small(data: str, path: Path) -> None:
    """Write a picture, given as base64, as WebP, no wider than `WIDE` and if possible not heavier
    than `HEAVY`."""
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    picture.thumbnail((WIDE, 100_000), Image.Resampling.LANCZOS)
    for quality in (90, 80, 70, 60):
        picture.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= HEAVY:
            break


def table(html: str) -> str:
    """A table as GitHub shows it: without style, and without the empty lines that would end it."""
    html = re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    html = re.sub(r' (?:class|style|border|id|scope|v?align)="[^"]*"', "", html)
    html = re.sub(r"\s*\n\s*", "\n", re.sub(r"</?div>", "", html)).strip()
    return re.sub(r"\n(?=<t[hd]|</tr)", "", html)  # a row a line


def shown(output: Any, path: Path) -> str:
    """What a cell gave as Markdown; a picture goes to the path. Nothing of what is not shown."""
    data = output.get("data", {})
    if "image/png" in data:
        small(data["image/png"], path)
        drawn = f"![{re.sub(r'[][]', '', output.metadata['alt'])}]({path.name})"
        caption = output.metadata.get("caption")
        return f"{drawn}\n\n<sub>{escape(caption)}</sub>" if caption else drawn
    if "<table" in data.get("text/html", ""):
        return table(data["text/html"])
    text = output.get("text", "") if output.get("name") != "stderr" else ""
    text = re.sub(r"\x1b\[[\d;]*m", "", text or data.get("text/plain", "")).strip("\n")
    return f"```text\n{text}\n```" if text else ""


def folded(codes: list[str]) -> str:
    """Code that is unfolded by a click."""
    code = "\n\n".join(codes)
    return f"<details><summary>Code</summary>\n\n```python\n{code}\n```\n\n</details>"


def body(page: Page, folder: Path) -> list[str]:
    """A notebook's texts, folded code and results; without solutions, and checks that tell them."""
    parts, codes, pictures = [], list[str](), 0
    for cell in page.nb.cells:
        if tagged(cell, "solution") or tagged(cell, "check"):
            continue
        results = []
        for output in cell.get("outputs", []):
            path = folder / f"{page.file[:2]}_{pictures + 1}.webp"
            results += filter(None, [shown(output, path)])
            pictures += path.is_file()
        if cell.cell_type == "code":
            codes.append(cell.source)
        if codes and (results or cell.cell_type == "markdown"):
            parts.append(folded(codes))
            codes = []
        parts += results if cell.cell_type == "code" else [led(cell.source)]
    return parts + ([folded(codes)] if codes else [])


def page(name: str, nb: nbformat.NotebookNode, profile: str, model: str, folder: Path) -> str:
    """A notebook's page; its pictures go to the folder."""
    names = list(TOUR)
    at = names.index(name)
    ways = [
        f"[{word}]({TOUR[names[i]]})"
        for word, i in (("back", at - 1), ("on", at + 1))
        if 0 <= i < len(names)
    ]
    said = (
        f"> [{name}.ipynb](../../notebooks/{name}.ipynb) as it ran in its {profile} profile, by"
        f" `make tour`: embedded model `{model}`, commit `{nb.metadata['commit']}`, sources"
        f" `{sources(notebook(name))}`. Exercises stand without their solutions; to do them, open"
        f" the notebook. {' · '.join(ways)} · [the tour](../../README.md#the-tour)"
    )
    title, *rest = body(Page(TOUR[name], nb, title_of(nb)), folder)
    head, _, begin = title.partition("\n")
    smoke = [SMOKE] if profile == "smoke" else []
    return "\n\n".join([head, said, *smoke, begin.strip(), *rest, " · ".join(ways)]) + "\n"


def write(out: Path, profile: str, work: Path, names: Sequence[str] = tuple(TOUR)) -> None:
    """Run what has to be run, and write the pages. Raises `RuntimeError` when a notebook fails, and
    `EraseError`, before anything is run, for a folder that holds anything else."""
    check_ours(out)
    model = fingerprint(load_pipeline().unet)
    with whole_folder(out) as folder:
        for name in names:
            nb, seconds = executed(name, profile, work)
            print(f"{name}: {seconds:.0f} s", flush=True)
            (folder / TOUR[name]).write_text(page(name, nb, profile, model, folder), "utf-8")


def keep(made: Path, kept: Path = ROOT / "docs" / "tour") -> None:
    """Put the pages in the place of those that the repository keeps: a checkout gives its files new
    times, so `whole_folder` would take them for a user's."""
    kept.mkdir(exist_ok=True)
    for old in [*kept.glob("0*.md"), *kept.glob("0*.webp")]:
        old.unlink()
    for new in made.glob("0*"):
        shutil.copy(new, kept)


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tour and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m course.tour", description=__doc__)
    parser.add_argument("--profile", default="course", choices=["course", "smoke"])
    parser.add_argument("--work", default="build/book", help="executed notebooks")
    parser.add_argument(
        "--out", help="default: build/tour, of the course profile then docs/tour too"
    )
    given = parser.parse_args(arguments)
    out = as_path(given.out or "build/tour").resolve()
    write(out, given.profile, as_path(given.work).resolve())
    if not given.out and given.profile == "course":
        keep(out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"The tour: {out}, {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
