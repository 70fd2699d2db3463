"""What the K/V predictor costs at Stable Diffusion v1.4's shapes: an edit, and how far every token
of the vocabulary is moved by it.

    python -m tools.benchmarks.kv --out kv.json
    python -m tools.benchmarks.kv --n 3000

Weights and embeddings are random: nothing is downloaded, and no time depends on their values. The
edit is UCE of one concept and its anchor with ten preserved, each in eight prompts; a text encoder
has put out their embeddings beforehand.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from erase_lib.closed_form import uce
from erase_lib.files import whole
from erase_lib.kv import movement
from tools import one_line
from tools.benchmarks.shapes import CLIP_L

WIDTHS = (320,) * 5 + (640,) * 5 + (1280,) * 6  # of the 16 cross-attentions: 6 down, 1 mid, 9 up
DIM, TOKENS = CLIP_L["hidden_size"], CLIP_L["max_position_embeddings"]
VOCABULARY = CLIP_L["vocab_size"]
PROMPTS = 8  # of a concept
T = TypeVar("T")


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights() -> dict[str, Tensor]:
    """K and V of every cross-attention, `(width, 768)`, by name."""
    found = {}
    for i, width in enumerate(WIDTHS):
        for k, kind in enumerate(("to_k", "to_v")):
            found[f"{i}.attn2.{kind}.weight"] = random(width, DIM, seed=2 * i + k) / DIM**0.5
    return found


def timed(call: Callable[[], T]) -> tuple[T, float, float]:
    """What it returns, the seconds that it took, and those of all cores together."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def measure(embeddings: Tensor) -> dict[str, Any]:
    """Seconds of the edit, of the `movement` of embeddings `(n, 768)`, a token each, and of both.

    `cpu_seconds` are those of all cores together: more than `seconds` where several worked, and
    much the same on a busy machine.
    """
    w = weights()
    erased, anchors = (random(PROMPTS, TOKENS, DIM, seed=100 + i) for i in range(2))
    preserved = random(10 * PROMPTS, TOKENS, DIM, seed=102)
    (edited, _), *edit = timed(lambda: uce(w, erased, anchors, preserved, ridge=0.1, lam=20.0))
    moved, *move = timed(lambda: movement(w, edited, embeddings[:, None]))
    assert moved.shape == (len(embeddings),) and bool(moved.isfinite().all())
    row: dict[str, Any] = {"n": len(embeddings), "layers": len(WIDTHS)}
    for name, kind in (("seconds", 0), ("cpu_seconds", 1)):
        parts = {"edit": edit[kind], "movement": move[kind], "sum": edit[kind] + move[kind]}
        row[name] = {part: round(value, 2) for part, value in parts.items()}
    return row


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure, print the numbers as JSON and write them."""
    parser = argparse.ArgumentParser(prog="tools.benchmarks.kv", description=__doc__)
    parser.add_argument("--n", type=int, default=VOCABULARY, help="embeddings that are moved")
    parser.add_argument("--out", type=Path, help="a JSON file")
    chosen = parser.parse_args(arguments)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    text = json.dumps(machine | measure(random(chosen.n, DIM, seed=200)), indent=1)
    print(text)
    if chosen.out:
        with whole(chosen.out) as (path,):
            path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
