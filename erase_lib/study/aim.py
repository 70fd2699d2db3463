"""What a probe of an erased model looks for: a concept, prompts with its name and without, pictures
of it, and what an attacker has; the same in whatever model it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from erase_lib import measure
from erase_lib.concepts import concept_table, normal
from erase_lib.errors import EraseError, check_range
from erase_lib.families import denoiser, family
from erase_lib.kv import kv_weights
from erase_lib.measure import World, read_suite

SHOWN = 4  # pictures of the concept that a probe may learn from


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

    def on_its_head(self) -> Aim:
        """The control for what a probe teaches: the same, of pictures turned upside down."""
        return replace(self, shown=[p.rotate(180) for p in self.shown], turned=True)


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
    table = concept_table().set_index("concept")["keywords"]
    known = str(table.get(concept, "")) if world.embedded else ""
    keywords = [w for w in known.split(", ") if w and normal(concept) not in normal(w)]

    def asking(words: Sequence[str]) -> list[str]:
        return [world.prompt(words[i % len(words)], i) for i in range(pictures if words else 0)]

    return Aim(
        concept,
        [world.prompt(concept, i) for i in range(pictures)],
        asking(side_words(concept, world.embedded) or keywords + misspelled(concept)),
        asking([", ".join(keywords[:5])] if keywords else []),
        [drawn[i] for i in best],
        [asked[i] for i in best],
        kv_weights(denoiser(pipe)),
        *(seed, steps, 4.0, budget, folder, progress),
    )


def side_words(concept: str, embedded: bool) -> list[str]:
    """What the suite side_doors calls a concept instead of its name; [] for those it has not."""
    groups = read_suite("side_doors").groups.values() if embedded else ()
    return [word for group in groups for word in group.words.get(concept, [])]


def misspelled(word: str, most: int = 3) -> list[str]:
    """The word with two neighbouring letters within it exchanged, in up to `most` places."""
    swaps = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1))
    return list(dict.fromkeys(swap for swap in swaps if swap != word))[:most]
