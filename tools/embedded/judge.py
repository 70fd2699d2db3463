"""The judge: says which concept and which style a picture shows.

It plays the part ResNet-50 has in the paper. To be independent it has an architecture, a seed and
an augmentation of its own, sees only the data set's pictures, never generated ones, and takes part
in no other training. Labels: the concepts in alphabetical order, then the styles as "style: noto";
a softmax over each part.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

from tools.embedded import common

SEED, STEPS = 3, 2800
FOLDER = common.DATA / "models" / "emoji-judge"
STATEMENT = (
    "The pictures are the training pictures, augmented anew with other seeds: "
    "these numbers say how stable the judge is, not how it does on objects it has never seen."
)


def new_judge(concepts: list[str]) -> ConvNextV2ForImageClassification:
    """ConvNeXt V2 on 64 × 64 pictures, 16 × 16 patches of 4 px; 1.0 M parameters."""
    labels = [*concepts, *(f"style: {s}" for s in common.STYLES)]
    config = ConvNextV2Config(
        image_size=64,
        patch_size=4,
        num_stages=3,
        hidden_sizes=[48, 96, 192],
        depths=[2, 2, 2],
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return ConvNextV2ForImageClassification(config)


def between(low: float, high: float, n: int, g: torch.Generator) -> Tensor:
    """`(n,)` uniform numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(n, generator=g)


def move(
    pictures: Tensor,
    g: torch.Generator,
    pixels: float = 0.0,
    scales: tuple[float, float] = (1.0, 1.0),
    degrees: float = 0.0,
    mirror: float = 0.0,
) -> Tensor:
    """Each picture `(n, 3, h, w)` shifted, scaled, rotated, mirrored by its own draw, on white."""
    n = len(pictures)
    size = between(*scales, n, g)
    angle = between(-degrees, degrees, n, g) * math.pi / 180
    flip = 1 - 2 * (torch.rand(n, generator=g) < mirror).float()
    dx, dy = (between(-2, 2, n, g) * pixels / pictures.shape[-1] for _ in range(2))
    cos, sin = angle.cos() / size, angle.sin() / size
    rows = [torch.stack([cos * flip, -sin * flip, dx], 1), torch.stack([sin, cos, dy], 1)]
    where = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures - 1, where, align_corners=False) + 1  # outside: 0, so white


def recolour(pictures: Tensor, g: torch.Generator, amount: float = 1.0) -> Tensor:
    """Hue ± 20°, saturation 0.5–1.4, contrast 0.7–1.2, brightness ± 0.2, all times `amount`.

    One 3 × 3 matrix a picture: a turn about the grey axis (Rodrigues), then a mix with the grey
    value; the result is clamped to [−1, 1].
    """
    n = len(pictures)
    hue = between(-20, 20, n, g)[:, None, None] * amount * math.pi / 180
    saturation = 1 + amount * between(-0.5, 0.4, n, g)[:, None, None]
    contrast = 1 + amount * between(-0.3, 0.2, n, g)[:, None, None]
    brightness = amount * between(-0.2, 0.2, n, g)[:, None, None, None]
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = hue.cos() * torch.eye(3) + hue.sin() * cross + (1 - hue.cos()) * grey
    mixing = contrast * (saturation * turn + (1 - saturation) * grey)  # grey @ turn == grey
    return ((mixing @ pictures.flatten(2)).view_as(pictures) + brightness).clamp(-1, 1)


def blur(pictures: Tensor, g: torch.Generator) -> Tensor:
    """Each picture mixed, by its own share, with its Gaussian blur (deviation 1.5 pixels)."""
    x = torch.arange(-3, 4, dtype=torch.float32)
    kernel = (-(x**2) / (2 * 1.5**2)).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7)
    padded = F.pad(pictures, (3,) * 4, mode="replicate")
    soft = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
    share = between(0, 1, len(pictures), g)[:, None, None, None]
    return torch.lerp(pictures, soft, share)


def noise(pictures: Tensor, g: torch.Generator, deviation: float) -> Tensor:
    """Gaussian noise, each picture's deviation drawn up to `deviation` (of a range of 2)."""
    strength = between(0, deviation, len(pictures), g)[:, None, None, None]
    return pictures + strength * torch.randn(pictures.shape, generator=g)


def cover(pictures: Tensor, g: torch.Generator, share: float, pixels: int = 24) -> Tensor:
    """Random erasing: in a share of the pictures a box of one colour, sides up to `pixels`."""
    n, _, h, w = pictures.shape
    left, top = between(0, w, n, g)[:, None], between(0, h, n, g)[:, None]
    across, down = between(6, pixels, n, g)[:, None], between(6, pixels, n, g)[:, None]
    x, y = torch.arange(w)[None], torch.arange(h)[None]
    columns, rows = (x >= left) & (x < left + across), (y >= top) & (y < top + down)
    chosen = torch.rand(n, 1, 1, 1, generator=g) < share
    colour = 2 * torch.rand(n, 3, 1, 1, generator=g) - 1
    return torch.where(chosen & (rows[:, None, :, None] & columns[:, None, None]), colour, pictures)


