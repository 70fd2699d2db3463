"""Suites: those that ship, what a file becomes, and what is said of a bad one."""

from __future__ import annotations

import pytest

from erase_lib.measure.suite import SUITES, read_suite

EMBEDDED = {"objects", "theme", "styles", "side_doors"}
GROUP = "groups:\n  one: {concepts: [dog], metrics: [PSR-1]}\n"


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_every_shipped_suite_is_read_and_fits_its_splits():
    names = sorted(path.stem for path in SUITES.glob("*.yaml"))
    assert {name for name in names if not name.startswith("paper_")} == EMBEDDED
    for name in names:
        suite = read_suite(name)
        assert suite == read_suite(SUITES / f"{name}.yaml") and suite.name == name
        assert suite.groups and suite.about
        for split, targets in suite.splits.items():
            assert suite.split(list(reversed(targets))) == split
            assert set(targets) <= set(suite.classes or targets)


def test_settings_are_shared_by_an_anchor(tmp_path):
    text = "groups:\n  a: &a {concepts: [dog], seeds: 2, metrics: [NER]}\n  b: {<<: *a, seeds: 3}\n"
    groups = read_suite(written(tmp_path, text)).groups
    assert groups["b"].concepts == groups["a"].concepts == ("dog",)
    assert (groups["a"].seeds, groups["b"].seeds) == ((1, 2), (1, 2, 3))


