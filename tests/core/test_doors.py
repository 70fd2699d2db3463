"""The gate at public functions: a wrong kind is one line, and what is as good as right is taken."""

from __future__ import annotations

import inspect
import timeit
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from erase_lib import (
    EraseConfig,
    Erasure,
    erase,
    generate,
    load_pipeline,
    measure,
    show,
    study,
    sweep,
)
from erase_lib.doors import fit, gate
from erase_lib.measure.evaluate import evaluate
from erase_lib.models import Pipeline
from erase_lib.sweep.cli import plan
from erase_lib.sweep.cli import sweep as run_sweep

CONFIG = EraseConfig(targets=["church"], method="uce")
TABLE = pd.DataFrame({"concept": ["dog"]})
ERASURE = Erasure({}, CONFIG, "base")
SUITE = measure.Suite("mine", "", {})


class Teacher:
    """As much of a pipeline as is looked at before anything is drawn."""

    scheduler = None


PIPE, WORLD = Teacher(), object.__new__(measure.World)
NO_PIPELINE = (None, "data/models/emoji-diffusion", Path("runs"), 5, {}, ["pipe"], CONFIG, ERASURE)
WRONG = [
    *[
        (door, [pipe, *rest], "pipe", "load_pipeline")
        for door, rest in (
            (erase, [CONFIG]),
            (generate, [["dog"]]),
            (ERASURE.export, ["runs/x"]),
            (measure.suite_prompts, [SUITE, ["dog"]]),
            (study.predict_sensitivity, ["dog", ["cat"]]),
        )
        for pipe in NO_PIPELINE
    ],
    *[(ERASURE.applied, [pipe], "pipe", "load_pipeline") for pipe in NO_PIPELINE[:3]],
    *[
        (erase, [PIPE, config], "config", "EraseConfig.from_dict")
        for config in ({"targets": ["church"]}, None, "church", ["church"], EraseConfig)
    ],
    (erase, [PIPE, CONFIG, 5], "callbacks", "list"),
    (erase, [PIPE, CONFIG, [None]], "callbacks", "None"),
    (erase, [PIPE, CONFIG, None, "gumbel"], "search", "'gumbel'"),
    (erase, [PIPE], "config", "missing"),
    (erase, [PIPE, CONFIG, [], None, 1], "too many", "callbacks, search"),
    *[
        (generate, [PIPE, prompts], "prompts", said)
        for prompts, said in (
            ("dog", "['dog']"),
            (None, "list[str]"),
            (5, "5"),
            ([None], "None"),
            ({"dog"}, "set"),
            ({"dog": 1}, "dict"),
            (TABLE, "DataFrame"),
            (b"dog", "bytes"),
            ([["dog"]], "['dog']"),
            (pd.Series(["dog", None]), "nan"),
            (np.array([1.0]), "1.0"),
            (["dog", 3], "3"),
        )
    ],
    *[
        (lambda seed: generate(PIPE, ["dog"], seed), [seed], "seed", "int")
        for seed in ("12", 1.7, None, [1.5], True, [None], np.float64(2))
    ],
    *[
        (lambda steps: generate(PIPE, ["dog"], steps=steps), [steps], "steps", "such as 30")
        for steps in ("8", 8.0, None, True, [8], np.array([8, 9]))
    ],
    *[
        (lambda scale: generate(PIPE, ["dog"], guidance_scale=scale), [scale], "scale", "such as 4")
        for scale in ("4", None, False, 4j, [4.0])
    ],
    *[
        (lambda given: generate(PIPE, ["dog"], **given), [{name: value}], name, name)
        for name, value in {"batch_size": "1", "progress": "no", "step": 8}.items()
    ],
    *[(load_pipeline, [model], "model_id", "str | Path") for model in (5, b"runs", ["runs"], PIPE)],
    (lambda: load_pipeline(device=None), [], "device", "'auto'"),
    (lambda: load_pipeline(dtype=32), [], "dtype", "32"),
    *[(Erasure.load, [folder], "folder", "str | Path") for folder in (None, 5, ["runs"], CONFIG)],
    *[(ERASURE.save, [folder], "folder", "str | Path") for folder in (None, 5, {"a": 1})],
    *[(ERASURE.export, [PIPE, folder], "folder", "str | Path") for folder in (None, 5)],
    *[(ERASURE.scaled, [PIPE, strength], "strength", "float") for strength in ("0.8", None, [1])],
    (Erasure, [None, CONFIG, "base"], "tensors", "dict"),
    (Erasure, [{"a": 1}, CONFIG, "base"], "tensors", "1"),
    *[(measure.read_suite, [suite], "name", "str | Path") for suite in (5, None, ["objects"])],
    *[
        (evaluate, given, name, said)
        for given, name, said in (
            ([PIPE, "runs/church", SUITE, None], "erasure", "Erasure.load"),
            ([PIPE, ERASURE, "objects", None], "suite", "read_suite"),
            ([PIPE, ERASURE, SUITE, None], "instruments", "Instruments"),
            ([None, ERASURE, SUITE, None], "pipe", "load_pipeline"),
        )
    ],
    (measure.evaluate_runs, [WORLD, "runs/church", SUITE], "runs", "list"),
    (measure.load_instruments, [WORLD, "objects", ["dog"]], "suite", "read_suite"),
    (measure.load_instruments, [WORLD, SUITE, "dog"], "targets", "['dog']"),
    (measure.summary, [TABLE, [1], ["dog"]], "verdicts_after", "DataFrame"),
    (measure.bootstrap, ["abc"], "values", "ndarray"),
    (generate, [PIPE, ["dog"], iter(["1"])], "seed", "list[int]"),
    (measure.bootstrap, [[[1], [1, 2]]], "values", "ndarray"),
    (measure.holm, [0.05], "values", "list[float]"),
    (measure.read_table, [TABLE], "table", "str | Path"),
    (measure.clip_score, [np.ones((1, 2)), torch.ones(1, 2)], "images", "Tensor"),
    (study.predict_sensitivity, [PIPE, None, ["dog"]], "target", "None"),
    (study.project, ["umap"], "points", "ndarray"),
    (study.Delta, [[[1.0]], "dog", ["cat"]], "targets", "['dog']"),
    (show.losses, [ERASURE], "history", "DataFrame"),
    (show.grid, [[1]], "rows", "Mapping"),
    (show.before_after, [None, [], TABLE, TABLE, ["dog"]], "before", "list"),
    (sweep.expand, ["grid.yaml"], "spec", "Mapping"),
    (sweep.finish, ["runs", 5], "result", "Mapping"),
    (plan, ["a.ipynb", "grid.yaml", "runs"], "spec", "Values"),
    (lambda: run_sweep("a.ipynb", {}, "runs", workers="2"), [], "workers", "such as 1"),
    (EraseConfig, [], "targets", "missing"),
    (lambda: EraseConfig(targets=["church"], lamb=1.0), [], "'lamb'", "did you mean 'lam'"),
    (EraseConfig.from_dict, [["church"]], "values", "dict"),
    (lambda: erase(PIPE, CONFIG, callback=[]), [], "'callback'", "did you mean 'callbacks'"),
    (lambda: generate(PIPE, ["dog"], pipe=PIPE), [], "pipe", "multiple values"),
]


