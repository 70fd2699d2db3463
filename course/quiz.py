"""Five questions at the end of each chapter but 16, for the book."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml

QUIZ = Path(__file__).parent / "quiz.yaml"


@cache
def questions() -> dict[str, list[dict[str, Any]]]:
    """The questions of each notebook: `ask`, `choices`, of which the first is right, and `why`."""
    return yaml.safe_load(QUIZ.read_text("utf-8"))


def cells(name: str) -> list[nbformat.NotebookNode]:
    """A notebook's quiz as a text, the choices shuffled; none where it has no questions."""
    asked = questions().get(name, [])
    parts = ["## Quiz\n\nDecide first; the answer unfolds."] if asked else []
    for number, of in enumerate(asked, 1):
        # by the question's own words, so that every build has the same order
        choices = random.Random(of["ask"]).sample(of["choices"], len(of["choices"]))
        listed = [f"- **{letter}** {text}" for letter, text in zip("abcd", choices, strict=True)]
        right = "abcd"[choices.index(of["choices"][0])]
        parts.append(f"**{number}. {of['ask']}**\n\n" + "\n".join(listed))
        parts.append(
            f"<details><summary>Answer</summary>\n\n**{right}.** {of['why']}\n\n</details>"
        )
    return [nbformat.v4.new_markdown_cell("\n\n".join(parts))] if parts else []
