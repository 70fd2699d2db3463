"""The VAE: 128 × 128 × 3 pictures to 8 × 8 × 24 latents; or a smaller one, 64 × 64 × 3 to 8 × 8 ×
16, from which it may grow (`--begin FOLDER`): it then starts with what that has learned.

Two stages. The first trains both halves; its latents are what the UNet learns, so the encoder is
then frozen. The second (`--decoder`) trains the decoder alone, with a feature loss from the small
CLIP's image tower, on latents with noise added and on the UNet's own (`embedded.redraw`): it learns
to draw a sharp picture from the slightly wrong latents that a UNet makes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetModel

from erase_lib.errors import EraseError
from tools import one_line
from tools.embedded import common
from tools.embedded.common import SEEN
from tools.embedded.pictures import SIZE

SEED, STEPS = 1, 2600
# pixels: (channels of the blocks, of the latents); 2.6 M and 6.3 M parameters
SHAPES = {64: ((16, 32, 64, 128), 16), SIZE: ((16, 16, 32, 128, 192), 24)}


def new_vae(size: int = SIZE) -> AutoencoderKL:
    """AutoencoderKL from `size` × `size` pixels down to 8 × 8, no attention."""
    if size not in SHAPES:
        raise EraseError(f"pictures of {size} pixels: expected {' or '.join(map(str, SHAPES))}")
    blocks, channels = SHAPES[size]
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * len(blocks),
        up_block_types=["UpDecoderBlock2D"] * len(blocks),
        block_out_channels=blocks,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=size,
    )
    return vae.to(memory_format=torch.channels_last)


def widen(old: Tensor, rows: int, columns: int | None = None) -> Tensor:
    """Weights of a layer with more channels that does the same: some channels stand twice, and what
    read one reads its copies, in random shares (of equal ones both would learn the same)."""
    place = torch.arange(rows) * len(old) // rows
    out = old[place]
    if columns is None:
        return out
    place = torch.arange(columns) * old.shape[1] // columns
    share = 0.1 + torch.rand(rows, columns)
    share /= torch.zeros(rows, old.shape[1]).index_add_(1, place, share)[:, place]
    return out[:, place] * share.view(rows, columns, *[1] * (old.ndim - 2))


@torch.no_grad()
def grow(old: AutoencoderKL) -> AutoencoderKL:
    """The VAE for twice the pixels that begins as the old one, on pictures scaled down and back up.

    Its outermost level does nothing yet, and nothing reads its further latent channels.
    """
    blocks, n = old.config.block_out_channels, old.config.latent_channels
    new = new_vae(2 * old.config.sample_size)
    known = {
        re.sub(r"(down_blocks\.)(\d)", lambda m: m[1] + str(int(m[2]) + 1), name): tensor
        for name, tensor in old.state_dict().items()
    }
    same = torch.eye(blocks[0])[..., None, None]
    outer = f"decoder.up_blocks.{len(blocks)}.resnets.0.conv_shortcut.weight"
    known["encoder.down_blocks.1.resnets.0.conv_shortcut.weight"] = known[outer] = same
    half = F.pad(same.expand(-1, -1, 2, 2) / 4, (0, 1, 0, 1))
    known["encoder.down_blocks.0.downsamplers.0.conv.weight"] = half
    twice = f"decoder.up_blocks.{len(blocks) - 1}.upsamplers.0.conv.weight"
    known[twice] = F.pad(same, (1, 1, 1, 1))
    every = torch.arange(new.config.block_out_channels[-1])
    few, both = torch.arange(n), torch.arange(2 * n)
    split = torch.cat([few, new.config.latent_channels + few])  # means, then log-variances
    latent = {
        "encoder.conv_out": (both, every),
        "quant_conv": (split, both),
        "post_quant_conv": (few, few),
        "decoder.conv_in": (every, few),
    }
    for name, tensor in new.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer in latent:
            rows, columns = latent[layer]
            sizes = (len(rows), len(columns)) if kind == "weight" else (len(rows),)
            tensor[rows] = 0
            place = (rows[:, None], columns) if kind == "weight" else rows
            tensor[place] = widen(known[name], *sizes)
        elif name in known:
            tensor.copy_(widen(known[name], *tensor.shape[:2]))
        elif kind == "bias" or layer.endswith("conv2"):
            tensor.zero_()  # a residual that adds nothing
    return new


def grown(folder: Path, size: int) -> AutoencoderKL:
    """The folder's VAE for pictures of `size` pixels: as it is, or grown. Raises `EraseError` for
    one that is neither of that size nor of half of it."""
    vae = AutoencoderKL.from_pretrained(folder)
    if (found := vae.config.sample_size) not in (size, size // 2):
        raise EraseError(f"the VAE of {folder} draws {found} pixels: expected {size} or half of it")
    return (vae if found == size else grow(vae)).to(memory_format=torch.channels_last)


def picture_loss(drawn: Tensor, true: Tensor) -> Tensor:
    """L1 + L2 + the L1 of the differences between neighbouring pixels (edges)."""
    error = drawn - true
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    return error.abs().mean() + error.pow(2).mean() + across.abs().mean() + down.abs().mean()


def read_tower(work: Path, device: str) -> ResNetModel:
    """The small CLIP's image tower, which a feature loss looks through. Raises `EraseError` before
    it is trained."""
    if not (work / "vision").exists():
        raise EraseError(f"{work / 'vision'} is missing: python -m tools.embedded.clip trains it")
    return ResNetModel.from_pretrained(work / "vision").requires_grad_(False).eval().to(device)


def feature_loss(tower: ResNetModel, drawn: Tensor, true: Tensor, g: torch.Generator) -> Tensor:
    """Mean difference of the tower's feature maps, each in units of the true map's mean size.

    The tower knows 64 pixels: of larger pictures it sees all, scaled down, and a piece as it is.
    """
    if (size := true.shape[-1]) > SEEN:
        x, y = torch.randint(size - SEEN + 1, (2,), generator=g).tolist()
        drawn, true = (
            torch.cat([F.avg_pool2d(p, size // SEEN), p[..., y : y + SEEN, x : x + SEEN]])
            for p in (drawn, true)
        )
    with torch.no_grad():
        wanted = tower(true, output_hidden_states=True).hidden_states
    found = tower(drawn, output_hidden_states=True).hidden_states
    gaps = [(f - w).abs().mean() / w.abs().mean() for f, w in zip(found, wanted, strict=True)]
    return torch.stack(gaps).mean()


def train_autoencoder(
    steps: int = STEPS,
    work: Path = common.WORK,
    batch: int = 32,
    peak: float = 1.5e-3,
    every: int = 250,
    concepts: int | None = None,
    show: common.Show | None = None,
    size: int = SIZE,
    begin: Path | None = None,
    device: str = "cpu",
    seconds: float | None = None,
) -> common.Progress:
    """Train both halves; noise on the latents and a KL of 3e-4 keep them smooth for the UNet.

    Saved is the running average of the weights. Pictures of more than 64 pixels also have a feature
    loss from the small CLIP's image tower in `work`; `begin`: the folder of a VAE to begin as, or,
    if it is of half the size, to grow from.
    A checkpoint and a picture `every` so many steps; only so many `concepts` for a smoke run.
    """
    torch.manual_seed(SEED)
    pictures = common.read_pictures(concepts, size)[1].to(device)
    vae = (grown(begin, size) if begin else new_vae(size)).to(device)
    average = deepcopy(vae).requires_grad_(False)
    tower = read_tower(work, device) if size > SEEN else None
    optimiser = torch.optim.AdamW(
        vae.parameters(), lr=peak, weight_decay=1e-4, betas=(0.9, 0.99), fused=True
    )
    start = common.resume(work / "vae.ckpt", vae, optimiser, average)
    progress = common.Progress("vae", start, steps, seconds=seconds)
    for step in progress:
        g, here = common.generator(SEED, step, device), common.generator(SEED + 50, step)
        chosen = torch.randint(len(pictures), (batch,), generator=g, device=device)
        true = common.shift(common.to_float(pictures[chosen]), 3 * size // SEEN, here)
        true = true.contiguous(memory_format=torch.channels_last)
        if torch.rand((), generator=here) < 0.5:
            true = true.flip(-1)
        with common.autocast(device):
            posterior = vae.encode(true).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=g, device=device)
            extra = torch.rand(batch, 1, 1, 1, generator=g, device=device)
            extra = 0.25 * extra * mean.detach().std()
            drawn = vae.decode(mean + (logvar.exp() + extra**2).sqrt() * noise).sample.float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        loss = picture_loss(drawn, true) + 3e-4 * kl
        if tower is not None:
            with common.autocast(device):
                likeness = feature_loss(tower, drawn, true, here)
            loss = loss + 0.1 * likeness.float()
        common.descend(loss, vae, optimiser, common.cosine_rate(step, progress.steps, peak))
        common.follow(average, vae, step)
        mse = F.mse_loss(drawn.detach(), true)
        progress(step, psnr=10 * torch.log10(4 / mse), kl=kl.detach())
        if progress.due(step, every):
            common.keep(work / "vae.ckpt", step + 1, vae, optimiser, average)
            with torch.no_grad():
                shown = common.to_float(pictures[:: max(1, len(pictures) // 32)][:32])
                drawn = average(shown).sample
            common.grid(torch.cat([shown, drawn]), 16, work / "vae.png", show=show)
    average.save_pretrained(work / "vae")
    save_latents(average, pictures, work)
    return progress


def wrong_latents(
    saved: dict[str, Tensor],
    redrawn: dict[str, Tensor] | None,
    chosen: Tensor,
    mirrored: Tensor,
    g: torch.Generator,
) -> Tensor:
    """Latents `(n, channels, 8, 8)` of the chosen pictures as a UNet might make them: with noise;
    where it has redrawn them, 60 % of those not mirrored are its own."""
    n = len(chosen)
    draw = {"generator": g, "device": g.device}
    sigma = 0.5 * torch.rand(n, 1, 1, 1, **draw).square() * saved["std"][:, None, None]
    z = saved["latents"][chosen, mirrored.long()]
    z = z + sigma * torch.randn(z.shape, **draw)
    if redrawn is None:
        return z
    own = redrawn["latents"]
    depth = torch.randint(own.shape[1], (n,), **draw)
    take = (torch.rand(n, **draw) < 0.6) & ~mirrored
    return torch.where(take[:, None, None, None], own[chosen, depth].float(), z)


def train_decoder(
    steps: int = STEPS,
    work: Path = common.WORK,
    batch: int = 32,
    peak: float = 1e-3,
    every: int = 250,
    concepts: int | None = None,
    show: common.Show | None = None,
    device: str = "cpu",
    seconds: float | None = None,
) -> common.Progress:
    """Train the decoder alone on noised latents; the VAE with it is saved as `work/vae_sharp`.

    The encoder stays as it is, so the UNet's latents keep their meaning. Every picture shows
    originals above what is drawn from their latents with noise.
    """
    vae = AutoencoderKL.from_pretrained(work / "vae").requires_grad_(False).eval()
    vae.to(device, memory_format=torch.channels_last)
    pictures = common.read_pictures(concepts, vae.config.sample_size)[1].to(device)
    saved = common.load_latents(work, device)
    redrawn = common.load_checkpoint(work / "redrawn.pt", device)
    tower = read_tower(work, device)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    average = deepcopy(decoder).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        decoder.parameters(), lr=peak, weight_decay=1e-4, betas=(0.9, 0.99), fused=True
    )
    start = common.resume(work / "vae_sharp.ckpt", decoder, optimiser, average)
    progress = common.Progress("decoder", start, steps, seconds=seconds)
    for step in progress:
        g, here = common.generator(SEED + 100, step, device), common.generator(SEED + 150, step)
        chosen = torch.randint(len(pictures), (batch,), generator=g, device=device)
        # mirror images keep the decoder from knowing nothing but the originals
        mirrored = torch.rand(batch, generator=g, device=device) < 0.15
        true = common.to_float(pictures[chosen])
        true = torch.where(mirrored[:, None, None, None], true.flip(-1), true)
        z = wrong_latents(saved, redrawn, chosen, mirrored, g)
        with common.autocast(device):
            drawn = vae.decode(z).sample.float()
            likeness = feature_loss(tower, drawn, true, here)
        loss = picture_loss(drawn, true) + 0.1 * likeness.float()
        rate = common.cosine_rate(step, progress.steps, peak)
        common.descend(loss, decoder, optimiser, rate)
        common.follow(average, decoder, step)
        mse = F.mse_loss(drawn.detach(), true)
        progress(step, psnr=10 * torch.log10(4 / mse), features=likeness.detach())
        if progress.due(step, every):
            common.keep(work / "vae_sharp.ckpt", step + 1, decoder, optimiser, average)
            some = slice(0, None, max(1, len(pictures) // 32))
            shown, z = common.to_float(pictures[some][:32]), saved["latents"][some][:32, 0]
            with torch.no_grad():
                noise = torch.randn(z.shape, generator=g, device=device)
                drawn = vae.decode(z + 0.2 * saved["std"][:, None, None] * noise).sample
            common.grid(torch.cat([shown, drawn]), 16, work / "decoder.png", show=show)
    decoder.load_state_dict(average.state_dict())
    vae.save_pretrained(work / "vae_sharp")
    return progress


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of every picture's reconstruction, in dB `(n,)`."""
    parts = common.to_float(pictures).split(64)
    errors = [(vae(part).sample.clamp(-1, 1) - part).pow(2).mean((1, 2, 3)) for part in parts]
    return 10 * torch.log10(4 / torch.cat(errors))


