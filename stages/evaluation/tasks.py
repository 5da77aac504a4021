"""The tasks that models are measured on, as one table: GLUE, SQuAD 1.1, IMDb, three of our own.

A task's labels are in the hub's order, which is not that of the original GLUE files: RTE and QNLI
begin with entailment, WNLI does not. `check_labels` refuses data in any other order, because a
model fine-tuned on one order and scored in another looks merely bad.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.errors import DataError, SettingsError
from stages.params import OwnTask

Kind = Literal["classification", "regression", "span"]
GLUE, SQUAD, IMDB = "nyu-mll/glue", "rajpurkar/squad", "stanfordnlp/imdb"
AX = "ax"
"""GLUE's diagnostic set: pairs that only MNLI's model answers, scored by Matthews correlation."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task is, wherever its examples come from."""

    name: str
    title: str
    kind: Kind
    labels: tuple[str, ...] | None
    """Names in id order; None where answers are numbers or spans, or the data brings the names."""
    metrics: tuple[str, ...]
    """Names in stages/evaluation/metrics.py, or squad_metrics.py for spans."""
    columns: tuple[str, ...]
    """The hub's text columns, which become text_a and text_b."""
    dataset: str | None = GLUE
    """The hub's dataset; None for a task made from the corpus, or of the user's own."""
    config: str | None = None
    """The dataset's configuration; the task's name where None."""
    validation_splits: tuple[str, ...] = ("validation",)
    """The first is the headline."""
    test_splits: tuple[str, ...] = ()
    """Splits with hidden labels, predicted for GLUE's server and never scored but for AX."""
    score_metrics: tuple[str, ...] | None = None
    """Metrics whose mean is the task's score; all of them where None."""
    is_own: bool = False
    """Whether it is the user's, from `evaluation.own_tasks`."""

    @property
    def pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.columns) == 2

    @property
    def is_glue(self) -> bool:
        """Whether this is one of GLUE's nine tasks."""
        return self.dataset == GLUE

    @property
    def is_derived(self) -> bool:
        """Whether the examples are made from the corpus."""
        return self.dataset is None and not self.is_own

    @property
    def scored_by(self) -> tuple[str, ...]:
        """The metrics whose mean is the task's score."""
        return self.score_metrics or self.metrics


ACCURACY = ("accuracy",)
ACCURACY_AND_F1 = ("accuracy", "f1")
ONE, PAIR = ("sentence",), ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
TEST = ("test",)

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "cola",
            "CoLA",
            "classification",
            ("unacceptable", "acceptable"),
            ("mcc",),
            ONE,
            test_splits=TEST,
        ),
        TaskSpec(
            "sst2",
            "SST-2",
            "classification",
            ("negative", "positive"),
            ACCURACY,
            ONE,
            test_splits=TEST,
        ),
        TaskSpec(
            "mrpc",
            "MRPC",
            "classification",
            ("not_equivalent", "equivalent"),
            ACCURACY_AND_F1,
            PAIR,
            test_splits=TEST,
        ),
        TaskSpec(
            "stsb",
            "STS-B",
            "regression",
            None,
            ("pearson", "spearman"),
            PAIR,
            test_splits=TEST,
        ),
        TaskSpec(
            "qqp",
            "QQP",
            "classification",
            ("not_duplicate", "duplicate"),
            ACCURACY_AND_F1,
            ("question1", "question2"),
            test_splits=TEST,
        ),
        TaskSpec(
            "mnli",
            "MNLI",
            "classification",
            ("entailment", "neutral", "contradiction"),
            ACCURACY,
            ("premise", "hypothesis"),
            validation_splits=("validation_matched", "validation_mismatched"),
            test_splits=("test_matched", "test_mismatched", AX),
        ),
        TaskSpec(
            "qnli",
            "QNLI",
            "classification",
            ENTAILMENT,
            ACCURACY,
            ("question", "sentence"),
            test_splits=TEST,
        ),
        TaskSpec("rte", "RTE", "classification", ENTAILMENT, ACCURACY, PAIR, test_splits=TEST),
        TaskSpec(
            "wnli",
            "WNLI",
            "classification",
            ("not_entailment", "entailment"),
            ACCURACY,
            PAIR,
            test_splits=TEST,
        ),
        # As published: F1 is the figure that SQuAD is compared by, with exact match beside it.
        TaskSpec(
            "squad",
            "SQuAD 1.1",
            "span",
            None,
            ("exact_match", "f1"),
            ("question", "context"),
            dataset=SQUAD,
            config="plain_text",
            score_metrics=("f1",),
        ),
        # IMDb has no validation split: papers score its labelled test split.
        TaskSpec(
            "imdb",
            "IMDb",
            "classification",
            ("neg", "pos"),
            ACCURACY,
            ("text",),
            dataset=IMDB,
            config="plain_text",
            validation_splits=TEST,
        ),
        # Made from the corpus by derived.py: not GLUE, and never reported as such.
        TaskSpec(
            "acceptability",
            "Acceptability (derived)",
            "classification",
            ("corrupted", "acceptable"),
            ("mcc",),
            ONE,
            dataset=None,
        ),
        TaskSpec(
            "package", "Package (derived)", "classification", None, ACCURACY, ONE, dataset=None
        ),
        TaskSpec(
            "summary_match",
            "Summary match (derived)",
            "classification",
            ("other", "match"),
            ACCURACY_AND_F1,
            PAIR,
            dataset=None,
        ),
    )
}


def get_task(name: str, own: Mapping[str, OwnTask] | None = None) -> TaskSpec:
    """Return the task of this name, of the table or of the user's own.

    Raises:
        SettingsError: there is none; the message lists those there are.
    """
    own = own or {}
    if name in own:
        return _own_task(name, own[name])
    if name in TASKS:
        return TASKS[name]
    raise SettingsError(f"there is no task '{name}'; there are: {', '.join([*TASKS, *own])}")


def _own_task(name: str, settings: OwnTask) -> TaskSpec:
    return TaskSpec(
        name,
        f"{name} (own)",
        "classification" if settings.labels else "regression",
        tuple(settings.labels) if settings.labels else None,
        tuple(settings.metrics),
        tuple(settings.texts),
        dataset=None,
        is_own=True,
    )


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


def split_metrics(metrics: Sequence[str], split: str) -> Sequence[str]:
    """Return the metrics that a split is scored by, the task's: AX has one of its own."""
    return ("mcc",) if split == AX else metrics


def metric_key(metric: str, split: str, headline: str) -> str:
    """Return the key of a metric in reports: plain for the headline split, suffixed for others.

    MNLI has `accuracy` (matched) and `accuracy_mismatched`, and `mcc_ax` where AX is labelled.
    """
    return metric if split == headline else f"{metric}_{split.removeprefix('validation_')}"
