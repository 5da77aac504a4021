"""The metrics of GLUE, on scikit-learn and SciPy, with a number where those have none.

* A correlation of constant predictions is 0, not NaN: such a model knows nothing.
* CoLA's Matthews correlation is 0 when one class is predicted.
* F1 is that of label 1 (equivalent, duplicate, match), and 0 when it is never predicted.

All are on their raw scale: -1 to 1 or 0 to 1. The libraries are imported on first use (4 s).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.evaluation.tasks import TaskSpec

Values = npt.NDArray[Any]


def mcc(predictions: Values, references: Values) -> float:
    """Return the Matthews correlation coefficient of two label arrays, 0 where one is constant."""
    from sklearn.metrics import matthews_corrcoef

    if _is_constant(predictions) or _is_constant(references):
        return 0.0
    return float(matthews_corrcoef(references, predictions))


def accuracy(predictions: Values, references: Values) -> float:
    """Return the share of equal labels."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def f1(predictions: Values, references: Values) -> float:
    """Return the F1 of label 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, pos_label=1, zero_division=0.0))


def pearson(predictions: Values, references: Values) -> float:
    """Return the linear correlation, 0 where one side is constant."""
    from scipy.stats import pearsonr

    if _is_constant(predictions) or _is_constant(references):
        return 0.0
    # In float64: the squares of float32 predictions that hardly differ would vanish.
    return float(pearsonr(predictions.astype(np.float64), references.astype(np.float64)).statistic)


def spearman(predictions: Values, references: Values) -> float:
    """Return the correlation of ranks (ties share one), 0 where one side is constant."""
    from scipy.stats import spearmanr

    if _is_constant(predictions) or _is_constant(references):
        return 0.0
    return float(spearmanr(predictions, references).statistic)


METRICS: Mapping[str, Callable[[Values, Values], float]] = {
    "mcc": mcc,
    "accuracy": accuracy,
    "f1": f1,
    "pearson": pearson,
    "spearman": spearman,
}


def score(
    task: TaskSpec | Sequence[str],
    predictions: npt.ArrayLike,
    references: npt.ArrayLike,
) -> dict[str, float]:
    """Return every metric of a task.

    Args:
        task: the task, or the names of its metrics.
        predictions: label ids for a classification, numbers for a regression.
        references: the same for the truth, as many.
    """
    names = task.metrics if isinstance(task, TaskSpec) else task
    predicted, true = np.asarray(predictions), np.asarray(references)
    if predicted.shape != true.shape or predicted.ndim != 1 or not len(true):
        raise ValueError(
            f"predictions {predicted.shape} and references {true.shape} must be two lists of one "
            "length, not empty"
        )
    return {name: METRICS[name](predicted, true) for name in names}


def headline(metrics: Mapping[str, float], names: Sequence[str]) -> float:
    """Return a task's score, 0 to 100: the mean of its metrics."""
    return 100 * float(np.mean([metrics[name] for name in names]))


def _is_constant(values: Values) -> bool:
    return bool(np.all(values == values[0]))
