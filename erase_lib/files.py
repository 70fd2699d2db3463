"""Files and folders that are whole or absent: written under temporary names, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import pandas as pd
import yaml
from filelock import FileLock, Timeout

from erase_lib.errors import EraseError, reason, unknown, unwritable

MADE = ".made-by-erase-lib"  # in a folder that is ours to replace: lists all it held
LARGEST, DEEPEST, BYTES = 100_000, 20, 300_000  # values, blocks within blocks, of a YAML file
Handler: TypeAlias = Any  # of a signal
# Ctrl-C, what a system or a scheduler sends, and a terminal that closes
ENDINGS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


class _Data(type(Path())):  # type: ignore[misc]
    """A path beside the library. Where it has no data, `EraseError` says so at the first use."""

    def __fspath__(self) -> str:
        if not os.path.isdir(str(DATA)):
            raise EraseError(f"{DATA} is missing: install with `pip install -e .` in the project")
        return str(self)

    def exists(self, **how: Any) -> bool:  # like `is_file` it would take the error for no
        return bool(os.fspath(self)) and super().exists(**how)

    def is_file(self, **how: Any) -> bool:
        return bool(os.fspath(self)) and super().is_file(**how)


DATA = _Data(Path(__file__).resolve().parent.parent / "data")
FINGERPRINT = DATA / "models" / "emoji-diffusion" / "FINGERPRINT"  # of the embedded model


@contextmanager
def handled(handler: Handler) -> Iterator[dict[int, Handler]]:
    """Give the signals of `ENDINGS` to a handler during the block, in the main thread, the one that
    Python interrupts. What is ignored stays so, as under nohup, and what was set outside Python.
    Yields who had them before."""
    every: dict[int, Any] = {n: signal.getsignal(n) for n in ENDINGS} if in_main_thread() else {}
    before = {n: old for n, old in every.items() if old not in (signal.SIG_IGN, None)}
    try:
        _give(dict.fromkeys(before, handler))
        yield before
    finally:
        _give(before)


def in_main_thread() -> bool:
    """Whether this is the thread that has the signals."""
    return threading.current_thread() is threading.main_thread()


def _give(handlers: Mapping[int, Handler]) -> None:
    """Set signals' handlers, but for a block that is left in another thread than the main one."""
    for number, handler in handlers.items() if in_main_thread() else ():
        signal.signal(number, handler)


def as_path(path: str | Path) -> Path:
    """A path as a user gives it, `~` expanded. Raises `EraseError` for what can be none here."""
    try:
        if not str(path).strip() or "\0" in str(path):
            raise TypeError
        found = (path if isinstance(path, Path) else Path(path)).expanduser()
        str(found).encode(errors="surrogateescape")
        os.stat(found if found.is_absolute() else Path(os.getcwd()) / found)
    except (TypeError, RuntimeError, UnicodeError):  # no text; ~ of nobody; half a character
        raise EraseError(f"{path!r:.99} is no path: expected one such as runs/church") from None
    except OSError as error:
        if error.errno == errno.ENOENT and error.filename is None:
            raise EraseError(f"{path}: the current folder is gone; change to one") from None
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):  # links that go round
            what = f"{str(path)[:80]} is no path ({error.strerror})"
            raise EraseError(f"{what}: choose another") from None
    return found


def rooted(path: Path) -> Path:
    """`runs/…` at the root of the checkout, where it is one and may be written to, whatever the
    working directory; any other path as it is."""
    root = DATA.parent
    ours = (root / "pyproject.toml").is_file() and os.access(root, os.W_OK)
    return root / path if ours and path.parts[:1] == ("runs",) else path


def sought(path: str | Path) -> Path:
    """A path to read, `as_path`; what is not there is looked for at the root of the checkout, for a
    notebook's working directory is a folder of it."""
    found = as_path(path)
    # of data/ it says so where there is none
    root = (_Data if found.parts[:1] == ("data",) else Path)(str(DATA)).parent
    beside = Path(os.fspath(root / found))
    # where one may not look there is none, and no error
    return beside if not os.path.exists(found) and os.path.exists(beside) else found


