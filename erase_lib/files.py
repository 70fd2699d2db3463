"""Files and folders that are whole or absent: written under temporary names, then renamed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from filelock import FileLock, Timeout

from erase_lib.errors import EraseError, reason, unknown

DATA = Path(__file__).resolve().parent.parent / "data"


def as_path(path: str | Path) -> Path:
    """A path as a user gives it, `~` expanded. Raises `EraseError` for what is none."""
    with suppress(TypeError, RuntimeError):  # no text; ~ of nobody
        if str(path).strip() and "\0" not in str(path):
            return Path(path).expanduser()
    raise EraseError(f"{path!r} is no path: expected one such as runs/church")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, then let it take effect as usual."""
    handler = signal.getsignal(signal.SIGINT)
    # Python interrupts the main thread only; a handler set outside Python could not be put back
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[-1])


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


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[str]:
    """Hold the lock file `path`; yields who held it last without letting go ("" for nobody).

    A lock of the operating system, so it ends with its process, however that ends. Beside it a file
    names the holder and stays; empty means that the last one finished. Raises `EraseError` when
    another process holds it, unless `wait`.
    """
    holder, lock = path.with_name(path.name + ".holder"), FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise EraseError(
            f"{path.parent} is in use by {read_text(holder) or 'another process'}:"
            " wait for it, or choose another folder"
        ) from None
    try:
        before = read_text(holder)
        me = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%c')}"
        holder.write_text(me, "utf-8")
        yield before
        holder.write_text("", "utf-8")
    finally:
        lock.release()


def read_text(path: Path) -> str:
    """What a file says; "" if it is missing."""
    with suppress(OSError):
        return path.read_text("utf-8")
    return ""


class _Strict(yaml.SafeLoader):
    """YAML that refuses a key given twice, where PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if not key.tag.endswith(":merge")]
        keys = [self.construct_object(key, deep=True) for key in own]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise EraseError(f"{key!r} is given twice in the block at line {line}")
        return super().construct_mapping(node, deep)


def read_mapping(path: str | Path, kind: str, known: Collection[str]) -> dict[str, Any]:
    """The file's mapping, its keys among `known`. Raises `EraseError`, with the line where there is
    one, for what is not; `kind` is what the file is called there ("grid", "suite")."""
    try:
        found = yaml.load(Path(path).read_text("utf-8"), _Strict)
    except EraseError as error:
        raise EraseError(f"{path}: {error}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or reason(error)
        hint = " (indent with blanks, not tabs)" if "\\t" in what else ""
        raise EraseError(f"{path}{where}: {what}{hint}") from None
    if not isinstance(found, dict) or not found:
        raise EraseError(f"{path} is no {kind}: expected the sections {', '.join(known)}")
    check_keys(found, "section", known, f"{path}: ")
    return found


def check_keys(found: dict[str, Any], kind: str, known: Collection[str], where: str = "") -> None:
    """Raise `EraseError` for a key that is not `known`, with the nearest that is."""
    for key in found:
        if key not in known:
            raise EraseError(f"{where}{unknown(kind, key, known)}")
