"""CLIP: a `CLIPModel` of transformers against its own features, and the score by hand."""

import time

import huggingface_hub.constants as hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from erase_lib.measure import distances as module
from erase_lib.measure.distances import MEAN, STD, clip_score, load_clip
from erase_lib.measure.pictures import real_pictures
from erase_lib.measure.prompts import prompt_table

PROMPTS = ["a dog", "a church in noto style", ""]


def features(output):
    """Of unit length; transformers 5 gives them as the pooled output of an object."""
    return F.normalize(getattr(output, "pooler_output", output), dim=-1)


def test_features_are_those_of_the_model_itself(clip_folder):
    clip = load_clip(clip_folder)
    assert clip.name == "tiny-clip" and clip.size == 32
    model = CLIPModel.from_pretrained(clip_folder).eval()
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


def test_pictures_of_another_size_are_scaled_and_long_prompts_cut(clip_folder):
    clip = load_clip(clip_folder)
    grey = clip.image_features(torch.full((1, 3, 64, 48), 0.2))
    torch.testing.assert_close(grey, clip.image_features(torch.full((1, 3, 32, 32), 0.2)))
    words = "a dog and a cat and a bus and a church and a rose"
    assert torch.equal(*clip.text_features([words, words + " and an apple"]))


def test_features_do_not_depend_on_the_batch(clip_folder, clip):
    for of in (load_clip(clip_folder), clip):
        pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        alone = of.image_features(pictures, batch=1), of.text_features(PROMPTS, batch=1)
        torch.testing.assert_close(of.image_features(pictures), alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(of.text_features(PROMPTS), alone[1], atol=1e-5, rtol=0)


def test_the_score_of_three_pictures_by_hand(refused):
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    assert clip_score(images, texts) == pytest.approx([100, 60, 0])
    refused(clip_score, images, texts[:2], says=["3 pictures", "2 prompts"])


def test_the_embedded_clip_prefers_the_prompt_of_the_picture(clip, judge):
    some = judge.concepts[::5]
    table = prompt_table([(c, judge.styles[i % 4]) for i, c in enumerate(some)])
    images = clip.image_features(real_pictures(table))
    texts = clip.text_features(list(table["prompt"]))
    fitting, wrong = clip_score(images, texts), clip_score(images, texts.roll(1, 0))
    assert fitting.shape == (len(some),) and fitting.min() >= 0 and fitting.max() <= 100
    assert (fitting > wrong).mean() >= 0.95


def test_what_is_no_whole_clip_is_refused(clip_folder, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    begin = time.perf_counter()
    refused(load_clip, "nobody/no-such-clip", says="'nobody/no-such-clip' downloaded")
    assert time.perf_counter() - begin < 5
    model = CLIPModel.from_pretrained(clip_folder)
    model.save_pretrained(tmp_path / "bare")
    model.text_model.save_pretrained(tmp_path / "text")
    CLIPTokenizer.from_pretrained(clip_folder).save_pretrained(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    for name in ("bare", "text", "empty"):
        refused(load_clip, str(tmp_path / name), says=[str(tmp_path / name)])
    monkeypatch.setattr(module, "MODELS", tmp_path)
    refused(load_clip, says="text_encoder missing")
