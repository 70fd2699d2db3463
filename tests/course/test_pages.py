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
from matplotlib.figure import Figure
from nbconvert.preprocessors import ExecutePreprocessor

import erase_lib
from course import api, book, quiz
from course.execute import INLINE
from course.plan import ROOT, lessons
from course.titles import titles
from erase_lib import measure

BUILDING = "16_build_the_embedded_model"


def test_each_notebook_of_a_lesson_has_five_questions():
    asking, taught = list(quiz.questions()), [n for one in lessons() for n in one.notebooks]
    assert asking == [name for name in taught if name != BUILDING]
    places = []
    for name in asking:
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
    assert all(places.count(place) >= 12 for place in range(4)), "the right one is anywhere"
    assert quiz.cells(BUILDING) == []


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


def drawn(text="<Figure size 640x480 with 1 Axes>"):
    data = {"image/png": "", "text/plain": text}
    return nbformat.v4.new_output("display_data", data)


def test_a_picture_is_told_by_the_comment_of_its_cell_and_its_title():
    made = page(("code", "import os"), ("code", "# two of them\nplot()"), ("code", "plot()"))
    text = nbformat.v4.new_output("stream", text="a")
    made.nb.cells[1].outputs = [drawn(), drawn("Half is gone"), text]
    made.nb.cells[2].outputs = [drawn("A title"), drawn()]
    made = book.Page("a.html", made.nb, "A")
    first, second = ([o.get("metadata", {}) for o in made.nb.cells[i].outputs] for i in (1, 2))
    assert [m.get("alt") for m in first] == ["two of them", "two of them: Half is gone", None]
    assert [m.get("caption") for m in first] == [None, "two of them", None]
    assert [m.get("alt") for m in second] == ["A title", "a figure"]
    assert set(made.nb.cells[0].metadata.tags) == {"imports"}
    made.nb.cells[1].outputs = [drawn("Two of them"), drawn("Two of them are gone")]
    alts = [o.metadata["alt"] for o in book.Page("a.html", made.nb, "A").nb.cells[1].outputs]
    assert alts == ["two of them", "two of them: Two of them are gone"]


def test_a_figure_says_its_titles():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.set_title("original", loc="left")
    right.set_title("erased\nat strength 1")
    assert titles(figure) == "original; erased at strength 1"
    figure.suptitle("church is erased")
    assert titles(figure) == "church is erased" and titles(Figure()) == ""


def test_in_a_kernel_a_figure_is_told_by_its_title(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", INLINE)
    plot = "# a church\nimport matplotlib.pyplot as plt\n_ = plt.subplots()[0].suptitle('{}')"
    again = "%config InlineBackend.figure_formats = ['png', 'svg']"  # begins as a backend does
    told = [plot.format("It is gone"), again, plot.format("It is back")]
    made = page(*(("code", source) for source in ["from course import checks", *told]))
    nb, _ = ExecutePreprocessor(kernel_name="python3", startup_timeout=180).preprocess(
        made.nb, {"metadata": {"path": str(ROOT)}}
    )
    outputs = [o for cell in book.Page("a.html", nb, "A").nb.cells for o in cell.outputs]
    assert [o.metadata["alt"] for o in outputs] == ["a church: It is gone", "a church: It is back"]


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


def test_the_page_to_try_goes_along_with_the_book(tmp_path, refused):
    refused(book.build, tmp_path / "book", page=tmp_path, says=["index.html", "make page"])
    made = tmp_path / "page"
    made.mkdir()
    (made / "index.html").write_text("<title>An erasure to try</title>")
    for page in (made, None):
        book.write({}, tmp_path / "html", "smoke", page)
        index = (tmp_path / "html" / "index.html").read_text("utf-8")
        assert ('href="page/index.html"' in index) == (page is not None)
        assert (tmp_path / "html" / "page" / "index.html").exists() == (page is not None)