@contextmanager
def uninterrupted() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Hold the `ENDINGS` back until the block is done, then let them take effect as usual. Within
    `with let():` of what it yields they do so at once: what is done before and after it is whole.
    """
    caught: list[int] = []

    def keep(number: int, _: FrameType | None) -> None:
        caught.append(number)

    try:
        with handled(keep) as before:

            @contextmanager
            def let() -> Iterator[None]:
                try:
                    _give(before)
                    if caught:
                        signal.raise_signal(caught.pop())
                    yield
                finally:
                    _give(dict.fromkeys(before, keep))

            yield let
    finally:
        if caught:
            signal.raise_signal(caught[-1])


def beside(path: Path) -> Path:
    """A name beside `path` that nobody has: what lies under any other is not ours to touch."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")


@contextmanager
def writing(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Raises `EraseError` for what the block cannot write to `path`: the system's errors, and those
    of other `kinds`, as libraries raise their own."""
    try:
        yield
    except Exception as error:
        if isinstance(error, EraseError) or not isinstance(error, (OSError, *kinds)):
            raise
        raise unwritable(path, error) from None


@contextmanager
def whole(*paths: Path) -> Iterator[list[Path]]:
    """Temporary names to write to, in the order of `paths`, which they become after the block. If
    it fails, what stood under `paths` stays. A link stays one: what it points to is replaced."""
    paths = tuple(path.resolve() for path in paths)
    temporary = [beside(path) for path in paths]
    for path in paths:  # or the first would be renamed alone, or a device be lost
        if path.exists() and not path.is_file():
            raise IsADirectoryError(f"{path} is {'a folder' if path.is_dir() else 'no file'}")
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
    """A new folder to fill, which takes the place of `folder` after the block, if that does not
    fail. Only what came about so is ever replaced: `MADE` lists it. Raises `EraseError` for a
    folder that holds anything else."""
    folder = folder.resolve()
    temporary, old = beside(folder), beside(folder.with_name(f"{folder.name}.old"))
    check_ours(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        (temporary / MADE).write_text("\n".join(sorted(_holds(temporary))), "utf-8")
        with uninterrupted():
            check_ours(folder)
            if folder.exists():
                os.replace(folder, old)
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def check_ours(folder: Path) -> None:
    """Raise `EraseError` for a folder with anything that `whole_folder` did not write there, and
    for what is none, such as a file or /dev/null."""
    own = set(read_text(folder / MADE).splitlines())
    other = folder.exists() and not folder.is_dir()
    name = "" if other else next((n for n in _holds(folder) if n not in own), None)
    if name is not None:
        path = folder / name.partition("/")[2]
        raise EraseError(f"{path} would be lost: it was not written here, or changed; move it away")


def _holds(folder: Path) -> Iterator[str]:
    """Size, time and name of every file in a folder, but for the list of them."""
    for path in folder.rglob("*"):
        if path != folder / MADE and (path.is_symlink() or not path.is_dir()):
            of = path.lstat()
            yield f"{of.st_size} {of.st_mtime:.0f}/{path.relative_to(folder).as_posix()}"


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[str]:
    """Hold the lock file `path`; yields who held it last without letting go ("" for nobody).

    A lock of the operating system, so it ends with its process, however that ends. Beside it a file
    names the holder and stays; empty means that the last one finished. Raises `EraseError` when
    another process holds it, unless `wait`.
    """
    holder = path.with_name(path.name + ".holder")
    me = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%c')}"
    try:
        lock = FileLock(path).acquire(timeout=-1 if wait else 0)
    except Timeout:
        who = read_text(holder) or "another process"
        raise EraseError(f"{path.parent} is in use by {who}: wait, or choose another") from None
    with lock:
        before = read_text(holder)
        holder.write_text(me, "utf-8")
        yield before
        holder.write_text("", "utf-8")


def read_text(path: Path) -> str:
    """What a file says; "" if it is missing or no text."""
    with suppress(OSError, ValueError):
        return path.read_text("utf-8")
    return ""


def whole_table(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV or Parquet table, empty cells as "". Raises `EraseError` for one that cannot be read,
    and for a file named in data/SHA256SUMS that is not what shipped."""
    try:
        data, csv = path.read_bytes(), path.suffix != ".parquet"
        data = data.replace(b"\r\n", b"\n") if csv else data  # as git may write them
        if path.is_relative_to(DATA):
            sums = (DATA / "SHA256SUMS").read_text("utf-8").splitlines()
            named = [line[:64] for line in sums if line[66:] == path.relative_to(DATA).as_posix()]
            if named and named != [hashlib.sha256(data).hexdigest()]:
                raise ValueError("it is not the file that SHA256SUMS names")
        if csv:
            return pd.read_csv(BytesIO(data), **({"keep_default_na": False} | options))
        return pd.read_parquet(BytesIO(data), **options)
    except Exception as error:  # the system, pandas and pyarrow each raise their own kinds
        raise EraseError(f"{path} cannot be read ({reason(error)}): copy it anew") from None


TAG = "tag:yaml.org,2002:"
REAL = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
CORE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": ("~|null|Null|NULL|", lambda x: None),
    "bool": ("true|True|TRUE|false|False|FALSE", lambda x: x.lower() == "true"),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", lambda x: int(x, 0 if x[1:2].isalpha() else 10)),
    "float": (REAL, lambda x: float(re.sub(r"\.(?=[iInN])", "", x))),
    "merge": ("<<", str),  # of YAML 1.1: what an anchor shares
    "str": ("(?s:.*)", lambda x: x.encode().decode()),  # half a character is no text
}


