"""The course's plan, its Markdown, and its editions."""

import os
import re
import subprocess
import sys
import zipfile

import nbformat
import pytest

from course import book, checks, editions, execute, plan
from course.exercise import NOT_YET, RIGHT, WRONG
from course.markdown import page_of, plain, to_html
from course.plan import NOTEBOOKS, NUMBERED, ROOT, headings, lessons, notebook, slug, tagged
from course.slides import SlideTags
from erase_lib.errors import EraseError
from erase_lib.files import MADE

TAGS = ("exercise", "solution", "check")
NAMES = sorted(path.stem for path in NOTEBOOKS.glob(NUMBERED))
PROSE = {
    name: [c.source for c in notebook(name).cells if c.cell_type == "markdown"] for name in NAMES
}


def test_the_lessons_are_the_notebooks_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    assert [name for lesson in lessons() for name in lesson.notebooks] == NAMES
    numbers = [lesson.lesson for lesson in lessons()]
    assert numbers == [*range(1, 9), "home"]
    course = (ROOT / "COURSE.md").read_text()
    for lesson in lessons()[:-1]:
        part = course.split(f"### {lesson.lesson} · {lesson.title}")[1].split("###")[0]
        for name in lesson.notebooks:
            assert f"notebooks/{name}.ipynb" in part
    for name in (*NAMES, "run_erase"):  # what a sweep runs is no lesson
        (tmp_path / f"{name}.ipynb").touch()
    (tmp_path / "GLOSSARY.md").touch()
    for copy in ("-Copy1", " (1)", " copy", ".bak"):
        (tmp_path / f"01_quickstart{copy}.ipynb").touch()
    monkeypatch.setattr(plan, "NOTEBOOKS", tmp_path)
    lessons()
    (tmp_path / "17_new.ipynb").touch()
    with pytest.raises(ValueError, match="17_new"):
        lessons()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_a_lesson(name):
    nb = notebook(name)
    assert re.match(r"# .+\n\n\*\*[^\n].*?\?\*\*\n", nb.cells[0].source, re.DOTALL), (
        "title and question"
    )
    lesson = next(lesson.lesson for lesson in lessons() if name in lesson.notebooks)
    said = f"*Lesson {lesson}" if lesson != "home" else "*At home"
    assert said in nb.cells[0].source, f"which lesson it belongs to: {said}"
    text = "\n".join(PROSE[name])
    assert "What to notice" in text or name == "15_studio"
    assert len(set(re.findall(r"GLOSSARY\.md#([^)]+)\)", text))) >= 3
    assert "finish(" in nb.cells[-1].source
    own = [c.source for c in nb.cells if c.cell_type == "code" and not tagged(c, "solution")]
    (imports,) = (source for source in own if re.search(r"^(from|import) ", source, re.MULTILINE))
    assert len([line for line in imports.splitlines() if line.strip()]) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_its_exercises_are_whole(name):
    nb = notebook(name)
    kinds = re.findall(r"^### Exercise \d+ · (\w+)", "\n".join(PROSE[name]), re.MULTILINE)
    assert {"Predict", "Change", "Build"} <= set(kinds) and len(kinds) >= 3
    places = {t: [i for i, c in enumerate(nb.cells) if tagged(c, t)] for t in TAGS}
    stubs, done, checked = (places[t] for t in TAGS)
    assert len(stubs) == len(done) == len(checked) == len(kinds)
    assert [i + 1 for i in stubs] == done, "a solution follows its stub"
    for k, (i, stub) in enumerate(zip(checked, stubs, strict=True), 1):
        line = rf"checks\.n{name[:2]}\.exercise{k}\(.*\)"
        assert i > stub + 1 and re.fullmatch(line, nb.cells[i].source), nb.cells[i].source
        assert getattr(getattr(checks, f"n{name[:2]}"), f"exercise{k}").__doc__
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "code" and i not in (*stubs, *done, *checked):
            assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE), (
                "functions are defined in exercises only"
            )


def test_links_between_notebooks_and_to_the_glossary_lead_somewhere():
    glossary = {slug(t) for _, t in headings((NOTEBOOKS / "GLOSSARY.md").read_text())}
    places = {name: PROSE[name] for name in NAMES}
    places["GLOSSARY"] = [(NOTEBOOKS / "GLOSSARY.md").read_text()]
    for name, parts in places.items():
        for url in re.findall(r"\]\(([^)\s]+)\)", "\n".join(parts)):
            if re.match(r"[a-z]+:", url):
                continue
            path, _, anchor = url.partition("#")
            if path == "GLOSSARY.md" or not path:
                assert not anchor or anchor in glossary, f"{name}: {url}"
            assert not path or (NOTEBOOKS / path).resolve().exists(), f"{name}: {url}"


def test_a_term_is_explained_once():
    terms = [t for n, t in headings((NOTEBOOKS / "GLOSSARY.md").read_text()) if n == 3]
    assert len(terms) == len(set(terms)) >= 60


