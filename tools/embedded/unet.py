"""The UNet: v-prediction on whitened 8 × 8 × 16 latents, text entering by cross-attention alone.

Every step has its own random numbers and every checkpoint is renamed into place, so a killed run
continues. A longer sitting raises `--steps`: the learning rate then follows the longer schedule
from where the run stands.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from tools.embedded import common
from tools.embedded.clip import TOKENS, tokenize

SEED, STEPS = 4, 20_000
MIRRORED = 0.0  # share of mirror images: they cost sharpness, and mirrored letters look wrong
SHOWN = (
    "church,dog,fish,trumpet,parachute,delivery truck,carpentry saw,videocassette,fuel pump,"
    "flag in hole,dagger,cat,rocket,guitar,umbrella,castle"
).split(",")


def new_unet(channels: tuple[int, int] = (160, 256)) -> UNet2DConditionModel:
    """Blocks of 160 and 256 channels on 8 × 8 and 4 × 4, cross-attention at both and in the
    middle."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=192,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    # plain attention: on 64 positions the fused kernel's backward pass is a quarter of a whole step
    unet.set_attn_processor(AttnProcessor())
    return unet.to(memory_format=torch.channels_last)


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
    """Embeddings of every picture's captions, `(pictures, captions, tokens, dim)`, computed
    once."""

    def __init__(self, work: Path, concepts: int | None = None) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "text", model_max_length=TOKENS)
        self.encoder = CLIPTextModel.from_pretrained(work / "text").eval()
        table, _ = common.read_pictures(concepts)
        rng = random.Random(SEED)
        rows = [common.captions(row, rng) for row in table.itertuples()]
        self.captions = self(sum(rows, [])).unflatten(0, (len(rows), -1))
        self.empty = self([""])

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        parts = [texts[a : a + 512] for a in range(0, len(texts), 512)]
        encode = self.encoder
        return torch.cat([encode(tokenize(self.tokenizer, p)).last_hidden_state for p in parts])


def step_back(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    z: Tensor,
    t: Tensor,
    empty: Tensor,
    asked: Tensor,
) -> Tensor:
    """One DDIM step of whitened latents `(n, 16, 8, 8)`, guidance scale 4."""
    both = torch.cat([empty.expand_as(asked), asked])
    with common.autocast():
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
    scheduler, saved = new_scheduler(), common.load_latents(work)
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    prompts = [f"a {concept} in {style} style" for style in common.STYLES for concept in SHOWN]
    z = torch.stack([torch.randn(16, 8, 8, generator=common.generator(0, i)) for i in range(64)])
    asked = text(prompts)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        z = step_back(unet, scheduler, z, t, text.empty, asked)
    z = z * saved["std"][:, None, None] + saved["mean"][:, None, None]
    common.grid(vae.decode(z).sample, 16, work / "samples" / f"{name}.png", scale=2, show=show)


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
) -> None:
    """Train for `steps` in all; the averaged weights are saved to `work/unet` at every
    checkpoint, with a grid of samples in `sampling` steps.

    For a smoke run: fewer `channels` and `concepts`.
    """
    torch.manual_seed(SEED)
    saved = common.load_latents(work)
    latents = (saved["latents"] - saved["mean"][:, None, None]) / saved["std"][:, None, None]
    text = TextCache(work, concepts)
    unet, average = new_unet(channels), new_unet(channels).requires_grad_(False)
    average.load_state_dict(unet.state_dict())
    alphas = new_scheduler().alphas_cumprod
    optimiser = torch.optim.AdamW(
        unet.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.99), fused=True
    )
    start = 0
    if state := common.load_checkpoint(work / "unet.ckpt"):
        unet.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    elif (work / "unet" / "config.json").exists():  # a later sitting that has the weights alone
        for model in (unet, average):
            model.load_state_dict(UNet2DConditionModel.from_pretrained(work / "unet").state_dict())
    progress = common.Progress("unet", start, steps)
    for step in range(start, steps):
        g = common.generator(SEED, step)
        picture = torch.randint(len(latents), (batch,), generator=g)
        mirrored = (torch.rand(batch, generator=g) < MIRRORED).long()
        caption = torch.randint(text.captions.shape[1], (batch,), generator=g)
        embedding = text.captions[picture, caption]
        drop = torch.rand(batch, 1, 1, generator=g) < 0.1
        embedding = torch.where(drop, text.empty, embedding)
        z0 = latents[picture, mirrored]
        # stratified: every batch holds every noise level once
        t = ((torch.arange(batch) + torch.rand(batch, generator=g)) / batch * 1000).long()
        noise = torch.randn(z0.shape, generator=g)
        a = alphas[t].view(-1, 1, 1, 1)
        zt, v = a.sqrt() * z0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z0
        with common.autocast():
            predicted = unet(zt, t, embedding).sample
        loss = (predicted.float() - v).pow(2).mean()
        rate = common.cosine_rate(step, steps, peak, hold=0.4, warmup=200)
        common.descend(loss, unet, optimiser, rate)
        if step % 5 == 0:
            keep = min(0.99, (1 + step) / (50 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - keep)
        progress(step, loss=loss.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            state = {"model": unet.state_dict(), "average": average.state_dict()}
            state |= {"optimiser": optimiser.state_dict(), "step": step + 1}
            common.save_checkpoint(work / "unet.ckpt", state)
            average.save_pretrained(work / "unet")
            sample_grid(average, text, work, f"{step + 1:06d}", sampling, show)
    average.save_pretrained(work / "unet")  # a kill may have come between checkpoint and weights


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.steps, common.WORK)
