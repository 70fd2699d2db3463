"""The whole model in one process and so many minutes, on a GPU: VAE, UNet, decoder, twin.

    python -m tools.embedded.all --device cuda --minutes 8

Everything lies on the device, in bfloat16 where that is safe. The time is split by `SHARES`; each
stage ends on time and is then packed into `--out`, in files of at most 15 MiB (`embedded.parts`).
Needed beside the code and the pictures, in `--work`: the text encoder and image tower
(`embedded.export --words`). Nothing is downloaded. Checkpoints come every minute; the same command
again goes on after the last one, and skips the stages that are done. VAE and UNet are 49 MiB, the
twin 36: where less may come back at once, `--stages` takes them apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from erase_lib.errors import unknown
from erase_lib.files import whole
from erase_lib.models import pick_device
from tools import one_line
from tools.embedded import common, parts, unet, vae
from tools.embedded.pictures import SIZE
from tools.embedded.redraw import redraw

# stage: its share of the time. The twin has as much as the UNet, for its training shall differ in
# nothing but the pictures.
SHARES = {"vae": 0.24, "unet": 0.3, "redraw": 0.04, "decoder": 0.12, "twin": 0.3}
MODELS = {"vae": "vae", "unet": "unet", "decoder": "vae_sharp", "twin": "twin"}  # stage: folder
GPU: dict[str, dict[str, Any]] = {
    "vae": {"batch": 128, "peak": 1.5e-3},
    "unet": {"batch": 1024, "peak": 1.2e-3},
    "redraw": {"batch": 428},
    "decoder": {"batch": 128, "peak": 1e-3},
}
VARIANTS = 8  # draws of a picture's captions
SMOKE: dict[str, dict[str, Any]] = {
    "vae": {"batch": 4, "concepts": 2},
    "unet": {"batch": 8, "channels": (32, 32), "sampling": 2, "concepts": 2},
    "redraw": {"depths": (2,), "concepts": 2},
    "decoder": {"batch": 4, "concepts": 2},
}


def build(
    work: Path,
    out: Path,
    seconds: float,
    device: str = "cuda",
    stages: Sequence[str] = tuple(SHARES),
    size: int = SIZE,
    begin: Path | None = None,
    without: Sequence[str] = ("objects",),
    snr: float | None = None,
    sizes: dict[str, dict[str, Any]] = GPU,
) -> dict[str, Any]:
    """Run the stages that are not done yet in `seconds`; returns and writes `out/summary.json`.

    By stage: steps in all, seconds, the running means of the losses. `begin`: a VAE to begin as, or
    of half the size; `without`: what the twin never sees. Raises `EraseError` for an unknown stage.
    """
    for stage in stages:
        if stage not in SHARES:
            raise unknown("stage", stage, SHARES)
    end, notes = time.time() + seconds, work / "done.json"
    done = json.loads(notes.read_text()) if notes.exists() else {}
    left = [stage for stage in SHARES if stage in stages and stage not in done]
    learn: dict[str, Any] = {"work": work, "device": device}
    text = unet.TextCache(work, sizes["unet"].get("concepts"), VARIANTS, device)
    draw = learn | {"text": text, "snr": snr} | sizes["unet"]
    run: dict[str, Callable[[float], common.Progress | None]] = {
        "vae": lambda s: vae.train_autoencoder(
            seconds=s, size=size, begin=begin, **learn, **sizes["vae"]
        ),
        "unet": lambda s: unet.train(seconds=s, **draw),
        "redraw": lambda s: redraw(text=text, **learn, **sizes["redraw"]),
        "decoder": lambda s: vae.train_decoder(seconds=s, **learn, **sizes["decoder"]),
        "twin": lambda s: unet.train(seconds=s, name="twin", without=without, **draw),
    }
    for i, stage in enumerate(left):
        began = time.time()
        share = SHARES[stage] / sum(SHARES[later] for later in left[i:])
        allowed = share * max(end - began, 1)
        if stage == "twin" and "unet" in done:
            allowed = min(allowed, done["unet"]["seconds"])
        progress = run[stage](allowed)
        done[stage] = progress.summary() if progress else {"seconds": time.time() - began}
        print(stage, done[stage], flush=True)
        if stage in MODELS:
            parts.pack(work / MODELS[stage], out)
        for path in out.glob("vae.tar.*") if stage == "decoder" else ():
            path.unlink()  # its encoder is vae_sharp's
        out.mkdir(parents=True, exist_ok=True)
        with whole(notes, out / "summary.json") as temporary:
            for path in temporary:
                path.write_text(json.dumps(done, indent=1))
    return done


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Train, pack and say the stages that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--stages", default=",".join(SHARES), help="some of these")
    parser.add_argument("--work", type=Path, default=common.WORK)
    parser.add_argument("--out", type=Path, help="where the packed models go; WORK/out if absent")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of the pictures")
    parser.add_argument("--begin", type=Path, help="a VAE to begin as, or of half the size")
    parser.add_argument("--without", default="objects", help="what the twin never sees: A,B")
    parser.add_argument("--snr", type=float, help="min-SNR weighting with this bound")
    parser.add_argument("--smoke", action="store_true", help="two concepts and toy sizes: a trial")
    given = parser.parse_args(arguments)
    device = pick_device(given.device).type
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    build(
        given.work,
        given.out or given.work / "out",
        60 * given.minutes,
        device,
        given.stages.split(","),
        given.size,
        given.begin,
        given.without.split(","),
        given.snr,
        SMOKE if given.smoke else GPU,
    )


if __name__ == "__main__":
    sys.exit(main())
