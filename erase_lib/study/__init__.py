"""What the notebooks ask of an erasure."""

from erase_lib.doors import guard
from erase_lib.study.adversary import Adversary
from erase_lib.study.aim import Aim, aim_at, misspelled
from erase_lib.study.atlas import Delta, additive, effects, neutral_percentiles, predictability
from erase_lib.study.atlas import read_atlas, relations, specific, variance
from erase_lib.study.attention import attention_maps, averaged, cross_layers, draw_embeddings, heard
from erase_lib.study.attention import switched
from erase_lib.study.audit import Audit
from erase_lib.study.compare import UNIT, beside, caption, differences, levels, paper_form
from erase_lib.study.compare import published_order, read_runs, units, wide
from erase_lib.study.gone import EVERY, GONE, from_twin, front, gone, hidden, own_twin, rates
from erase_lib.study.graph import against_labels, asymmetries, chance_modularity, communities
from erase_lib.study.graph import delta_graph, modularity_of, symmetry
from erase_lib.study.many import chained, change, changed, spread, undone
from erase_lib.study.maps import PROJECTIONS, image_space, nearness_rho, project, text_space
from erase_lib.study.predict import PREDICTORS, agreement, predict_sensitivity, predictions
from erase_lib.study.probes import PROBES, TAUGHT, Answer
from erase_lib.study.sensitivity import SCORES, STEPS, check_score, deltas, measure_pairs
from erase_lib.study.sensitivity import sensitivity
from erase_lib.study.trial import LEVEL, TIMES, matched, most_hurt, trial_prompts, trial_rows
from erase_lib.study.trial import trial_verdicts

guard(__name__)
