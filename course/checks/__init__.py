"""The checks of the exercises, a module a notebook and a function an exercise."""

from importlib import import_module
from types import ModuleType

from course.titles import keep_titles

keep_titles()


def __getattr__(name: str) -> ModuleType:
    """`checks.n02` imports course/checks/n02.py when it is first asked."""
    if name[:1] == "n" and name[1:].isdigit():
        return import_module(f"course.checks.{name}")
    raise AttributeError(name)
