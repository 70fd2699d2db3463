"""YAML files that people write: a key given twice is refused, and an error names its line."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from erase_lib.errors import EraseError, reason, unknown


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
