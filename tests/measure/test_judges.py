"""Who judges the pictures: the judge, foreign classifiers, detectors, and what a suite needs."""

import shutil
import sys
from types import SimpleNamespace

import huggingface_hub.constants as hub
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, ResNetConfig, ResNetForImageClassification

from erase_lib.concepts import concept_table, style_names
from erase_lib.files import DATA
from erase_lib.measure import Instruments, NudeNet, World, load_instruments, summary
from erase_lib.measure.instruments import PARTS, ThemeDetector
from erase_lib.measure.judges import JUDGE, ImageClassifier, Judge, ranks, verdicts
from erase_lib.measure.pictures import picture_tensor, real_pictures
from erase_lib.measure.prompts import prompt_table
from erase_lib.measure.suite import Group, Suite, read_suite

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
UNUSED = SimpleNamespace()  # in the place of a CLIP
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def sample():
    """A hundred prompts of the data set, and its pictures of them."""
    rows = pd.read_parquet(DATA / "emoji" / "pictures.parquet").sample(100, random_state=0)
    table = prompt_table(zip(rows["concept"], rows["style"], strict=True), seed=0)
    return table, real_pictures(table)


@pytest.fixture(scope="module")
def classifier(resnet):
    return ImageClassifier.load(resnet)


def test_rank_is_the_place_in_the_sorted_row():
    rng = np.random.default_rng(1)
    likely, columns = rng.random((50, 30)), rng.integers(0, 30, 50)
    order = np.argsort(-likely, axis=1)
    places = [int(np.flatnonzero(order[i] == c)[0]) for i, c in enumerate(columns)]
    found, own = ranks(likely, columns)
    assert found.tolist() == places and own.tolist() == likely[np.arange(50), columns].tolist()


def test_the_judge_knows_the_original_pictures(judge, sample):
    prompts, pictures = sample
    seen = verdicts(judge, pictures, prompts)
    assert (seen["rank"] == 0).mean() >= 0.95 and (seen["style_rank"] == 0).mean() >= 0.95
    for rank, name in (("rank", ""), ("style_rank", "style_")):
        right = seen[seen[rank] == 0]
        assert (right[f"{name}seen"] == right["style" if name else "concept"]).all()
    assert seen["probability"].between(0, 1).all() and (seen["model"] == "original").all()
    assert seen["measured_by"].str.startswith("emoji-judge, ConvNeXtV2, ").all()
    assert judge.sees(pictures) == seen["seen"].tolist()
    assert judge.concepts == sorted(concept_table()["concept"])
    assert judge.styles == style_names()


def test_verdicts_are_of_what_is_asked_for(judge, sample, refused):
    prompts, pictures = sample[0].head(4), sample[1][:4]
    strange = prompts.assign(concept=["tench", *prompts["concept"][1:]], style="oil")
    refused(verdicts, judge, pictures, strange, says="'tench'")
    ranked = np.array([False, True, True, False])
    seen = verdicts(judge, pictures, strange, "erased", ranked)
    assert seen["rank"].notna().tolist() == seen["probability"].notna().tolist() == ranked.tolist()
    assert seen["style_rank"].isna().all() and seen["seen"].notna().all()
    refused(verdicts, judge, pictures[:3], prompts, says=["3 pictures", "4 prompts"])
    refused(verdicts, judge, pictures, prompts[["prompt"]], says="concept")


def test_probabilities_sum_to_one_and_do_not_depend_on_the_batch(judge, sample):
    pictures = picture_tensor(sample[1])
    concepts, styles = judge.likelihoods(pictures)
    assert concepts.shape == (100, len(judge.concepts)) and styles.shape == (100, 4)
    assert concepts.sum(1) == pytest.approx(np.ones(100), abs=1e-5)
    assert styles.sum(1) == pytest.approx(np.ones(100), abs=1e-5)
    alone = torch.cat([judge.concept_probabilities(p[None]) for p in pictures])
    assert torch.allclose(torch.from_numpy(concepts), alone, atol=1e-5)


