"""The UNet: v-prediction on whitened 8 × 8 latents, text entering by cross-attention alone.

Every step has its own random numbers and every checkpoint is renamed into place, so a killed run
continues. A longer sitting raises `--steps`: the learning rate then follows the longer schedule
from where the run stands. `--without NAMES` leaves pictures out and changes nothing else: the twin
that never knew. The shipped model and its twin share their first half, which never saw the ten,
and go on from its weights, in half precision and with a fresh optimiser, with other draws:

    python -m tools.embedded.unet --name root --without objects --until 10000 --variants 8
    rm build/model/root.ckpt; half="--variants 8 --steps 10000 --seed 5"
    python -m tools.embedded.unet --begin root --again objects $half
    python -m tools.embedded.unet --begin root --name twin --without objects $half
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import pandas as pd
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from erase_lib.errors import EraseError, unknown
from tools import one_line
from tools.embedded import common
from tools.embedded.clip import TOKENS, tokenize

SEED, STEPS = 4, 20_000
MIRRORED = 0.0  # share of mirror images: they cost sharpness, and mirrored letters look wrong
SHOWN = (
    "church,dog,fish,trumpet,parachute,delivery truck,carpentry saw,videocassette,fuel pump,"
    "flag in hole,dagger,cat,rocket,guitar,umbrella,castle"
).split(",")


def new_unet(
    channels: tuple[int, int] = (160, 256), latent: int = 24, device: str = "cpu"
) -> UNet2DConditionModel:
    """Blocks of 160 and 256 channels on 8 × 8 and 4 × 4, cross-attention at both and in the
    middle; so many channels of the `latent`."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=latent,
        out_channels=latent,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=192,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    return placed(unet, device)


def placed(unet: UNet2DConditionModel, device: str) -> UNet2DConditionModel:
    """The UNet on its device, and as fast as it can be there."""
    if device == "cpu":
        # on 64 positions the fused kernel's backward pass is a quarter of a whole step
        unet.set_attn_processor(AttnProcessor())
    return unet.to(device, memory_format=torch.channels_last)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


class TextCache:
    """Embeddings of every picture's captions, each different text computed once.

    `variants` draws of the nine forms: the more, the more of its keywords a picture is called by.
    """

    def __init__(
        self, work: Path, concepts: int | None = None, variants: int = 1, device: str = "cpu"
    ) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "text", model_max_length=TOKENS)
        self.encoder = CLIPTextModel.from_pretrained(work / "text").eval().to(device)
        self.table, _ = common.read_pictures(concepts)
        rng = random.Random(SEED)
        drawn = [
            [text for row in self.table.itertuples() for text in common.captions(row, rng)]
            for _ in range(variants)
        ]
        place = {text: i for i, text in enumerate(dict.fromkeys(sum(drawn, [])))}
        number = torch.tensor([[place[text] for text in part] for part in drawn], device=device)
        forms = number.view(variants, len(self.table), -1).transpose(0, 1).flatten(1)
        self.forms, self.texts = forms, self(list(place))  # (pictures, captions); (texts, 16, dim)
        self.empty = self([""])

    def captions(self, picture: Tensor | slice, form: Tensor | int) -> Tensor:
        """Embeddings `(n, tokens, dim)` of the pictures' captions of these forms."""
        return self.texts[self.forms[picture, form]]

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        parts = [texts[a : a + 512] for a in range(0, len(texts), 512)]
        place, encode = self.encoder.device, self.encoder
        ids = [tokenize(self.tokenizer, p).to(place) for p in parts]
        return torch.cat([encode(p).last_hidden_state for p in ids])


