"""Files that are whole or absent: written under temporary names, renamed when all are done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from erase_lib.interrupt import uninterrupted


@contextmanager
def whole(*paths: Path) -> Iterator[list[Path]]:
    """Temporary names to write to, in the order of `paths`, which they become after the block.

    If the block fails the temporary files are removed and what stood under `paths` stays.
    """
    temporary = [path.with_name(path.name + ".tmp") for path in paths]
    try:
        yield temporary
        with uninterrupted():
            for name, path in zip(temporary, paths, strict=True):
                os.replace(name, path)
    finally:
        for name in temporary:
            with suppress(OSError):
                name.unlink()
