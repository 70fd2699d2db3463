"""Files and folders that are whole or absent: written under temporary names, then renamed."""

from __future__ import annotations

import os
import shutil
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


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` after the block.

    If the block fails it is removed, and what stood there stays.
    """
    temporary, old = (folder.with_name(folder.name + end) for end in (".tmp", ".old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        with uninterrupted():
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                os.replace(folder, old)
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
