"""The one exception of the library: a wrong value, said in one line."""

from __future__ import annotations


class EraseError(ValueError):
    """What was given, what was expected, what to do: one line."""
