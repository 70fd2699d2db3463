"""EraseConfig: every setting of an erasure, validated when it is made, and the three profiles."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from erase_lib.concepts import STYLE, check_once, check_words, without
from erase_lib.doors import gate
from erase_lib.errors import EraseError, unknown


class Method(NamedTuple):
    """A method that trains, as the loop sees it."""

    becomes: str
    """What takes the target's place: neutral · anchor · searched."""
    keeps: str
    """What L2 preserves: nothing · neutral · anchor · searched."""


METHODS = {
    "esd": Method("neutral", "nothing"),
    "esd_neutral": Method("neutral", "neutral"),
    "ca": Method("anchor", "anchor"),
    "eap": Method("neutral", "searched"),
    "age": Method("searched", "searched"),
}
CLOSED_FORMS = ("uce", "rece", "speed", "eap_closed")
TRAIN_METHODS = ("kv", "xattn", "noxattn", "full", "selfattn")
MOVABLE = ("kv", "xattn", "full")  # those that train K and V
SCHEDULES = ("published", "replay")
SEARCHES = ("auto", "gumbel", "gumbel_full", "movement", "random", "nearest", "fixed", "exhaustive")


@gate
@dataclass(frozen=True)
class EraseConfig:
    """Settings of one erasure; by default the course profile, for the embedded model on a CPU.

    Raises `EraseError` for an unknown name, a wrong type or a value out of range.
    """

    # -- what is erased, what takes its place, what is preserved -----------------------------------

    targets: tuple[str, ...]
    """Concepts to erase; each update draws one of them at random."""
    method: str = "eap"
    """esd: L1 alone · esd_neutral: + λ L2 on the neutral concept · ca: the target becomes an anchor
    (η = 0), which L2 preserves · eap: + λ L2 on the adversarial concept · age: what is searched, a
    mixture, is also what the target becomes. Without training, on K and V of cross-attention: uce ·
    rece · speed · eap_closed: uce that preserves what it moves most."""
    neutral: str = ""
    """The neutral concept c_n that takes the target's place."""
    anchors: tuple[str, ...] = ()
    """Concepts that take the targets' places instead: one for all, or one each. ca needs them, age
    searches for itself; what esd_neutral preserves is the neutral concept all the same."""
    preserved: tuple[str, ...] = ()
    """What search 'fixed' preserves, and a closed form instead of the nearest words."""
    styles: tuple[str, ...] = ("noto", "twemoji", "fluent", "openmoji")
    """Styles of the training prompts beside the bare word, or erasure does not carry over; () for
    none. A style that is erased ("noto style" is a target) is left out."""

    # -- how ---------------------------------------------------------------------------------------

    train_method: str = "xattn"
    """What is trained: cross-attention (xattn), of it only keys and values (kv), all but it
    (noxattn), everything (full), selfattn."""
    schedule: str = "replay"
    """replay: (z_t, t), with L1's goal there, from trajectories that the teacher drew once ·
    published: sampled by the student, anew at every update."""
    steps: int = 100
    """Updates of θ'."""
    lr: float = 4e-4
    """Adam's learning rate of θ'."""
    anneal: bool = True
    """Let lr fall to 0 along a half cosine: the last updates then settle instead of wandering on,
    which spares what is far from the target (published: False)."""
    lam: float = 20.0
    """λ, the weight of the preservation loss L2."""
    eta: float = 1.0
    """η, how far the target is pushed beyond the neutral concept."""
    batch: int = 2
    """Latents of the target in one update (published: 1)."""
    preserve_batch: int = 2
    """Latents of the preserved concepts in one update (published: 1; age: as many as `batch`)."""
    preserve_at: str = "target"
    """Where they are preserved: own, on a trajectory of each, as published · target, on the
    target's latents, which with replay are there already."""
    guidance_scale: float = 3.0
    """Classifier-free guidance while sampling the trajectories."""
    sampling_steps: int = 16
    """DDIM steps of a trajectory; also the number of timesteps that training sees."""
    lam_kv: float = 0.0
    """eap: the weight of the candidates' mean squared movement in K and V (`kv.KVPenalty`), which
    holds all of them at no evaluation where K and V are trained (published: 0)."""
    ridge: float = 0.1
    """Closed forms: the weight of ‖W − W₀‖², which holds what is neither erased nor preserved."""
    rounds: int = 3
    """rece and eap_closed: rounds of finding what the edit does, and solving again."""
    per_round: int = 8
    """eap_closed: how many more concepts, those moved most, are preserved in each round."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, one more forward pass."""
    seed: int = 0
    """Seed of everything random in the erasure."""

    # -- the search for the adversarial concept ----------------------------------------------------

    search: str = "auto"
    """gumbel: π climbs L2, as published · gumbel_full: with the teacher's half of its gradient ·
    movement: half of them those whose K and V moved most, half any · random: all candidates alike,
    the control · nearest: the nearest to the target · fixed: `preserved` · exhaustive: the most
    moved of all, measured. auto: gumbel for age, else random, which no search has bettered yet at
    equal evaluations and equal ESR-1 (notebook 10)."""
    vocabulary: str = "concepts"
    """Words to search the adversarial concept among: concepts, english, or a text file's path."""
    nearest: int = 400
    """Nearest words to the target that are kept before thinning."""
    candidates: int = 0
    """Candidates after thinning (published: 100). 0: all that are near, or 50 for the searches
    that learn or measure each of them, gumbel and exhaustive."""
    thinning: str = "meaning"
    """meaning: k-means on the embeddings · distance: on the 1-D distances, as published."""
    search_lr: float = 1e-2
    """Adam's learning rate of π."""
    temperature: float = 2.0
    """Temperature of the Gumbel-Softmax."""
    hard: bool = True
    """One-hot choice with a straight-through gradient, or a mixture of candidates (age: always)."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _as_type(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        for name, most in (_POSITIVE | _NOT_NEGATIVE).items():
            if not 0 <= (value := getattr(self, name)) <= most or (name in _POSITIVE and not value):
                least = "a number above 0" if name in _POSITIVE else "0 or more"
                raise EraseError(f"{name} is {value}: expected {least}, at most {most:,}")
        object.__setattr__(self, "neutral", check_words("neutral", [self.neutral])[0])
        for name in ("targets", "preserved", "styles"):
            check_once(name, getattr(self, name))
        if not all(self.targets or [""]):
            raise EraseError(f"targets is {self.targets}: expected at least one concept to erase")
        if not without([self.neutral], self.targets):
            raise EraseError(
                f"neutral concept {self.neutral!r} is also a target: choose another, such as ''"
            )
        others = tuple(s for s in self.styles if without([s + STYLE], self.targets))
        object.__setattr__(self, "styles", others)
        if self.search == "auto":
            object.__setattr__(self, "search", "gumbel" if self.method == "age" else "random")
        self._check_search()
        self._check_words()
        if self.candidates == 0:
            few = self.search in ("gumbel", "gumbel_full", "exhaustive")
            object.__setattr__(self, "candidates", min(50, self.nearest) if few else self.nearest)
        if self.candidates > self.nearest:
            raise EraseError(
                f"candidates is {self.candidates}: expected at most nearest ({self.nearest})"
            )

    def _check_search(self) -> None:
        """The search suits the method and what is trained."""
        if self.method == "age" and self.search not in ("gumbel", "gumbel_full"):
            raise EraseError(
                f"search is {self.search!r}, but method 'age' needs a mixture: choose gumbel or"
                " gumbel_full"
            )
        movable = self.train_method in MOVABLE
        if self.method == "eap" and self.search == "movement" and not movable:
            raise EraseError(
                "search 'movement' needs K and V trained, but train_method is"
                f" {self.train_method!r}: choose kv, xattn or full, or another search"
            )
        if self.lam_kv and not (self.method == "eap" and movable):
            raise EraseError(
                f"lam_kv is {self.lam_kv}, but method {self.method!r} with train_method"
                f" {self.train_method!r} holds nothing in K and V: choose method 'eap' with kv,"
                " xattn or full, or leave lam_kv out"
            )

    def _check_words(self) -> None:
        """Anchors and preserved concepts are there where they are needed, and no targets."""
        if self.method == "ca" and not self.anchors:
            raise EraseError(
                "method 'ca' needs a concept that the target becomes: give anchors, such as"
                " ['house']"
            )
        if len(self.anchors) not in (0, 1, len(self.targets)):
            raise EraseError(
                f"anchors is {list(self.anchors)}: expected one for all, or one for each of the"
                f" {len(self.targets)} targets"
            )
        if self.method == "age" and self.anchors:
            raise EraseError("method 'age' searches what targets become: leave anchors out")
        fixed = self.method == "eap" and self.search == "fixed"
        if fixed and not self.preserved:
            raise EraseError("search 'fixed' needs concepts: give preserved, such as ['dog']")
        if self.preserved and not fixed and self.method not in CLOSED_FORMS:
            raise EraseError(
                f"preserved is given, but method {self.method!r} with search {self.search!r} does"
                " not take it: set method to 'eap' and search to 'fixed', or leave preserved out"
            )
        for name in ("anchors", "preserved"):
            for word in getattr(self, name):
                if not without([word], self.targets):
                    raise EraseError(f"{name} contains {word!r}, which is a target: leave it out")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EraseConfig:
        """A config from plain values. `EraseError` with the nearest known name for another key."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("setting", key, known)
        if "targets" not in values:
            raise EraseError("targets is missing: expected at least one concept to erase")
        return cls(**values)

    @classmethod
    def from_profile(cls, profile: str, **values: Any) -> EraseConfig:
        """The settings of smoke, course or paper, with `values` on top (None: the profile's)."""
        if profile not in PROFILES:
            raise unknown("profile", profile, PROFILES)
        given = {key: value for key, value in values.items() if value is not None}
        return cls.from_dict(PROFILES[profile] | given)

    @property
    def become(self) -> tuple[str, ...]:
        """What takes each target's place: its anchor, or the neutral concept."""
        words = self.anchors or (self.neutral,)
        return words if len(words) == len(self.targets) else words * len(self.targets)

    def to_dict(self) -> dict[str, Any]:
        """Plain values (tuples as lists), ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


_CHOICES = {
    "method": (*METHODS, *CLOSED_FORMS),
    "train_method": TRAIN_METHODS,
    "schedule": SCHEDULES,
    "search": SEARCHES,
    "thinning": ("distance", "meaning"),
    "preserve_at": ("own", "target"),
}
# the most of each: beyond it is a slip of the keyboard, or more than a machine can hold
_POSITIVE = {"steps": 10**6, "lr": 100, "rounds": 1000, "per_round": 10**5, "search_lr": 10**4}
_POSITIVE |= {"batch": 1024, "preserve_batch": 1024, "sampling_steps": 10**4, "nearest": 10**6}
_POSITIVE |= {"guidance_scale": 1000, "temperature": 10**6}
_NOT_NEGATIVE = dict.fromkeys(("lam", "lam_kv", "ridge", "eta"), 10**9) | {"candidates": 10**6}
_NOT_NEGATIVE["seed"] = 2**32 - 1  # what NumPy's generators take

PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {"steps": 4, "sampling_steps": 4, "nearest": 12, "candidates": 6},
    "course": {},
    # The published run for objects on Stable Diffusion v1.4 (Bui et al. 2024, code)
    "paper": {
        "schedule": "published",
        "steps": 1000,
        "lr": 1e-5,
        "anneal": False,
        "lam": 1.0,
        "lam_kv": 0.0,
        "batch": 1,
        "preserve_batch": 1,
        "styles": (),
        "sampling_steps": 50,
        "vocabulary": "english",
        "nearest": 1000,
        "candidates": 100,
        "thinning": "distance",
        "search": "gumbel",
        "preserve_at": "own",
    },
}


def _as_type(name: str, value: Any, kind: Any) -> Any:
    """`value` as the annotated type, or an error; ints pass as floats, lists, arrays and columns as
    tuples of words (`check_words`), NumPy's numbers as Python's."""
    if isinstance(kind, types.GenericAlias):  # tuple[str, ...]
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return check_words(name, value)
        raise EraseError(f"{name} is {value!r:.80}: expected a list of words, such as ['church']")
    fits: Any = {int: numbers.Integral, float: numbers.Real, bool: np.bool_, str: str}[kind]
    if isinstance(value, numbers.Integral) and abs(int(value)) >= 2**63:
        raise EraseError(f"{name} is an integer beyond 64 bits: expected a smaller one")
    if isinstance(value, fits) and not (isinstance(value, bool) and kind is not bool):
        value = kind(value)
    if type(value) is not kind:
        given = f"{value!r:.80} ({type(value).__name__})"
        raise EraseError(f"{name} is {given}: expected {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise EraseError(f"{name} is {value}: expected a finite number")
    return value
