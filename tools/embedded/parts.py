"""Trained models in files of a few megabytes, for a way back that takes no large ones.

`python -m tools.embedded.parts FOLDER` puts what `embedded.all` wrote there into build/model.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL
from safetensors.torch import load_file, save

from erase_lib.errors import EraseError, reason
from erase_lib.files import whole, writing
from tools import one_line
from tools.embedded import common
from tools.embedded.vae import save_latents

PART = 15 << 20  # bytes
WEIGHTS = "diffusion_pytorch_model.safetensors"


def pack(folder: Path, out: Path, part: int = PART) -> list[Path]:
    """The model's folder, its weights in half precision, as `NAME.tar.00`, `NAME.tar.01` … in
    `out`. Raises `EraseError` when they cannot be written."""
    halves = {name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}
    files = {"config.json": (folder / "config.json").read_bytes(), WEIGHTS: save(halves)}
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    raw = packed.getbuffer()
    pieces = [raw[a : a + part] for a in range(0, len(raw), part)]
    paths = [out / f"{folder.name}.tar.{i:02d}" for i in range(len(pieces))]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with whole(*paths) as temporary:
            for path, piece in zip(temporary, pieces, strict=True):
                path.write_bytes(piece)
    return paths


def unpack(out: Path, work: Path) -> list[str]:
    """Every packed model of the folder `out` into `work`; returns their names.

    Raises `EraseError` for none, and when parts of one are missing or damaged.
    """
    names = sorted({path.name.split(".tar.")[0] for path in out.glob("*.tar.[0-9][0-9]")})
    if not names:
        raise EraseError(
            f"{out} holds no parts of a model: give the folder that embedded.all wrote"
        )
    for name in names:
        raw = b"".join(path.read_bytes() for path in sorted(out.glob(f"{name}.tar.[0-9][0-9]")))
        try:
            with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                tar.extractall(work / name, filter="data")
            load_file(work / name / WEIGHTS)
        except Exception as error:  # tar and safetensors each raise their own
            raise EraseError(f"parts of {name} in {out} are damaged ({reason(error)})") from None
    return names


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Put the parts of a folder back into the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    found = unpack(parser.parse_args(arguments).folder, common.WORK)
    name = "vae_sharp" if "vae_sharp" in found else "vae"
    if name in found:  # the latents did not travel
        vae = AutoencoderKL.from_pretrained(common.WORK / name)
        vae.save_pretrained(common.WORK / "vae")
        save_latents(vae, common.read_pictures(size=vae.config.sample_size)[1], common.WORK)
    print(", ".join(found), "in", common.WORK)


if __name__ == "__main__":
    sys.exit(main())