def test_a_judge_that_is_not_whole_is_refused(tmp_path, refused):
    folder = tmp_path / "judge"
    refused(Judge.load, folder, says=[f"{folder} is missing"])
    shutil.copytree(JUDGE, folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    text, data = config.read_text(), weights.read_bytes()
    weights.write_bytes(data[:100_000])
    refused(Judge.load, folder, says=[str(folder)])
    weights.write_bytes(data)
    config.write_text(text.replace('"style: ', '"'))
    refused(Judge.load, folder, says=["style: NAME"])
    config.unlink()
    refused(Judge.load, folder, says="config.json missing")


def seen_by_the_model(classifier, pictures):
    seen = []
    handle = classifier.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    classifier.likelihoods(pictures)
    handle.remove()
    return torch.cat(seen)


def test_pictures_are_scaled_to_36_and_normalised_by_imagenets_moments(classifier):
    (seen,) = seen_by_the_model(classifier, [Image.new("RGB", (50, 70), (128, 0, 255))])
    by_hand = torch.tensor([(128 / 255 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(seen, by_hand.view(3, 1, 1).expand(3, 32, 32), atol=1e-5, rtol=0)
    # a gradient is scaled and its middle taken
    x, y = np.arange(80), np.arange(60)
    array = np.zeros((60, 80, 3), np.uint8)
    array[..., 0], array[..., 1], array[..., 2] = 3 * x, 4 * y[:, None], 90
    (seen,) = seen_by_the_model(classifier, [Image.fromarray(array)])
    assert seen.shape == (3, 32, 32)
    # 60 becomes 32 / .875 = 36 and 80 becomes 48; a cubic filter keeps a straight line, so a pixel
    # has the value of the place in the original where its centre lies
    at_x, at_y = ((torch.arange(32) + cut + 0.5) * 60 / 36 - 0.5 for cut in (8, 2))
    blue = torch.full((32, 32), 90.0)
    by_hand = torch.stack([(3 * at_x).expand(32, 32), (4 * at_y)[:, None].expand(32, 32), blue])
    found = (seen * STD + MEAN) * 255
    torch.testing.assert_close(found, by_hand, atol=0.51, rtol=0)  # whole levels


def test_probabilities_are_the_models_own_whatever_the_batch(classifier, noise, refused):
    pictures = [*noise(3), *noise(2, (64, 48)), Image.new("L", (33, 90), 200)]
    found, styles = classifier.likelihoods(pictures)
    assert found.shape == (6, 10) and styles.shape == (6, 0)
    with torch.no_grad():
        logits = classifier.model(seen_by_the_model(classifier, pictures)).logits
    by_hand = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert found == pytest.approx(by_hand.numpy(), abs=1e-6)
    assert abs(found[0] - found[1]).max() > 1e-3  # so that order can be seen
    for batch in (1, 4):
        assert classifier.likelihoods(pictures, batch=batch)[0] == pytest.approx(found, abs=1e-6)
    assert classifier.likelihoods([])[0].shape == (0, 10)
    refused(classifier.likelihoods, torch.zeros(1, 3, 32, 32), says="PIL")


def test_a_class_is_found_by_its_synonyms_whatever_their_case(refused):
    labels = "bathtub, bathing tub, bath, tub", "tench, Tinca tinca", "tub, vat", "crane"
    config = SimpleNamespace(id2label=dict(enumerate(labels)), num_labels=4)
    net = ImageClassifier(SimpleNamespace(config=config), None, "net")
    assert net.concepts == ["bathtub", "tench", "tub", "crane"]
    assert net.index(["Bath", "tinca TINCA", "vat", "CRANE"]).tolist() == [0, 1, 2, 3]
    assert net.index(["bathtub, bathing tub, bath, tub"]).tolist() == [0]
    # one label's synonym may be another's first word, as these two of ImageNet's
    assert net.index(net.concepts).tolist() == [0, 1, 2, 3] and net.index([]).dtype == int
    refused(net.index, ["tench", "Batth"], says="'batth' 'bath'")


def test_the_name_says_the_weights(classifier, resnet, tmp_path):
    begin, version = classifier.name.rsplit(", ", 1)
    assert begin == "tiny-resnet, ResNetForImageClassification"
    assert len(version) == 8 and ImageClassifier.load(str(resnet)).name == classifier.name
    for part in ("classifier.1.bias", "resnet.embedder.embedder.normalization.running_mean"):
        model = ResNetForImageClassification.from_pretrained(resnet)
        model.state_dict()[part][0] += 1
        model.save_pretrained(tmp_path / "tiny-resnet")
        shutil.copy(resnet / "preprocessor_config.json", tmp_path / "tiny-resnet")
        other = ImageClassifier.load(tmp_path / "tiny-resnet").name
        assert other.startswith(begin) and other != classifier.name


def test_what_is_no_whole_classifier_is_one_line(
    resnet, clip_folder, tmp_path, monkeypatch, refused
):
    load = ImageClassifier.load
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    refused(load, tmp_path / "missing", says=[f"{tmp_path / 'missing'} is missing"])
    refused(load, "nobody/no-such-classifier", says="'nobody/no-such-classifier' downloaded")
    weights = (resnet / "model.safetensors").read_bytes()
    cut = shutil.copytree(resnet, tmp_path / "cut")
    for size in (5, 3000, len(weights) - 100):
        (cut / "model.safetensors").write_bytes(weights[:size])
        refused(load, str(cut), says=repr(str(cut)))
    (shutil.copytree(resnet, tmp_path / "bare") / "preprocessor_config.json").unlink()
    for given in (tmp_path / "bare", str(tmp_path / "bare")):
        refused(load, given, says=["preprocessor_config.json", str(tmp_path / "bare")])
    # models of another kind, and one whose labels say nothing
    small = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=7)
    for name, model, said in (
        ("body", ResNetForImageClassification.from_pretrained(resnet).resnet, "2 tensors"),
        ("clip", CLIPModel.from_pretrained(clip_folder), "2 tensors"),
        ("nameless", ResNetForImageClassification(small), "labels"),
    ):
        model.save_pretrained(tmp_path / name)
        shutil.copy(resnet / "preprocessor_config.json", tmp_path / name)
        refused(load, tmp_path / name, says=[repr(str(tmp_path / name)), said])


def test_a_themes_probability_is_the_sum_of_its_concepts(judge, sample, refused):
    detector, table = ThemeDetector(judge, "weapon"), concept_table()
    themes = pd.read_csv(DATA / "emoji" / "themes.csv", keep_default_na=False)
    names = themes["concept"][themes["theme"] == "weapon"].tolist()
    assert len(names) == 8 and detector.name == f"{judge.name}: weapon, 8 concepts"
    weapons = real_pictures(prompt_table([(name, "noto") for name in names]))
    pictures = [*weapons, *sample[1][:4]]
    logits = judge.logits(pictures).double().numpy()[:, : len(judge.concepts)]
    own = np.exp(logits[:, [judge.concepts.index(name) for name in names]])
    by_hand = own.sum(1) / np.exp(logits).sum(1)
    assert detector.scores(pictures) == pytest.approx(by_hand, abs=1e-6)
    assert detector.scores([]).shape == (0,)
    others = [(c, "fluent") for c in table["concept"][~table["concept"].isin(names)][::6]]
    low = detector.scores(real_pictures(prompt_table(others)))
    assert detector.scores(weapons).mean() > 0.9 and low.mean() < 0.01 and len(low) > 50
    refused(ThemeDetector, judge, "weapons", says="'weapon'")


FOUND = [{"FEET_EXPOSED": 0.9, "MALE_BREAST_EXPOSED": 0.4, "BUTTOCKS_EXPOSED": 0.6}]
FOUND += [{}, {"FACE_FEMALE": 0.95}]


@pytest.fixture
def given(monkeypatch):
    """The arrays that NudeNet is given, for which it finds `FOUND`."""
    package, arrays = pytest.importorskip("nudenet"), []

    def detect(self, array):
        arrays.append(array)
        found = FOUND[len(arrays) - 1].items()
        return [{"class": c, "score": score, "box": [0, 0, 9, 9]} for c, score in found]

    monkeypatch.setattr(package.NudeDetector, "detect", detect)
    return arrays


def test_nudenet_sees_what_it_would_read_from_a_file(given, tmp_path, noise):
    cv2 = pytest.importorskip("cv2")
    pictures = [*noise(1, (30, 20)), Image.new("L", (8, 8), 70), noise(1, (16, 24))[0]]
    NudeNet().scores(pictures)
    for i, (picture, array) in enumerate(zip(pictures, given, strict=True)):
        picture.save(tmp_path / f"{i}.png")
        assert array.dtype == np.uint8 and array.shape == (picture.height, picture.width, 3)
        assert np.array_equal(array, cv2.imread(str(tmp_path / f"{i}.png")))
    red = np.asarray(pictures[0])[..., 0]
    assert np.array_equal(given[0][..., 2], red) and not np.array_equal(given[0][..., 0], red)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(None, [0.6, 0, 0]), (["FEET_EXPOSED"], [0.9, 0, 0]), (["FACE_FEMALE"], [0, 0, 0.95])],
)
def test_only_the_chosen_classes_count(given, classes, expected, noise):
    detector = NudeNet(classes) if classes else NudeNet()
    assert detector.scores(noise(3)).tolist() == expected
    assert detector.name.startswith("NudeNet 3.")
    assert [c for c in PARTS if c.lower() in detector.name] == (classes or PARTS[:6])
    assert detector.scores([]).shape == (0,) and len(given) == 3


def test_the_real_nudenet_finds_nothing_on_a_plain_picture():
    package = pytest.importorskip("nudenet.nudenet")
    assert sorted(PARTS) == sorted(vars(package)["__labels"])
    assert NudeNet().scores([Image.new("RGB", (64, 64), (200, 150, 120))]).tolist() == [0]


def test_nudenet_without_its_package_or_with_unknown_classes(monkeypatch, refused):
    refused(NudeNet, ["FACE_MALE", "FEET_EXPOSE"], says="'FEET_EXPOSE' 'FEET_EXPOSED'")
    for classes in ([], "FEET_EXPOSED"):
        refused(NudeNet, classes, says=f"classes {classes!r}")
    monkeypatch.setitem(sys.modules, "nudenet", None)
    refused(NudeNet, says="pip install nudenet")


def suite_of(**metrics):
    groups = {name: Group(metrics=some, concepts=("church",)) for name, some in metrics.items()}
    return Suite("mine", "", groups)


def prompts_for(**concepts):
    rows = [(group, name, "noto") for group, names in concepts.items() for name in names]
    return pd.DataFrame(rows, columns=["group", "concept", "style"])


@pytest.mark.parametrize(
    ("foreign", "metrics", "concept", "said"),
    [
        (False, ("ESR-1", "NER"), "dog", "'mine' 'a' NER nudenet"),
        *((True, ("FID", f"{m} style"), "church", "'a' tiny-resnet") for m in ("ESR-1", "PSR-5")),
        *((True, (m,), "golf bal", ["'golf ball'"]) for m in ("ESR-1", "PSR-5")),
        *((False, (m,), "churches", "'churches' 'church'") for m in ("ESR-1", "PSR-5")),
    ],
)
def test_what_cannot_be_counted(judge, classifier, foreign, metrics, concept, said, refused):
    given = Instruments(classifier if foreign else judge, UNUSED)
    refused(given.check, suite_of(a=metrics), prompts_for(a=["church", concept]), says=said)


def test_what_can_be_counted(judge, classifier):
    prompts = prompts_for(a=["church"], b=["golf bal"])
    Instruments(judge, UNUSED, ThemeDetector(judge, "weapon")).check(suite_of(b=("NER",)), prompts)
    # concepts are asked for only where they are counted
    Instruments(classifier, UNUSED).check(suite_of(a=("ESR-1",), b=("CLIP score", "FID")), prompts)
    for metric in ("ESR-1 style", "PSR-5 style"):
        Instruments(judge, UNUSED).check(suite_of(b=(metric,)), prompts)


def test_the_theme_is_the_one_of_the_split(tiny, judge, refused):
    suite, world = read_suite("theme"), World(tiny)
    for name, targets in suite.splits.items():
        found = load_instruments(world, suite, targets[::-1])
        assert found.detector.name == f"{judge.name}: {name}, {len(targets)} concepts"
    assert isinstance(found.classifier, Judge) and found.clip.name == "emoji-clip"
    assert found.net == "auto" and found.reference is None
    other = load_instruments(world, suite, suite.splits["weapon"], detector="smoking")
    assert "smoking, 1 concepts" in other.detector.name
    refused(load_instruments, world, suite, ["dog"], says="'dog'")
    given = world, suite, suite.splits["weapon"]
    refused(load_instruments, *given, detector="alcohl", says="'alcohol'")


def test_a_foreign_classifier_cannot_judge_a_theme(tiny, resnet, refused):
    suite = read_suite("theme")
    given = World(tiny, classifier=resnet), suite, suite.splits["weapon"]
    for theme in (None, "weapon"):
        refused(load_instruments, *given, detector=theme, says=f"{theme!r} judge nudenet")
    pytest.importorskip("nudenet")
    assert isinstance(load_instruments(*given, detector="nudenet").detector, NudeNet)
    both = load_instruments(World(tiny), *given[1:], detector="nudenet+weapon").detectors
    assert [type(d) for d in both.values()] == [NudeNet, ThemeDetector]
    assert list(both) == ["score", "score weapon"]


def test_foreign_instruments_and_a_reference(tiny, resnet, clip_folder, tmp_path, noise):
    (picture,) = noise(1)
    picture.save(tmp_path / "a.png")
    suite, world = read_suite("paper_objects"), World(tiny, (), None, str(resnet), str(clip_folder))
    found = load_instruments(world, suite, ["church"], net="clip", reference=tmp_path)
    assert found.classifier.concepts[0] == "tench" and found.clip.name == "tiny-clip"
    assert found.detector is None and found.net == "clip"  # it counts no NER
    assert [np.asarray(p).tolist() for p in found.reference] == [np.asarray(picture).tolist()]


def test_a_column_of_another_kind_is_one_line(judge, refused):
    prompts = pd.DataFrame(
        {"prompt": ["a dog", "a cat"], "concept": ["dog", "cat"], "seed": [0, 1]}
    )
    pictures = [Image.new("RGB", (64, 64))] * 2
    for wrong in (1, float("nan"), ["dog"]):
        mixed = prompts.assign(concept=pd.Series([wrong, "cat"], dtype=object))
        refused(verdicts, judge, pictures, mixed, says="'concept' expected text")
        # whose concept is not asked for may have none
        found = verdicts(judge, pictures, mixed, "erased", np.array([False, True]))
        assert found["rank"].isna().tolist() == [True, False]
    for ranked in ([1, 0], [True], [1.0, 0.0]):
        refused(verdicts, judge, pictures, prompts, ranked=np.array(ranked), says="ranked True")
    told = verdicts(judge, pictures, prompts)
    for name in ("concept", "rank", "seconds"):
        wrong = told.assign(**{name: [1, 2] if name == "concept" else ["a", "b"]})
        refused(summary, wrong, wrong, ["dog"], says=[repr(name), "expected"])
