"""One process at a time: a lock that its holder's death releases."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from erase_lib.errors import EraseError


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[str]:
    """Hold the lock file `path`; yields who held it last without letting go ("" for nobody).

    A lock of the operating system (flock), so it ends with its process, however that ends. The file
    names its holder and stays; empty means that the last one finished. Raises `EraseError` when
    another process holds it, unless `wait`.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise EraseError(
                f"{path.parent} is in use by {file.read() or 'another process'}:"
                " wait for it, or choose another folder"
            ) from None
        file.seek(0)
        before = file.read()
        _write(file, f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%c')}")
        yield before
        _write(file, "")


def _write(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()
