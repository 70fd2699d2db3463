"""What the project says of itself: links that lead somewhere, commands that exist, and pages that
stay short."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from course.plan import headings, slug
from tools.environment import ROOT

ROOMS = (".", "docs", "docs/tour", "notebooks", "data", "data/models/*", "course/static")
PAGES = sorted(path for room in ROOMS for path in ROOT.glob(f"{room}/*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
KEPT = "quickstart test check book slides student solutions app lab results-% evaluate bench"
KEPT += " gpu-check data clean pdf tour page bench-map"


class Addresses(HTMLParser):
    """What `a` and `img` of HTML within Markdown lead to."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def text_of(path):
    """A page without what it quotes as code."""
    text = path.read_text("utf-8")
    return re.sub(r"^```.*?^```|^    .*?$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = text_of(page)
    for link in LINK.findall(text) + Addresses(text).found:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in target.resolve().parents, f"{link} leads out of the project"
        if anchor and target.suffix == ".md":
            assert anchor in [slug(h) for _, h in headings(target.read_text("utf-8"))], link


def lines(name):
    return (ROOT / name).read_text("utf-8").splitlines()


def test_pages_stay_short():
    assert len((ROOT / "README.md").read_bytes()) <= 9_000
    assert len(lines("README.md")) <= 160 and len(lines("docs/ARCHITECTURE.md")) <= 60


def test_readme_names_every_lesson_in_its_order():
    text = (ROOT / "README.md").read_text("utf-8")
    named = dict.fromkeys(re.findall(r"(?:<b>|notebooks/)(\d\d_\w+)", text))
    assert list(named) == sorted(p.stem for p in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def test_two_hops_from_the_readme_to_the_objective():
    assert "(docs/ARCHITECTURE.md)" in (ROOT / "README.md").read_text("utf-8")
    house = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")
    assert "(../erase_lib/train.py)" in house and "`Run.update`" in house
    assert "    def update(" in (ROOT / "erase_lib" / "train.py").read_text("utf-8")


def test_make_lists_every_target_and_the_pages_name_no_other():
    text = "".join((ROOT / name).read_text("utf-8") for name in ("Makefile", "setup.mk"))
    targets = re.findall(r"^([a-z%-]+):.*## ", text, re.MULTILINE)
    assert set(KEPT.split()) <= set(targets)
    for page in PAGES:
        said = page.read_text("utf-8")
        for name in re.findall(r"(?:`|^    )make ([a-z][\w-]*)", said, re.MULTILINE):
            grid = name.removeprefix("results-")
            known = name in targets or (ROOT / "notebooks" / "params" / f"{grid}.yaml").is_file()
            assert known or grid == "NAME", f"{page.name}: make {name}"


def test_every_table_that_ships_stands_in_the_results():
    text = (ROOT / "docs" / "RESULTS.md").read_text("utf-8")
    for path in (ROOT / "data" / "results").glob("*.json"):
        assert re.search(rf"^\| .*\b{path.stem}\b", text, re.MULTILINE), path.stem


def test_the_app_takes_a_model_of_ones_own(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "papermill").symlink_to(Path(sys.executable).with_name("papermill"))
    (tmp_path / "bin" / "voila").write_text('#!/bin/sh\necho "serves $1"\n', "utf-8")
    (tmp_path / "bin" / "voila").chmod(0o755)
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    said = ["make", "-f", str(ROOT / "setup.mk"), "-o", "setup", "app", f"BIN={tmp_path}/bin"]
    for given in ([], ["MODEL=../a model"]):
        done = subprocess.run([*said, *given], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folder = "runs/app" if given else "notebooks"
        assert f"serves {folder}/15_studio.ipynb" in done.stdout
    cells = json.loads((tmp_path / "runs/app/15_studio.ipynb").read_text("utf-8"))["cells"]
    injected = next(c for c in cells if "injected-parameters" in c["metadata"].get("tags", []))
    assert 'model = "../a model"' in "".join(injected["source"])