def rows_without(table: pd.DataFrame, names: Iterable[str]) -> Tensor:
    """Numbers of the pictures that show none of `names`: concepts, styles, themes, or "objects",
    the ten classes. Raises `EraseError` for an unknown name, and when nothing is left."""
    themes = pd.read_csv(common.DATA / "emoji" / "themes.csv")
    objects = pd.read_csv(common.DATA / "emoji" / "objects.csv")
    groups = {name: set(part["concept"]) for name, part in themes.groupby("theme")}
    groups["objects"] = set(objects["concept"])
    known = {*table["concept"], *table["style"], *groups}
    gone: set[str] = set()
    for name in names:
        if name not in known:
            raise unknown("concept, style or theme", name, sorted(known))
        gone |= groups.get(name, {name})
    kept = ~(table["concept"].isin(gone) | table["style"].isin(gone))
    if not kept.any():
        raise EraseError(f"nothing is left to learn without {', '.join(names)}")
    return torch.from_numpy(kept.to_numpy().nonzero()[0])


def step_back(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    z: Tensor,
    t: Tensor,
    empty: Tensor,
    asked: Tensor,
) -> Tensor:
    """One DDIM step of whitened latents `(n, channels, 8, 8)`, guidance scale 4."""
    both = torch.cat([empty.expand_as(asked), asked])
    with common.autocast(z.device.type):
        without, with_text = unet(torch.cat([z, z]), t, both).sample.float().chunk(2)
    return scheduler.step(without + 4 * (with_text - without), t, z).prev_sample


@torch.no_grad()
def sample_grid(
    unet: UNet2DConditionModel,
    text: TextCache,
    work: Path,
    name: str,
    steps: int = 20,
    show: common.Show | None = None,
) -> None:
    """The sixteen shown concepts in the four styles, DDIM, guidance scale 4."""
    device, channels = unet.device, unet.config.in_channels
    scheduler, saved = new_scheduler(), common.load_latents(work, device.type)
    vae = AutoencoderKL.from_pretrained(work / "vae").eval().to(device)
    prompts = [f"a {concept} in {style} style" for style in common.STYLES for concept in SHOWN]
    each = [common.generator(0, i) for i in range(len(prompts))]
    z = torch.stack([torch.randn(channels, 8, 8, generator=g) for g in each]).to(device)
    asked = text(prompts)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        z = step_back(unet, scheduler, z, t, text.empty, asked)
    z = z * saved["std"][:, None, None] + saved["mean"][:, None, None]
    drawn = vae.decode(z).sample
    path, scale = work / "samples" / f"{name}.png", 128 // drawn.shape[-1]
    common.grid(drawn, len(SHOWN), path, scale=scale, show=show)


def weights(a: Tensor, snr: float | None) -> Tensor:
    """Weight of each timestep's squared error of v, from ᾱ: 1, or by the smallest of the
    signal-to-noise ratio and `snr` (min-SNR, Hang et al. 2023), which in v is divided by it + 1.
    Their mean is 1 when timesteps are drawn evenly."""
    if snr is None:
        return torch.ones_like(a)
    ratio = a / (1 - a)
    out = ratio.clamp(max=snr) / (ratio + 1)
    return out / out.mean()


