"""The English vocabularies: about 3,000 common words for the search, more for the text encoder's
training."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from tools.embedded import common


def common_words(n: int) -> list[str]:
    """The n most frequent English words of three letters and more, grammatical words left out."""
    from wordfreq import top_n_list  # only needed to build the data

    words = (w for w in top_n_list("en", 4 * n) if re.fullmatch(r"[a-z]{3,}", w))
    return [w for w in words if w not in ENGLISH_STOP_WORDS][:n]


def write_vocabulary(path: Path, n: int = 3000) -> None:
    """Write the search vocabulary: one word a row, most frequent first."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["word", "source"])
        rows.writerows([word, "wordfreq 3.1.1"] for word in common_words(n))


if __name__ == "__main__":
    write_vocabulary(common.DATA / "emoji" / "vocabulary.csv")
