"""What is installed: pins and environment.yml from one source, each room's imports declared for it,
Python 3.11 to 3.13, and nothing that Windows lacks."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tools.environment import ROOT, canonical, environment, pins, read

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = pins((ROOT / "constraints.txt").read_text("utf-8").splitlines())
SUPPORTED = ("3.11.9", "3.12.0", "3.13.0")
EXTRAS = PROJECT["optional-dependencies"]
# which extras serve which rooms, beside the core's dependencies
ROOMS = {
    "erase_lib/*.py": [],
    "erase_lib/measure/*.py": [],
    "erase_lib/study/*.py": ["notebooks"],
    "erase_lib/show/*.py": ["notebooks"],
    "erase_lib/sweep/*.py": ["notebooks", "dask", "ray"],
    "course/exercise.py": ["notebooks"],
    "course/titles.py": ["notebooks"],
    "course/checks/*.py": ["notebooks"],
    "course/*.py": ["notebooks", "course"],
    "tools/*.py": ["dev"],
    "tools/embedded/*.py": ["notebooks", "build"],
    "tools/benchmarks/*.py": ["notebooks", "dev"],
    "tools/page/*.py": ["notebooks", "page"],
    "tests/**/*.py": list(EXTRAS),
}
POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
INSTALLED = packages_distributions()  # the packages of every module that can be imported here


def imports(path, inner=True):
    """The modules that a file imports, from anywhere in it or only when it is itself imported."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree) if inner else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_environment_is_what_the_other_two_say():
    assert (ROOT / "environment.yml").read_text("utf-8") == read(), "run `make environment`"
    listed = yaml.safe_load(read())["dependencies"]
    assert f"python{PROJECT['requires-python']}" in listed
    conda = pins(next(entry["pip"] for entry in listed if isinstance(entry, dict)))
    direct = PROJECT["dependencies"] + sum(EXTRAS.values(), [])
    assert conda == {name: PINS[name] for name in map(canonical, direct)}


def test_a_dependency_without_a_pin_is_named():
    project = {"requires-python": ">=3.11", "dependencies": ["some_thing"]}
    with pytest.raises(KeyError, match="some-thing"):
        environment(project | {"optional-dependencies": {}}, {})


@pytest.mark.parametrize("room", ROOMS)
def test_imports_are_declared_where_they_are_needed(room):
    names = {*PROJECT["dependencies"], *(name for e in ROOMS[room] for name in EXTRAS[e])}
    declared = {canonical(name) for name in names}
    own = {"erase_lib", "course", "tools", *(p.stem for p in (ROOT / "tests").rglob("*.py"))}
    for path in sorted(ROOT.glob(room)):
        for module in set(imports(path)) - own - set(sys.stdlib_module_names) - POSIX:
            packages = {canonical(name) for name in INSTALLED.get(module, [module])}
            assert packages & declared, f"{path.relative_to(ROOT)} imports {module}"


def test_one_version():
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        text = (ROOT / name).read_text("utf-8")
        found = re.search(r'^(?:version: |version = "|## )([\d.]+)', text, re.MULTILINE)
        assert found and found[1] == PROJECT["version"], name


def test_pins_run_on_every_python_that_is_supported():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert all(version in supported for version in SUPPORTED) and "3.14.0" not in supported
    for name in PINS:
        try:
            found = distribution(name)
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        needed = SpecifierSet(found.metadata.get("Requires-Python") or "")
        assert all(version in needed for version in SUPPORTED), f"{name} needs Python {needed}"


def test_pins_are_versions_and_no_addresses():
    for name in ("constraints.txt", "environment.yml", "pyproject.toml"):
        text = (ROOT / name).read_text("utf-8")
        assert not re.search(r"https?://|--(extra-)?index|--find-links", text), name
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        assert line.startswith("#") or len(Requirement(line).specifier) == 1


def test_nothing_that_windows_lacks_is_needed_to_import():
    for room in ("erase_lib", "course", "tools"):
        for path in sorted((ROOT / room).rglob("*.py")):
            assert not POSIX & set(imports(path, inner=False)), path.relative_to(ROOT)


def test_install_commands_name_extras_that_exist():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "course").rglob("*.md")]
    for path in [*pages, ROOT / "setup.mk", ROOT / "Makefile"]:
        for found in re.findall(r"(?:-e '?\.|EXTRAS \S?= )\[([\w,]+)\]", path.read_text("utf-8")):
            names = set(found.split(","))
            assert names <= set(EXTRAS), path.relative_to(ROOT)
            assert "notebooks" in names or names.isdisjoint({"build", "dev"}), path.name
