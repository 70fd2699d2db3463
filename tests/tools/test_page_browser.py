"""The page opened as a file in Chromium: the library's pictures, words and noise; no network."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("playwright")
pytest.importorskip("onnx")
import torch
from browser import CHROMIUM, SECOND, opened

from erase_lib import EraseConfig, erase, generate, load_pipeline
from erase_lib.diffusion import noise
from tools.embedded.pictures import PACKAGES
from tools.page import build as page_build
from tools.page.check import STEPS, asked

ARCHIVE = PACKAGES / "{}-{}.tgz".format(*page_build.RUNTIME)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM and not os.environ.get("CI"), reason="needs Debian's package chromium"
    ),
    pytest.mark.skipif(
        not ARCHIVE.exists(), reason="needs onnxruntime-web: `make page` fetches it"
    ),
]
DRAW = """([prompt, seed, steps, erased]) => new Promise((resolve, reject) => {
    const [id, found, before] = [++current, {}, worker.onmessage];
    worker.onmessage = ({ data }) => {
        if (data.failed) reject(data.failed);
        if (data.place) found[data.place] = Array.from(data.rgba);
        if (data.end) { worker.onmessage = before; resolve(found.after); }
    };
    const draw = { id, prompt, seed, steps, scale: SCALE, erased, undo: false };
    worker.postMessage({ wanted: id, draw });
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page with the weights as they are shipped, for two erasures."""
    out = tmp_path_factory.mktemp("page") / "page"
    page_build.build(out, packages=PACKAGES, bits=16, targets=["church", "cat"])
    return out


@contextmanager
def ready(folder, width=1280):
    """The page once it has drawn, its errors; nothing but its own files was read."""
    with opened("about:blank", width) as (page, errors):
        asked_for = list[str]()
        page.on("request", lambda request: asked_for.append(request.url))
        page.context.set_offline(True)
        page.goto((folder / "index.html").as_uri())
        page.get_by_text(re.compile("^Drawn:")).wait_for()
        yield page
        assert errors == []
        own = rf"({re.escape(folder.as_uri())}/[\w.-]+|(blob|data):.*)"
        assert asked_for and all(re.fullmatch(own, url, re.DOTALL) for url in asked_for)


def drawn(page, prompt, seed, erased=()):
    """A picture of the page's `(height, width, 3)`, as whole numbers."""
    rgba = np.array(page.evaluate(DRAW, [prompt, seed, STEPS, list(erased)]), dtype=int)
    side = int((len(rgba) // 4) ** 0.5)
    return rgba.reshape(side, side, 4)[..., :3]


def furthest(found, picture):
    return int(np.abs(found - np.asarray(picture, dtype=int)).max())


def test_pictures_words_and_noise_are_the_librarys(folder):
    pipe, table = load_pipeline(device="cpu"), asked(40)
    table = table.iloc[:: len(table) // int(os.environ.get("PAGE_PICTURES", 3))]
    prompts, seeds = list(table["prompt"]), list(range(len(table)))
    pictures = generate(pipe, prompts, seeds, steps=STEPS)
    erasure = erase(pipe, EraseConfig(targets=["church"], method="eap_closed", lam=page_build.LAM))
    with erasure.applied(pipe):
        (without,) = generate(pipe, prompts[:1], seeds[:1], steps=STEPS)
    words = "a church|Dogs, cats & 12 birds!|it's Ünïcödé ΣΑΣ|  naïve\tcafé  |🐕 wow|x" * 2
    texts = [*words.split("|"), *asked(428)["prompt"][::4], "a " * 40, ""]
    with ready(folder) as page:
        gaps = [
            furthest(drawn(page, prompt, seed), picture)
            for prompt, seed, picture in zip(prompts, seeds, pictures, strict=True)
        ]
        print("largest difference of each picture:", gaps)
        assert max(gaps) <= 4
        after = drawn(page, prompts[0], seeds[0], [{"at": 0, "strength": 1}])
        assert furthest(after, without) <= 4 < furthest(after, pictures[0])
        encoded = page.evaluate(
            "t => t.map(x => [...new Tokenizer(told.tokenizer).encode(x)])", texts
        )
        assert encoded == pipe.tokenizer(texts, padding="max_length", truncation=True).input_ids
        for seed in (0, 7, 2**32 - 1):
            ours = noise(pipe, 1, torch.Generator().manual_seed(seed)).flatten().numpy()
            theirs = page.evaluate("([seed, n]) => [...noise(seed, n)]", [seed, len(ours)])
            assert np.allclose(theirs, ours, atol=1e-5)


def test_the_page_is_used(folder, tmp_path):
    with ready(folder) as page:
        for width in (360, 1600, 1280):
            page.set_viewport_size({"width": width, "height": 1000})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=tmp_path / f"page-{width}.png", full_page=True)
        page.get_by_role("button", name="Undo with T⁻¹").press("Enter")
        undone = page.get_by_text("no colour differs by more than")
        undone.wait_for()
        assert int(re.search(r"than (\d+) of", undone.inner_text())[1]) <= 4
        page.get_by_label("concept").fill("chruch")
        page.get_by_label("concept").press("Enter")
        page.get_by_text("did you mean “church”?").wait_for()
        page.get_by_label("concept").fill("dog")
        page.get_by_label("seed").fill("-1")
        page.get_by_label("seed").press("Enter")
        page.get_by_text("expected a whole number").wait_for()
        page.get_by_label("seed").fill("5")
        page.get_by_label("steps").select_option("30")
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        page.get_by_role("button", name="cat", exact=True).click()
        page.get_by_label("steps").select_option("4")
        page.get_by_label("cat", exact=True).press("ArrowLeft")
        page.get_by_role("img", name="after: a dog in noto style, church and cat erased").wait_for()
        assert page.get_by_text("0.95").count() == 1


def test_one_sentence_where_it_cannot_run(folder):
    with opened("about:blank", 360) as (page, _):
        page.add_init_script("WebAssembly.validate = () => false")
        page.goto((folder / "index.html").as_uri())
        page.get_by_text("lacks WebAssembly’s SIMD").wait_for(timeout=20 * SECOND)
        little = page.evaluate("sentence(new RangeError('Array buffer allocation failed'))")
        assert "too little memory" in little
