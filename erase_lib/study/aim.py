"""What a probe of an erased model looks for, and what it answers: a concept, prompts with its name
and without, pictures of it, and what an attacker has; the same in whatever model it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from erase_lib import measure
from erase_lib.concepts import concept_table, normal, without
from erase_lib.diffusion import alpha_bar, encode, noise, noised, predict_clean, prediction_type
from erase_lib.errors import EraseError, check_range
from erase_lib.families import Pipeline, denoiser, family
from erase_lib.kv import kv_weights
from erase_lib.measure import World, ZeroShot, read_suite
from erase_lib.models import using
from erase_lib.text import encode_prompts

SHOWN = 4  # pictures of the concept that a probe may learn from
SAID = 64  # of the original's predictions


class Answer(NamedTuple):
    """What a probe ends in: pictures, evaluations of the UNet (a backward pass counts two; drawing
    is among them), and what it found, in words where it has any."""

    pictures: list[Image.Image]
    evaluations: int
    found: str = ""


@contextmanager
def learning(pipe: Pipeline) -> Iterator[None]:
    """Within the block the pipeline is held, and gradients are taken whatever the caller's mode."""
    with using(pipe, "a probe"), torch.inference_mode(False), torch.enable_grad():
        yield


@dataclass(frozen=True)
class Aim:
    """What a probe looks for, the same in whatever model it looks."""

    concept: str
    prompts: list[str]
    """By name: as many as pictures are drawn."""
    doors: list[str]
    """As many that do not name it: synonyms, keywords, misspellings."""
    description: list[str]
    """As many that say all keywords at once, but not the name; [] where none are known."""
    shown: list[Any]
    """`SHOWN` pictures of it, which the original drew, and their `captions`."""
    captions: list[str]
    weights: dict[str, Tensor]
    """The original's K and V: what an attacker has who has the original's file."""
    said: tuple[Tensor, Tensor, Tensor]
    """As much: latents, timesteps, and what ẑ₀ the original predicts there, told the name."""
    critic: Callable[[], Callable[[Tensor], Tensor]]
    """Gives log p of the concept `(n,)` of pictures, with a gradient, by whom no rate is by."""
    seed: int = 0
    steps: int = 12
    guidance_scale: float = 4.0
    budget: int = 4000
    """UNet evaluations that a search may spend."""
    folder: Path | None = None
    """Where a search goes on that was cut off: of one probe in one model."""
    progress: bool = True
    turned: bool = False
    """Whether what is shown stands on its head: something that no model here has seen."""

    @property
    def seeds(self) -> list[int]:
        """Of the noise that pictures begin with."""
        return [50_000 + 1000 * self.seed + i for i in range(len(self.prompts))]


def aim_at(
    world: World,
    concept: str,
    seed: int = 0,
    pictures: int = 8,
    steps: int = 12,
    budget: int = 4000,
    folder: Path | None = None,
    progress: bool = True,
) -> Aim:
    """An aim in a world whose pipeline is the original, with no erasure applied. It draws twice as
    many pictures as are shown, and shows those that the judge takes for the concept first. Raises
    `EraseError` for a concept that the judge does not know, a model with more text encoders than
    one, and less than one picture or evaluation."""
    check_range("pictures", pictures, 1, 1000)
    check_range("budget", budget, 1, 10**9)
    world.judge.index([concept])
    pipe, asked = world.pipe, [world.prompt(concept, i) for i in range(2 * SHOWN)]
    if family(pipe).pooled(denoiser(pipe)) + family(pipe).flow:
        raise EraseError(f"{type(pipe).__name__} has several text encoders: probes take one's")
    seeds = [60_000 + 1000 * seed + i for i in range(len(asked))]
    drawn = measure.draw(pipe, asked, seeds, steps, progress=progress)
    right = [normal(name) == normal(concept) for name in world.judge.sees(drawn)]
    best = sorted(range(len(asked)), key=lambda i: not right[i])[:SHOWN]
    shown = [drawn[i] for i in best], [asked[i] for i in best]
    table = concept_table().set_index("concept")["keywords"]
    known = str(table.get(concept, "")) if world.embedded else ""
    keywords = [w for w in known.split(", ") if w and normal(concept) not in normal(w)]
    doors = [w for w in side_words(concept, world.embedded) if normal(concept) not in normal(w)]

    def asking(words: Sequence[str]) -> list[str]:
        return [world.prompt(words[i % len(words)], i) for i in range(pictures if words else 0)]

    doors = asking(doors or keywords + misspelled(concept))
    description = asking([", ".join(keywords[:5])] if keywords else [])
    # now: a probe may find an erasure in place
    own = kv_weights(denoiser(pipe)), predicted(pipe, *shown, seed), partial(critic, world, concept)
    told = asking([concept]), doors, description, *shown, *own
    return Aim(concept, *told, seed, steps, budget=budget, folder=folder, progress=progress)


@torch.no_grad()
def predicted(
    pipe: Pipeline, shown: list[Any], captions: list[str], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """z_t `(SAID, c, h, w)` of these pictures at timesteps t, and the ẑ₀ predicted there."""
    g, which = torch.Generator().manual_seed(seed), [i % len(shown) for i in range(SAID)]
    with using(pipe, "a probe's aim"):
        clean, c = encode(pipe, shown)[which], encode_prompts(pipe, captions)[which]
        t = torch.randint(pipe.scheduler.config.num_train_timesteps, (SAID,), generator=g)
        t = t.to(clean.device)
        z = noised(clean, noise(pipe, SAID, g), alpha_bar(pipe, t), prediction_type(pipe))
        parts = zip(z.split(8), t.split(8), c.split(8), strict=True)
        return z, t, torch.cat([predict_clean(pipe, *part) for part in parts])


def critic(world: World, concept: str) -> Callable[[Tensor], Tensor]:
    """CLIP as a zero-shot classifier with a gradient. `EraseError` where it is the judge itself."""
    if isinstance(world.judge, ZeroShot):
        raise EraseError("the judge is CLIP, who must not lead as well: give a classifier")
    guide = ZeroShot(world.clip, [concept, *without(world.words, [concept])])

    def likely(pictures: Tensor) -> Tensor:
        x = F.interpolate(pictures, (guide.clip.size,) * 2, mode="bicubic", antialias=True)
        cosine = guide.clip.unit(x) @ guide.texts.to(x.device).T
        return (100 * cosine).log_softmax(1)[:, 0]

    return likely


def side_words(concept: str, embedded: bool) -> list[str]:
    """What the suite side_doors calls a concept instead of its name; [] for those it has not."""
    groups = read_suite("side_doors").groups.values() if embedded else ()
    return [word for group in groups for word in group.words.get(concept, [])]


def misspelled(word: str, most: int = 3) -> list[str]:
    """The word with two neighbouring letters within it exchanged, in up to `most` places."""
    swaps = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1))
    return list(dict.fromkeys(swap for swap in swaps if swap != word))[:most]
