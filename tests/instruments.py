"""Tiny random instruments in the very formats of the real ones."""

import json

import torch
from transformers import CLIPConfig, CLIPModel, ResNetConfig
from transformers import ResNetForImageClassification as ResNet

# preprocessor_config.json of microsoft/resnet-50, but for the size
MOMENTS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSOR = {"feature_extractor_type": "ConvNextFeatureExtractor", "do_normalize": True} | MOMENTS
PROCESSOR |= {"do_resize": True, "size": 32, "crop_pct": 0.875, "resample": 3}


def tiny_resnet(folder, names):
    """A ResNet that knows these classes, as a user would find it: a few thousand random weights."""
    torch.manual_seed(0)
    size = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    labels = {name: i for i, name in enumerate(names)}
    config = ResNetConfig(**size, id2label=dict(enumerate(names)), label2id=labels)
    ResNet(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def tiny_clip(folder, tokenizer, most=12):
    """A random CLIPModel of so many tokens, with this tokenizer, as a user would find it."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2}
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    text = small | marks | {"vocab_size": len(tokenizer), "max_position_embeddings": most}
    vision = small | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
