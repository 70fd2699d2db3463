"""Suites: those that ship, what a file becomes, and what is said of a bad one."""

import pytest

from erase_lib.measure.suite import SUITES, read_suite
from erase_lib.study import PROBES

EMBEDDED = {"objects", "theme", "styles", "side_doors", "attacks"}


def test_every_shipped_suite_is_read_and_fits_its_splits():
    names = sorted(path.stem for path in SUITES.glob("*.yaml"))
    assert {name for name in names if not name.startswith("paper_")} == EMBEDDED
    for name in names:
        suite = read_suite(name)
        assert suite == read_suite(SUITES / f"{name}.yaml") and suite.name == name
        assert suite.groups and suite.about and set(suite.probes) <= set(PROBES)
        for split, targets in suite.splits.items():
            assert suite.split(list(reversed(targets))) == split
            assert set(targets) <= set(suite.classes or targets)


def test_settings_are_shared_by_an_anchor(suite_of):
    text = "groups:\n  a: &a {concepts: [dog], seeds: 2, metrics: [NER]}\n  b: {<<: *a, seeds: 3}\n"
    groups = suite_of(text).groups
    assert groups["b"].concepts == groups["a"].concepts == ("dog",)
    assert (groups["a"].seeds, groups["b"].seeds) == ((1, 2), (1, 2, 3))


FILES = [
    ("", "is no suite"),
    ("- one", "sections"),
    ("groups: {}", "groups missing"),
    ("groups: {one: {", "line 1"),
    ("groups: {? [1] : 2}", "line 1"),
    ("about: x\ngroups:\n\tone: 3", "line 3"),
    ("groups:\n  one:\n    seeds: 1\n    seeds: 2", "'seeds' twice line"),
    ("groups: {one: \0}", "character"),
    ("groups: {one: 3}", "'one' 3 mapping"),
    ("groups: {one: {file: {pth: a}, metrics: [NER]}}", "'pth' 'path'"),
]
SECTIONS = [
    ("stepz: 4", "'stepz' 'steps'"),
    ("steps: many", "steps 'many' int"),
    ("about: 3", "about 3 str"),
    ("steps: 0", "steps 0 1,000"),
    ("steps: 99999999999999999999", "steps 64 bits"),
    ("guidance_scale: -1", "guidance_scale -1.0 0.0"),
    ("thresholds: 0.5", "thresholds 0.5 list"),
    ("thresholds: [0.5, 0.5]", "thresholds 0.5 twice"),
    ("guidance_scale: .nan", "guidance_scale nan finite"),
    ("classes: [true]", "classes [True] list"),
    ("splits: {a: dog}", "split 'dog' list"),
    ("splits: {a: [dog, cat, dog]}", "split 'dog' twice"),
    ("splits: {a: [dog, cat], b: [cat, dog]}", "splits 'cat+dog' twice"),
    ("splits: {1: [dog], '1': [cat]}", "splits '1' twice"),
    ("splits: {a: [dog, '']}", "split a '' no word"),
    ('classes: [dog, "\\u200b"]', "classes no word"),
    *((f"thresholds: [{t}]", "thresholds numbers") for t in ("0.5, 1.5", "1", "0", "0.5, .nan")),
]
PROMPTS = ["concepts: [dog]", "words: {dog: [a]}", "file: {path: a}"]
GROUPS = [
    ("metrics: [NER]", "no prompts concepts"),
    *((f"{PROMPTS[i]}, {PROMPTS[i - 1]}, metrics: [NER]", "concepts words file") for i in range(3)),
    ("concepts: [dog]", "counts metrics"),
    ("concepts: [dog], metrics: NER", "metrics 'NER' list"),
    ("concepts: [dog], metrics: [PSR]", "'PSR' 'PSR-1'"),
    ("concepts: [dog], metrics: [ESR-1, PSR-0]", "'PSR-0'"),
    ("concepts: [dog], metrics: [ESR-1, NER-0.5]", "'NER-0.5'"),
    ("concepts: [dog], metrics: [NER, NER]", "metrics 'NER' twice"),
    ("concepts: [dog, dog], metrics: [NER]", "concepts 'dog' twice"),
    ("concepts: targetz, metrics: [NER]", "'targetz' 'targets'"),
    ("concepts: 3, metrics: [NER]", "concepts 3 targets"),
    ("concepts: [3], metrics: [NER]", "concepts [3] list"),
    ("concepts: [dog], styles: al, metrics: [NER]", "'al' 'all'"),
    ("concepts: [dog], styles: [a, a], metrics: [NER]", "styles 'a' twice"),
    ("concepts: [dog], seed: 4, metrics: [NER]", "'seed' 'seeds'"),
    ("concepts: [dog], seeds: [1, 2, 1], metrics: [NER]", "seeds 1 twice"),
    ("concepts: [dog], words: , metrics: [NER]", "words None mapping"),
    ("words: [a], metrics: [NER]", "words ['a'] mapping"),
    ("words: {dog: a}, metrics: [NER]", "words 'dog' 'a' list"),
    ("words: {dog: [a, a]}, metrics: [NER]", "'dog' 'a' twice"),
    ("words: {dog: ['']}, metrics: [NER]", "'dog' '' no word"),
    ("words: {dog: [a, ' ']}, metrics: [NER]", "'dog' ' ' no word"),
    ("concepts: [dog, ''], metrics: [NER]", "concepts '' no word"),
    ("concepts: [dog], styles: [''], metrics: [NER]", "styles '' no word"),
    ("file: here.csv, metrics: [NER]", "file 'here.csv' mapping"),
    ("file: {path: 5}, metrics: [NER]", "path 5 str"),
    ("file: {path: a, where: 5}, metrics: [NER]", "where 5 mapping"),
    ("concepts: [dog], styles: [nto], metrics: [NER]", "'nto' 'noto'"),
    ("concepts: [dog], styles: , metrics: [NER]", "styles None 'none'"),
    ("concepts: far, most: -1, metrics: [NER]", "most -1 10,000"),
    ("concepts: far, most: 1.5, metrics: [NER]", "most 1.5 int"),
]
SEEDS = ["0", "1.5", "True", "[]", "[-1]", "[1, True]", "3000000000", "[99999999999999999999]"]
GROUPS += [(f"concepts: [dog], seeds: {s}, metrics: [NER]", f"seeds {s}") for s in SEEDS]
TEMPLATES = ["a {thing}", "a {concept", "{concept!r}", "{{concept}}", "{concept.__class__.__mro__}"]
TEMPLATES += ["a {0}", "{concept:9999999999}", "{concept[0]}", "a {style} picture", "'"]
GROUPS += [
    (f'concepts: [dog], template: "{t}", metrics: [NER]', f"template {t}") for t in TEMPLATES
]
GROUPS += [("concepts: [dog], template: 5, metrics: [NER]", "template 5 str")]
BAD = FILES + [("groups: {one: {" + text + "}}", f"'one' {said}") for text, said in GROUPS]
GOOD = "groups: {one: {concepts: [dog], metrics: [NER]}}\n"
BAD += [(GOOD + text, said) for text, said in SECTIONS]
WORDS = "groups: {one: {words: {dgo: [hound]}, metrics: [NER]}}\nclasses: [dog, cat]"
BAD += [(WORDS, "'one' words 'dgo' 'dog'")]
TWICE = (
    "groups: {NAME: {concepts: [dog], metrics: [NER]}, 'NAME': {concepts: [cat], metrics: [NER]}}"
)
BAD += [(TWICE.replace("NAME", name), f"groups '{name}' twice") for name in ("1", "1.5")]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_a_bad_file_is_one_line_that_names_what_is_wrong(text, said, suite_of, refused):
    refused(suite_of, text, says=f"mine.yaml {said}")


