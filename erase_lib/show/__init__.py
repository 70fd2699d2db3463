"""Figures and widgets; no numbers of their own."""

from erase_lib.doors import guard
from erase_lib.show.atlas import asymmetry, dumbbells, extremes, graph, heat_map, parts
from erase_lib.show.charts import COLOURS, GREY, INK, caption, costs, delta_bars, dots, footnote
from erase_lib.show.charts import forest, intervals, memory, multiples, plane, quoted, ranged
from erase_lib.show.curves import choice_weights, chosen_map, losses, movement_bars, pi_map, pivots
from erase_lib.show.curves import preserved, search_spectrum, slopes, spectrum, thresholds
from erase_lib.show.explorers import SensitivityExplorer
from erase_lib.show.map import concept_map, map_page
from erase_lib.show.pictures import before_after, evaluation_pictures, grid, marked, overlay
from erase_lib.show.pictures import thumbnails
from erase_lib.show.page import titled
from erase_lib.show.roam import MapExplorer
from erase_lib.show.studio import Studio

guard(__name__)
