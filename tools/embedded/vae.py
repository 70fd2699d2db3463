"""The VAE: 64 × 64 × 3 pictures to 8 × 8 × 16 latents.

Two stages. The first trains both halves; its latents are what the UNet learns, so the encoder is
then frozen. The second (`--decoder`) trains the decoder alone, with a feature loss from the small
CLIP's image tower, on latents with noise added and on the UNet's own (`embedded.redraw`): it learns
to draw a sharp picture from the slightly wrong latents that a UNet makes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetModel

from tools.embedded import common

SEED, STEPS = 1, 2600
LATENT_CHANNELS = 16


def new_vae() -> AutoencoderKL:
    """AutoencoderKL, 8 × down, 16 channels, no attention: 2.6 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def picture_loss(drawn: Tensor, true: Tensor) -> Tensor:
    """L1 + L2 + the L1 of the differences between neighbouring pixels (edges)."""
    error = drawn - true
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    return error.abs().mean() + error.pow(2).mean() + across.abs().mean() + down.abs().mean()


def train_autoencoder(
    steps: int = STEPS,
    work: Path = common.WORK,
    batch: int = 32,
    peak: float = 1.5e-3,
    every: int = 250,
    concepts: int | None = None,
    show: common.Show | None = None,
) -> None:
    """Train both halves; noise on the latents and a KL of 3e-4 keep them smooth for the UNet.

    A checkpoint and a picture `every` so many steps; only so many `concepts` for a smoke run.
    """
    torch.manual_seed(SEED)
    _, pictures = common.read_pictures(concepts)
    vae = new_vae()
    optimiser = torch.optim.AdamW(
        vae.parameters(), lr=peak, weight_decay=1e-4, betas=(0.9, 0.99), fused=True
    )
    start = common.resume(work / "vae.ckpt", vae, optimiser)
    progress = common.Progress("vae", start, steps)
    for step in range(start, steps):
        g = common.generator(SEED, step)
        chosen = torch.randint(len(pictures), (batch,), generator=g)
        true = common.shift(common.to_float(pictures[chosen]), 3, g)
        if torch.rand((), generator=g) < 0.5:
            true = true.flip(-1)
        with common.autocast():
            posterior = vae.encode(true).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=g)
            extra = 0.25 * torch.rand(batch, 1, 1, 1, generator=g) * mean.detach().std()
            drawn = vae.decode(mean + (logvar.exp() + extra**2).sqrt() * noise).sample.float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        loss = picture_loss(drawn, true) + 3e-4 * kl
        common.descend(loss, vae, optimiser, common.cosine_rate(step, steps, peak))
        mse = F.mse_loss(drawn.detach(), true)
        progress(step, psnr=(10 * torch.log10(4 / mse)).item(), kl=kl.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            common.keep(work / "vae.ckpt", vae, optimiser, step + 1)
            with torch.no_grad():
                shown = common.to_float(pictures[:: max(1, len(pictures) // 32)][:32])
                drawn = vae(shown).sample
            common.grid(torch.cat([shown, drawn]), 16, work / "vae.png", show=show)
    vae.save_pretrained(work / "vae")
    save_latents(vae, pictures, work)


def feature_loss(tower: ResNetModel, drawn: Tensor, true: Tensor) -> Tensor:
    """Mean difference of the tower's feature maps, each in units of the true map's mean size."""
    with torch.no_grad():
        wanted = tower(true, output_hidden_states=True).hidden_states
    found = tower(drawn, output_hidden_states=True).hidden_states
    gaps = [(f - w).abs().mean() / w.abs().mean() for f, w in zip(found, wanted, strict=True)]
    return torch.stack(gaps).mean()


def wrong_latents(
    saved: dict[str, Tensor],
    redrawn: dict[str, Tensor] | None,
    chosen: Tensor,
    mirrored: Tensor,
    g: torch.Generator,
) -> Tensor:
    """Latents `(n, 16, 8, 8)` of the chosen pictures as a UNet might make them: with noise; where
    it has redrawn them, 60 % of those not mirrored are its own."""
    n = len(chosen)
    sigma = 0.5 * torch.rand(n, 1, 1, 1, generator=g).square() * saved["std"][:, None, None]
    z = saved["latents"][chosen, mirrored.long()]
    z = z + sigma * torch.randn(z.shape, generator=g)
    if redrawn is None:
        return z
    own = redrawn["latents"]
    depth = torch.randint(own.shape[1], (n,), generator=g)
    take = (torch.rand(n, generator=g) < 0.6) & ~mirrored
    return torch.where(take[:, None, None, None], own[chosen, depth].float(), z)


def train_decoder(
    steps: int = STEPS,
    work: Path = common.WORK,
    batch: int = 32,
    peak: float = 1e-3,
    every: int = 250,
    concepts: int | None = None,
    show: common.Show | None = None,
) -> None:
    """Train the decoder alone on noised latents; the VAE with it is saved as `work/vae_sharp`.

    The encoder stays as it is, so the UNet's latents keep their meaning. Every picture shows
    originals above what is drawn from their latents with noise.
    """
    _, pictures = common.read_pictures(concepts)
    saved = torch.load(work / "latents.pt", weights_only=True)
    redrawn = common.load_checkpoint(work / "redrawn.pt")
    vae = AutoencoderKL.from_pretrained(work / "vae").requires_grad_(False).eval()
    tower = ResNetModel.from_pretrained(work / "vision").requires_grad_(False).eval()
    vae.to(memory_format=torch.channels_last)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    optimiser = torch.optim.AdamW(
        decoder.parameters(), lr=peak, weight_decay=1e-4, betas=(0.9, 0.99), fused=True
    )
    start = common.resume(work / "vae_sharp.ckpt", decoder, optimiser)
    progress = common.Progress("decoder", start, steps)
    for step in range(start, steps):
        g = common.generator(SEED + 100, step)
        chosen = torch.randint(len(pictures), (batch,), generator=g)
        # mirror images keep the decoder from knowing nothing but the originals
        mirrored = torch.rand(batch, generator=g) < 0.15
        true = common.to_float(pictures[chosen])
        true = torch.where(mirrored[:, None, None, None], true.flip(-1), true)
        z = wrong_latents(saved, redrawn, chosen, mirrored, g)
        with common.autocast():
            drawn = vae.decode(z).sample.float()
            likeness = feature_loss(tower, drawn, true)
        loss = picture_loss(drawn, true) + 0.1 * likeness.float()
        common.descend(loss, decoder, optimiser, common.cosine_rate(step, steps, peak))
        mse = F.mse_loss(drawn.detach(), true)
        progress(step, psnr=(10 * torch.log10(4 / mse)).item(), features=likeness.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            common.keep(work / "vae_sharp.ckpt", decoder, optimiser, step + 1)
            some = slice(0, None, max(1, len(pictures) // 32))
            shown, z = common.to_float(pictures[some][:32]), saved["latents"][some][:32, 0]
            with torch.no_grad():
                noise = torch.randn(z.shape, generator=g)
                drawn = vae.decode(z + 0.2 * saved["std"][:, None, None] * noise).sample
            common.grid(torch.cat([shown, drawn]), 16, work / "decoder.png", show=show)
    vae.save_pretrained(work / "vae_sharp")


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every picture's reconstruction, in dB `(n,)`."""
    parts = common.to_float(pictures).split(64)
    errors = [(vae(part).sample.clamp(-1, 1) - part).pow(2).mean((1, 2, 3)) for part in parts]
    return 10 * torch.log10(4 / torch.cat(errors))


@torch.no_grad()
def save_latents(vae: AutoencoderKL, pictures: Tensor, work: Path) -> None:
    """Latents of every picture and its mirror image `(n, 2, 16, 8, 8)`, with channel mean and
    deviation."""
    vae.eval()
    latents = []
    for chunk in common.to_float(pictures).split(64):
        both = torch.stack([chunk, chunk.flip(-1)], 1).flatten(0, 1)
        latents.append(vae.encode(both).latent_dist.mean.unflatten(0, (-1, 2)))
    z = torch.cat(latents)
    mean, deviation = z.mean((0, 1, 3, 4)), z.std((0, 1, 3, 4))
    common.save_checkpoint(work / "latents.pt", {"latents": z, "mean": mean, "std": deviation})
    print("latent means", mean.numpy().round(2), "deviations", deviation.numpy().round(2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", action="store_true", help="the second stage")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train = train_decoder if arguments.decoder else train_autoencoder
    train(arguments.steps, common.WORK)
