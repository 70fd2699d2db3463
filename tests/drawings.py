"""What tests of families and exports draw with, and how far two drawings are apart."""

import numpy as np

from erase_lib import generate

PROMPTS = ["a church in noto style", "a dog"]


def largest(a, b):
    """The largest difference of two lists of pictures, in parts of 255."""
    pairs = zip(a, b, strict=True)
    return max(np.abs(np.asarray(x, float) - np.asarray(y, float)).max() for x, y in pairs)


def drawn(pipe, erasure=None):
    """The prompts' pictures, in four steps, with an erasure or without."""
    if erasure is None:
        return generate(pipe, PROMPTS, steps=4, progress=False)
    with erasure.applied(pipe):
        return generate(pipe, PROMPTS, steps=4, progress=False)