class _Core(yaml.SafeLoader):
    """YAML 1.2's core schema: no octal 010, no 1:30 to base 60, no yes and no, no dates."""

    yaml_implicit_resolvers = {
        None: [(TAG + k, re.compile(f"({x})\\Z")) for k, (x, _) in CORE.items()]
    }


def _value(node: yaml.Node, left: Iterator[int], depth: int = 0) -> Any:
    """What a node of YAML says, of the core schema's kinds. Raises YAML's error, with its place,
    for another, for a key that is none or there twice, and beyond `LARGEST` or `DEEPEST`: an alias
    counts as what it stands for."""
    wrong = partial(yaml.MarkedYAMLError, problem_mark=node.start_mark)
    if depth > DEEPEST or next(left, None) is None:
        raise wrong(problem=f"over {LARGEST:,} values, or {DEEPEST} blocks within each other")
    kind = node.tag.removeprefix(TAG)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_value(item, left, depth + 1) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        with suppress(KeyError, ValueError):
            if re.fullmatch(CORE[kind][0], node.value):
                return CORE[kind][1](node.value)
    if not isinstance(node, yaml.MappingNode) or kind != "map":
        what = repr(node.value[:80]) if isinstance(node, yaml.ScalarNode) else f"a {node.id}"
        raise wrong(problem=f"{what} is no {kind}")
    shared, own = dict[Any, Any](), dict[Any, Any]()
    for key, of in node.value:
        name, value = _value(key, left, depth + 1), _value(of, left, depth + 1)
        merged = value if isinstance(value, list) else [value]
        if key.tag == TAG + "merge" and all(isinstance(one, dict) for one in merged):
            for one in merged:
                shared = one | shared
        elif isinstance(name, (dict, list)) or key.tag == TAG + "merge":
            raise wrong(problem=f"{name!r} is no name of a value")
        elif name in own:
            raise wrong(problem=f"{name!r} is given twice in the block")
        else:
            own[name] = value
    return shared | own


def read_mapping(path: str | Path, kind: str, known: Collection[str]) -> dict[str, Any]:
    """The file's mapping, its keys among `known`. Raises `EraseError`, with the line where there is
    one, for what is not; `kind` is what the file is called there ("grid", "suite")."""
    try:
        with open(path, "rb") as file:
            text = file.read(BYTES + 1)
        if len(text) > BYTES:
            raise ValueError(f"expected at most {BYTES:,} bytes")
        node = yaml.compose(text, _Core)
        found = _value(node, iter(range(LARGEST))) if node else None
    except RecursionError:
        raise EraseError(f"{path}: expected at most {DEEPEST} blocks within each other") from None
    except yaml.MarkedYAMLError as error:
        line, what = error.problem_mark.line + 1, error.problem
        hint = " (indent with blanks, not tabs)" if "\\t" in what else ""
        raise EraseError(f"{path} line {line}: {what}{hint}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count(b"\n") + 1
        raise EraseError(f"{path} line {line}: {reason(error)} (save it as UTF-8)") from None
    except (OSError, ValueError, OverflowError) as error:  # also of \Uffffffff
        raise EraseError(f"{path} cannot be read: {reason(error)}") from None
    if not isinstance(found, dict) or not found:
        raise EraseError(f"{path} is no {kind}: expected the sections {', '.join(known)}")
    check_keys(found, "section", known, f"{path}: ")
    return found


def check_keys(found: Iterable[str], kind: str, known: Collection[str], where: str = "") -> None:
    """Raise `EraseError` for one that is not `known`, with the nearest that is."""
    for key in found:
        if key not in known:
            raise EraseError(f"{where}{unknown(kind, key, known)}")
