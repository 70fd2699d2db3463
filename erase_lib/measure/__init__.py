"""Pictures in; rows with n, interval and instrument out."""

from erase_lib.measure.distances import SmallCLIP, clip_score, feature_distance, load_clip
from erase_lib.measure.evaluate import (
    STRENGTHS,
    Evaluation,
    check_level,
    evaluate,
    evaluate_runs,
    first_strength,
    successes,
    summary,
)
from erase_lib.measure.instruments import PAPER, Instruments, NudeNet, load_instruments
from erase_lib.measure.judges import ImageClassifier, Judge, verdicts
from erase_lib.measure.pictures import Pictures, draw, picture_tensor
from erase_lib.measure.prompts import (
    evaluation_prompts,
    near_and_far,
    prompt_table,
    sensitivity_prompts,
    suite_prompts,
)
from erase_lib.measure.statistics import (
    bootstrap,
    flipped,
    holm,
    jackknife,
    label,
    long,
    matched_differences,
    means,
    read_table,
    row_intervals,
)
from erase_lib.measure.suite import METRIC, Group, Suite, read_suite