def test_a_suite_that_does_not_exist_or_fit(tmp_path, refused):
    (tmp_path / "mine.yml").write_bytes(b"about: \xff\xfe")  # no text
    refused(read_suite, "object", says="'object' 'objects'")
    for name in ("no-such.yaml", "mine.yml"):
        refused(read_suite, tmp_path / name, says=name)
    suite, objects = read_suite("theme"), read_suite("objects")
    smoking, weapon = suite.splits["smoking"], suite.splits["weapon"]
    for targets, said in (
        (["dog", "axe"], "'dog'"),
        ([*smoking, *weapon], "'cigarette'"),  # two splits at once
        (weapon[1:], "'bomb'"),
    ):
        refused(suite.split, targets, says=f"'theme' {said} axe+bomb+")
    assert objects.split(["dog", "fish", "trumpet"]) == ""  # of the classes, but no split
    assert objects.split(["dog", "snake"]) == ""  # asked for by their own names
    refused(objects.split, ["dog", "noto style"], says="'noto style' fish, videocassette")
    refused(read_suite("styles").split, ["snake"], says="'snake' noto style, twemoji style")
    for some in (suite, objects):
        refused(some.split, [], says="targets [] one")
    (tmp_path / "mine.YAML").write_text(GOOD)
    refused(read_suite(tmp_path / "mine.YAML").split, ["dog"], says="'mine' no target classes")
