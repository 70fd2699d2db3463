"""Suites: what an erasure is measured on. A YAML file says the prompts, the seeds and what is
counted; here it is read and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from erase_lib.config import _as_type
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA, check_keys, read_mapping

SUITES = DATA / "suites"
METRIC = re.compile(r"(ESR|PSR)-[1-9]\d*( style)?|NER|CLIP score|distance|FID|KID")
WORDS = ("targets", "kept", "near", "far")  # what `concepts` may say instead of a list
FILE = ("path", "prompt", "concept", "style", "seed", "where")
STYLES = ("all", "turn", "targets", "kept", "none")


@dataclass(frozen=True)
class Group:
    """Prompts counted together: `concepts` in a template, other `words` for them, or a `file`."""

    metrics: tuple[str, ...]
    """ESR-k, PSR-k, NER, CLIP score, distance, FID, KID; "ESR-1 style" asks for the style."""
    seeds: tuple[int, ...] = (1,)
    """Each prompt is drawn once with each; in the file a list, or a number: 4 is 1, 2, 3, 4."""
    concepts: tuple[str, ...] | str = ()
    """A list, or targets · kept · near (the nearest to each target) · far (all others)."""
    most: int = 0
    """How many of near a target, or of far in all; 0: four, or all."""
    template: str = "a {concept} in {style} style"
    styles: tuple[str, ...] | str = "all"
    """all · turn (one a concept) · targets · kept (of a suite of styles) · none · a list"""
    words: dict[str, list[str]] = field(default_factory=dict)
    """What stands in the template instead of each concept; of these the targets'."""
    file: dict[str, Any] = field(default_factory=dict)
    """path of a CSV (relative to data/), columns `prompt` and if there `concept`, `style`, `seed`
    by name, `where`: {column: value}."""

    @property
    def ranks(self) -> bool:
        """Whether it counts ESR or PSR of concepts, which a classifier then has to know."""
        return any(m[:3] in ("ESR", "PSR") and " style" not in m for m in self.metrics)


@dataclass(frozen=True)
class Suite:
    """A named set of groups, with the targets that it is made for."""

    name: str
    about: str
    groups: dict[str, Group]
    classes: tuple[str, ...] = ()
    """Of these are the targets; the others are kept."""
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Targets that are erased together, by name; a `file`'s `where` may say {split}."""
    thresholds: tuple[float, ...] = (0.5,)
    """Of NER: a picture counts where the detector's score is above."""
    steps: int = 8
    guidance_scale: float = 4.0

    def split(self, targets: Sequence[str]) -> str:
        """The split of these targets, "" where they only are of the classes.

        Raises `EraseError` for targets that the suite does not fit.
        """
        for name, of in self.splits.items():
            if set(of) == set(targets):
                return name
        if self.classes and set(targets) <= set(self.classes):
            return ""
        made_for = [*self.classes, *(t for of in self.splits.values() for t in of)]
        strange = [t for t in targets if t not in made_for] or list(targets)
        known = ", ".join(f"{name}: {'+'.join(of)}" for name, of in self.splits.items())
        raise EraseError(
            f"suite {self.name!r} is not made for the target {strange[0]!r}: expected of"
            f" {', '.join(self.classes) or known}"
        )


def read_suite(name: str | Path) -> Suite:
    """A suite of data/suites by name, or of a YAML file by path.

    Raises `EraseError` for one that does not exist, an unknown key, a wrong type or metric, a group
    without prompts or metrics, and seeds given twice.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = SUITES / f"{name}.yaml"
        if not path.is_file():
            raise unknown("suite", name, sorted(p.stem for p in SUITES.glob("*.yaml")))
    known = [f.name for f in fields(Suite) if f.name != "name"]
    found = read_mapping(path, "suite", known)
    where = f"{path.name}: "
    if not isinstance(found.get("groups"), dict) or not found["groups"]:
        raise EraseError(f"{where}groups is missing: expected a mapping from name to prompts")
    try:
        found["groups"] = {
            str(group): _group(values, f"group {group!r}")
            for group, values in found["groups"].items()
        }
        found["classes"] = _words("classes", found.get("classes", []))
        splits = found.get("splits") or {}
        found["splits"] = {str(k): _words(f"split {k}", of) for k, of in splits.items()}
        if "thresholds" in found:
            found["thresholds"] = tuple(float(t) for t in found["thresholds"])
        if any(not 0 < t < 1 for t in found.get("thresholds", ())):
            raise EraseError(f"thresholds is {found['thresholds']}: expected numbers in (0, 1)")
        for key, kind in (("about", str), ("steps", int), ("guidance_scale", float)):
            if key in found:
                found[key] = _as_type(key, found[key], kind)
        return Suite(path.stem, **({"about": ""} | found))
    except EraseError as error:
        raise EraseError(f"{where}{error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise EraseError(f"{where}{reason(error)}") from None


def _words(name: str, value: Any) -> tuple[str, ...]:
    words: tuple[str, ...] = _as_type(name, value, tuple[str, ...])
    if double := {w for w in words if words.count(w) > 1}:
        raise EraseError(f"{name} has {min(double)!r} twice: give each once")
    return words


def _group(values: Any, where: str) -> Group:
    """One group, checked. Raises `EraseError`."""
    if not isinstance(values, dict):
        raise EraseError(f"{where} is {values!r}: expected a mapping")
    check_keys(values, "key", [f.name for f in fields(Group)], f"{where}: ")
    found = dict(values)
    if len([key for key in ("concepts", "words", "file") if found.get(key)]) != 1:
        raise EraseError(f"{where} has no prompts: give one of concepts, words or file")
    found["metrics"] = _words(f"{where}: metrics", found.get("metrics", []))
    if not found["metrics"]:
        raise EraseError(f"{where} counts nothing: give metrics, such as [ESR-1]")
    for metric in found["metrics"]:
        if not METRIC.fullmatch(metric):
            names = ["ESR-1", "PSR-1", "ESR-1 style", "PSR-1 style"]
            names += ["NER", "CLIP score", "distance", "FID", "KID"]
            raise EraseError(f"{where}: {unknown('metric', metric, names)}")
    for key, choices in (("concepts", WORDS), ("styles", STYLES)):
        value = found.get(key)
        if isinstance(value, list):
            found[key] = _words(f"{where}: {key}", value)
        elif value is not None and value not in choices:
            raise EraseError(f"{where}: {unknown(key, value, choices)}")
    for concept, words in _mapping(found.get("words", {}), f"{where}: words").items():
        _words(f"{where}: words of {concept!r}", words)
    found["seeds"] = _seeds(found.get("seeds", [1]), where)
    file = _mapping(found.get("file", {}), f"{where}: file")
    check_keys(file, "key of file", FILE)
    return Group(**found)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EraseError(f"{where} is {value!r}: expected a mapping")
    return value


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds = list(range(1, value + 1)) if type(value) is int else value
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(type(s) is int and s >= 0 for s in seeds)
    ):
        raise EraseError(
            f"{where}: seeds is {value!r}: expected a number above 0, or whole numbers"
        )
    if double := {s for s in seeds if seeds.count(s) > 1}:
        raise EraseError(
            f"{where}: seed {min(double)} is given twice: the same picture counts once"
        )
    return tuple(seeds)
