"""The page as a folder that opens from a memory stick: build/page, by `make page`.

Scripts hold what a page opened as a file may not fetch: the model, onnxruntime-web (from npm, once)
and the erasures. Nothing is fetched when the page is opened.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from erase_lib import EraseConfig, erase, load_pipeline
from erase_lib.concepts import EMOJI, concept_table, style_names
from erase_lib.export import matrices
from erase_lib.families import Pipeline
from erase_lib.files import DATA, as_path, whole_folder, whole_table
from erase_lib.measure import table_model
from erase_lib.show import thumbnails
from erase_lib.study import SCORES, Delta, read_atlas
from tools import one_line
from tools.embedded.pictures import PACKAGES, ROOT, fetch, opened
from tools.page.export import exported, text64, told

SOURCES = ROOT / "page"
OUT = ROOT / "build" / "page"
RUNTIME = ("onnxruntime-web", "1.30.0")
# which of its files run where: the script, and the one that it reads and its WebAssembly
RUNS = {
    "wasm": ("ort.wasm.min.js", "ort-wasm-simd-threaded"),
    "webgpu": ("ort.webgpu.min.js", "ort-wasm-simd-threaded.asyncify"),
}
# beside the ten classes, of the atlas one or two of each category
MORE = "cat,rose,banana,pizza,castle,automobile,snowflake,basketball,guitar,dagger".split(",")
METHOD, LAM = "eap_closed", 5.0  # as notebooks 06 and 07 choose
HURT, SCORE = 6, "features"  # as notebook 09


def runtime(kind: str, packages: Path) -> dict[str, str]:
    """onnxruntime-web for `kind` of `RUNS`: its script, module and WebAssembly."""
    script, name = RUNS[kind]
    files = {"script": script, "module": f"{name}.mjs", "binary": f"{name}.wasm"}
    with opened(fetch(*RUNTIME, packages)) as tar:
        return {
            key: text64(tar.extractfile(f"package/dist/{file}").read())  # type: ignore[union-attr]
            for key, file in files.items()
        }


def erased(pipe: Pipeline, targets: Sequence[str]) -> np.ndarray:
    """T − 1 of each target by `eap_closed`, `(targets, dim, dim)`, in 16 bits."""
    found = []
    for target in targets:
        config = EraseConfig(targets=[target], method=METHOD, lam=LAM)
        (change,) = matrices(erase(pipe, config), pipe)
        found.append(change.numpy().astype("<f2"))
    return np.stack(found)


def hurt(targets: Sequence[str]) -> tuple[dict[str, list[tuple[str, float]]], dict[str, Any]]:
    """Of each target of the atlas the `HURT` concepts that its erasure hurts most, with δ; and how
    that was measured."""
    name = str(DATA / "results" / "atlas")
    runs, pairs, _ = read_atlas(name)
    delta = Delta.from_pairs(pairs, SCORE)
    table = delta.table()
    most = {t: table.loc[t].nlargest(HURT).round(2) for t in targets if t in table.index}
    about = {"methods": [name.upper() for name in sorted(runs["method"].unique())]}
    about |= {"score": SCORES[SCORE], "here": METHOD, "pictures": delta.values.shape[2]}
    about |= {"concepts": len(delta.concepts) - 1, "model": table_model(name)}
    return {t: list(found.items()) for t, found in most.items()}, about


def picture(image: Image.Image) -> str:
    """A small picture as an address that holds it."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def words() -> list[str]:
    """Every word of the concepts' names and keywords."""
    table = concept_table()
    texts = [*table["concept"], *table["keywords"].dropna().str.split(", ").explode()]
    return sorted({word for text in texts for word in text.split() if word.isalpha()})


def contents(
    pipe: Pipeline, packages: Path, bits: int, targets: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the page reads, a script each: first what it must know, then what it runs."""
    harmed, method = hurt(targets)
    shown = {*targets, *(concept for rows in harmed.values() for concept, _ in rows)}
    every = {c: picture(p) for c, p in thumbnails().items() if c in shown}
    names = [{"name": t, "hurt": harmed.get(t)} for t in targets]
    known = {"concepts": concept_table()["concept"].tolist(), "styles": style_names()}
    known |= {"words": words(), "pictures": every, "erasures": names, "atlas": method}
    yield "page", told(pipe) | known
    for kind in RUNS:
        yield kind, runtime(kind, packages)
    yield from exported(pipe, bits)
    yield "erasures", {"matrices": text64(erased(pipe, targets))}


def build(
    out: Path = OUT,
    model: str | None = None,
    packages: Path = PACKAGES,
    bits: int = 8,
    targets: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> pd.Series:
    """Write the page into the folder `out`; returns the bytes of each file. `targets`: what may be
    erased there, by default the ten classes and `MORE`. Raises `EraseError` as
    `load_pipeline`, `embedded.pictures.fetch` and `export.exported`, and where a folder would be
    lost that is none of ours."""
    pipe = load_pipeline(model, "cpu")
    targets = targets or [*whole_table(EMOJI / "objects.csv")["concept"], *MORE]
    with whole_folder(out) as folder:
        for path in SOURCES.iterdir():
            shutil.copyfile(path, folder / path.name)
        look = (ROOT / "course" / "static" / "book.css").read_text("utf-8")
        look = re.sub(r"@font-face.*\n", "", look)  # of formulas, which the page has none of
        (folder / "book.css").write_text(look, "utf-8")
        for name, value in contents(pipe, packages, bits, targets):
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            (folder / f"{name}.data.js").write_text(f'part("{name}",{text});\n', "utf-8")
        found = {path.name: path.stat().st_size for path in folder.iterdir()}
    sizes = pd.Series(found, name="bytes").sort_values(ascending=False)
    say(f"{out / 'index.html'}: {sizes.sum() / 1e6:.1f} MB, open it in a browser")
    return sizes


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--model", help="a folder; default: the embedded model")
    parser.add_argument("--packages", type=Path, default=PACKAGES)
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a weight")
    given = parser.parse_args(arguments)
    build(as_path(given.out), given.model, given.packages, given.bits)


if __name__ == "__main__":
    sys.exit(main())