def test_headings_and_anchors():
    assert headings("# A\n\n```\n# no\n```\n### B `c`\n#d") == [(1, "A"), (3, "B `c`")]
    assert slug("p and q") == "p-and-q" and slug("Spearman's ρ") == "spearmans-ρ"
    assert slug("1 · A *picture* in $z_0$") == "1--a-picture-in-z_0"
    assert slug("See [x](y.md)?") == "see-x"


def test_markdown_without_network():
    html = to_html("## The *loss* $L_1$\n\n$$\\frac{a}{b}$$\n\nand $x<y$ in [04](04_x.ipynb#2)")
    assert (
        '<h2 id="the-loss-l1">' in html
        and plain("<b>a &lt; <i>b</i></b> ") == "a < b"
        and "<mfrac>" in html
        and "http://www.w3" in html
    )
    assert '<a href="04_x.html#2">' in html and "$" not in html and "<script" not in html
    assert page_of("GLOSSARY.md#λ") == "glossary.html#λ" and page_of("#here") == "#here"
    assert page_of("https://example.org/a.ipynb") == "https://example.org/a.ipynb"
    assert page_of("../data/suites") == page_of("run_erase.ipynb") == ""
    assert to_html("[suites](../data/suites)") == "<p><code>suites</code></p>\n"


def test_every_formula_can_be_set():
    for name in NAMES:
        for source in PROSE[name]:
            html = to_html(source)
            assert "$$" not in html and "merror" not in html, name


def cells(*sources):
    made = []
    for kind, source, *tags in sources:
        cell = nbformat.v4.new_markdown_cell if kind == "md" else nbformat.v4.new_code_cell
        made.append(cell(source, metadata={"tags": tags}))
    return nbformat.v4.new_notebook(cells=made)


EXERCISE = cells(
    ("md", "# T\n\n**Why?** words"),
    ("md", "Text.\n\n### Exercise 1 · Build\nWrite it."),
    ("code", "a = None", "exercise"),
    ("code", "a = 1", "solution"),
    ("code", "check(a)", "check"),
    ("md", "## 2 · Noise\n\nmore $$x$$ **bold** less"),
    ("code", "plot()", "slide"),
    ("md", "## 3\n\n$$y$$ rest", "slide"),
)


def test_a_students_notebook_lacks_only_the_solutions():
    made = editions.without_solutions(nbformat.from_dict(EXERCISE))
    assert [c.source for c in made.cells] == [
        c.source for c in EXERCISE.cells if "solution" not in c.metadata.tags
    ]
    assert editions.exercises(EXERCISE) == [
        ("### Exercise 1 · Build\nWrite it.", "a = None", "a = 1")
    ]


def test_slides_are_the_tagged_cells_under_their_headings():
    nb, _ = SlideTags().preprocess(nbformat.from_dict(EXERCISE), {})
    assert [c.source for c in nb.cells] == [
        "# T\n\n**Why?**",
        "## 2 · Noise",
        "plot()",
        "## 3\n\n$$y$$",
    ]
    kinds = [c.metadata.slideshow.slide_type for c in nb.cells]
    assert kinds == ["slide", "slide", "-", "slide"]


@pytest.mark.parametrize("edition", editions.EDITIONS)
def test_an_edition_is_whole_and_replaces_the_one_before(edition, tmp_path, monkeypatch):
    few = tuple(name for name in editions.TAKEN if name != "data")
    monkeypatch.setattr(editions, "TAKEN", few)
    (tmp_path / f"erase-course-{edition}" / "old").mkdir(parents=True)
    folder = editions.write(edition, tmp_path)
    files = {str(p.relative_to(tmp_path)) for p in folder.rglob("*") if p.is_file()}
    files.remove(f"{folder.name}/{MADE}")
    with zipfile.ZipFile(folder.with_suffix(".zip")) as zipped:
        assert {n for n in zipped.namelist() if not n.endswith("/")} == files
    assert sorted(p.name for p in tmp_path.iterdir()) == [folder.name, folder.name + ".zip"]
    assert not (folder / "old").exists() and (folder / "notebooks" / "GLOSSARY.md").is_file()
    assert "JupyterLab" in (folder / "README.md").read_text()
    done = subprocess.run(["make", "help"], cwd=folder, capture_output=True, text=True, check=True)
    assert "make lab" in done.stdout and "make test" not in done.stdout
    solutions = [c.source for n in NAMES for c in notebook(n).cells if tagged(c, "solution")]
    shipped = "\n".join(
        cell.source for n in NAMES for cell in notebook(n, folder / "notebooks").cells
    )
    plain = (folder / "SOLUTIONS.md").read_text() if edition == "solutions" else ""
    for text in (shipped, plain):
        assert {source in text for source in solutions} == {edition == "solutions"}
    assert (folder / "COURSE.md").exists() == (edition == "solutions")
    assert not (folder / "course" / "book.py").exists() and not (folder / "tests").exists()


