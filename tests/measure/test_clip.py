"""CLIP: a `CLIPModel` of transformers against its own features, and the score by hand."""

from __future__ import annotations

import time

import huggingface_hub.constants as hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from erase_lib import EraseError
from erase_lib.measure.clip import (
    MEAN,
    STD,
    SmallCLIP,
    clip_score,
    load_clip,
    load_transformers_clip,
)
from erase_lib.models import EMBEDDED

PROMPTS = ["a dog", "a church in noto style", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
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


def features(output):
    """Of unit length; transformers 5 gives them as the pooled output of an object."""
    return F.normalize(getattr(output, "pooler_output", output), dim=-1)


def test_features_are_those_of_the_model_itself(folder):
    clip = load_transformers_clip(folder)
    assert clip.name == "tiny-clip" and clip.size == 32
    model = CLIPModel.from_pretrained(folder).eval()
    ids = clip.tokenizer(PROMPTS, padding="max_length", max_length=12, return_tensors="pt")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    normalised = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        texts = features(model.get_text_features(ids.input_ids, ids.attention_mask))
        images = features(model.get_image_features(normalised))
    found = clip.text_features(PROMPTS)
    torch.testing.assert_close(found, texts)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    pictures = [Image.fromarray(array) for array in pixels]
    torch.testing.assert_close(clip.image_features(pictures), images)
    score = clip_score(clip, pictures, PROMPTS[:2])
    assert score == pytest.approx((100 * (images * texts[:2]).sum(1).clamp(min=0)).numpy())


def test_pictures_of_another_size_are_scaled_and_long_prompts_cut(folder):
    clip = load_transformers_clip(folder)
    grey = clip.image_features(torch.full((1, 3, 64, 48), 0.2))
    torch.testing.assert_close(grey, clip.image_features(torch.full((1, 3, 32, 32), 0.2)))
    words = "a dog and a cat and a bus and a church and a rose"
    assert torch.equal(*clip.text_features([words, words + " and an apple"]))


def test_features_do_not_depend_on_the_batch(folder):
    for clip in (load_transformers_clip(folder), load_clip()):
        pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        alone = clip.image_features(pictures, batch=1), clip.text_features(PROMPTS, batch=1)
        torch.testing.assert_close(clip.image_features(pictures), alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(clip.text_features(PROMPTS), alone[1], atol=1e-5, rtol=0)


def test_the_score_of_three_pictures_by_hand():
    clip = SmallCLIP(None, None, None, torch.eye(2), torch.eye(2))
    clip.image_features = lambda pictures: torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    clip.text_features = lambda prompts: torch.tensor([[1.0, 0.0]]).expand(len(prompts), 2)
    assert clip_score(clip, [None] * 3, ["a"] * 3) == pytest.approx([100, 60, 0])
    with pytest.raises(EraseError, match="3 pictures but 2 prompts"):
        clip_score(clip, [None] * 3, ["a"] * 2)


def refused(model_id):
    with pytest.raises(EraseError) as error:
        load_transformers_clip(model_id)
    text = str(error.value)
    assert "\n" not in text and len(text) < 400 and repr(str(model_id)) in text
    return text


def test_a_hub_id_without_a_network_is_one_quick_line(monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    begin = time.perf_counter()
    assert "give a hub id that is downloaded, a folder" in refused("nobody/no-such-clip")
    assert time.perf_counter() - begin < 5


def test_a_folder_without_its_tokenizer_or_of_another_model_is_refused(folder, tmp_path):
    model = CLIPModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "bare")
    refused(tmp_path / "bare")
    model.text_model.save_pretrained(tmp_path / "text")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "text")
    refused(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
