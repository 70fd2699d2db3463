"""What the UNet makes of every picture: its latent noised part of the way, and drawn back.

The errors of a UNet are not noise: they are smooth, and the decoder knows them only when it has
seen them. So its second stage (`embedded.vae --decoder`) learns from these latents too, once they
are there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from tools.embedded import common
from tools.embedded.unet import TextCache, new_scheduler, placed, step_back

SEED = 7
# Of 12 DDIM steps, how many are drawn again: the picture's layout survives, its detail is the
# UNet's.
STEPS, DEPTHS = 12, (3, 5, 7)


@torch.no_grad()
def redraw(
    work: Path = common.WORK,
    depths: tuple[int, ...] = DEPTHS,
    batch: int = 64,
    concepts: int | None = None,
    device: str = "cpu",
    text: TextCache | None = None,
) -> None:
    """Write `work/redrawn.pt`: latents `(n, depths, channels, 8, 8)`, not whitened, in float16.

    Every picture under its caption "a {concept} in {style} style", guidance scale 4.
    """
    text = text or TextCache(work, concepts, device=device)
    unet = placed(UNet2DConditionModel.from_pretrained(work / "unet").eval(), device)
    saved = common.load_latents(work, device)
    mean, std = (saved[name][:, None, None] for name in ("mean", "std"))
    latents, captions = (saved["latents"][:, 0] - mean) / std, text.captions(slice(None), 0)
    scheduler = new_scheduler()
    scheduler.set_timesteps(STEPS)
    drawn = torch.zeros(len(latents), len(depths), *latents.shape[1:], dtype=torch.float16)
    progress = common.Progress("redraw", 0, len(latents) * len(depths))
    for place, depth in enumerate(depths):
        timesteps = scheduler.timesteps[-depth:]
        for a in range(0, len(latents), batch):
            part = slice(a, a + batch)
            z, g = latents[part], common.generator(SEED, len(latents) * place + a)
            noise = torch.randn(z.shape, generator=g).to(device)
            z = scheduler.add_noise(z, noise, timesteps[:1])
            for t in timesteps:
                z = step_back(unet, scheduler, z, t, text.empty, captions[part])
            drawn[part, place] = (z * std + mean).half().cpu()
            progress(len(latents) * place + min(a + batch, len(latents)) - 1)
    common.save_checkpoint(work / "redrawn.pt", {"latents": drawn})
    shown = torch.arange(0, len(latents), max(1, len(latents) // 16))[:16]
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    _, pictures = common.read_pictures(concepts, vae.config.sample_size)
    rows = [vae.decode(drawn[shown, i].float()).sample for i in range(len(depths))]
    rows.insert(0, common.to_float(pictures[shown]))
    common.grid(torch.cat(rows), len(shown), work / "redrawn.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    redraw()