@pytest.mark.parametrize(("door", "given", "name", "said"), WRONG)
def test_a_wrong_kind_is_one_line(refused, door, given, name, said):
    refused(door, *given, says=[name, said])


@pytest.mark.parametrize(
    ("kind", "given", "taken"),
    [
        (int, np.int64(3), 3),
        (int | Iterable[int], np.int32(3), 3),
        (int | Iterable[int], np.array([1, 2]), [1, 2]),
        (float, np.float32(0.5), 0.5),
        (float, 3, 3),
        (bool, np.True_, True),
        (str, np.str_("dog"), "dog"),
        (Path, "runs", Path("runs")),
        (list[str], ("dog",), ["dog"]),
        (list[str], {"dog": 1}.keys(), ["dog"]),
        (list[str], pd.Series(["dog"]), ["dog"]),
        (list[str], pd.Index(["dog"]), ["dog"]),
        (Sequence[str], np.array(["dog"]), ["dog"]),
        (Sequence[float], torch.tensor([0.5]), [0.5]),
        (Sequence[int], (i for i in (1, 2)), [1, 2]),
        (int | Iterable[int], iter([1, 2]), [1, 2]),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[str, int], ("a", np.int64(2)), ("a", 2)),
        (str | Path | None, None, None),
    ],
)
def test_what_is_as_good_is_taken_for_it(kind, given, taken):
    found = fit(given, kind)
    assert found == taken and type(found) is type(taken)
    if isinstance(taken, (list, tuple)):
        assert [type(item) for item in found] == [type(item) for item in taken]


def test_what_is_right_is_handed_on_as_it_is():
    lazy, table, values = measure.Pictures([], 0), TABLE, np.ones(3)
    for kind, given in (
        (Sequence[int], lazy),  # not read for its kinds
        (pd.DataFrame, table),
        (np.ndarray, values),
        (Mapping[str, int], {"a": 1}),
        (Mapping[str, str], pd.Series({"a": "b"})),
        (typing.Any, None),
    ):
        assert fit(given, kind) is given


def test_another_object_may_stand_in_the_place_of_ours():
    class Mine:
        """Judges by other means."""

    assert type(fit(Mine(), measure.Judge)) is Mine
    for other in (None, 5, ERASURE):
        with pytest.raises(TypeError):
            fit(other, measure.Judge)


def test_a_mistake_within_a_function_stays_what_it_is():
    @gate
    def broken(n: int) -> int:
        return n + "1"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        broken(1)


def offered():
    for room in (measure, study, show, sweep):
        for name, value in vars(room).items():
            if inspect.isfunction(value) and name != "guard":
                yield pytest.param(value, id=f"{room.__name__}.{name}")
    for door in (erase, generate, load_pipeline, Erasure.load, Erasure.save, Erasure.applied):
        yield pytest.param(door, id=door.__qualname__)


@pytest.mark.parametrize("door", offered())
def test_every_door_has_the_gate_and_hints_that_can_be_read(refused, door):
    assert typing.get_type_hints(door)
    refused(door, no_such_thing=1, says="argument")


def test_it_costs_less_than_fifty_microseconds_a_call():
    def bare(pipe: Pipeline, prompts: list[str], seed: int | Iterable[int], steps: int, on: bool):
        return None

    given, door = (PIPE, ["dog"] * 8, 3, 30, True), gate(bare)
    assert min(timeit.repeat(lambda: door(*given), number=200, repeat=9)) / 200 < 50e-6
