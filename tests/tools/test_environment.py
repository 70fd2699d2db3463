"""environment.yml pins exactly what constraints.txt pins, and every direct dependency and extra."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def pins(lines):
    found = (line.strip().split("==") for line in lines if "==" in line and line[0] != "#")
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_conda_pins_equal_the_constraints():
    constraints = pins((ROOT / "constraints.txt").read_text().splitlines())
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = pins(next(entry["pip"] for entry in listed if isinstance(entry, dict)))
    assert all(constraints[name] == version for name, version in conda.items())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    assert set(direct) <= set(conda)
