"""Figures and widgets; no numbers of their own."""

from erase_lib.show.atlas import dumbbells, emoji, extremes, graph, heat_map, mutual, parts
from erase_lib.show.attention import gallery, overlay
from erase_lib.show.card import foot, metric_card, under
from erase_lib.show.charts import (
    KEPT,
    LOST,
    QUIET,
    before_after,
    damage_bars,
    forest,
    intervals,
    losses,
    multiples,
    pivots,
    preserved,
    show_picture,
)
from erase_lib.show.compare import plane, side_by_side
from erase_lib.show.explorers import SensitivityExplorer, drawn
from erase_lib.show.jobs import Job, canvas, picture, png, put
from erase_lib.show.map import MapExplorer, as_png, as_url, map_figure, map_page
from erase_lib.show.search import (
    choice_weights,
    chosen_map,
    costs,
    memory,
    movement_bars,
    pi_map,
    search_spectrum,
    slopes,
)
from erase_lib.show.sensitivity import bars, concept_map, mark, spectrum, strip, thumbnails
from erase_lib.show.studio import Studio, check_word, known_words
from erase_lib.show.verdicts import levels, pictures, thresholds

__all__ = [
    "Job",
    "KEPT",
    "LOST",
    "MapExplorer",
    "QUIET",
    "SensitivityExplorer",
    "Studio",
    "as_png",
    "as_url",
    "bars",
    "before_after",
    "canvas",
    "check_word",
    "choice_weights",
    "chosen_map",
    "concept_map",
    "costs",
    "damage_bars",
    "drawn",
    "dumbbells",
    "emoji",
    "extremes",
    "foot",
    "forest",
    "gallery",
    "graph",
    "heat_map",
    "intervals",
    "known_words",
    "levels",
    "losses",
    "map_figure",
    "map_page",
    "mark",
    "memory",
    "metric_card",
    "movement_bars",
    "multiples",
    "mutual",
    "overlay",
    "parts",
    "pi_map",
    "picture",
    "pictures",
    "pivots",
    "plane",
    "png",
    "preserved",
    "put",
    "search_spectrum",
    "show_picture",
    "side_by_side",
    "slopes",
    "spectrum",
    "strip",
    "thresholds",
    "thumbnails",
    "under",
]
