"""The pages of the book beside the notebooks' own: quiz, API, and what is searched."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat

import erase_lib
from course import api, book, quiz
from course.plan import ROOT, lessons
from erase_lib import measure

TOUR = [name for lesson in lessons()[:5] for name in lesson.notebooks]


def test_each_lesson_of_the_tour_has_five_questions():
    assert list(quiz.questions()) == [*TOUR, "17_gone_or_hidden"] and len(TOUR) == 7
    places = []
    for name in quiz.questions():
        asked = quiz.questions()[name]
        assert len(asked) == 5
        (cell,) = quiz.cells(name)
        answers = re.findall(r"^\*\*([abcd])\.\*\* (.+)$", cell.source, re.MULTILINE)
        listed = re.findall(r"^- \*\*[abcd]\*\* (.+)$", cell.source, re.MULTILINE)
        for number, of in enumerate(asked):
            assert set(of) == {"ask", "choices", "why"} and len(set(of["choices"])) == 4
            letter, why = answers[number]
            place = "abcd".index(letter)
            assert listed[4 * number + place] == of["choices"][0] and why == of["why"]
            assert not re.search(r"\.\d", of["why"]), "a number that is measured again"
            places.append(place)
    assert all(places.count(place) >= 4 for place in range(4)), "the right one is anywhere"
    assert quiz.cells("16_build_the_embedded_model") == []


def test_the_api_says_all_that_is_offered_in_its_own_words():
    text = api.text()
    for name in erase_lib.__all__:
        assert f"### {name}\n" in text
    for name in ("evaluate", "first_strength", "sensitivity", "before_after", "collect"):
        assert f"### {name}\n\n```python\n{name}(" in text
    assert "`lam: float = 20.0`: λ, the weight" in text and "World.prompt(" in text
    assert " at 0x" not in text and "pipe: Pipeline" in text
    assert "### torch" not in text and "### guard" not in text
    assert inspect.getdoc(measure.first_strength).splitlines()[0] in text


def test_a_docstring_is_no_markup():
    said = SimpleNamespace(__doc__="Of <b> ``x_y`` and *a_b* at $2, `c_d`.")
    assert api.prose(said) == r"Of &lt;b&gt; `x_y` and \*a\_b\* at \$2, `c_d`."


def page(*cells):
    kinds = {"md": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    nb = nbformat.v4.new_notebook(cells=[kinds[kind](source) for kind, source in cells])
    return book.Page("a.html", nb, "A")


def test_a_picture_is_told_by_its_comment_or_the_text_before_it():
    told = "## B\nFirst.\n\nLook at the *right* end, whether it rises there. And more.\n\n"
    told += "### Exercise 1\nX."
    made = page(("md", "# A"), ("code", "import os"), ("md", told), ("code", "plot()"))
    made.nb.cells += page(("code", "# all of them\nplot()")).nb.cells
    words = [cell.metadata.get("alt") for cell in made.nb.cells]
    assert words[3:] == ["Look at the right end, whether it rises there.", "all of them"]
    assert made.nb.cells[1].metadata.tags == ["imports"]


def test_every_section_is_searched():
    made = page(("md", "# A\n\nBegin"), ("code", "erase(pipe)"), ("md", "## The $L_1$\n\nfalls"))
    text = book.searched([made])
    found = json.loads(text.removeprefix("const WORDS = ").rstrip(";\n"))
    assert [entry["file"] for entry in found] == ["a.html", "a.html#the-l1"]
    assert "erase(pipe)" in found[0]["text"] and found[1]["text"].split() == ["falls"]


def test_jupyterlab_opens_where_one_starts_and_asks_nothing():
    said = subprocess.run(
        ["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    page = re.search(r"default_url=/lab/tree/(\S+)", said)[1]
    assert (ROOT / page).is_file()
    code = "from jupyterlab_server.config import ConfigManager; import json\n"
    code += "print(json.dumps(ConfigManager(config_dir_name='labconfig').get(NAME)))"
    environment = os.environ | {"JUPYTER_CONFIG_PATH": str(ROOT / "course" / "lab")}
    call = [sys.executable, "-c", code.replace("NAME", "'default_setting_overrides'")]
    found = json.loads(subprocess.check_output(call, env=environment, text=True))
    schemas = Path(sys.prefix) / "share" / "jupyter" / "lab" / "schemas"
    for plugin, settings in found.items():
        package, name = plugin.split(":")
        known = json.loads((schemas / package / f"{name}.json").read_text("utf-8"))["properties"]
        assert set(settings) <= set(known), plugin
    assert found["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
