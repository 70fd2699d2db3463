"""Concept lists, vocabularies and prompt templates: words only, no tensors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA, sought, whole_table

EMOJI = DATA / "emoji"
BECOMES = ("openmoji", "noto", "twemoji", "fluent")  # of styles that are erased
STYLE = " style"  # ends the name of a style, as in "noto style" or "Van Gogh style"
NOBODY_SEES = "\u034f\u115f\u1160\u3164\ufe0e\ufe0f\uffa0"  # beside the category Cf, as a BOM is
JOINERS = "\u200c\u200d"  # within a word of some scripts, and in an emoji of several


def tidy(word: str) -> str:
    """As words are kept: composed (NFC), no letters that nobody sees, single blanks."""
    seen = [
        c
        for before, c, after in zip(" " + word, word, word[1:] + " ", strict=False)
        if (unicodedata.category(c) != "Cf" and c not in NOBODY_SEES)
        or (c in JOINERS and not (before + after).isascii() and " " not in before + after)
    ]
    return " ".join(unicodedata.normalize("NFC", "".join(seen)).split())


@lru_cache(1 << 14)
def normal(word: str) -> str:
    """As words are compared: two are the same where this is, whatever their case."""
    return unicodedata.normalize("NFC", re.sub(f"[{JOINERS}]", "", tidy(word)).casefold())


def without(words: Iterable[str], gone: Iterable[str]) -> list[str]:
    """The words that are the same as none of the others."""
    left_out = {normal(word) for word in gone}
    return [word for word in words if normal(word) not in left_out]


def check_words(name: str, words: Iterable[str]) -> tuple[str, ...]:
    """The words, tidied. Raises `EraseError` for one with a line break or control character."""
    for word in (given := list(words)):
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in word.strip(" \r\n")):
            raise EraseError(f"{name} has {word!r:.80}, with a control character or line break")
    return tuple(map(tidy, given))


def check_once(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values. Raises `EraseError` for one that is there twice, words in whatever case."""
    seen = set()
    for value in values:
        if (key := normal(value) if isinstance(value, str) else value) in seen:
            raise EraseError(f"{name} has {value!r:.80} twice: give each once")
        seen.add(key)
    return tuple(values)


def concept_table() -> pd.DataFrame:
    """The concepts of the embedded model: concept, category, subgroup, keywords, codepoint."""
    return whole_table(EMOJI / "concepts.csv")


def style_names() -> list[str]:
    """The house styles that the embedded model was trained in."""
    return whole_table(EMOJI / "styles.csv")["style"].tolist()


def drawn() -> list[str]:
    """What the prompts of a style draw, 122 objects of all kinds: a style that is erased on a few
    stays on others. Never what `measure.target_prompts` looks for one in, every seventh concept."""
    return [c for i, c in enumerate(concept_table()["concept"]) if i % 7][1::3]


def another_style(target: str, targets: Iterable[str]) -> str:
    """What an erased style becomes, the first of `BECOMES` that is no target: what looks unlike it.
    By 24 pictures each (uce, λ 1) noto to openmoji is gone in 1.00 with the object there in .75, to
    twemoji, which is nearer, in .79 with .88; twemoji to openmoji in .92 with .79. Raises
    `EraseError` when there is none."""
    if left := without([name + STYLE for name in BECOMES], targets):
        return left[0]
    text = f"target {target!r} is a style, and no other one is left for it to become"
    raise EraseError(f"{text}: leave one out of targets, or give anchors")


def neutral_concepts() -> list[str]:
    """Prompts that name nothing, "" among them: what a target may become."""
    return whole_table(EMOJI / "neutral.csv")["prompt"].tolist()


def check_concepts(targets: Iterable[str]) -> None:
    """Raise `EraseError` for the first that is no concept or style of the embedded model."""
    known = concept_table()["concept"].tolist() + [name + STYLE for name in style_names()]
    for target in targets:
        if target not in known:
            raise unknown("target", target, known)


def vocabulary(name: str) -> list[str]:
    """Words to search: `concepts`, `english` (3,000 common words), or a file with a word a line, of
    the same words the first. Raises `EraseError` for a file that does not exist, is no text or a
    table, or holds no words."""
    if name == "concepts":
        return concept_table()["concept"].tolist()
    if name == "english":
        return whole_table(EMOJI / "vocabulary.csv")["word"].tolist()
    path = sought(name)
    try:
        if not path.is_file():
            raise EraseError(f"vocabulary {name!r}: expected concepts, english or a file's path")
        lines = [line.strip() for line in path.read_text("utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise EraseError(f"vocabulary {name!r} cannot be read ({reason(error)})") from None
    words = [word for word in check_words(f"vocabulary {name!r}", lines) if word]
    if not words:
        raise EraseError(f"vocabulary {name!r} is empty: expected one word a line")
    fields = [re.split(r"[,;\t](?! )", line) for line in lines]
    head = {normal(field) for field in fields[0]} & {"word", "words", "concept", "concepts", "rank"}
    alike = len({len(of) for of in fields}) == 1 < len(fields[0])
    if alike or head and (len(fields[0]) > 1 or path.suffix == ".csv"):
        raise EraseError(f"vocabulary {name!r} is a table ({lines[0]!r}): expected one word a line")
    return list({normal(word): word for word in reversed(words)}.values())[::-1]


def is_style(concept: str) -> bool:
    """Whether it names a style, such as "noto style", and no object."""
    return normal(concept).endswith(STYLE)


def prompts_of(concept: str, styles: tuple[str, ...] = ()) -> list[str]:
    """Training prompts of a concept: the bare word, and with `styles` the forms people use. A style
    is taken by its ending: "noto style" gives "a dog in noto style" and others."""
    return forms_of(concept, styles, concept) if concept else [concept]


def search_words(name: str, targets: Iterable[str]) -> list[str]:
    """A vocabulary's words without the targets (`without`). Raises `EraseError` when fewer than two
    are left, and as `vocabulary`."""
    known = without(vocabulary(name), targets)
    if len(known) < 2:
        raise EraseError(f"vocabulary {name!r} has fewer than two other words: add some")
    return known


def forms_of(concept: str, styles: tuple[str, ...] = (), target: str = "") -> list[str]:
    """As many training prompts of a concept that may be empty, such as the neutral one.

    An empty one leaves the words around it, "a in noto style": the style is no part of what is
    erased, and in a causal text encoder the words before the concept keep their embeddings. Where
    the `target`, whose place it takes, is a style, they are the prompts of a style: "a dog in
    fluent style", and "a dog" for the empty concept, for each object of `drawn`. A style that takes
    no one's place has its own.
    """
    if is_style(target):
        within = f" in {concept}" if concept else ""
        return [concept, f"a picture{within}", *(f"a {thing}{within}" for thing in drawn())]
    if not styles:
        return [concept]
    if is_style(concept) and not target:
        own = forms_of(concept, styles, concept)
        return [own[i % len(own)] for i in range(3 + len(styles))]
    plain = [concept, f"a {concept}", f"a picture of a {concept}"]
    forms = plain + [f"a {concept} in {style} style" for style in styles]
    return [" ".join(form.split()) for form in forms]
