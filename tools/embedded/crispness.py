"""How near the model's pictures come to the originals: what a share of right answers cannot say.

A soft picture is often still recognised. So each picture is compared with its nearest original, of
any concept and style, in the features of the judge, which no training has seen; and its sharpness
with that of the original that was asked for, at the size in which the model draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from erase_lib.diffusion import generate
from erase_lib.measure import Judge, bootstrap, picture_tensor, sharpness
from erase_lib.models import load_pipeline
from tools.embedded import common


@torch.no_grad()
def features(judge: Judge, pictures: Tensor) -> Tensor:
    """The judge's pooled features `(n, d)` of pictures in [−1, 1], unit length."""
    body = judge.model.convnextv2
    return F.normalize(torch.cat([body(p).pooler_output for p in pictures.split(128)]), dim=-1)


def measure(model: Path | None = None, n: int = 160, seed: int = 0) -> pd.DataFrame:
    """Distance to the nearest original (1 − cosine) and sharpness beside the original's (1: equal).

    n prompts "a {concept} in {style} style", drawn at random; 30 DDIM steps, guidance scale 4.
    """
    pipe = load_pipeline(model)
    size = pipe.vae.config.sample_size
    table, originals = common.read_pictures(size=common.SEEN)
    rows = np.random.default_rng(seed).choice(len(table), n, replace=False)
    asked = table.iloc[rows]
    prompts = [f"a {r.concept} in {r.style} style" for r in asked.itertuples()]
    drawn = picture_tensor(generate(pipe, prompts, seed=seed, batch_size=32), size)
    judge, known = Judge.load(), common.to_float(originals)
    nearest = (features(judge, picture_tensor(drawn)) @ features(judge, known).T).max(1).values
    true = common.to_float(common.read_pictures(size=size)[1][rows])
    values = {
        "distance to the nearest original": 1 - nearest,
        "sharpness, share of the original's": sharpness(drawn) / sharpness(true),
    }
    out = []
    for name, value in values.items():
        low, high = bootstrap(value.numpy())
        row = {"measure": name, "value": value.mean().item(), "low": low, "high": high, "n": n}
        out.append(row | {"measured_by": judge.name})
    return pd.DataFrame(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="another pipeline; the shipped one if absent")
    parser.add_argument("--pictures", type=int, default=160)
    arguments = parser.parse_args()
    print(measure(arguments.model, arguments.pictures).round(3).to_string(index=False))
