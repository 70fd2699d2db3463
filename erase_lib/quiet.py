"""Without the progress bars that diffusers and transformers show while they load and save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """No such bars within the block; afterwards the libraries' settings are what they were."""
    shown = [
        library
        for library in (diffusers_logging, transformers_logging)
        if library.is_progress_bar_enabled()
    ]
    hub_disabled = are_progress_bars_disabled()
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        if hub_disabled:  # transformers switches the hub's bars on together with its own
            disable_progress_bars()
