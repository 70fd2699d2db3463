"""Suites: what an erasure is measured on, as a YAML file says it; here it is read and checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from erase_lib.concepts import check_once, is_style, style_names, tidy
from erase_lib.config import _as_type
from erase_lib.errors import EraseError, check_range, unknown
from erase_lib.files import DATA, check_keys, read_mapping, sought

SUITES = DATA / "suites"
RATE = r"(ESR|PSR)-[1-9]\d*( style)?|ESR-[1-9]\d*( style)? judge\+eye"
METRIC = re.compile(rf"{RATE}|NER|CLIP score|distance|FID|KID")
METRICS = "ESR-1", "PSR-1", "ESR-1 style", "PSR-1 style", "NER", "CLIP score", "distance"
WORDS = ("targets", "kept", "near", "far")  # what `concepts` may say instead of a list
FILE = ("path", "prompt", "concept", "style", "seed", "where")
STYLES = ("all", "turn", "targets", "kept", "none")
MOST = 10_000  # seeds of a prompt, concepts near or far


@dataclass(frozen=True)
class Group:
    """Prompts counted together: `concepts` in a template, other `words` for them, or a `file`.
    `metrics`: ESR-k, PSR-k, NER, CLIP score, distance, FID, KID; "ESR-1 style" asks for the style,
    "ESR-1 judge+eye" for both witnesses.
    `seeds`: each prompt is drawn once with each; in the file a list, or a number: 4 is 1, 2, 3, 4.
    `concepts`: a list, or targets · kept · near (the nearest to each target) · far (all others);
    `most`: how many of near a target, or of far in all (0: four, or all). `styles`: a list, or all
    · turn (one a concept) · targets · kept (of a suite of styles) · none. `words`: what stands in
    the template instead of each concept; of these the targets'. `file`: path of a CSV (relative to
    data/), its columns prompt and, if any, concept, style, seed, and where: {column: value}."""

    metrics: tuple[str, ...]
    seeds: tuple[int, ...] = (1,)
    concepts: tuple[str, ...] | str = ()
    most: int = 0
    template: str = "a {concept} in {style} style"
    styles: tuple[str, ...] | str = "all"
    words: dict[str, list[str]] = field(default_factory=dict)
    file: dict[str, Any] = field(default_factory=dict)

    @property
    def ranks(self) -> bool:
        """Whether it counts ESR or PSR of concepts, which a classifier then has to know."""
        return any(m[:3] in ("ESR", "PSR") and " style" not in m for m in self.metrics)


@dataclass(frozen=True)
class Suite:
    """A named set of groups, with the targets that it is made for: some of the `classes`, of which
    the others are kept, or one of the `splits`, whose name a `file`'s `where` may say: {split}."""

    name: str
    about: str
    groups: dict[str, Group]
    classes: tuple[str, ...] = ()
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    thresholds: tuple[float, ...] = (0.5,)  # of NER: a picture with a score above it counts
    steps: int = 8
    guidance_scale: float = 4.0
    probes: tuple[str, ...] = ()  # of `study.PROBES`, for whoever asks what is only hidden

    def split(self, targets: Sequence[str]) -> str:
        """The split of these targets, "" for classes or, asked by name, any object; or an error."""
        if not targets:
            raise EraseError(f"targets is {targets!r}: expected a list of at least one")
        for name, of in self.splits.items():
            if set(of) == set(targets):
                return name
        named = all(g.concepts in WORDS and g.styles != "targets" for g in self.groups.values())
        free = named and not any(map(is_style, targets))
        if self.classes and (free or set(targets) <= set(self.classes)):
            return ""
        if not (made_for := {*self.classes}.union(*self.splits.values())):
            raise EraseError(f"suite {self.name!r} is for no target: give it classes or splits")
        strange = next((t for t in targets if t not in made_for), next(iter(targets)))
        known = ", ".join(self.classes or (f"{k}: {'+'.join(of)}" for k, of in self.splits.items()))
        raise EraseError(f"suite {self.name!r} is not for target {strange!r}: expected of {known}")


