"""Tiny random instruments in the very formats of the real ones, and what several files need."""

import numpy as np
import pytest
import yaml
from instruments import tiny_clip, tiny_resnet
from PIL import Image
from transformers import CLIPTokenizer

from erase_lib import EraseConfig
from erase_lib.closed_form import erase_closed_form
from erase_lib.diffusion import generate
from erase_lib.measure import Judge, load_clip, pictures, read_suite
from erase_lib.measure.suite import SUITES
from erase_lib.models import EMBEDDED


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """ResNet's classes and files with ImageNet's way of naming, a few thousand random weights."""
    folder = tmp_path_factory.mktemp("classifier") / "tiny-resnet"
    return tiny_resnet(folder, [f"{c}, another word" for c in read_suite("paper_objects").classes])


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny random CLIPModel, saved as a user would find it, with the embedded tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", local_files_only=True)
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip", tokenizer)


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
