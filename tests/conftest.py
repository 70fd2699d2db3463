"""A tiny random text-to-image pipeline: the real classes, the embedded tokenizer, a few thousand
weights."""

from __future__ import annotations

import pytest
from drawings import copied

from erase_lib import EraseError
from erase_lib.models import load_pipeline
from tools.benchmarks.shapes import random_family

# the slow files that take longest, which are begun first: what is short fills up the end
LONGEST = ["test_book", "test_browser", "test_page_browser", "test_own_model", "test_kills"]
LONGEST += ["test_sweeps", "test_tour", "test_cli", "test_paper"]


def pytest_collection_modifyitems(items):
    def place(item):
        known = item.path.stem in LONGEST and item.get_closest_marker("slow")
        return LONGEST.index(item.path.stem) if known else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    random_family("sd", prediction_type="v_prediction").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(tiny_folder):
    """Once for all: of what changes nothing of it."""
    return load_pipeline(tiny_folder, device="cpu")


@pytest.fixture
def tiny(loaded):
    return copied(loaded)


@pytest.fixture(scope="session")
def refused():
    """The one line of the `EraseError` of a call, which says each of some words or phrases."""

    def line(call, *args, says=(), **kwargs):
        with pytest.raises(EraseError) as error:
            call(*args, **kwargs)
        text = str(error.value)
        assert "\n" not in text and 10 < len(text) < 400
        for piece in says.split() if isinstance(says, str) else says:
            assert piece in text
        return text

    return line
