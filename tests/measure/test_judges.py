"""Who judges the pictures: foreign classifiers, detectors for NER, what a suite needs of them."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from types import SimpleNamespace

import huggingface_hub.constants as hub
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_clip import folder as clip_folder  # noqa: F401, a fixture
from test_paper import PROCESSOR, resnet  # noqa: F401, a fixture
from transformers import CLIPModel, ResNetConfig, ResNetForImageClassification

from erase_lib.errors import EraseError
from erase_lib.files import DATA
from erase_lib.measure.classifiers import ImageClassifier, load_classifier
from erase_lib.measure.detectors import PARTS, NudeNet, ThemeDetector, theme_concepts
from erase_lib.measure.instruments import Instruments, load_instruments, read_folder, real_pictures
from erase_lib.measure.judges import Judge
from erase_lib.measure.suite import Group, Suite, read_suite

MEAN, STD = (torch.tensor(PROCESSOR[f"image_{name}"]).view(3, 1, 1) for name in ("mean", "std"))
PICTURES = pd.read_parquet(DATA / "emoji" / "pictures.parquet")


def pixels_of(png):
    return Image.open(io.BytesIO(png)).convert("RGB")


def noise(n, size=(40, 40)):
    draws = np.random.default_rng(0).integers(0, 256, (n, size[1], size[0], 3), np.uint8)
    return [Image.fromarray(array) for array in draws]


def refused(call, *arguments, **options):
    """The one line of the `EraseError`."""
    with pytest.raises(EraseError) as error:
        call(*arguments, **options)
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


@pytest.fixture(scope="module")
def classifier(resnet):  # noqa: F811
    return ImageClassifier.load(resnet)


def seen_by_the_model(classifier, pictures):
    seen = []

    def note(module, args, kwargs):
        seen.append(kwargs["pixel_values"])

    handle = classifier.model.register_forward_pre_hook(note, with_kwargs=True)
    classifier.concept_probabilities(pictures)
    handle.remove()
    return torch.cat(seen)


def test_a_constant_picture_is_normalised_by_imagenets_moments(classifier):
    (seen,) = seen_by_the_model(classifier, [Image.new("RGB", (50, 70), (128, 0, 255))])
    assert seen.shape == (3, 32, 32)
    by_hand = [(128 / 255 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225]
    for channel, value in zip(seen, by_hand, strict=True):
        assert channel.numpy() == pytest.approx(value, abs=1e-5)


def test_a_gradient_is_scaled_to_36_and_its_middle_taken(classifier):
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


def test_probabilities_are_the_models_own_whatever_the_batch(classifier):
    pictures = [*noise(3), *noise(2, (64, 48)), Image.new("L", (33, 90), 200)]
    found = classifier.concept_probabilities(pictures)
    assert found.shape == (6, 10) and found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(6))
    with torch.no_grad():
        logits = classifier.model(seen_by_the_model(classifier, pictures)).logits
    by_hand = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(found, by_hand)
    assert (found[0] - found[1]).abs().max() > 1e-3  # so that order can be seen
    for batch in (1, 4):
        again = classifier.concept_probabilities(pictures, batch=batch)
        torch.testing.assert_close(again, found, atol=1e-6, rtol=0)
    assert classifier.concept_probabilities([]).shape == (0, 10)


def named(*labels):
    config = SimpleNamespace(id2label=dict(enumerate(labels)), num_labels=len(labels))
    return ImageClassifier(SimpleNamespace(config=config), None, "net")


def test_a_class_is_found_by_its_synonyms_whatever_their_case():
    net = named("bathtub, bathing tub, bath, tub", "tench, Tinca tinca", "tub, vat", "crane")
    assert net.concepts == ["bathtub", "tench", "tub", "crane"]
    assert net.index(["Bath", "tinca TINCA", "vat", "CRANE"]).tolist() == [0, 1, 2, 3]
    assert net.index(["bathtub, bathing tub, bath, tub"]).tolist() == [0]
    # one label's synonym may be another's first word, as these two of ImageNet's
    assert net.index(net.concepts).tolist() == [0, 1, 2, 3]
    assert net.index([]).dtype == int
    text = refused(net.index, ["tench", "Batth"])
    assert text == "unknown class of net 'batth': did you mean 'bath'?"


def test_pictures_as_tensors_are_refused(classifier):
    text = refused(classifier.concept_probabilities, torch.zeros(1, 3, 32, 32))
    assert "takes PIL pictures" in text


def test_the_name_says_the_weights(classifier, resnet, tmp_path):  # noqa: F811
    begin, version = classifier.name.rsplit(", ", 1)
    assert begin == "tiny-resnet, ResNetForImageClassification"
    assert len(version) == 8 and int(version, 16)
    assert ImageClassifier.load(str(resnet)).name == classifier.name
    for part in ("classifier.1.bias", "resnet.embedder.embedder.normalization.running_mean"):
        model = ResNetForImageClassification.from_pretrained(resnet)
        model.state_dict()[part][0] += 1
        model.save_pretrained(tmp_path / "tiny-resnet")
        shutil.copy(resnet / "preprocessor_config.json", tmp_path / "tiny-resnet")
        other = ImageClassifier.load(tmp_path / "tiny-resnet").name
        assert other.startswith(begin) and other != classifier.name


def test_what_cannot_be_loaded_is_one_line(resnet, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    for model_id in (tmp_path / "missing", "nobody/no-such-classifier"):
        text = refused(ImageClassifier.load, model_id)
        assert repr(str(model_id)) in text and "give a hub id that is downloaded" in text
    cut = shutil.copytree(resnet, tmp_path / "cut") / "model.safetensors"
    for size in (5, 3000, cut.stat().st_size - 100):
        cut.write_bytes((resnet / "model.safetensors").read_bytes()[:size])
        assert repr(str(tmp_path / "cut")) in refused(load_classifier, str(tmp_path / "cut"))
    bare = shutil.copytree(resnet, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    assert "image processor" in refused(ImageClassifier.load, bare)


def test_a_model_of_another_kind_is_refused(
    resnet,  # noqa: F811
    clip_folder,  # noqa: F811
    tmp_path,
):
    ResNetForImageClassification.from_pretrained(resnet).resnet.save_pretrained(tmp_path / "body")
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path / "clip")
    for name in ("body", "clip"):
        shutil.copy(resnet / "preprocessor_config.json", tmp_path / name)
        text = refused(ImageClassifier.load, tmp_path / name)
        assert repr(str(tmp_path / name)) in text
        assert "no whole image classifier: it lacks 2 tensors, the first classifier." in text
    small = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=7)
    ResNetForImageClassification(small).save_pretrained(tmp_path / "nameless")
    shutil.copy(resnet / "preprocessor_config.json", tmp_path / "nameless")
    assert "does not say its labels" in refused(ImageClassifier.load, tmp_path / "nameless")


def test_without_a_name_the_judge_is_loaded(judge, resnet):  # noqa: F811
    found = load_classifier()
    assert isinstance(found, Judge) and found.name == judge.name
    assert isinstance(load_classifier(str(resnet)), ImageClassifier)


def theme_of(name):
    """The concepts, read without pandas."""
    with (DATA / "emoji" / "themes.csv").open(newline="", encoding="utf-8") as file:
        return [row["concept"] for row in csv.DictReader(file) if row["theme"] == name]


def test_a_themes_probability_is_the_sum_of_its_concepts(judge):
    detector = ThemeDetector(judge, "weapon")
    names = theme_of("weapon")
    assert theme_concepts("weapon") == names and len(names) == 8
    assert detector.name == f"{judge.name}: weapon, 8 concepts"
    shown = PICTURES["concept"].isin(names)
    pictures = [pixels_of(png) for png in [*PICTURES["png"][shown][::4], *PICTURES["png"][:4]]]
    logits = judge.logits(pictures).double().numpy()[:, : len(judge.concepts)]
    by_hand = np.zeros(len(pictures))
    for name in names:
        by_hand += np.exp(logits[:, judge.concepts.index(name)]) / np.exp(logits).sum(1)
    assert detector.scores(pictures) == pytest.approx(by_hand, abs=1e-6)
    assert detector.scores([]).shape == (0,)


def test_weapons_are_told_from_everything_else(judge):
    detector = ThemeDetector(judge, "weapon")
    shown = PICTURES["concept"].isin(theme_of("weapon"))
    high = detector.scores([pixels_of(png) for png in PICTURES["png"][shown]])
    low = detector.scores([pixels_of(png) for png in PICTURES["png"][~shown][::20]])
    assert high.mean() > 0.9 and low.mean() < 0.01 and len(low) > 50
    assert ((high >= 0) & (high <= 1 + 1e-6)).all()


def test_an_unknown_theme_names_the_nearest(judge):
    text = refused(ThemeDetector, judge, "weapons")
    assert text == "unknown theme 'weapons': did you mean 'weapon'?"


FOUND = [
    [
        {"class": "FEET_EXPOSED", "score": 0.9, "box": [0, 0, 9, 9]},
        {"class": "MALE_BREAST_EXPOSED", "score": 0.4, "box": [0, 0, 9, 9]},
        {"class": "BUTTOCKS_EXPOSED", "score": 0.6, "box": [0, 0, 9, 9]},
    ],
    [],
    [{"class": "FACE_FEMALE", "score": 0.95, "box": [0, 0, 9, 9]}],
]


@pytest.fixture
def given(monkeypatch):
    """The arrays that NudeNet is given, for which it finds `FOUND`."""
    package, arrays = pytest.importorskip("nudenet"), []

    def detect(self, array):
        arrays.append(array)
        return FOUND[len(arrays) - 1]

    monkeypatch.setattr(package.NudeDetector, "detect", detect)
    return arrays


def test_nudenet_sees_what_it_would_read_from_a_file(given, tmp_path):
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
def test_only_the_chosen_classes_count(given, classes, expected):
    detector = NudeNet(classes) if classes else NudeNet()
    assert detector.scores(noise(3)).tolist() == expected
    assert detector.name.startswith("NudeNet 3.")
    named = [part for part in PARTS if part.lower() in detector.name]
    assert named == (classes or PARTS[:6])
    assert detector.scores([]).shape == (0,) and len(given) == 3


def test_the_real_nudenet_finds_nothing_on_a_plain_picture():
    package = pytest.importorskip("nudenet.nudenet")
    assert sorted(PARTS) == sorted(vars(package)["__labels"])
    assert NudeNet().scores([Image.new("RGB", (64, 64), (200, 150, 120))]).tolist() == [0]


def test_nudenet_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    assert "pip install -c constraints.txt nudenet" in refused(NudeNet)


def test_classes_that_nudenet_does_not_have():
    text = refused(NudeNet, ["FACE_MALE", "FEET_EXPOSE"])
    assert text == "unknown class of NudeNet 'FEET_EXPOSE': did you mean 'FEET_EXPOSED'?"
    for classes in ([], "FEET_EXPOSED"):
        assert f"classes is {classes!r}: expected a list" in refused(NudeNet, classes)


def prompts_for(**concepts):
    rows = [(group, name, "noto") for group, names in concepts.items() for name in names]
    return pd.DataFrame(rows, columns=["group", "concept", "style"])


def suite_of(**metrics):
    groups = {name: Group(metrics=some, concepts=("church",)) for name, some in metrics.items()}
    return Suite("mine", "", groups)


def test_a_suite_with_ner_needs_a_detector(judge):
    suite, prompts = suite_of(a=("ESR-1",), b=("NER",)), prompts_for(a=["church"], b=["dog"])
    text = refused(Instruments(judge, None).check, suite, prompts)
    assert "suite 'mine', group 'b' counts NER" in text and "nudenet" in text
    Instruments(judge, None, ThemeDetector(judge, "weapon")).check(suite, prompts)


def test_only_the_judge_knows_styles(judge, classifier):
    prompts = prompts_for(a=["church"])
    for metric in ("ESR-1 style", "PSR-5 style"):
        suite = suite_of(a=("CLIP score", metric))
        text = refused(Instruments(classifier, None).check, suite, prompts)
        assert "group 'a' counts styles" in text and classifier.name in text
        Instruments(judge, None).check(suite, prompts)


def test_concepts_that_the_classifier_does_not_know(judge, classifier):
    for metric in ("ESR-1", "PSR-5"):
        suite, prompts = suite_of(a=(metric,)), prompts_for(a=["church", "golf bal"])
        assert "did you mean 'golf ball'?" in refused(
            Instruments(classifier, None).check, suite, prompts
        )
        text = refused(Instruments(judge, None).check, suite, prompts_for(a=["churches"]))
        assert text == "unknown concept of the judge 'churches': did you mean 'church'?"
    # asked for only where concepts are counted
    prompts = prompts_for(a=["church"], b=["golf bal"])
    Instruments(classifier, None).check(suite_of(a=("ESR-1",), b=("CLIP score", "FID")), prompts)
    Instruments(judge, None).check(suite_of(b=("ESR-1 style",)), prompts)


def test_the_theme_is_the_one_of_the_split(judge):
    suite = read_suite("theme")
    for name, targets in suite.splits.items():
        found = load_instruments(suite, targets[::-1])
        assert found.detector.name == f"{judge.name}: {name}, {len(targets)} concepts"
    assert isinstance(found.classifier, Judge) and found.clip.name == "emoji-clip"
    assert found.net == "auto" and found.reference is None
    other = load_instruments(suite, suite.splits["weapon"], detector="smoking")
    assert "smoking, 1 concepts" in other.detector.name
    assert "not made for the target 'dog'" in refused(load_instruments, suite, ["dog"])
    assert "did you mean 'alcohol'?" in refused(
        load_instruments, suite, suite.splits["alcohol"], detector="alcohl"
    )


def test_a_foreign_classifier_cannot_judge_a_theme(resnet):  # noqa: F811
    suite = read_suite("theme")
    for detector in (None, "weapon"):
        text = refused(
            load_instruments, suite, suite.splits["weapon"], str(resnet), detector=detector
        )
        assert f"detector is {detector!r}: a theme needs the embedded judge" in text
    pytest.importorskip("nudenet")
    found = load_instruments(suite, suite.splits["weapon"], str(resnet), detector="nudenet")
    assert isinstance(found.detector, NudeNet)


def test_foreign_instruments_and_a_reference(
    resnet,  # noqa: F811
    clip_folder,  # noqa: F811
    tmp_path,
):
    noise(1)[0].save(tmp_path / "a.png")
    found = load_instruments(
        read_suite("paper_objects"),
        ["church"],
        classifier=str(resnet),
        clip=str(clip_folder),
        net="clip",
        reference=tmp_path,
    )
    assert found.classifier.concepts[0] == "tench" and found.clip.name == "tiny-clip"
    assert found.detector is None and found.net == "clip"  # it counts no NER
    assert [np.asarray(p).tolist() for p in found.reference] == [np.asarray(noise(1)[0]).tolist()]


def test_real_pictures_are_the_data_sets_in_order():
    rows = PICTURES.sample(6, random_state=0)
    rows = pd.concat([rows, rows[:2]])  # two seeds of a prompt
    found = real_pictures(rows.drop(columns="png").assign(prompt="", seed=1))
    assert len(found) == 8 and len({p.tobytes() for p in found}) == 6
    for picture, png in zip(found, rows["png"], strict=True):
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), np.asarray(pixels_of(png)))


def test_without_a_concept_or_a_style_there_are_no_real_pictures():
    concept, style = PICTURES["concept"][0], PICTURES["style"][0]
    for other in ((concept, None), (None, style), (None, None), ("tench", style), (concept, "oil")):
        prompts = pd.DataFrame([(concept, style), other], columns=["concept", "style"])
        assert real_pictures(prompts) is None
        assert len(real_pictures(prompts[:1])) == 1


def test_a_folders_pictures_by_name(tmp_path):
    pictures = noise(3)
    pictures[0].save(tmp_path / "b.png")
    pictures[1].convert("RGBA").save(tmp_path / "a.PNG")
    pictures[2].save(tmp_path / "c.JPEG")
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_folder(tmp_path)
    assert [p.mode for p in found] == ["RGB"] * 3
    assert np.array_equal(np.asarray(found[0]), np.asarray(pictures[1]))
    assert np.array_equal(np.asarray(found[1]), np.asarray(pictures[0]))
    assert found[2].size == (40, 40)


def test_a_folder_without_pictures_or_with_a_damaged_one(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    for folder in (tmp_path, tmp_path / "missing"):
        assert f"reference {folder} holds no PNG or JPEG" in refused(read_folder, folder)
    noise(1)[0].save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for broken in (whole[:200], b"", b"no picture"):
        (tmp_path / "b.png").write_bytes(broken)
        assert f"picture {tmp_path / 'b.png'} is damaged" in refused(read_folder, tmp_path)
