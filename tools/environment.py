"""environment.yml, for conda: the direct dependencies of pyproject.toml at constraints.txt's pins.

python -m tools.environment
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# For conda users; `make setup` needs none of it. Written by `make environment` from pyproject.toml
# and constraints.txt: change those.
name: erase-lib
channels:
  - conda-forge
dependencies:
  - python{python}
  - pip
  - pip:
"""


def canonical(name: str) -> str:
    """A package's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: Iterable[str]) -> dict[str, str]:
    """{canonical name: version} of the lines `name==version`."""
    found = (line.strip().split("==") for line in lines if "==" in line and line[0] != "#")
    return {canonical(name): version for name, version in found}


def environment(project: dict[str, Any], pinned: dict[str, str]) -> str:
    """The file's text: core, then each extra under its name, a package once.

    `KeyError` names a direct dependency that is not pinned.
    """
    text, listed = HEAD.format(python=project["requires-python"]), set[str]()
    for extra, names in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        new = [name for name in names if name not in listed]
        listed |= set(new)
        text += f"      # {extra}\n" if extra and new else ""
        text += "".join(f"      - {name}=={pinned[canonical(name)]}\n" for name in new)
    return text + "      - -e .\n"


def read(root: Path = ROOT) -> str:
    """What environment.yml is to say."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return environment(project, pins((root / "constraints.txt").read_text("utf-8").splitlines()))


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(read(), "utf-8")
