"""Pictures in; rows with n, interval and instrument out."""

from erase_lib.measure.classifiers import Classifier, ImageClassifier, load_classifier
from erase_lib.measure.clip import SmallCLIP, clip_score, load_clip, load_transformers_clip
from erase_lib.measure.detectors import Detector, NudeNet, ThemeDetector, theme_concepts
from erase_lib.measure.distances import backbone, fid, kid, lpips, perceptual, set_distances
from erase_lib.measure.evaluate import Evaluation, evaluate, evaluate_runs
from erase_lib.measure.instruments import (
    PAPER,
    Instruments,
    load_instruments,
    read_folder,
    real_pictures,
)
from erase_lib.measure.judges import Judge, picture_tensor, ranks, read_model
from erase_lib.measure.look import look
from erase_lib.measure.metrics import esr, likelihoods, psr, summary, verdicts
from erase_lib.measure.pictures import Pictures, draw, read
from erase_lib.measure.prompts import (
    evaluation_prompts,
    near_and_far,
    sensitivity_prompts,
    suite_prompts,
)
from erase_lib.measure.rows import counted, summarise
from erase_lib.measure.statistics import (
    bootstrap,
    gains,
    jackknife,
    label,
    long,
    means,
    paired,
    read_table,
    row_intervals,
)
from erase_lib.measure.strength import STRENGTHS, check_level, first_strength, target_prompts
from erase_lib.measure.suite import METRIC, Group, Suite, read_suite

__all__ = [
    "Classifier",
    "Detector",
    "Evaluation",
    "Group",
    "ImageClassifier",
    "Instruments",
    "Judge",
    "METRIC",
    "NudeNet",
    "PAPER",
    "Pictures",
    "STRENGTHS",
    "SmallCLIP",
    "Suite",
    "ThemeDetector",
    "backbone",
    "bootstrap",
    "check_level",
    "clip_score",
    "counted",
    "draw",
    "esr",
    "evaluate",
    "evaluate_runs",
    "evaluation_prompts",
    "fid",
    "first_strength",
    "gains",
    "jackknife",
    "kid",
    "label",
    "likelihoods",
    "load_classifier",
    "load_clip",
    "load_instruments",
    "load_transformers_clip",
    "long",
    "look",
    "lpips",
    "means",
    "near_and_far",
    "paired",
    "perceptual",
    "picture_tensor",
    "psr",
    "ranks",
    "read",
    "read_folder",
    "read_model",
    "read_suite",
    "read_table",
    "real_pictures",
    "row_intervals",
    "sensitivity_prompts",
    "set_distances",
    "suite_prompts",
    "summarise",
    "summary",
    "target_prompts",
    "theme_concepts",
    "verdicts",
]
