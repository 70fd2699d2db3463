"""The emoji data set: four house styles of the same objects, as one Parquet file and a concept
list.

Run `python -m tools.embedded.pictures` (part of `make data`). The five npm packages are fetched
with `npm pack` into a build folder once; everything after that is deterministic and takes two
minutes, nearly all of it compression. The art is drawn from vectors, or from larger pictures.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from erase_lib.errors import EraseError, reason
from erase_lib.files import whole
from tools import one_line

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "build" / "npm"  # what npm has fetched, once
PICTURES = ROOT / "data" / "emoji" / "pictures.parquet"
SIZE = 128  # pixels

# style: (npm package, version, folder or icon set of the pictures inside it, licence); the versions
# matter: noto 1.2.7 begins to draw anew
SOURCES = {
    "noto": ("@iconify-json/noto", "1.2.6", "icons.json", "Apache-2.0"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "icons.json", "CC-BY-4.0"),
    "fluent": ("@lobehub/fluent-emoji-3d", "1.1.0", "assets", "MIT"),
    "openmoji": ("openmoji", "17.0.0", "color/svg", "CC-BY-SA-4.0"),
}
NAMES = ("emojibase-data", "17.0.0", "en/data.json", "MIT")
CLDR = f"Unicode CLDR in {NAMES[0]} {NAMES[1]}"
CATEGORIES = {
    3: "animals & nature",
    4: "food & drink",
    5: "travel & places",
    6: "activities",
    7: "objects",
}
# The data set is the one-word names plus these; with all 837 names the same training draws worse
# pictures.
TWO_WORD_NAMES = set(
    "carpentry saw,fuel pump,delivery truck,flag in hole,kitchen knife,crossed swords,water pistol,"
    "bow and arrow,beer mug,wine glass,clinking beer mugs,cocktail glass,tropical drink,"
    "bottle with popping cork,police car,fire engine".split(",")
)


def fetch(package: str, version: str, folder: Path) -> Path:
    """Path of the npm package's archive in `folder`, downloaded by `npm pack` when it is not there
    yet; renamed into place when it is whole. Raises `EraseError` when npm is missing or fails."""
    archive = folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--silent", f"{package}@{version}"]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        try:
            subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise EraseError(f"npm is needed to fetch {package}: install Node.js") from None
        except subprocess.CalledProcessError as error:
            raise EraseError(
                f"npm could not fetch {package} {version} ({reason(Exception(error.stderr))}):"
                " run again; what has come is kept"
            ) from None
        os.replace(Path(place) / archive.name, archive)
    return archive


@contextmanager
def opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive to read from. Raises `EraseError` for one that is damaged."""
    try:
        with tarfile.open(archive) as tar:
            yield tar
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise EraseError(f"{archive} is damaged ({reason(error)}): delete it, run again") from None


def codepoint_key(name: str) -> str:
    """The key shared by all sources: the hex code in upper case without the variation selector."""
    return "-".join(part for part in name.upper().split("-") if part != "FE0F")


def read_folder(archive: Path, folder: str) -> dict[str, bytes]:
    """Every file of one folder of a package, by its code point key."""
    with opened(archive) as tar:
        return {
            codepoint_key(Path(member.name).stem): tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.isfile() and str(Path(member.name).parent) == f"package/{folder}"
        }


def read_icons(archive: Path) -> dict[str, bytes]:
    """Every icon of an Iconify package as square SVG, by its code point key."""
    with opened(archive) as tar:
        read = [tar.extractfile(f"package/{name}.json") for name in ("icons", "chars")]
        icons, names = (json.load(file) for file in read)  # type: ignore[arg-type]
    found = {}
    for code, name in names.items():
        if icon := icons["icons"].get(name):  # the others are names for a turned or mirrored one
            box = {"left": 0, "top": 0, "width": 16, "height": 16} | icons | icon
            w, h = box["width"], box["height"]
            side = max(w, h)  # one that is cropped is put in the middle
            view = f"{box['left'] - (side - w) / 2} {box['top'] - (side - h) / 2} {side} {side}"
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{icon["body"]}</svg>'
            found[codepoint_key(code)] = svg.encode()
    return found


