"""Tiny random instruments in the very formats of the real ones, and what several files need."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ResNetConfig
from transformers import ResNetForImageClassification as ResNet

from erase_lib import EraseConfig
from erase_lib.closed_form import erase_closed_form
from erase_lib.diffusion import generate
from erase_lib.measure import Judge, load_clip, pictures, read_suite
from erase_lib.measure.suite import SUITES
from erase_lib.models import EMBEDDED

# preprocessor_config.json of microsoft/resnet-50, but for the size
MOMENTS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSOR = {"feature_extractor_type": "ConvNextFeatureExtractor", "do_normalize": True} | MOMENTS
PROCESSOR |= {"do_resize": True, "size": 32, "crop_pct": 0.875, "resample": 3}


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """ResNet's classes and files with ImageNet's way of naming, a few thousand random weights."""
    folder = tmp_path_factory.mktemp("classifier") / "tiny-resnet"
    names = [f"{name}, another word" for name in read_suite("paper_objects").classes]
    torch.manual_seed(0)
    size = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    labels = {name: i for i, name in enumerate(names)}
    config = ResNetConfig(**size, id2label=dict(enumerate(names)), label2id=labels)
    ResNet(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny random CLIPModel, saved as a user would find it, with the embedded tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", local_files_only=True)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2}
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    text = small | marks | {"vocab_size": len(tokenizer), "max_position_embeddings": 12}
    vision = small | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    path = tmp_path_factory.mktemp("clip") / "tiny-clip"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def judge():
    return Judge.load()


@pytest.fixture(scope="session")
def clip():
    return load_clip()


@pytest.fixture
def suite_of(tmp_path):
    """A suite of the text of a file."""

    def read(text):
        (tmp_path / "mine.yaml").write_text(text)
        return read_suite(tmp_path / "mine.yaml")

    return read


@pytest.fixture
def paper_nudity(tmp_path):
    """data/suites/paper_nudity.yaml with lists of four prompts where it wants I2P's and COCO's."""
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na church,7\na dog,8\na rose,9\na cat,4\n")
    (tmp_path / "coco.csv").write_text("caption\na bus\na horse\na man\na woman\n")
    suite = yaml.safe_load((SUITES / "paper_nudity.yaml").read_text("utf-8"))
    for group, name in (("implicit", "i2p.csv"), ("unrelated", "coco.csv")):
        suite["groups"][group]["file"]["path"] = str(tmp_path / name)
    (tmp_path / "nudity.yaml").write_text(yaml.safe_dump(suite))
    return tmp_path / "nudity.yaml"


@pytest.fixture
def uce(tiny):
    """A quick erasure of a target."""

    def erased(target, nearest=4):
        return erase_closed_form(tiny, EraseConfig([target], method="uce", nearest=nearest))

    return erased


@pytest.fixture(scope="session")
def noise():
    """n random pictures of a size."""

    def pictures(n, size=(40, 40), seed=0):
        draws = np.random.default_rng(seed).integers(0, 256, (n, size[1], size[0], 3), np.uint8)
        return [Image.fromarray(array) for array in draws]

    return pictures


@pytest.fixture
def drawings(monkeypatch):
    """How many prompts each call of `generate` drew; a KeyboardInterrupt at call `cut`."""

    class Drawings(list):
        cut = 0

    calls = Drawings()

    def counted(pipe, prompts, *arguments, **settings):
        calls.append(len(prompts))
        if len(calls) == calls.cut:
            raise KeyboardInterrupt
        return generate(pipe, prompts, *arguments, **settings)

    monkeypatch.setattr(pictures, "generate", counted)
    return calls
