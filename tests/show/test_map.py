"""The map: what stands on it, and its callbacks as plain functions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from erase_lib import EraseError, show
from erase_lib.show.map import MapExplorer, map_page


def test_the_target_is_a_star_and_the_most_hurt_are_named():
    table = pd.DataFrame({"concept": ["church", "dog", "cat", "bus"], "x": range(4), "y": range(4)})
    table["delta"] = [0.9, 0.1, 0.4, 0.2]
    ax = show.concept_map(table, "church", show.thumbnails(), worst=2)
    assert [text.get_text() for text in ax.texts] == ["bus", "cat", "church"]
    (star,) = ax.lines
    assert star.get_marker() == "*" and star.get_xydata().tolist() == [[0, 0]]
    assert sorted(ax.collections[0].get_array()) == [0.1, 0.2, 0.4]
    plt.close("all")


def pictures(n):
    return [Image.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(n)]


def test_the_map_explorer_hovers_selects_and_moves():
    table = pd.DataFrame({"concept": list("abcd"), "x": [0, 1, 2, 3], "y": [0, 1, 0, 1]})
    table["delta"] = [0.1, 0.4, 0.2, 0.3]
    other = table.assign(x=[5, 6, 7, 8])
    explorer = MapExplorer({"text": table, "pictures": other}, "a", pictures(4), pictures(4))
    first = explorer.old.value
    explorer.hover([2])
    assert explorer.old.value != first and "c" in explorer.name.value
    explorer.select([0, 1, 3])
    shown = explorer.table.value
    assert shown.index("+0.400") < shown.index("+0.300") < shown.index("+0.100")
    assert "+0.200" not in shown
    explorer.space.value = "pictures"
    assert list(explorer.figure.data[0].x) == [5, 6, 7, 8]
    page = map_page(table, "a", pictures(4), pictures(4))
    assert "plotly_hover" in page and page.count("data:image") >= 8
    with pytest.raises(EraseError, match="2 concepts are no map"):
        MapExplorer({"text": table[:2]}, "a", pictures(2), pictures(2))
    with pytest.raises(EraseError, match="one each"):
        MapExplorer({"text": table}, "a", pictures(3), pictures(4))
