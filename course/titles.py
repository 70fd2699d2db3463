"""What a figure says of itself, kept in the notebook beside its picture: the book's alt text."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

NONE = "<"  # how what a notebook has in place of it begins


def titles(figure: Any) -> str:
    """The title of a matplotlib figure or, where it has none, those of its panels."""
    said = [figure.get_suptitle()]
    if not any(said):
        said = [ax.get_title(at) for ax in figure.axes for at in ("left", "center", "right")]
    return "; ".join(filter(None, dict.fromkeys(" ".join(one.split()) for one in said)))


def keep_titles() -> None:
    """In a notebook a figure's titles stand for it as a text; elsewhere nothing changes."""
    with suppress(ImportError):
        from IPython import get_ipython
        from matplotlib.figure import Figure

        if get_ipython():
            # not the formatters: a backend that starts takes all that they know of figures away
            Figure._repr_pretty_ = lambda figure, p, _: p.text(titles(figure) or repr(figure))