def read_suite(name: str | Path) -> Suite:
    """A suite of data/suites by name, or of a YAML file by path. Raises `EraseError` where it does
    not exist, a key, type or metric is wrong, or a group lacks prompts or has one twice."""
    path = sought(name)
    if path.suffix.lower() not in (".yaml", ".yml"):
        path = SUITES / f"{name}.yaml"
        if not path.is_file():
            raise unknown("suite", name, sorted(p.stem for p in SUITES.glob("*.yaml")))
    known = [f.name for f in fields(Suite) if f.name != "name"]
    found = {"about": ""} | read_mapping(path, "suite", known)
    try:
        if not (groups := _named("groups", found.get("groups", {}))):
            raise EraseError("groups is missing: expected a mapping from name to prompts")
        found["groups"] = {k: _group(v, f"group {k!r}") for k, v in groups.items()}
        found |= {key: _words(key, found.get(key, [])) for key in ("classes", "probes")}
        splits = _named("splits", found.get("splits") or {})
        found["splits"] = {k: _words(f"split {k}", of) for k, of in splits.items()}
        check_once("splits", ["+".join(sorted(of)) for of in found["splits"].values()])
        above = found.get("thresholds", [0.5])
        fit = isinstance(above, list) and all(type(t) is float and 0 < t < 1 for t in above)
        if not fit or not above:
            raise EraseError(f"thresholds is {above!r}: expected a list of numbers in (0, 1)")
        found["thresholds"] = check_once("thresholds", above)
        _plain(found, "", about=str, steps=(1, 1000), guidance_scale=(0.0, 1000.0))
        if made_for := {*found["classes"]}.union(*found["splits"].values()):
            for name, group in found["groups"].items():
                check_keys(group.words, "target", made_for, f"group {name!r}: words: ")
    except (TypeError, ValueError) as error:
        raise EraseError(f"{path.name}: {error}") from None
    return Suite(path.stem, **found)


def _group(values: Any, where: str) -> Group:
    """One group, checked. Raises `EraseError`."""
    found = dict(_mapping(where, values))
    check_keys(found, "key", [f.name for f in fields(Group)], f"{where}: ")
    if len([key for key in ("concepts", "words", "file") if found.get(key)]) != 1:
        raise EraseError(f"{where} has no prompts: give one of concepts, words or file")
    found["metrics"] = _words(f"{where}: metrics", found.get("metrics", []))
    if not found["metrics"]:
        raise EraseError(f"{where} counts nothing: give metrics, such as [ESR-1]")
    for metric in found["metrics"]:
        if not METRIC.fullmatch(metric):
            raise EraseError(f"{where}: {unknown('metric', metric, [*METRICS, 'FID', 'KID'])}")
    for key, choices in (("concepts", WORDS), ("styles", STYLES)):
        value = found.get(key)
        if isinstance(value, list):
            found[key] = _words(f"{where}: {key}", value)
        elif key in found and value not in choices:
            raise EraseError(f"{where}: {unknown(key, value, choices)}")
    for style in found["styles"] if isinstance(found.get("styles"), tuple) else ():
        if style not in (own := style_names()) and difflib.get_close_matches(style, own):
            raise EraseError(f"{where}: {unknown('style', style, own)}")
    for concept, words in _mapping(f"{where}: words", found.get("words", {})).items():
        _words(f"{where}: words of {concept!r}", words)
    file = _mapping(f"{where}: file", found.get("file", {}))
    check_keys(file, "key of file", FILE, f"{where}: ")
    _plain(file, f"{where}: file: ", path=str, prompt=str, concept=str, style=str, seed=str)
    _mapping(f"{where}: where", file.get("where", {}))
    _plain(found, f"{where}: ", most=(0, MOST), template=str)
    fill(found.get("template", Group.template), "", "", f"{where}: ")
    value = found.get("seeds", [1])
    if type(value) is int and 0 < value <= MOST:
        value = list(range(1, value + 1))
    known = isinstance(value, list) and all(type(s) is int and 0 <= s < 2**32 for s in value)
    if not known or not 0 < len(value) <= MOST:
        raise EraseError(f"{where}: seeds is {value!r}: expected 1 to {MOST:,}, or a list")
    return Group(**found | {"seeds": check_once(f"{where}: seeds", value)})


def _plain(found: dict[str, Any], where: str, **kinds: Any) -> None:
    """Each value that is there as its kind, a type or a number's range. Raises `EraseError`."""
    for key in [key for key in kinds if key in found]:
        ends = kinds[key] if isinstance(kinds[key], tuple) else ()
        found[key] = _as_type(where + key, found[key], type(ends[0]) if ends else kinds[key])
        if ends:
            check_range(where + key, found[key], *ends)


def fill(template: str, concept: str, style: str, where: str = "") -> str:
    """The template, nothing in it evaluated; `EraseError` for other braces, or no {concept}."""
    words = {"{concept}": concept, "{style}": style}
    parts = re.split("({concept}|{style})", template)  # text, field, text, …
    if re.search("[{}]", "".join(parts[::2])) or "{concept}" not in parts:
        known = "expected {concept} in it, {style} if you like, and no other braces"
        raise EraseError(f"{where}template is {template!r}: {known}")
    return "".join(words.get(part, part) for part in parts)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EraseError(f"{name} is {value!r}: expected a mapping")
    return value


def _named(name: str, value: Any) -> dict[str, Any]:
    """A mapping from names, a number as its text. Raises `EraseError` for one that is twice."""
    names = check_once(name, list(map(str, _mapping(name, value))))
    return dict(zip(names, value.values(), strict=True))


def _words(name: str, value: Any) -> tuple[str, ...]:
    words = check_once(name, _as_type(name, value, tuple[str, ...]))
    if blank := [word for word in words if not tidy(word)]:
        raise EraseError(f"{name} has {blank[0]!r}, which is no word: leave it out")
    return words
