"""The page's parts without a browser: graphs and weights, what it knows, and what it may not do."""

from __future__ import annotations

import base64
import gzip
import re

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
import onnx

from erase_lib.concepts import concept_table
from tools.benchmarks.shapes import random_family
from tools.page import build, export


def test_eight_bits_are_within_half_a_step_and_sixteen_are_halves():
    g = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=g).numpy() * np.repeat([1e-3, 1.0], 500).astype("f4")
    scales, steps = export.rounded(values, 8)
    again = export.read((scales, steps), 1000)
    half = np.repeat(scales.astype("f4"), export.BLOCK)[:1000] / 2
    # the largest of a block may lie beyond 127 steps of a scale that was rounded down
    assert (np.abs(again - values) <= half * 1.25).all() and steps.dtype == np.int8
    assert np.array_equal(export.read(export.rounded(values, 16), 1000), values.astype("f2"))
    assert not export.read(export.rounded(np.zeros(65, "f4"), 8), 65).any()


def test_graphs_name_their_inputs_and_hold_no_large_weights(tiny):
    shapes = {}
    for name, told in export.exported(tiny, 16):
        graph = onnx.load_from_string(gzip.decompress(base64.b64decode(told["graph"])))
        shapes[name] = [one.name for one in graph.graph.input]
        tensors = graph.graph.initializer
        assert all(np.prod(t.dims) < export.SMALL for t in tensors if not t.external_data)
        weights = gzip.decompress(base64.b64decode(told["weights"]))
        assert len(weights) == 2 * told["count"]
        spans = sorted(
            [int(e.value) for e in t.external_data if e.key in ("offset", "length")]
            for t in tensors
            if t.external_data
        )
        ends = [offset + length for offset, length in spans]
        assert [0, *ends] == [*(offset for offset, _ in spans), 4 * told["count"]]
    assert shapes == {"text": ["ids"], "unet": ["z", "t", "c"], "vae": ["z"]}


def test_the_shipped_weights_are_those_of_the_graphs(tiny):
    name, part = next(iter(export.parts(tiny)))
    values = export.graph(part).values
    export.as_shipped(tiny, 8)
    large = [p for p in part.model.parameters() if p.numel() >= export.SMALL]
    shipped = torch.cat([p.flatten() for p in large]).numpy()
    expected = export.read(export.rounded(values, 8), len(values))
    assert np.allclose(np.sort(shipped), np.sort(expected), atol=0.02 * np.abs(values).max())


def test_sizes_come_from_the_model(tiny):
    told = export.told(tiny)
    assert told["latent"] == (tiny.unet.config.out_channels, *[tiny.unet.config.sample_size] * 2)
    assert told["width"] == tiny.unet.config.cross_attention_dim
    assert told["pixels"] == told["latent"][1] * tiny.vae_scale_factor
    assert len(told["noise"]["alphas"]) == told["noise"]["num_train_timesteps"]
    tiny.scheduler.register_to_config(timestep_spacing="trailing")
    with pytest.raises(ValueError, match="trailing"):
        export.told(tiny)


def test_another_kind_of_model_is_refused(refused):
    refused(next, export.exported(random_family("sdxl"), 8), says="stable-diffusion-xl expected")


def test_the_atlas_names_whom_an_erasure_hurts():
    harmed, about = build.hurt(["dog", "cat", "videocassette"])
    known = set(concept_table()["concept"])
    assert set(harmed) == {"dog", "cat"} and about["methods"] == ["ESD"] and about["pictures"] == 2
    assert "embedded model" in about["model"]
    for target, rows in harmed.items():
        names, values = zip(*rows, strict=True)
        assert len(rows) == build.HURT and target not in names and set(names) <= known
        assert list(values) == sorted(values, reverse=True)


def test_what_is_written_by_hand_is_short_and_fetches_nothing():
    lines = 0
    for path in build.SOURCES.iterdir():
        text = path.read_text("utf-8")
        lines += text.count("\n")
        assert not re.search(r"https?:|//[a-z]+\.|XMLHttpRequest|sendBeacon|WebSocket", text), path
    assert lines <= 800
    rules = (build.SOURCES / "index.html").read_text("utf-8")
    assert "default-src 'none'" in rules and "connect-src data: blob:;" in rules
