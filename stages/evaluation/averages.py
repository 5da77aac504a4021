"""Averages over tasks, each under the name of its convention.

The same nine GLUE numbers average to 77.0 in one paper's table and to 75.8 in another's, because
papers count MNLI once or twice, with or without WNLI, F1 alone or with accuracy. So every average
here has an id that says how it was taken, and one whose tasks are not all measured does not exist.
The ids name how columns are averaged, after where they are used; that a value is on the validation
or the test split follows from the metrics given.
"""

from collections.abc import Mapping, Sequence

import numpy as np

TaskMetrics = Mapping[str, Mapping[str, float | Sequence[float]]]
"""Metrics by task, on their raw scale, keyed as in reports: {"mrpc": {"f1": 0.9, ...}}; or a value
per seed, of which a column is the median, as a task's score is."""


ACCURACY = ("accuracy",)
BOTH = ("accuracy", "f1")
MATCHED_AND_MISMATCHED = ("accuracy", "accuracy_mismatched")
CORRELATIONS = ("pearson", "spearman")

_MACRO8 = (
    ("cola", ("mcc",)),
    ("mnli", ACCURACY),
    ("mrpc", BOTH),
    ("qnli", ACCURACY),
    ("qqp", BOTH),
    ("rte", ACCURACY),
    ("sst2", ACCURACY),
    ("stsb", CORRELATIONS),
)

CONVENTIONS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    # DistilBERT
    "macro9_dev": (*_MACRO8, ("wnli", ACCURACY)),
    # TinyBERT
    "avg9_test": (
        ("mnli", ACCURACY),
        ("mnli", ("accuracy_mismatched",)),
        ("qqp", ("f1",)),
        ("qnli", ACCURACY),
        ("sst2", ACCURACY),
        ("cola", ("mcc",)),
        ("stsb", ("spearman",)),
        ("mrpc", ("f1",)),
        ("rte", ACCURACY),
    ),
    # the GLUE leaderboard, MobileBERT
    "glue_official": (
        *(column for column in _MACRO8 if column[0] != "mnli"),
        ("mnli", MATCHED_AND_MISMATCHED),
        ("wnli", ACCURACY),
    ),
    # RoBERTa, DistilRoBERTa, MosaicBERT
    "macro8_dev": _MACRO8,
    # MiniLM, XtremeDistil
    "avg7": (
        ("squad2", ("f1",)),
        ("mnli", ACCURACY),
        ("sst2", ACCURACY),
        ("qnli", ACCURACY),
        ("rte", ACCURACY),
        ("mrpc", ACCURACY),
        ("qqp", ACCURACY),
    ),
}
"""Columns of equal weight, each the mean of some metrics of one task."""


def averages(task_metrics: TaskMetrics) -> dict[str, float]:
    """Return the averages, 0 to 100, of those conventions whose every metric is there."""
    found = {}
    for convention, of in CONVENTIONS.items():
        columns = [_column(task_metrics, task, metrics) for task, metrics in of]
        present = [column for column in columns if column is not None]
        if len(present) == len(columns):
            found[convention] = 100 * sum(present) / len(present)
    return found


def mean_of_tasks(scores: Mapping[str, float]) -> float:
    """Return the plain mean of the tasks' scores, whatever the tasks: not a GLUE average."""
    return sum(scores.values()) / len(scores)


def _column(task_metrics: TaskMetrics, task: str, metrics: tuple[str, ...]) -> float | None:
    measured = task_metrics.get(task, {})
    if not all(metric in measured for metric in metrics):
        return None
    return float(np.median(np.mean([measured[metric] for metric in metrics], axis=0)))