BAD = {
    "groups: {}": "groups is missing",
    "about: nothing else": "groups is missing",
    "": "is no suite",
    GROUP + "stepz: 4": "unknown section 'stepz': did you mean 'steps'",
    GROUP + "steps: many": "steps is 'many' (str): expected int",
    GROUP + "thresholds: [0.5, 1.5]": "expected numbers in (0, 1)",
    GROUP + "splits: {a: dog}": "split a is 'dog': expected a list",
    "groups: {one: 3}": "group 'one' is 3: expected a mapping",
    "groups: {one: {metrics: [PSR-1]}}": "group 'one' has no prompts",
    "groups: {one: {concepts: [dog]}}": "group 'one' counts nothing",
    "groups: {one: {concepts: [dog], words: {dog: [a]}, metrics: [NER]}}": "give one of concepts",
    "groups: {one: {concepts: [dog], metrics: [PSR]}}": "did you mean 'PSR-1'",
    "groups: {one: {concepts: [dog], metrics: [PSR-0]}}": "unknown metric 'PSR-0'",
    "groups: {one: {concepts: targetz, metrics: [NER]}}": "did you mean 'targets'",
    "groups: {one: {concepts: [dog], styles: al, metrics: [NER]}}": "did you mean 'all'",
    "groups: {one: {concepts: [dog], seed: 4, metrics: [NER]}}": "did you mean 'seeds'",
    "groups: {one: {concepts: [dog], seeds: [1, 2, 1], metrics: [NER]}}": "seeds has 1 twice",
    "groups: {one: {concepts: [dog], seeds: 0, metrics: [NER]}}": "seeds is 0",
    "groups: {one: {concepts: [dog], seeds: [-1], metrics: [NER]}}": "seeds is [-1]",
    "groups: {one: {words: [a], metrics: [NER]}}": "words is ['a']: expected a mapping",
    "groups: {one: {words: {dog: a}, metrics: [NER]}}": "words of 'dog' is 'a': expected a list",
    "groups: {one: {words: {dog: [a, a]}, metrics: [NER]}}": "has 'a' twice",
    "groups: {one: {file: here.csv, metrics: [NER]}}": "file is 'here.csv': expected a mapping",
    "groups: {one: {file: {pth: a}, metrics: [NER]}}": "unknown key of file 'pth'",
    "groups: {one: }": "group 'one' is None: expected a mapping",
    "- one": "is no suite: expected the sections about, groups",
    "groups: {one: {": "line 1",
    "groups: {? [1] : 2}": "line 1: found unhashable key",
    "groups: {one: \0}": "unacceptable character",
    GROUP + "about: 3": "about is 3 (int): expected str",
    GROUP + "steps: 2.5": "steps is 2.5 (float): expected int",
    GROUP + "guidance_scale: .nan": "guidance_scale is nan: expected a finite number",
    GROUP + "classes: [yes]": "classes is [True]: expected a list of words",
    GROUP + "splits: {a: [dog, cat, dog]}": "split a has 'dog' twice",
    GROUP + "thresholds: [1]": "thresholds is (1.0,): expected numbers in (0, 1)",
    GROUP + "thresholds: [0.5, .nan]": "thresholds is (0.5, nan)",
    "groups:\n  one:\n    seeds: 1\n    seeds: 2": "'seeds' is given twice in the block at line 3",
    "about: x\ngroups:\n\tone: 3": "line 3",
    "groups: {one: {concepts: [dog], file: {path: a}, metrics: [NER]}}": "give one of concepts",
    "groups: {one: {words: {dog: [a]}, file: {path: a}, metrics: [NER]}}": "give one of concepts",
    "groups: {one: {concepts: [dog, dog], metrics: [NER]}}": "concepts has 'dog' twice",
    "groups: {one: {concepts: [3], metrics: [NER]}}": "concepts is [3]: expected a list of words",
    "groups: {one: {concepts: 3, metrics: [NER]}}": "unknown concepts 3: expected one of targets",
    "groups: {one: {concepts: [dog], styles: [a, a], metrics: [NER]}}": "styles has 'a' twice",
    "groups: {one: {concepts: [dog], metrics: []}}": "group 'one' counts nothing",
    "groups: {one: {concepts: [dog], metrics: NER}}": "metrics is 'NER': expected a list",
    "groups: {one: {concepts: [dog], metrics: [NER, NER]}}": "metrics has 'NER' twice",
    "groups: {one: {concepts: [dog], metrics: [ESR-1, NER-0.5]}}": "unknown metric 'NER-0.5'",
    "groups: {one: {concepts: [dog], seeds: 1.5, metrics: [NER]}}": "seeds is 1.5",
    "groups: {one: {concepts: [dog], seeds: true, metrics: [NER]}}": "seeds is True",
    "groups: {one: {concepts: [dog], seeds: [1, true], metrics: [NER]}}": "seeds is [1, True]",
    "groups: {one: {concepts: [dog], seeds: [], metrics: [NER]}}": "seeds is []",
    "groups: {one: {concepts: [dog], words: , metrics: [NER]}}": "words is None: expected",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_one_line_that_names_what_is_wrong(text, tmp_path, refused):
    message = refused(read_suite, written(tmp_path, text))
    assert BAD[text] in message and "mine.yaml" in message


def test_a_suite_that_does_not_exist_or_fit(tmp_path, refused):
    assert "'object'" in (text := refused(read_suite, "object")) and "'objects'" in text
    assert "no-such.yaml" in refused(read_suite, tmp_path / "no-such.yaml")
    suite = read_suite("theme")
    smoking, weapon = suite.splits["smoking"], suite.splits["weapon"]
    for targets, named in (
        (["dog", "axe"], "dog"),
        ([*smoking, *weapon], "cigarette"),  # two splits at once
        (weapon[1:], "bomb"),
    ):
        message = refused(suite.split, targets)
        for piece in ("suite 'theme'", f"target {named!r}", "weapon: axe+bomb+"):
            assert piece in message
    suite = read_suite("objects")
    assert suite.split(["dog", "fish", "trumpet"]) == ""  # of the classes, but no split
    message = refused(suite.split, ["dog", "bus"])
    assert "target 'bus'" in message and "fish, dog, videocassette" in message


def test_a_file_that_is_no_text_is_one_line(tmp_path, refused):
    path = tmp_path / "mine.yml"
    path.write_bytes(b"about: \xff\xfe")
    assert "mine.yml" in refused(read_suite, path)