def test_a_student_is_not_shown_what_a_check_looks_for(tmp_path, monkeypatch):
    few = ("course/__init__.py", "course/exercise.py", "course/checks", "setup.mk", "notebooks")
    monkeypatch.setattr(editions, "TAKEN", few)
    folder = editions.write("student", tmp_path)
    bodies = sorted((ROOT / "course" / "checks").glob("n*.py"))
    assert bodies
    for path in bodies:
        text = (folder / "course" / "checks" / path.name).read_text()
        lines = [line.strip() for line in path.read_text().splitlines() if len(line) > 30]
        assert not any(line in text for line in lines)
        compile(text, path.name, "exec")
    ask = "from course import checks; checks.n12.exercise1(None); checks.n12.exercise1(40)"
    paths = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", ask],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("not yet\nnot right: ")


def test_what_the_book_gives_a_notebook(tmp_path):
    given = {name: execute.parameters(name, "smoke", tmp_path) for name in NAMES}
    assert given["15_studio"]["interactive"] is False
    assert "profile" not in given["15_studio"]
    assert {v["output"] for v in given.values()} == {str(tmp_path / "runs" / n) for n in NAMES}
    assert all(v.get("profile", "smoke") == "smoke" for v in given.values())


def test_a_run_of_a_notebook_is_kept_until_something_changes(tmp_path, monkeypatch):
    given = ("code", "output: str = ''\nprofile: str = ''", "parameters")
    source = cells(("md", "# One"), given, ("code", "print(profile)"))
    source.metadata["kernelspec"] = {"name": "python3", "display_name": "p", "language": "python"}
    place = tmp_path / "notebooks"
    place.mkdir()
    nbformat.write(source, place / "one.ipynb")
    monkeypatch.setattr(execute, "NOTEBOOKS", place)
    monkeypatch.setattr(execute, "notebook", lambda name: notebook(name, place))
    nb, seconds = execute.executed("one", "smoke", tmp_path)
    assert nb.cells[-1].outputs[0].text == "smoke\n" and seconds > 0
    (kept,) = (tmp_path / "executed").iterdir()
    before = kept.stat().st_mtime_ns
    assert execute.executed("one", "smoke", tmp_path)[1] == seconds
    assert kept.stat().st_mtime_ns == before
    old, part = kept, kept.with_name(f"one-{'0' * 12}.part.ipynb")
    for name in (part.name, "one-notes.ipynb", f"one-{'0' * 12}-Copy1.ipynb", "one-two.ipynb"):
        (kept.parent / name).touch()
    source.cells[-1].source = "print(profile, output)"
    nbformat.write(source, place / "one.ipynb")
    assert execute.executed("one", "smoke", tmp_path)[0].cells[-1].outputs
    assert len(list(kept.parent.iterdir())) == 4 and not old.exists() and not part.exists()
    (kept,) = (path for path in kept.parent.iterdir() if path.stat().st_size)
    source.cells[-1].source = "1 / 0"
    nbformat.write(source, place / "one.ipynb")
    with pytest.raises(RuntimeError, match=r"one, cell 3.*ZeroDivisionError: division by zero"):
        execute.executed("one", "smoke", tmp_path)
    assert kept.is_file(), "what was run before stays"
    (mine := tmp_path / "runs" / "one" / "notes.txt").touch()
    with pytest.raises(EraseError, match=r"notes.txt would be lost"):
        execute.executed("one", "smoke", tmp_path)
    assert mine.is_file()


def test_a_book_is_written_unless_a_notebook_failed(tmp_path, monkeypatch):
    names, made = NAMES[:2], []
    said = nbformat.from_dict(EXERCISE)
    said.cells[4].outputs = [nbformat.v4.new_output("stream", text=f"{WRONG}: see the cell above")]
    monkeypatch.setattr(book, "executed", lambda *_: (said, 1.0))
    monkeypatch.setattr(book, "write", lambda chapters, place, *_: made.append(place.name))
    assert len(book.build(tmp_path, "smoke", names)) == 2 and made == ["some"]

    def stops(name, *_):
        raise RuntimeError(f"{name} stopped")

    monkeypatch.setattr(book, "executed", stops)
    assert book.build(tmp_path, "smoke", names) == [f"{name} stopped" for name in names]
    assert len(made) == 1


def test_what_a_check_complains_of():
    said = (RIGHT, f"{RIGHT}: so it is", f"{WRONG}: no", NOT_YET)
    nb = cells(*[("code", "check()", "check") for _ in said], ("code", "check()", "check"))
    for cell, text in zip(nb.cells, said, strict=False):
        cell.outputs = [nbformat.v4.new_output("stream", text=text + "\n")]
    assert execute.complaints(nb) == [f"{WRONG}: no", NOT_YET, "no text"]
