"""The plane of methods: a mark and two intervals for each."""

import pandas as pd

from erase_lib.show import plane


def test_the_plane_has_a_mark_and_two_intervals_a_setting():
    rows = [
        (setting, group, metric, 0.5)
        for setting in ("esd", "eap, random")
        for group, metric in (("target", "ESR-1"), ("near", "PSR-1"))
    ]
    levels = pd.DataFrame(rows, columns=["setting", "group", "metric", "value"])
    ax = plane(levels.assign(low=0.4, high=0.6))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["esd", "eap, random"]
    assert len(ax.containers) == 2 and "ESR-1" in ax.get_xlabel() and "PSR-1" in ax.get_ylabel()
