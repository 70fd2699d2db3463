"""What is damaged, missing or not to be written ends a course tool in one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest

from course import book, editions, execute, plan, slides
from course.plan import NOTEBOOKS, lessons, notebook
from erase_lib import EraseError
from erase_lib.files import whole_folder
from tools import one_line

NAME = "01_quickstart"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A copy of the notebooks that the tools take for the course's."""
    folder = tmp_path / "project" / "notebooks"
    shutil.copytree(NOTEBOOKS, folder, ignore=shutil.ignore_patterns("params", ".ipynb*"))
    for module in (plan, book, editions, execute):
        monkeypatch.setattr(module, "NOTEBOOKS", folder)
    monkeypatch.setattr(plan.notebook, "__defaults__", (folder,))
    monkeypatch.setattr(editions, "ROOT", folder.parent)
    monkeypatch.setattr(editions, "TAKEN", ("notebooks", "setup.mk"))
    (folder.parent / "setup.mk").touch()
    return folder


@pytest.fixture
def line(capsys):
    """The one line that a tool prints to stderr when it ends with another status than 0."""

    def said(main, *arguments):
        capsys.readouterr()
        assert main([str(a) for a in arguments]) not in (0, None)
        text = capsys.readouterr().err
        assert text.count("\n") == 1 and 10 < len(text) < 500 and "Traceback" not in text, text
        return text

    return said


def cut(path):
    path.write_bytes(path.read_bytes()[:500])


