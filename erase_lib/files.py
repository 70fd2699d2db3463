"""Files and folders that are whole or absent: written under temporary names, then renamed."""

from __future__ import annotations

import os
import re
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
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from erase_lib.errors import EraseError, reason, unknown

DATA = Path(__file__).resolve().parent.parent / "data"


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


CORE = {  # YAML 1.2's core schema: no octal 010, no 1:30 to base 60, no yes and no, no dates
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": "<<",  # of YAML 1.1: what an anchor shares
    "str": "(?s:.*)",
}
TAG = "tag:yaml.org,2002:"
LARGEST, DEEPEST, BYTES = 100_000, 20, 1_000_000  # values, blocks within blocks, of a YAML file


class _Strict(yaml.SafeLoader):
    """YAML in the core schema. It refuses, with the line, a key given twice, of which PyYAML
    silently takes the last, and more than a settings file can mean, aliases counted as written."""

    yaml_implicit_resolvers = {
        None: [(TAG + name, re.compile(rf"(?:{text})\Z")) for name, text in CORE.items()]
    }
    yaml_constructors: dict[str | None, Any] = {}

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.depth, self.size, self.sizes = 0, 0, dict[int, int]()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event, before = self.peek_event(), self.size
        self.depth += 1
        if self.depth > DEEPEST or self.size > LARGEST:
            limits = f"{LARGEST:,} values, in {DEEPEST} blocks within each other"
            raise ComposerError(None, None, f"expected at most {limits}", event.start_mark)
        node = super().compose_node(parent, index)
        if id(node) in self.sizes or not isinstance(event, yaml.AliasEvent):
            self.size += self.sizes.get(id(node), 1)
        else:
            raise ComposerError(None, None, "an alias of what it stands in", event.start_mark)
        self.depth, self.sizes[id(node)] = self.depth - 1, self.size - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ComposerError(None, None, "a key that is no word", key.start_mark)
            if key.tag == TAG + "merge":
                continue  # several may be
            if (name := self.construct_object(key)) in seen:
                what = f"{name!r} is given twice in the block"
                raise ComposerError(None, None, what, node.start_mark)
            seen.add(name)
        return node

    def construct_core(self, node: yaml.ScalarNode) -> Any:
        """The value of a scalar; a tag such as !!int does not make one of what is none."""
        text, kind = self.construct_scalar(node), node.tag.removeprefix(TAG)
        if not re.fullmatch(CORE[kind], text) or (kind == "int" and len(text) > 400):
            raise ConstructorError(None, None, f"{text[:80]!r} is no {kind}", node.start_mark)
        if kind == "int":
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if kind == "float":
            return float(re.sub(r"\.(?=[iInN])", "", text))
        if kind == "str":
            return text.encode().decode()  # half a character, "\\ud800", could not be written again
        return None if kind == "null" else text.lower() == "true"


for _name in CORE.keys() - {"merge"}:
    _Strict.add_constructor(TAG + _name, _Strict.construct_core)
for _name in ("seq", "map"):
    _Strict.add_constructor(TAG + _name, getattr(yaml.SafeLoader, f"construct_yaml_{_name}"))
_Strict.add_constructor(None, yaml.SafeLoader.construct_undefined)


def read_mapping(path: str | Path, kind: str, known: Collection[str]) -> dict[str, Any]:
    """The file's mapping, its keys among `known`. Raises `EraseError`, with the line where there is
    one, for what is not; `kind` is what the file is called there ("grid", "suite")."""
    try:
        with open(path, "rb") as file:
            text = file.read(BYTES + 1)
        if len(text) > BYTES:
            raise EraseError(f"{path} is no {kind}: expected at most {BYTES:,} bytes")
        found = yaml.load(text, _Strict)
    except EraseError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark, at = getattr(error, "problem_mark", None), getattr(error, "position", None)
        line = mark.line if mark else None if at is None else text[:at].count(b"\n")
        where = "" if line is None else f" line {line + 1}"
        what = getattr(error, "problem", None) or reason(error)
        hint = " (indent with blanks, not tabs)" if "\\t" in what else ""
        hint = hint if at is None else " (save it as UTF-8)"
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
