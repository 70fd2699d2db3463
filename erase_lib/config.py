"""EraseConfig: every setting of an erasure, validated when it is made, and the three profiles."""

from __future__ import annotations

import math
import typing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple

from erase_lib.concepts import STYLE, another_style, check_once, check_words, is_style, without
from erase_lib.doors import fit, gate
from erase_lib.errors import EraseError, unknown
from erase_lib.files import check_keys


class Method(NamedTuple):
    """A method that trains, as the loop sees it."""

    becomes: str  # what takes the target's place: neutral · anchor · searched
    keeps: str  # what L2 preserves: nothing · neutral · anchor · searched


METHODS = {
    "esd": Method("neutral", "nothing"),
    "esd_neutral": Method("neutral", "neutral"),
    "ca": Method("anchor", "anchor"),
    "eap": Method("neutral", "searched"),
    "age": Method("searched", "searched"),
}
CLOSED_FORMS = ("uce", "rece", "speed", "eap_closed", "eap_projected", "oce", "cure", "nlce")
AUTO = "auto"  # what `settled` chooses by the model
VOCABULARY = {True: "concepts", False: "english"}  # of the embedded model, and of another
HOUSES = ("noto", "twemoji", "fluent", "openmoji")
# the method of an erasure that others made, or of a sum: `Erasure.between`, `Erasure.plus`
ELSEWHERE = "other"
MOVABLE = ("kv", "xattn", "full", "esd-x", "esd-x-strict")  # those that train K and V
TRAIN_METHODS = (*MOVABLE, "noxattn", "selfattn", "esd-u")
MOVING = ("movement", "soft")  # searches by the movement of K and V
CLIMBING = ("gumbel", "gumbel_full", "pgd")  # those that learn what climbs L2
SEARCHES = ("auto", *CLIMBING, *MOVING, "random", "nearest", "fixed", "exhaustive")
# settings that followed from others: `dataclasses.replace` hands on what was `given`
_Word = type("_Word", (str,), {"given": AUTO})
_Count = type("_Count", (int,), {"given": 0})
_Number = type("_Number", (float,), {"given": 0.0})