def augment(pictures: Tensor, g: torch.Generator) -> Tensor:
    """Everything at once, as the judge is trained."""
    out = move(pictures, g, pixels=8, scales=(0.75, 1.15), degrees=12, mirror=0.3)
    return noise(cover(blur(recolour(out, g), g), g, share=0.3), g, deviation=0.2)


def labels(concepts: int | None = None) -> tuple[Tensor, list[str], Tensor, Tensor]:
    """Pictures uint8 `(n, 3, 64, 64)`, concept names, each picture's concept and style index."""
    table, pictures = common.read_pictures(concepts, common.SEEN)
    names = sorted(set(table["concept"]))
    concept = torch.tensor([names.index(c) for c in table["concept"]])
    return pictures, names, concept, torch.tensor([common.STYLES.index(s) for s in table["style"]])


def train(
    steps: int = STEPS,
    work: Path = common.WORK,
    folder: Path = FOLDER,
    batch: int = 96,
    peak: float = 2e-3,
    every: int = 200,
    concepts: int | None = None,
) -> None:
    """Cross-entropy of concept and style; checkpoints in `work`, judge and accuracy in `folder`.

    A checkpoint `every` so many steps; only so many `concepts` for a smoke run.
    """
    torch.manual_seed(SEED)
    pictures, names, concept, style = labels(concepts)
    model = new_judge(names)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=peak, weight_decay=0.05, betas=(0.9, 0.98), fused=True
    )
    start = common.resume(work / "judge.ckpt", model, optimiser)
    progress = common.Progress("judge", start, steps)
    for step in range(start, steps):
        g = common.generator(SEED, step)
        chosen = torch.randint(len(pictures), (batch,), generator=g)
        seen = augment(common.to_float(pictures[chosen]), g)
        with common.autocast():
            logits = model(seen).logits.float()
        which, how = logits[:, : len(names)], logits[:, len(names) :]
        naming = F.cross_entropy(which, concept[chosen], label_smoothing=0.05)
        styling = F.cross_entropy(how, style[chosen], label_smoothing=0.05)
        common.descend(
            naming + 0.5 * styling, model, optimiser, common.cosine_rate(step, steps, peak)
        )
        right = (which.argmax(1) == concept[chosen]).float().mean()
        progress(step, concept=naming.item(), style=styling.item(), accuracy=right.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            common.keep(work / "judge.ckpt", step + 1, model, optimiser)
    save(model, folder)
    evaluate(folder, concepts=concepts)


def save(model: ConvNextV2ForImageClassification, folder: Path) -> None:
    """A stock folder: weights fp16, the config says float32, so `from_pretrained` gives float32."""
    model.eval().half().save_pretrained(folder)
    common.amend_config(folder / "config.json", dtype="float32")


def wilson(right: int, n: int, z: float = 1.96) -> list[float]:
    """The 95 % Wilson interval of a share."""
    p, d = right / n, 1 + z**2 / n
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return [round((p + z**2 / (2 * n) - half) / d, 4), round((p + z**2 / (2 * n) + half) / d, 4)]


PERTURBATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x, g: x,
    "shifted": lambda x, g: move(x, g, pixels=6),
    "rescaled": lambda x, g: move(x, g, scales=(0.8, 1.1)),
    "recoloured": lambda x, g: recolour(x, g),
    "noised": lambda x, g: noise(x, g, deviation=0.2),
    "all": lambda x, g: noise(recolour(move(x, g, 6, (0.8, 1.1)), g), g, deviation=0.2),
}


@torch.no_grad()
def evaluate(
    folder: Path = FOLDER, seed: int = 1003, concepts: int | None = None
) -> dict[str, dict[str, object]]:
    """Accuracy on all pictures, perturbed one way at a time and all at once: accuracy.json."""
    model = ConvNextV2ForImageClassification.from_pretrained(folder).eval()
    pictures, names, concept, style = labels(concepts)
    n, rows = len(pictures), {}
    for i, (name, perturb) in enumerate(PERTURBATIONS.items()):
        g = torch.Generator().manual_seed(seed + i)
        chunks = common.to_float(pictures).split(107)
        logits = torch.cat([model(perturb(chunk, g)).logits for chunk in chunks])
        which = int((logits[:, : len(names)].argmax(1) == concept).sum())
        how = int((logits[:, len(names) :].argmax(1) == style).sum())
        rows[name] = {
            "concept_top1": round(which / n, 4),
            "concept_interval": wilson(which, n),
            "style_top1": round(how / n, 4),
            "style_interval": wilson(how, n),
            "n": n,
            "seed": seed + i,
        }
        print(name, rows[name], flush=True)
    report = {"statement": STATEMENT, "interval": "Wilson, 95 %", "training_seed": SEED, "on": rows}
    (folder / "accuracy.json").write_text(json.dumps(report, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.steps, common.WORK)
