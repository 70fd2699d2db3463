"""The errors a user can cause: one line that names the value, what was expected and what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class NotFinite(FloatingPointError):
    """A loss or gradient that is no number: says of what."""


class EraseError(ValueError):
    """Bad input or a stopped run; its text is one line meant for the user, whatever the value that
    it names: of more than a screen's the middle is left out."""

    def __init__(self, text: str) -> None:
        line = " ".join(str(text).splitlines())
        super().__init__(line if len(line) <= 1000 else f"{line[:600]} … {line[-300:]}")


def unknown(kind: str, value: object, known: Iterable[str]) -> EraseError:
    """The error for a name that does not exist, with the nearest known name or the whole list."""
    names = list(known)
    said = str(value), str(value).lower()
    near = [match for text in said for match in difflib.get_close_matches(text, names, n=1)]
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names[:12])}"
    return EraseError(f"unknown {kind} {value!r}: {hint}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise `EraseError` for a number out of range: nothing multiplies work without a bound."""
    if not low <= value <= high:
        raise EraseError(f"{name} is {value}: expected {low} to {high:,}")


def unwritable(path: object, error: BaseException) -> EraseError:
    """The error for a file that cannot be written."""
    full = getattr(error, "errno", errno.ENOSPC) in (errno.ENOSPC, errno.EDQUOT)
    hint = "free space or choose another" if full else "choose another, or move away what is there"
    return EraseError(f"cannot write to {path} ({reason(error)}): {hint}")


def reason(error: BaseException) -> str:
    """What another library's exception says, as at most 160 characters of one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
