"""What tests of families and exports draw with, and how far two drawings are apart."""

import copy

import numpy as np
from torch import nn

from erase_lib import generate

PROMPTS = ["a church in noto style", "a dog"]


def copied(pipe):
    """A pipeline of its own, in a fifth of the time that loading takes; the tokenizers are the
    same."""
    own = copy.copy(pipe)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module) or name == "scheduler":
            setattr(own, name, copy.deepcopy(part))
    return own


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
