"""The shipped data: counts, formats, licences; the stock model loads without erase_lib."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from erase_lib.files import FINGERPRINT
from erase_lib.measure import table_model
from erase_lib.models import fingerprint, load_pipeline
from tools.embedded.pictures import indexed

DATA = Path(__file__).resolve().parents[2] / "data"
LICENCES = {
    "noto": "Apache-2.0",
    "twemoji": "CC-BY-4.0",
    "fluent": "MIT",
    "openmoji": "CC-BY-SA-4.0",
}


def read(name):
    return pd.read_csv(DATA / "emoji" / f"{name}.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def pictures():
    return pd.read_parquet(DATA / "emoji" / "pictures.parquet")


@pytest.fixture(scope="module")
def concepts():
    return set(read("concepts")["concept"])


def test_every_concept_in_every_style(pictures, concepts):
    assert len(concepts) == 428 and set(pictures["concept"]) == concepts
    assert len(pictures) == 4 * 428
    assert not pictures.duplicated(["concept", "style"]).any()
    assert dict(zip(pictures["style"], pictures["licence"], strict=True)) == LICENCES
    for png in pictures["png"][::50]:
        picture = Image.open(io.BytesIO(png))
        assert (picture.format, picture.size) == ("PNG", (128, 128))
        assert picture.mode in ("RGB", "P")  # few colours are stored with a palette


def test_a_palette_keeps_every_pixel():
    pixels = np.random.default_rng(0).integers(0, 6, (64, 64, 3), dtype=np.uint8)  # 216 colours
    for picture, mode in ((pixels, "P"), (pixels * pixels.swapaxes(0, 1) * 7, "RGB")):
        stored = indexed(Image.fromarray(picture))
        assert stored.mode == mode
        assert np.array_equal(np.asarray(stored.convert("RGB")), picture)


def test_named_sets_hold_known_concepts_and_their_source(concepts):
    for table in map(read, ("concepts", "objects", "themes")):
        assert set(table["concept"]) <= concepts
        assert table["source"].str.len().min() > 0
    assert len(read("objects")) == 10
    assert set(read("themes")["theme"]) == {"weapon", "alcohol", "smoking"}
    assert "" in set(read("neutral")["prompt"])
    assert len(read("vocabulary")) == 3000 and read("vocabulary")["word"].is_unique


def test_models_and_pictures_are_at_most_92_megabytes_no_file_45_and_the_results_5():
    sizes = {path: path.stat().st_size for path in DATA.rglob("*") if path.is_file()}
    assert max(sizes.values()) < 45e6
    results = sum(size for path, size in sizes.items() if "results" in path.parts)
    assert results <= 5e6 and sum(sizes.values()) - results <= 92e6  # 19 of them the twin's


def test_stock_diffusers_draws_without_erase_lib(tmp_path):
    program = f"""
import sys
sys.modules["erase_lib"] = sys.modules["embedded"] = None  # importing either fails
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(DATA / "models" / "emoji-diffusion")!r})
pipe("a church in noto style", num_inference_steps=4, guidance_scale=4.0).images[0].save("a.png")
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=240)
    assert Image.open(tmp_path / "a.png").size == (128, 128)


def test_the_models_fingerprint_stands_beside_it_and_tables_say_which_they_are_of(tmp_path):
    assert FINGERPRINT.read_text() == fingerprint(load_pipeline().unet)
    for name in ("methods.csv", "atlas"):
        assert "earlier" in table_model(DATA / "results" / name)
    assert "not of yours" in table_model("methods.csv", "own")
    table = tmp_path / "mine.csv"
    assert "does not say" in table_model(table)
    for told, said in (({"runs": 1}, "does not say"), (FINGERPRINT.read_text(), "as it is")):
        about = {"embedded model": [told]} if isinstance(told, str) else told
        table.with_suffix(".json").write_text(json.dumps(about, indent=1))
        assert said in table_model(table)