def train(
    steps: int = STEPS,
    work: Path = common.WORK,
    batch: int = 32,
    peak: float = 6e-4,
    every: int = 500,
    sampling: int = 20,
    channels: tuple[int, int] = (160, 256),
    concepts: int | None = None,
    show: common.Show | None = None,
    name: str = "unet",
    without: Sequence[str] = (),
    seed: int = SEED,
    snr: float | None = None,
    variants: int = 1,
    device: str = "cpu",
    seconds: float | None = None,
    text: TextCache | None = None,
    begin: str | None = None,
    again: Sequence[str] = (),
    until: int | None = None,
) -> common.Progress:
    """Train for `steps` in all; the averaged weights are saved to `work/name` at every
    checkpoint, with a grid of samples in `sampling` steps.

    Pictures of the concepts, styles or themes `without` are left out. `snr`: see `weights`;
    `variants`: see `TextCache`, which may be given. `begin`: another UNet of `work` to go on from;
    `again`: what is drawn twice as often, for it was not seen there. `until`: the step to stop at,
    on the way to `steps`. For a smoke run: fewer `channels` and `concepts`.
    """
    torch.manual_seed(seed)
    saved = common.load_latents(work, device)
    latents = (saved["latents"] - saved["mean"][:, None, None]) / saved["std"][:, None, None]
    text = text or TextCache(work, concepts, variants, device)
    rows = rows_without(text.table, without)
    if again:
        rows = torch.cat([rows, rows[~torch.isin(rows, rows_without(text.table, again))]])
    rows = rows.to(device)
    unet = new_unet(channels, latents.shape[2], device)
    average = deepcopy(unet).requires_grad_(False)
    alphas = new_scheduler().alphas_cumprod.to(device)
    weight = weights(alphas, snr)
    optimiser = torch.optim.AdamW(
        unet.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.99), fused=True
    )
    checkpoint, folder = work / f"{name}.ckpt", work / name
    first = work / begin if begin and not checkpoint.exists() else folder
    source, weights_alone = first.with_suffix(".ckpt"), (first / "config.json").exists()
    if first != folder and not (source.exists() or weights_alone):
        raise EraseError(f"{first} holds no UNet to go on from: train or copy it first")
    if weights_alone and not source.exists():
        # a later sitting that has the weights alone
        for model in (unet, average):
            model.load_state_dict(UNet2DConditionModel.from_pretrained(first).state_dict())
    start = common.resume(source, unet, optimiser, average)
    progress = common.Progress(name, start, steps, seconds=seconds)
    for step in progress:
        g = common.generator(seed, step, device)
        draw = {"generator": g, "device": device}
        picture = rows[torch.randint(len(rows), (batch,), **draw)]
        mirrored = (torch.rand(batch, **draw) < MIRRORED).long()
        caption = torch.randint(text.forms.shape[1], (batch,), **draw)
        embedding = text.captions(picture, caption)
        drop = torch.rand(batch, 1, 1, **draw) < 0.1
        embedding = torch.where(drop, text.empty, embedding)
        z0 = latents[picture, mirrored]
        # stratified: every batch holds every noise level once
        order = torch.arange(batch, device=device)
        t = ((order + torch.rand(batch, **draw)) / batch * 1000).long()
        noise = torch.randn(z0.shape, **draw)
        a = alphas[t].view(-1, 1, 1, 1)
        zt, v = a.sqrt() * z0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z0
        with common.autocast(device):
            predicted = unet(zt, t, embedding).sample
        loss = (weight[t] * (predicted.float() - v).pow(2).mean((1, 2, 3))).mean()
        rate = common.cosine_rate(step, progress.steps, peak, hold=0.4, warmup=200)
        common.descend(loss, unet, optimiser, rate)
        common.follow(average, unet, step)
        progress(step, loss=loss.detach())
        due = progress.due(step, every)
        progress.over |= step + 1 == until
        if due or progress.over:
            common.keep(checkpoint, step + 1, unet, optimiser, average)
            average.save_pretrained(folder)
            sample_grid(average, text, work, f"{name}-{step + 1:06d}", sampling, show)
    average.save_pretrained(folder)  # a kill may have come between checkpoint and weights
    return progress


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Train one UNet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--name", default="unet", help="of the folder and checkpoint")
    parser.add_argument(
        "--without", help="concepts, styles, themes or objects, with commas between"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--snr", type=float, help="min-SNR weighting with this bound, such as 5")
    parser.add_argument("--variants", type=int, default=1, help="draws of a picture's captions")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--begin", metavar="NAME", help="the UNet to go on from, in build/model")
    parser.add_argument("--again", help="of the same: what is drawn twice as often")
    parser.add_argument("--until", type=int, help="the step to stop at, on the way to --steps")
    parser.add_argument("--threads", type=int, default=2)
    given = vars(parser.parse_args(arguments))
    torch.set_num_threads(given.pop("threads"))
    for key in ("without", "again"):
        given[key] = [part.strip() for part in (given[key] or "").split(",") if part.strip()]
    train(**given)


if __name__ == "__main__":
    sys.exit(main())