def changed(**values):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGED = {
    "cut": cut,
    "empty": lambda path: path.write_text(""),
    "no JSON": lambda path: path.write_text("# a notebook"),
    "a list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "no cells": changed(cells=[]),
    "cells no list": changed(cells=5),
    "a cell that is none": changed(cells=["x"]),
    "a cell of no kind": changed(cells=[{"cell_type": "odd", "source": "x", "metadata": {}}]),
    "no version": changed(nbformat=None),
    "another version": changed(nbformat=9),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "missing": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_notebook_is_none(tmp_path, damage):
    damage(Path(shutil.copy(NOTEBOOKS / f"{NAME}.ipynb", tmp_path)))
    with pytest.raises(EraseError, match=NAME) as error:
        notebook(NAME, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_notebook_ends_every_tool(place, line, tmp_path, damage):
    DAMAGED[damage](place / f"{NAME}.ipynb")
    out = tmp_path / "out"
    for edition in editions.EDITIONS:
        assert NAME in line(editions.main, edition, "--out", out)
    assert NAME in line(slides.main, "--out", out / "slides", "--work", out)
    assert NAME in line(book.main, "--only", NAME, "--out", out)
    assert not list(out.rglob("*.html")) and not list(out.glob("erase-course*"))


PLANS = {
    "empty": "",
    "a word": "lessons",
    "a mapping": "{lesson: 1}",
    "a list of words": "[a, b]",
    "no YAML": "- {lesson: 1",
    "no title": "- {lesson: 1, notebooks: [01_quickstart]}",
    "no notebooks": "- {lesson: 1, title: t, notebooks: }",
    "a number": "- {lesson: 1, title: t, notebooks: [1]}",
    "a nested list": "- {lesson: 1, title: t, notebooks: [[a]]}",
    "unknown": "- {lesson: 1, title: t, notebooks: [01_quickstrt]}",
    "code": "!!python/object/apply:os.getcwd []",
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("text", PLANS.values(), ids=PLANS)
def test_a_damaged_plan(tmp_path, monkeypatch, text):
    path = tmp_path / "lessons.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(plan, "PLAN", path)
    with pytest.raises(EraseError, match="lessons.yaml") as error:
        lessons()
    assert "\n" not in str(error.value)


def test_no_plan_and_no_glossary(place, line, tmp_path, monkeypatch):
    (place / "GLOSSARY.md").unlink()
    for main, given in ((editions.main, ["student"]), (book.main, []), (slides.main, [])):
        assert "GLOSSARY.md" in line(main, *given, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.zip"))
    monkeypatch.setattr(plan, "PLAN", tmp_path / "none.yaml")
    assert "none.yaml" in line(book.main, "--out", tmp_path / "out")


def test_where_nothing_can_be_written(place, line, tmp_path):
    (tmp_path / "file").touch()
    for main, given in ((editions.main, ["student"]), (book.main, []), (slides.main, [])):
        assert "file" in line(main, *given, "--out", tmp_path / "file" / "out")


@pytest.fixture
def quick(monkeypatch):
    """Slides without a notebook's run and without nbconvert."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T")])
    monkeypatch.setattr(slides, "executed", lambda *_: (made, 1.0))

    def convert(command, **how):
        path, _, folder = command[-3:]
        (Path(folder) / f"{Path(path).stem}.slides.html").write_text(Path(path).read_text())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(slides.subprocess, "run", convert)


def test_slides_replace_slides_and_nothing_else(place, line, tmp_path, quick):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for folder in (place, place.parent):
        assert "would be lost" in line(slides.main, "--out", folder)
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    out = tmp_path / "slides"
    for _ in range(2):
        assert slides.main(["--out", str(out)]) == 0
    names = [f"{name}.slides.html" for name in slides.names()]
    found = sorted(path.name for path in out.iterdir() if path.name[0] != ".")
    assert found == sorted([*names, "math.ttf", "reveal"])
    (out / "math.ttf").write_text("mine")
    assert "math.ttf would be lost" in line(slides.main, "--out", out)
    assert (out / "math.ttf").read_text() == "mine"


@pytest.mark.parametrize("tool", [book, slides, editions])
def test_a_path_may_begin_at_home(line, tmp_path, monkeypatch, tool):
    asked = []
    name = "build" if tool is book else "write"
    monkeypatch.setattr(tool, name, lambda *given: asked.extend(given) or [])
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["student"] if tool is editions else ["--work=~/out"] if tool is slides else []
    with suppress(AttributeError):  # an edition is a folder
        assert tool.main([*given, "--out=~/out"]) == 0
    assert asked.count(tmp_path / "out") == (2 if tool is slides else 1)
    for wrong in ("", "~no such user/x"):
        assert f"{wrong!r} is no path" in line(tool.main, *given, f"--out={wrong}")


def test_an_edition_with_a_file_of_1970_and_one_within_itself(place, line, tmp_path):
    os.utime(place / "GLOSSARY.md", (0, 0))
    folder = editions.write("student", tmp_path / "out")
    with zipfile.ZipFile(folder.with_suffix(".zip")) as zipped:
        assert f"{folder.name}/notebooks/GLOSSARY.md" in zipped.namelist()
    before = sorted(place.rglob("*"))
    for inside in (place, place / "deep" / "out"):
        assert "which is copied" in line(editions.main, "student", "--out", inside)
    assert sorted(place.rglob("*")) == before


def test_an_edition_without_its_zip_replaces_none(place, tmp_path, monkeypatch):
    folder = editions.write("student", tmp_path)
    before = sorted(tmp_path.rglob("*")), folder.stat().st_ino

    def full(*given, **how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(editions.zipfile, "ZipFile", full)
    with pytest.raises(OSError, match="No space"):
        editions.write("student", tmp_path)
    assert (sorted(tmp_path.rglob("*")), folder.stat().st_ino) == before


def test_a_name_that_is_no_notebook_replaces_no_book(line, tmp_path):
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("the book")
    for wrong, near in (("99_nope", "expected"), ("01_quickstrat", "'01_quickstart'")):
        assert near in line(book.main, "--only", wrong, "--out", tmp_path)
    assert "would be lost" in line(book.main, "--out", tmp_path)  # and no notebook was run
    assert [path.name for path in tmp_path.rglob("*")] == ["html", "index.html"]


def test_a_copy_and_a_link_are_not_packed(place, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("marks")
    (place / "marks.txt").symlink_to(secret)
    (place / "home").symlink_to(tmp_path)
    shutil.copy(place / f"{NAME}.ipynb", place / f"{NAME}-Copy1.ipynb")
    (place / "Untitled.ipynb").write_text("{")
    assert NAME in [name for lesson in lessons() for name in lesson.notebooks]
    slides.names()
    folder = editions.write("student", tmp_path / "out")
    with zipfile.ZipFile(folder.with_suffix(".zip")) as zipped:
        names = zipped.namelist()
    assert any(name.endswith(f"{NAME}.ipynb") for name in names)
    assert any(name.endswith("run_erase.ipynb") for name in names)
    for word in ("Copy1", "Untitled", "marks", "home"):
        assert not any(word in name for name in names)


def test_a_notebook_that_is_a_link_out_is_refused(place, line, tmp_path):
    (place / f"{NAME}.ipynb").rename(tmp_path / "own.ipynb")
    (place / f"{NAME}.ipynb").symlink_to(tmp_path / "own.ipynb")
    assert "link" in line(editions.main, "student", "--out", tmp_path / "out")


def test_a_page_does_not_say_where_the_book_was_made():
    made = nbformat.v4.new_code_cell('output = "/home/lecturer/book"')
    made.metadata["tags"] = ["injected-parameters"]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T"), made])
    assert [cell.source for cell in book.Page("a.html", nb, "T").nb.cells] == ["# T"]


def test_a_notebook_without_parameters(place, tmp_path):
    nb = notebook(NAME, place)
    nb.cells = [cell for cell in nb.cells if not plan.tagged(cell, "parameters")]
    nbformat.write(nb, place / f"{NAME}.ipynb")
    with pytest.raises(EraseError, match="01_quickstart.ipynb has no cell tagged parameters"):
        execute.parameters(NAME, "smoke", tmp_path)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (EraseError("a is 1: expected 2"), 1, "a is 1: expected 2"),
        (RuntimeError("one\ntwo"), 1, "one two"),
        (PermissionError(13, "Permission denied", "out"), 1, "Permission denied: out"),
        (OSError(36, "File name too long", "x" * 5000), 1, "File name too long: xxx"),
        (ValueError("ZIP does not support it"), 1, "ZIP does not"),
        (UnicodeError(), 1, "UnicodeError"),
        (EraseError("'\udcff' is no église"), 1, r"'\udcff' is no"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_command_line_ends_in_one_line(capsys, error, status, said):
    def main(arguments=None):
        raise error

    assert one_line(main)() == status
    text = capsys.readouterr().err
    assert said in text and text.count("\n") == 1


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_line_and_its_unfinished_folder(tmp_path, capsys, number):
    kind = getattr(signal, number)
    before = signal.signal(kind, signal.SIG_DFL)  # ignored, under nohup

    def main(arguments=None):
        with whole_folder(tmp_path / "out") as folder:
            (folder / "page").touch()
            signal.raise_signal(kind)

    try:
        assert one_line(main)() == 128 + kind
        assert signal.getsignal(kind) is signal.SIG_DFL
    finally:
        signal.signal(kind, before)
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_whatever_the_streams_are(capsys, monkeypatch):
    def main(arguments=None):
        print(text)
        raise EraseError(text)

    text = "église \udcff"
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), "ascii", "strict"))
    assert one_line(main)() == 1
    for stream in (sys.stdout, sys.stderr):
        assert stream.buffer.getvalue() == rb"\xe9glise \udcff" + b"\n"
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", None)
    assert one_line(main)() == 1
    assert capsys.readouterr().out.count("glise") == 2


@pytest.mark.parametrize("size", [1, 100_000])
def test_nobody_reads_on(capsys, monkeypatch, size):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    assert one_line(lambda arguments: print("x" * size))() == 141
    assert sys.stdout.closed or not sys.stdout.flush()  # Python does not complain as it ends
    assert capsys.readouterr().err == ""


def test_a_fault_of_our_own_is_not_hidden():
    def main(arguments=None):
        raise AssertionError("ours")

    with pytest.raises(AssertionError):
        one_line(main)()
