"""Every notebook that draws, on somebody's own model: here one that knows no house style."""

import json
from pathlib import Path

import matplotlib
import nbformat
import pytest
from instruments import tiny_clip, tiny_resnet
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot as plt
from transformers import CLIPTokenizer

from course.exercise import NOT_YET
from course.plan import tagged
from erase_lib.families import is_embedded
from erase_lib.models import EMBEDDED
from tools.benchmarks.shapes import random_family

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
HOUSE = "openmoji</w>"  # by this token the embedded model's words are told
OWN = ["church", "dog", "fish", "guitar", "castle", "rose", "bus", "cat", "owl", "fox", "cow"]
OWN += ["ant", "bear", "boat", "bread", "camel", "car", "clock", "duck", "frog", "goat", "horse"]
DRAWING = {
    "01_quickstart": {},
    "02_concept_sensitivity": {"predictors": ["distance", "draft"], "interactive": True},
    "03_embedding_map": {"projection": "pca"},
    "04_the_method": {},
    "05_erase": {"interactive": True},
    "06_evaluate": {"match": 0.5, "targets": ["church", "dog"]},
    "07_compare": {"live": ["uce"]},
    "08_diffusion_primer": {},
    "10_adversarial_search": {},
    "12_speed_and_memory": {},
    "14_ethics_and_limits": {"target": "church"},
    "15_studio": {"interactive": False, "steps": 1},
    "run_erase": {"steps": 2},
}


MINE = """
classes: [church, dog]
splits: {mine: [church]}
groups:
  target: {concepts: targets, template: "a photograph of a {concept}", metrics: [ESR-1]}
  near: {concepts: near, most: 3, metrics: [PSR-1, distance]}
steps: 2
"""


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """A model's folder, its CLIP's and a file of words: random weights, another tokenizer."""
    place = tmp_path_factory.mktemp("own")
    vocabulary = json.loads((EMBEDDED / "tokenizer" / "tokenizer.json").read_text("utf-8"))
    known = vocabulary["model"]["vocab"]
    known["ownmodel</w>"] = known.pop(HOUSE)
    rules = vocabulary["model"]["merges"]
    joined = [r if isinstance(r, str) else " ".join(r) for r in rules]
    kept = [r for r, text in zip(rules, joined, strict=True) if text.replace(" ", "") != HOUSE]
    vocabulary["model"]["merges"] = kept
    pipe = random_family("sd")
    pipe.tokenizer.save_pretrained(place / "tokenizer")
    (place / "tokenizer" / "tokenizer.json").write_text(json.dumps(vocabulary), "utf-8")
    pipe.tokenizer = CLIPTokenizer.from_pretrained(place / "tokenizer")
    assert not is_embedded(pipe)
    pipe.save_pretrained(place / "model")
    tiny_clip(place / "clip", pipe.tokenizer, 16)
    tiny_resnet(place / "classifier", OWN)
    (place / "words.txt").write_text("\n".join(OWN), "utf-8")
    (place / "mine.yaml").write_text(MINE)
    given = {"model": "model", "clip": "clip", "words": "words.txt"}
    given |= {"classifier": "classifier", "suite": "mine.yaml"}
    return {name: str(place / path) for name, path in given.items()}


def ran(name, given, folder, capsys):
    """A notebook's code cells, run in one shell of this process as in a kernel; its names. Each
    solution comes after its check has seen the exercise unanswered, as a student leaves it."""
    matplotlib.use("Agg")
    shell = InteractiveShell()
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
    given, solutions = given | {"output": str(folder), "profile": "smoke"}, []
    for cell in cells:
        if cell.cell_type != "code":
            continue
        if tagged(cell, "solution"):
            solutions.append(cell.source)
            continue
        capsys.readouterr()
        shell.run_cell(cell.source).raise_error()
        if tagged(cell, "check"):
            assert capsys.readouterr().out == f"{NOT_YET}\n"
            for source in (solutions.pop(0), cell.source):
                shell.run_cell(source).raise_error()
        if tagged(cell, "parameters"):
            for key in list(given):
                if key not in shell.user_ns:
                    del given[key]
            shell.user_ns |= given
    plt.close("all")
    return shell.user_ns


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWING)
def test_a_notebook_takes_a_model_of_ones_own(name, stranger, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(NOTEBOOKS.parent)
    given = {key: stranger[key] for key in ("model", "clip", "words")} | DRAWING[name]
    world = ran(name, given, tmp_path / "run", capsys)["world"]
    assert not world.embedded and world.words == OWN and world.styles == [""] * 4
    assert world.judge.name.startswith("clip, zero-shot")


@pytest.mark.slow
def test_a_classifier_and_prompts_of_ones_own(stranger, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(NOTEBOOKS.parent)
    given = {key: stranger[key] for key in ("model", "clip", "classifier", "suite")}
    names = ran("06_evaluate", given, tmp_path / "run", capsys)
    assert names["world"].words == OWN and names["world"].judge.name.startswith(
        "classifier, ResNet"
    )
    prompts = set(names["first"].pictures["prompt"])
    assert "a photograph of a church" in prompts and not any("style" in text for text in prompts)
    assert len(prompts) == 4