@gate
@dataclass(frozen=True)
class EraseConfig:
    """Settings of one erasure; by default the course profile, for the embedded model on a CPU.
    Raises `EraseError` for an unknown name, a wrong type or a value out of range."""

    # -- what is erased, what takes its place, what is preserved -----------------------------------

    targets: tuple[str, ...]
    """Concepts to erase; each update draws one of them at random."""
    method: str = "eap"
    """esd: L1 alone · esd_neutral: + λ L2 on the neutral concept · ca: the target becomes an anchor
    (η = 0), which L2 preserves · eap: + λ L2 on the adversarial concept · age: what is searched, a
    mixture, is also what the target becomes. Without training, on K and V of cross-attention: uce ·
    rece · speed · eap_closed: uce that preserves what it moves most · eap_projected: the
    same by a T that has no inverse · oce: turns concepts, by an orthogonal matrix · cure: cuts out
    what the targets span and others do not · nlce (its first stage): targets become what they are
    to their neighbours. Those two take no λ (`rivals`)."""
    neutral: str = ""
    """The neutral concept c_n that takes the target's place."""
    anchors: tuple[str, ...] = ()
    """Concepts that take the targets' places instead: one for all, or one each. ca needs them, age
    searches for itself; what esd_neutral preserves is the neutral concept all the same. A style
    ("noto style" is a target) becomes another style of the embedded model, openmoji or else noto,
    unless anchors or `neutral` say otherwise: without a style a model draws a mixture of all, the
    erased among them. [""] asks for that."""
    erase_from: str = ""
    """What targets are erased from, as ESD's code has it: a concept that is drawn, and learns to
    lack them. "": the targets themselves."""
    preserved: tuple[str, ...] = ()
    """What search 'fixed' preserves alone, and a closed form beside what it preserves anyway. For
    these alone there too: `vocabulary`, a file of them (uce as published takes none but these)."""
    styles: tuple[str, ...] = (AUTO,)
    """Styles of the training prompts beside the bare word, or erasure does not carry over; () for
    none. auto: the embedded model's four, of another none. A style that is erased ("noto style" is
    a target) is left out."""

    # -- how ---------------------------------------------------------------------------------------

    train_method: str = "xattn"
    """What is trained: cross-attention (xattn), of it only keys and values (kv), all but it
    and what stands at a UNet's ends (noxattn), everything (full), selfattn. By ESD's names: esd-x
    (xattn), esd-x-strict (kv), esd-u (linear layers and convolutions outside of xattn)."""
    schedule: str = "replay"
    """replay: (z_t, t), with L1's goal there, from trajectories that the teacher drew once ·
    published: sampled by the student at every update, as EAP's code does (`bank.Latents`) · anew:
    exactly to t and by the teacher, as ESD's code of 2025 does. Closed forms as published: uce by
    the last token of the bare word, with sums and `preserved` alone; speed with all its parts."""
    loss: str = "clean"
    """What both losses compare: predicted clean latents, as EAP, or the denoiser's output, as ESD,
    which weighs noisy timesteps less (of ε by ᾱ/(1−ᾱ)). hellinger: of the output 1 − exp(−MSE) of
    each latent, which large gaps cannot rule (f-DMU, ICML 2026)."""
    steps: int = 100
    """Updates of θ'."""
    lr: float = 4e-4
    """Adam's learning rate of θ'."""
    anneal: bool = True
    """Let lr fall to 0 along a half cosine: the last updates then settle instead of wandering on,
    which spares what is far from the target (published: False)."""
    lam: float = 20.0
    """λ, the weight of the preservation loss L2. With schedule replay it is shared by the targets,
    λ/n of n, or what is right for one erases no five: each has one update of n, what is preserved
    all. Closed forms have it whole: there strength makes up for it, and spares more."""
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
    """rece and the eap of closed forms: rounds of finding what the edit does, and solving again."""
    per_round: int = 8
    """These: how many more concepts, those moved most, are preserved in each round."""
    minimax: float = 0.0
    """eap_closed: instead of the rounds this share of λ stands on the prompt that moves most, of
    all that are preserved, the rest on all alike: 1 spares the near, small ones the far."""
    project: int = 0
    """Gradients of K and V are made orthogonal to so many words nearest to each target, by their
    last tokens (GradProj, ICLR 2026: 5). Adam's own scale bends the step a little."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, one more forward pass."""
    seed: int = 0
    """Seed of everything random in the erasure."""

    # -- the search for the adversarial concept ----------------------------------------------------

    search: str = "auto"
    """gumbel: π climbs L2, as published · gumbel_full: with the teacher's half of its gradient ·
    pgd: so does an embedding that starts at the nearest's, and is no word's · movement: half those
    whose K and V moved most, half any · soft: any, the likelier the more K and V moved · random:
    all alike, the control (of soft with a `nearest` of 10 to 40) · nearest: the nearest to the
    target · fixed: `preserved` · exhaustive: the most moved of all, measured. auto: gumbel for age,
    else random: no search has bettered it yet at equal evaluations and ESR-1 (notebook 10)."""
    vocabulary: str = AUTO
    """Words to search the adversarial concept among: concepts, english, tokens (all that the
    tokenizer has), or a text file's path. auto: the embedded model's concepts, of another english.
    """
    nearest: int = 400
    """Nearest words to the target that are kept before thinning."""
    candidates: int = 0
    """Candidates after thinning (published: 100). 0: all that are near, or 50 for the searches
    that learn or measure each of them, gumbel and exhaustive; of pgd always one."""
    thinning: str = "meaning"
    """meaning: k-means on the embeddings · distance: on the 1-D distances, as published, where the
    target is one of the candidates if the vocabulary has it."""
    search_lr: float = 1e-2
    """Adam's learning rate of π; pgd's step, in the length of what it starts from."""
    temperature: float = 0.0
    """Of the Gumbel-Softmax, or of soft, in standard deviations of movement. 0: soft 1, else 2."""
    hard: bool = True
    """One-hot choice with a straight-through gradient, or a mixture of candidates (age: always)."""

    def __post_init__(self) -> None:
        values = vars(self)  # frozen for all others
        for name, kind in typing.get_type_hints(type(self)).items():
            values[name] = _as_type(name, getattr(values[name], "given", values[name]), kind)
        for name, known in _CHOICES.items():
            if values[name] not in known:
                raise unknown(name, values[name], known)
        for name, most in (_POSITIVE | _NOT_NEGATIVE).items():
            if not 0 <= values[name] <= most or (name in _POSITIVE and not values[name]):
                least = "a number above 0" if name in _POSITIVE else "0 or more"
                raise EraseError(f"{name} is {values[name]}: expected {least}, at most {most:,}")
        for name in ("neutral", "erase_from"):
            values[name] = check_words(name, [values[name]])[0]
        for name in ("targets", "preserved", "styles"):
            check_once(name, values[name])
        values["styles"] = tuple(s for s in self.styles if without([s + STYLE], self.targets))
        if self.search == "auto":
            values["search"] = _Word("gumbel" if self.method == "age" else "random")
        if self.candidates == 0:
            few = self.search in (*CLIMBING, "exhaustive")
            values["candidates"] = _Count(min(50, self.nearest) if few else self.nearest)
        if self.temperature == 0:
            values["temperature"] = _Number(1 if self.search == "soft" else 2)
        for fault in self._faults():
            raise EraseError(fault)

    def _faults(self) -> Iterator[str]:
        """Words that are targets or missing, and a search that does not suit what is trained."""
        method, search, trained = self.method, self.search, self.train_method
        if not all(self.targets or [""]):
            yield f"targets is {self.targets}: expected at least one concept to erase"
        named = {"neutral": (self.neutral,), "anchors": self.anchors, "preserved": self.preserved}
        named |= {"erase_from": (self.erase_from,)}
        for name, words in named.items():
            for word in words:
                if not without([word], self.targets):
                    yield f"{name} has {word!r}, which is a target: choose another"
        if method == "ca" and not (self.anchors or all(map(is_style, self.targets))):
            yield "method 'ca' needs what the target becomes: give anchors, such as ['house']"
        if method == "age" and self.anchors:
            yield "method 'age' searches what targets become: leave anchors out"
        if len(self.anchors) not in (0, 1, len(self.targets)):
            yield f"{len(self.anchors)} anchors for {len(self.targets)} targets: give 1 or as many"
        if method == "age" and search not in ("gumbel", "gumbel_full"):
            yield f"search is {search!r}: method 'age' needs a mixture, by gumbel or gumbel_full"
        if method == "eap" and search in MOVING and trained not in MOVABLE:
            yield f"train_method is {trained!r}, but search {search!r} needs K and V: choose xattn"
        if self.lam_kv and not (method == "eap" and trained in MOVABLE):
            given = f"lam_kv is {self.lam_kv}, but method {method!r} with train_method {trained!r}"
            yield f"{given} holds nothing in K and V: choose eap with kv, xattn or full"
        if self.erase_from and (method not in METHODS or METHODS[method].becomes != "neutral"):
            yield f"erase_from is given, but method {method!r} takes none: choose esd or eap"
        if self.schedule == "published" and self.sampling_steps == 1:
            yield "sampling_steps is 1: schedule 'published' leaves the first out, give 2 or more"
        fixed = method == "eap" and search == "fixed"
        if fixed and not self.preserved:
            yield "search 'fixed' needs concepts: give preserved, such as ['dog']"
        if self.preserved and not fixed and method not in CLOSED_FORMS:
            given = f"preserved is given, but method {method!r} with search {search!r} takes none"
            yield f"{given}: choose 'eap' with 'fixed', or leave it out"
        if self.minimax > 1 or (self.minimax and method != "eap_closed"):
            yield f"minimax is {self.minimax}, of {method!r}: expected a share of eap_closed's λ"
        if self.project and (method not in METHODS or trained not in MOVABLE):
            yield f"project is {self.project}, but {method!r}, {trained!r} trains no K and V"
        if self.candidates > self.nearest:
            yield f"candidates is {self.candidates}: expected at most nearest ({self.nearest})"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EraseConfig:
        """A config from plain values. `EraseError` with the nearest known name for another key."""
        check_keys(values, "setting", cls.__dataclass_fields__)
        return cls(**values)

    @classmethod
    def from_profile(cls, profile: str, **values: Any) -> EraseConfig:
        """The settings of smoke, course or paper (there the method's `OWN`), with `values` on top
        (None: the profile's)."""
        if profile not in PROFILES:
            raise unknown("profile", profile, PROFILES)
        given = {key: value for key, value in values.items() if value is not None}
        own = OWN.get(str(given.get("method")), {}) if profile == "paper" else {}
        return cls.from_dict(PROFILES[profile] | own | given)

    def settled(self, embedded: bool) -> EraseConfig:
        """With what hangs on the model: the embedded one's styles and concepts, or no styles and
        English words, wherever the settings say auto; and what a style becomes, with a warning that
        says so. Raises `EraseError` when there is no other style."""
        given: dict[str, Any] = {}
        styled = [target for target in self.targets if is_style(target)]
        if styled and not (self.anchors or self.neutral or self.method == "age"):
            given = self._restyled(styled[0], embedded)
        if self.styles == (AUTO,):
            given["styles"] = HOUSES if embedded else ()
        if self.vocabulary == AUTO:
            given["vocabulary"] = VOCABULARY[embedded]
        return replace(self, **given) if given else self

    def _restyled(self, style: str, embedded: bool) -> dict[str, Any]:
        """The anchors that an erased style asks for."""
        if embedded:
            other = another_style(style, self.targets)
            warnings.warn(f"{style!r} becomes {other!r}: give anchors for another", stacklevel=3)
            return {"anchors": tuple(other if is_style(t) else "" for t in self.targets)}
        text = f"{style!r} is a style: give anchors, another style, such as ['watercolour style']"
        if self.method == "ca":
            raise EraseError(text)
        warnings.warn(f"{text}; without, it becomes a mixture of all styles", stacklevel=3)
        return {}

    @property
    def become(self) -> tuple[str, ...]:
        """What takes each target's place: its anchor, or the neutral concept."""
        words = self.anchors or (self.neutral,)
        return words if len(words) == len(self.targets) else words * len(self.targets)

    def to_dict(self) -> dict[str, Any]:
        """Plain values (tuples as lists), ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


_CHOICES = {
    "method": (*METHODS, *CLOSED_FORMS, ELSEWHERE),
    "train_method": TRAIN_METHODS,
    "schedule": ("published", "anew", "replay"),
    "loss": ("clean", "output", "hellinger"),
    "search": SEARCHES,
    "thinning": ("distance", "meaning"),
    "preserve_at": ("own", "target"),
}
# the most of each: beyond it is a slip of the keyboard, or more than a machine can hold
_POSITIVE = {"steps": 10**6, "lr": 100, "rounds": 1000, "per_round": 10**5, "search_lr": 10**4}
_POSITIVE |= {"batch": 1024, "preserve_batch": 1024, "sampling_steps": 10**4, "nearest": 10**6}
_POSITIVE |= {"guidance_scale": 1000}
_NOT_NEGATIVE = dict.fromkeys(("lam", "lam_kv", "ridge", "eta"), 10**9)
_NOT_NEGATIVE |= dict.fromkeys(("candidates", "temperature", "minimax", "project"), 10**6)
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
# what other methods' own code has instead (ESD: Gandikota et al. 2023, code of 2025; UCE: the same)
OWN: dict[str, dict[str, Any]] = {
    "esd": {"schedule": "anew", "loss": "output", "lr": 5e-5, "steps": 200},
    "uce": {"ridge": 0.5},
}


def _as_type(name: str, value: Any, kind: Any) -> Any:
    """`value` as the annotated type (`fit`), floats finite and words tidied; or an `EraseError`."""
    if isinstance(value, Integral) and abs(int(value)) >= 2**63:
        raise EraseError(f"{name} is an integer beyond 64 bits: expected a smaller one")
    try:
        value = fit(value, kind)
    except TypeError:
        expected = kind.__name__ if isinstance(kind, type) else "a list of words, as ['church']"
        given = f"{value!r:.80} ({type(value).__name__})"
        raise EraseError(f"{name} is {given}: expected {expected}") from None
    if isinstance(value, tuple):
        return check_words(name, value)
    if kind is float and not math.isfinite(value):
        raise EraseError(f"{name} is {value}: expected a finite number")
    return kind(value)