def to_png(raw: bytes, is_svg: bool, size: int = SIZE) -> bytes:
    """Any source picture as a square PNG on white, indexed if it has 256 colours or fewer.

    Its pixels are stored without compression: Parquet compresses all pictures together, which
    takes a fifth less than each PNG on its own.
    """
    if is_svg:
        import resvg_py  # only needed to build the data

        raw = bytes(resvg_py.svg_to_bytes(svg_string=raw.decode(), width=size, height=size))
    picture = (
        Image.open(io.BytesIO(raw)).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    )
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    out = io.BytesIO()
    indexed(page.convert("RGB")).save(out, "PNG", compress_level=0)
    return out.getvalue()


def indexed(picture: Image.Image) -> Image.Image:
    """The RGB picture with a palette of exactly its own colours; itself if these exceed 256."""
    pixels = np.asarray(picture).reshape(-1, 3)
    colours, number = np.unique(pixels, axis=0, return_inverse=True)
    if len(colours) > 256:
        return picture
    out = Image.fromarray(number.reshape(picture.height, picture.width).astype(np.uint8))
    out.putpalette(colours.tobytes())  # makes it mode P
    return out


def is_concept(entry: dict[str, Any]) -> bool:
    """One-word names of the five object groups (clock faces left out), and the chosen longer
    ones."""
    name = entry["label"].lower()
    chosen = re.fullmatch(r"[a-z]+", name) or name in TWO_WORD_NAMES
    return entry.get("group") in CATEGORIES and bool(chosen) and "thirty" not in name


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """One page a column, so that the compressor sees all pictures; renamed into place when done."""
    with whole(path) as (temporary,):
        table.to_parquet(
            temporary,
            index=False,
            compression="brotli",
            compression_level=11,
            data_page_size=64 << 20,
            use_dictionary=False,
        )


def build(folder: Path, out: Path, say: Callable[[str], None] = print) -> pd.DataFrame:
    """Write `pictures.parquet` and `concepts.csv` into `out`; returns the table of pictures."""
    package, version, path, _ = NAMES
    with opened(fetch(package, version, folder)) as tar:
        entries = json.load(tar.extractfile(f"package/{path}"))  # type: ignore[arg-type]
        labels = json.load(tar.extractfile("package/meta/groups.json"))  # type: ignore[arg-type]
    subgroups = {int(number): name for number, name in labels["subgroups"].items()}
    files = {}
    for style, (package, version, path, _) in SOURCES.items():
        archive, is_set = fetch(package, version, folder), path.endswith(".json")
        files[style] = read_icons(archive) if is_set else read_folder(archive, path)
    rows = []
    for entry in sorted(filter(is_concept, entries), key=lambda e: e["label"].lower()):
        key = codepoint_key(entry["hexcode"])
        if not all(key in files[style] for style in SOURCES):
            continue
        for style, (package, version, path, licence) in SOURCES.items():
            rows.append(
                {
                    "concept": entry["label"].lower(),
                    "style": style,
                    "category": CATEGORIES[entry["group"]],
                    "subgroup": subgroups[entry["subgroup"]],
                    "keywords": ", ".join(tag.lower() for tag in entry.get("tags", [])),
                    "codepoint": key,
                    "source": f"{package} {version}",
                    "licence": licence,
                    "png": to_png(files[style][key], path.endswith(("svg", "json"))),
                }
            )
    table = pd.DataFrame(rows)
    out.mkdir(parents=True, exist_ok=True)
    write_parquet(table, out / PICTURES.name)
    concepts = table.drop_duplicates("concept")[
        ["concept", "category", "subgroup", "keywords", "codepoint"]
    ].assign(source=CLDR)
    with whole(out / "concepts.csv") as (temporary,):
        concepts.to_csv(temporary, index=False, lineterminator="\n")
    say(f"{len(table)} pictures of {len(concepts)} concepts in {table['style'].nunique()} styles")
    return table


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Build the data set in its place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, default=PACKAGES)
    parser.add_argument("--out", type=Path, default=PICTURES.parent)
    given = parser.parse_args(arguments)
    build(given.packages, given.out)


if __name__ == "__main__":
    sys.exit(main())