@torch.no_grad()
def save_latents(vae: AutoencoderKL, pictures: Tensor, work: Path) -> None:
    """Latents of every picture and its mirror image `(n, 2, channels, 8, 8)`, with channel mean
    and deviation."""
    vae.eval()
    latents = []
    for chunk in common.to_float(pictures).split(64):
        both = torch.stack([chunk, chunk.flip(-1)], 1).flatten(0, 1)
        latents.append(vae.encode(both).latent_dist.mean.unflatten(0, (-1, 2)).cpu())
    z = torch.cat(latents)
    mean, deviation = z.mean((0, 1, 3, 4)), z.std((0, 1, 3, 4))
    common.save_checkpoint(work / "latents.pt", {"latents": z, "mean": mean, "std": deviation})
    print("latent means", mean.numpy().round(2), "deviations", deviation.numpy().round(2))


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Train one of the two stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", action="store_true", help="the second stage")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--every", type=int, default=250, help="so many steps a checkpoint")
    parser.add_argument("--peak", type=float, help="the highest learning rate")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of the pictures")
    parser.add_argument("--begin", type=Path, help="a VAE to begin as, or of half the size")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    sizes = {name: getattr(given, name) for name in ("steps", "batch", "every")}
    sizes |= {"peak": given.peak} if given.peak else {}
    if given.decoder:
        train_decoder(**sizes)
    else:
        train_autoencoder(**sizes, size=given.size, begin=given.begin)


if __name__ == "__main__":
    sys.exit(main())
