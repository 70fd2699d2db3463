"""Pictures in; rows with n, interval and instrument out."""

from erase_lib.doors import guard
from erase_lib.measure.distances import SmallCLIP, clip_score, feature_distance, load_clip
from erase_lib.measure.evaluate import STRENGTHS, Evaluation, check_level, evaluate, evaluate_runs
from erase_lib.measure.evaluate import delta_summary, first_strength, successes, summary
from erase_lib.measure.eye import BOTH, Eye, sharpness
from erase_lib.measure.instruments import PAPER, Instruments, NudeNet, load_instruments
from erase_lib.measure.judges import Classifier, ImageClassifier, Judge, verdicts
from erase_lib.measure.photographs import OpenNSFW, efficientnet_lite0
from erase_lib.measure.pictures import Pictures, draw, picture_tensor
from erase_lib.measure.prompts import evaluation_prompts, near_and_far, prompt_table
from erase_lib.measure.prompts import sensitivity_prompts, styles_of, suite_prompts, words_of
from erase_lib.measure.statistics import bootstrap, flipped, holm, label, long, matched_differences
from erase_lib.measure.statistics import means, read_table, row_intervals, table_model, worst
from erase_lib.measure.suite import METRIC, Group, Suite, read_suite
from erase_lib.measure.world import World, ZeroShot

guard(__name__)
