"""Concept lists, vocabularies and prompt templates: words only, no tensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA, whole_table

EMOJI = DATA / "emoji"
STYLE = " style"  # ends the name of a style, as in "noto style" or "Van Gogh style"
DRAWN = ("dog", "church", "apple", "airplane", "guitar", "rose")  # in the prompts of a style


def concept_table() -> pd.DataFrame:
    """The concepts of the embedded model: concept, category, subgroup, keywords, codepoint."""
    return whole_table(EMOJI / "concepts.csv")


def style_names() -> list[str]:
    """The house styles that the embedded model was trained in."""
    return whole_table(EMOJI / "styles.csv")["style"].tolist()


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
    """Words to search: `concepts`, `english` (3,000 common words), or a file with a word a line.

    Raises `EraseError` for a file that does not exist, is no text or holds no words.
    """
    if name == "concepts":
        return concept_table()["concept"].tolist()
    if name == "english":
        return whole_table(EMOJI / "vocabulary.csv")["word"].tolist()
    path = Path(name)
    if not path.is_file():
        raise EraseError(f"vocabulary {name!r}: expected concepts, english or a text file's path")
    try:
        words = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise EraseError(f"vocabulary {name!r} cannot be read ({reason(error)})") from None
    if not words:
        raise EraseError(f"vocabulary {name!r} is empty: expected one word a line")
    return words


def is_style(concept: str) -> bool:
    """Whether it names a style, such as "noto style", and no object."""
    return concept.endswith(STYLE)


def prompts_of(concept: str, styles: tuple[str, ...] = ()) -> list[str]:
    """Training prompts of a concept: the bare word, and with `styles` the forms people use.

    A style is taken by its ending: "noto style" gives "a dog in noto style" and others.
    """
    return forms_of(concept, styles, concept) if concept else [concept]


def search_words(name: str, targets: Iterable[str]) -> list[str]:
    """A vocabulary's words without the targets, in any case of letters.

    Raises `EraseError` when fewer than two are left, and as `vocabulary`.
    """
    gone = {target.strip().lower() for target in targets}
    known = [word for word in vocabulary(name) if word.strip().lower() not in gone]
    if len(known) < 2:
        raise EraseError(
            f"vocabulary {name!r} has fewer than two candidates besides the targets: add words"
        )
    return known


def forms_of(concept: str, styles: tuple[str, ...] = (), target: str = "") -> list[str]:
    """As many training prompts of a concept that may be empty, such as the neutral one.

    An empty one leaves the words around it, "a in noto style": the style is no part of what is
    erased, and in a causal text encoder the words before the concept keep their embeddings. Where
    the `target`, whose place it takes, is a style, they are the prompts of a style: "a dog in
    fluent style", and "a dog" for the empty concept.
    """
    if is_style(target):
        within = f" in {concept}" if concept else ""
        return [concept, f"a picture{within}", *(f"a {thing}{within}" for thing in DRAWN)]
    if not styles:
        return [concept]
    plain = [concept, f"a {concept}", f"a picture of a {concept}"]
    forms = plain + [f"a {concept} in {style} style" for style in styles]
    return [" ".join(form.split()) for form in forms]
