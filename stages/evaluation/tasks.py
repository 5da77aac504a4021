"""The tasks that models are measured on, as one table: nine of GLUE, three made from the corpus.

A task's labels are in the hub's order, which is not that of the original GLUE files: RTE and QNLI
begin with entailment, WNLI does not. `check_labels` refuses data in any other order, because a
model fine-tuned on one order and scored in another looks merely bad.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stages.errors import DataError, SettingsError

Kind = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task is, wherever its examples come from."""

    name: str
    title: str
    kind: Kind
    labels: tuple[str, ...] | None
    """Names in id order; None for a regression, and where the data brings the names."""
    metrics: tuple[str, ...]
    """Names in stages/evaluation/metrics.py. The task's score is their mean."""
    columns: tuple[str, ...]
    """The hub's text columns, which become text_a and text_b."""
    is_glue: bool = True
    validation_splits: tuple[str, ...] = ("validation",)
    """The first is the headline."""

    @property
    def pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.columns) == 2


ACCURACY = ("accuracy",)
ACCURACY_AND_F1 = ("accuracy", "f1")
ONE, PAIR = ("sentence",), ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec("cola", "CoLA", "classification", ("unacceptable", "acceptable"), ("mcc",), ONE),
        TaskSpec("sst2", "SST-2", "classification", ("negative", "positive"), ACCURACY, ONE),
        TaskSpec(
            "mrpc",
            "MRPC",
            "classification",
            ("not_equivalent", "equivalent"),
            ACCURACY_AND_F1,
            PAIR,
        ),
        TaskSpec("stsb", "STS-B", "regression", None, ("pearson", "spearman"), PAIR),
        TaskSpec(
            "qqp",
            "QQP",
            "classification",
            ("not_duplicate", "duplicate"),
            ACCURACY_AND_F1,
            ("question1", "question2"),
        ),
        TaskSpec(
            "mnli",
            "MNLI",
            "classification",
            ("entailment", "neutral", "contradiction"),
            ACCURACY,
            ("premise", "hypothesis"),
            validation_splits=("validation_matched", "validation_mismatched"),
        ),
        TaskSpec("qnli", "QNLI", "classification", ENTAILMENT, ACCURACY, ("question", "sentence")),
        TaskSpec("rte", "RTE", "classification", ENTAILMENT, ACCURACY, PAIR),
        TaskSpec(
            "wnli", "WNLI", "classification", ("not_entailment", "entailment"), ACCURACY, PAIR
        ),
        # Made from the corpus by derived.py: not GLUE, and never reported as such.
        TaskSpec(
            "acceptability",
            "Acceptability (derived)",
            "classification",
            ("corrupted", "acceptable"),
            ("mcc",),
            ONE,
            is_glue=False,
        ),
        TaskSpec(
            "package", "Package (derived)", "classification", None, ACCURACY, ONE, is_glue=False
        ),
        TaskSpec(
            "summary_match",
            "Summary match (derived)",
            "classification",
            ("other", "match"),
            ACCURACY_AND_F1,
            PAIR,
            is_glue=False,
        ),
    )
}


def get_task(name: str) -> TaskSpec:
    """Return the task of this name.

    Raises:
        SettingsError: there is none; the message lists those there are.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise SettingsError(
            f"evaluation.tasks: there is no task '{name}'; there are: {', '.join(TASKS)}"
        ) from None


def check_labels(spec: TaskSpec, feature_names: Sequence[str] | None) -> None:
    """Refuse data whose labels are not the task's, in the task's order.

    Args:
        spec: the task.
        feature_names: the data's label names in id order, or None where its labels are numbers.

    Raises:
        DataError: the two differ; the message names both.
    """
    expected = None if spec.labels is None else list(spec.labels)
    found = None if feature_names is None else list(feature_names)
    if expected != found:
        raise DataError(
            f"task {spec.name}: the data's labels are {found or 'numbers'}, and must be "
            f"{expected or 'numbers'} in this order; scores under another order would be wrong"
        )


def metric_key(spec: TaskSpec, metric: str, split: str) -> str:
    """Return the key of a metric in reports: plain for the headline split, suffixed for others.

    MNLI has `accuracy` (matched) and `accuracy_mismatched`.
    """
    if split == spec.validation_splits[0]:
        return metric
    return f"{metric}_{split.removeprefix('validation_')}"
