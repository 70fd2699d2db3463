"""What a model is asked for, and who looks at its pictures: of the embedded one its own concepts,
styles and judge, of any other what is given, so that nothing of the one creeps into the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from erase_lib.concepts import check_concepts, normal, vocabulary, without
from erase_lib.doors import gate
from erase_lib.errors import EraseError
from erase_lib.families import Pipeline, denoiser, family, is_embedded
from erase_lib.measure.distances import SmallCLIP, load_clip
from erase_lib.measure.eye import Eye
from erase_lib.measure.judges import Classifier, ImageClassifier, Judge
from erase_lib.measure.photographs import LITE0, efficientnet_lite0
from erase_lib.measure.pictures import Images
from erase_lib.measure.prompts import prompt_table, styles_of, words_of

CLIP = "openai/clip-vit-large-patch14"  # of other models than the embedded, by hub id


class ZeroShot(Classifier):
    """A CLIP as a classifier: the likeliest of "a photo of a …" (Radford et al. 2021, §3.1)."""

    def __init__(self, clip: SmallCLIP, concepts: Sequence[str]) -> None:
        self.clip, self.concepts = clip, list(concepts)
        self.place = {normal(name): i for i, name in enumerate(self.concepts)}
        self.name = f"{clip.name}, zero-shot, {len(self.concepts)} concepts"
        self.texts = clip.text_features([f"a photo of a {concept}" for concept in self.concepts])

    def likelihoods(self, pictures: Images | Tensor) -> tuple[np.ndarray, np.ndarray]:
        """softmax(100 cos) over the concepts, and of no styles `(n, 0)`."""
        cosine = self.clip.image_features(pictures) @ self.texts.T
        return (100 * cosine).softmax(1).numpy(), np.zeros((len(pictures), 0))


@gate
class World:
    """A pipeline and all that hangs on it: `embedded`, `styles`, `words`, `judge`, `clip`, `eye`.

    Of the embedded model these are its own. Another has no styles; its words are those of a text
    file (`words`), or those that its `classifier` (hub id, folder or efficientnet_lite0) knows, or
    English; without a classifier the judge is `clip` (hub id or folder, or OpenAI's by hub id),
    zero-shot, which knows the `targets` too. `plain`: for a lesson that only Stable Diffusion 1 and
    2 can be used in. Raises `EraseError` for another there, for a target that is no concept of the
    embedded model, and as what loads these, when they are first asked for."""

    def __init__(
        self,
        pipe: Pipeline,
        targets: Sequence[str] = (),
        words: str | None = None,
        classifier: str | Path | None = None,
        clip: str | Path | None = None,
        plain: bool = False,
    ) -> None:
        if plain and family(pipe).pooled(denoiser(pipe)) + family(pipe).flow:
            more = f"{type(pipe).__name__} has more: give a Stable Diffusion 1 or 2"
            raise EraseError(f"this lesson takes one text encoder and one UNet apart, and {more}")
        self.pipe, self.targets = pipe, list(targets)
        self.given, self.classifier, self.clip_id = words, classifier, clip
        self.judges: dict[tuple[str, ...], Classifier] = {}  # the last, by the names it must know
        self.embedded, self.styles = is_embedded(pipe), styles_of(pipe)
        if self.embedded and not (words or classifier):
            check_concepts(self.targets)

    @cached_property
    def words(self) -> list[str]:
        """What is kept, near the targets and far from them."""
        if self.given:
            return vocabulary(self.given)
        if self.classifier and not self.embedded:
            return list(dict.fromkeys(self.judge.concepts))
        return words_of(self.pipe)

    @cached_property
    def judge(self) -> Classifier:
        """Who says what is seen."""
        return self.judge_of(self.targets)

    def judge_of(self, names: Sequence[str]) -> Classifier:
        """The judge, loaded once; where it chooses among words, these are among them."""
        key = () if self.classifier or self.embedded else tuple(names)
        if key not in self.judges:
            self.judges = {key: self._load(key)}
        return self.judges[key]

    def _load(self, names: Sequence[str]) -> Classifier:
        if self.classifier == LITE0:
            return efficientnet_lite0(self.pipe.device)
        if self.classifier:
            return ImageClassifier.load(self.classifier, self.pipe.device)
        if self.embedded:
            return Judge.load(device=self.pipe.device)
        return ZeroShot(self.clip, [*names, *without(self.words, names)])

    @cached_property
    def clip(self) -> SmallCLIP:
        """What CLIP scores and feature distances are by."""
        return load_clip(self.clip_id or (None if self.embedded else CLIP), self.pipe.device)

    @cached_property
    def eye(self) -> Eye:
        """The second witness beside the judge."""
        return Eye.of(self.pipe, self.words, self.clip)

    def prompt(self, concept: str, i: int = 0) -> str:
        """A prompt of the concept, in the i-th style."""
        return prompt_table([(concept, self.styles[i % len(self.styles)])])["prompt"][0]
