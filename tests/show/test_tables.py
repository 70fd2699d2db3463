"""Every public function that takes a table says in a line what the table lacks."""

from __future__ import annotations

import inspect
import re
from unittest.mock import MagicMock

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from erase_lib import EraseError, measure, show, study
from erase_lib.doors import gate

NAMED = {"metric": "ESR-1", "experiment": "objects", "score": "judge", "scores": ["judge"]}
# what else a function is given, by the hint: an object of another maker may stand for any of ours
KINDS = {"str": "setting", "Sequence[str]": ["setting"], "Iterable[str]": ["setting"]}
KINDS |= {"Mapping[str, str]": {"foreign": "a"}, "Mapping[str, float]": {}, "Images": []}
KINDS |= {"Sequence[tuple[str, str]]": [("target", "ESR-1")], "Pictures": []}
KINDS |= {"Sequence[Image.Image]": [], "pd.Series": pd.Series(dtype=float)}


def doors():
    for room in (measure, study, show):
        for name, value in vars(room).items():
            if str(getattr(value, "__module__", "")).startswith(room.__name__ + "."):
                methods = vars(value) if isinstance(value, type) else ()
                every = {name: value} | {f"{name}.{k}": getattr(value, k) for k in methods}
                for label, door in every.items():
                    known = inspect.signature(door).parameters if callable(door) else {}
                    if any("DataFrame" in str(p.annotation) for p in known.values()):
                        yield pytest.param(door, id=f"{room.__name__}.{label}")


def called(door, table):
    """What the door says of this table, "" where it takes it."""
    given = {}
    for name, asked in inspect.signature(door).parameters.items():
        kind = str(asked.annotation)
        if "DataFrame" in kind:
            given[name] = {"one": table} if "Mapping" in kind else table
        elif asked.default is asked.empty and asked.kind is not asked.VAR_KEYWORD:
            other = plt.figure() if kind == "Figure" else MagicMock()
            given[name] = NAMED.get(name, KINDS.get(kind, other))
    try:
        door(**given)
    except EraseError as error:
        return str(error)
    finally:
        plt.close("all")
    return ""


@pytest.mark.parametrize("door", doors())
def test_a_table_of_another_kind_is_one_line(door):
    said = called(door, pd.DataFrame({"foreign": [1.0, 2.0, 3.0]}))
    assert "\n" not in said and ("lacks '" not in said or "foreign" in said)


@pytest.mark.parametrize("door", doors())
def test_a_table_without_rows_is_asked_for_one_column_after_the_other(door):
    table = pd.DataFrame()
    while lacking := re.search("lacks '(.*?)'", called(door, table)):
        assert lacking[1] not in table
        table[lacking[1]] = pd.Series(dtype=object)


def test_what_is_said_of_a_table(refused):
    empty = pd.DataFrame(columns=["step"])
    refused(show.losses, empty, says="losses: history lacks 'l1' step")
    refused(show.costs, pd.DataFrame({"name": ["a"]}), says="costs: rows lacks 'seconds' name")
    refused(show.dumbbells, empty, says="dumbbells: table has no rows")
    refused(study.wide, empty, says="wide: levels lacks 'value' step")
    verdicts = pd.DataFrame({"prompt": ["a"], "concept": ["a"], "seed": [1]})
    refused(measure.summary, verdicts, verdicts, ["a"], says="verdicts_before lacks 'rank'")
    refused(study.units, verdicts, "ESR-1", says="lacks 'rank' prompt, concept")
    refused(show.heat_map, pd.DataFrame({"a": [1.0]}), {"b": "c"}, says="groups lacks 'a'")
    flat = pd.DataFrame({"a": [1.0, 1.0], "b": [1.0, 2.0]})
    refused(show.heat_map, flat, {"a": "c", "b": "c"}, says="all one number")
    refused(show.slopes, pd.Series({"dog": 1.0}), flat, says="other candidates")


def test_another_key_that_is_missed_stays_what_it_is():
    @gate
    def paint(table: pd.DataFrame, colours: dict[str, str]) -> pd.Series:
        pd.Series({"a": 1})[table.columns[0]]
        return colours["b"]

    for name, missed in (("setting", "setting"), ("a", "b")):
        with pytest.raises(KeyError, match=missed):
            paint(pd.DataFrame({name: [1]}), {})
