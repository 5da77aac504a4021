"""Settings of tasks: those of your own, and distillation on a task, with more of its text."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.params.base import Dropout, EachOnce, Fraction, Name, Positive, Settings, Text
from stages.params.objectives import Objectives

TASK_NAMES = (
    *("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"),
    *("squad", "imdb"),
    *("acceptability", "package", "summary_match"),
)
"""The tasks that need no description: those of stages/evaluation/tasks.py, which says what each is.
"""


class OwnTask(Settings):
    """A task of your own: train and validation files, TSV or Parquet, in a folder."""

    folder: Text
    """With train.tsv and validation.tsv, or the same as Parquet; columns `texts` and `label`."""
    texts: Annotated[list[Text], EachOnce] = Field(min_length=1, max_length=2)
    """The column that is read, or the two of a pair."""
    labels: list[str] | None = Field(min_length=2)
    """Names in id order; null where the answer is a number."""
    metrics: Annotated[list[Literal["accuracy", "f1", "mcc", "pearson", "spearman"]], EachOnce] = (
        Field(min_length=1)
    )
    """The task's score is 100 times their mean."""

    @model_validator(mode="after")
    def _metrics_fit(self) -> "OwnTask":
        if self.labels is None:
            fitting = {"pearson", "spearman"}
        else:
            # F1 is that of the second label.
            fitting = {"accuracy", "mcc"} | ({"f1"} if len(self.labels) == 2 else set())
            if len(set(self.labels)) < len(self.labels):
                raise ValueError(f"labels: {', '.join(self.labels)} has a name twice")
        for metric in self.metrics:
            if metric not in fitting:
                answers = "numbers" if self.labels is None else f"{len(self.labels)} labels"
                raise ValueError(
                    f"metrics names {metric}, which does not score {answers}; what does: "
                    f"{', '.join(sorted(fitting))}"
                )
        return self


class Augmentation(Settings):
    """TinyBERT's data augmentation: variants of the training text, words replaced."""

    glove: str
    """A text file of GloVe vectors: a word and its numbers a line."""
    num_variants: Positive = Field(default=20, json_schema_extra={"paper": "20; 10 to 30 in code"})
    """At most so many variants of every sentence (N_a)."""
    num_variants_by_task: dict[Name, Positive] = Field(default_factory=dict)
    """Where a task has another number, by its name: cola 30, mnli 10, ... in the released code."""
    num_candidates: Positive = Field(default=15, json_schema_extra={"paper": "15"})
    """Words that may stand for a word (K)."""
    probability: Fraction = Field(default=0.4, json_schema_extra={"paper": "0.4"})
    """Of replacing a word (p_t)."""

    def on(self, task: str) -> "Augmentation":
        """Return what is in force on a task."""
        num = self.num_variants_by_task.get(task, self.num_variants)
        return self.model_copy(update={"num_variants": num, "num_variants_by_task": {}})


class PhaseTuning(Settings):
    """What one task sets in place of a phase's settings; null leaves those."""

    num_epochs: float | None = Field(default=None, gt=0)
    batch_examples: Positive | None = None
    learning_rate: float | None = Field(default=None, gt=0, le=1)


class TaskPhase(Settings):
    """A stretch of distillation from a fine-tuned teacher on a task's examples."""

    name: Name
    labels: float = Field(default=0.0, ge=0)
    """Weight of the loss with the labels: 1 - alpha in BERT-PKD. PD and TinyBERT have none."""
    soft_targets: float = Field(default=0.0, ge=0)
    """Weight of the teacher's answers: T squared x KL of classes, squared error of numbers."""
    temperature: float = Field(default=1.0, gt=0)
    reduction: Literal["paper", "upstream"] = "paper"
    """`upstream` divides the loss of classes by their number too, as TinyBERT's and BERT-PKD's
    code does."""
    objectives: Objectives = Field(default_factory=list)
    """On hidden states and attention; those on the vocabulary have no place here."""
    num_epochs: float = Field(gt=0)
    learning_rate: float = Field(gt=0, le=1)
    warmup_fraction: Fraction = 0.1
    decay: Literal["linear", "constant"] = "linear"
    batch_examples: Positive = 32
    weight_decay: float = Field(default=0.01, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of training; the teacher's answers that are asked for once, and scores, are in float32."""
    by_task: dict[Name, PhaseTuning] = Field(default_factory=dict)
    """Small tasks need more epochs than large ones. How long texts may be is fine-tuning's to say,
    of every task as well: teacher and student read the same."""

    def on(self, task: str) -> "TaskPhase":
        """Return what is in force on a task."""
        own = self.by_task.get(task, PhaseTuning()).model_dump(exclude_none=True)
        return self.model_copy(update={"by_task": {}} | own)

    @model_validator(mode="after")
    def _has_a_loss(self) -> "TaskPhase":
        if not (self.labels or self.soft_targets or self.objectives):
            raise ValueError("give labels or soft_targets a weight, or name objectives")
        if not self.soft_targets and (self.temperature != 1 or self.reduction != "paper"):
            raise ValueError("temperature and reduction are of soft_targets, which has no weight")
        for objective in self.objectives:
            if objective.kind in ("soft_targets", "mlm", "mixed_labels", "cosine"):
                raise ValueError(f"objective {objective.kind} is for text, not for a task")
        return self


class TaskDistillation(Settings):
    """Distillation on tasks: PD, BERT-PKD, TinyBERT's second stage."""

    phases: list[TaskPhase] = Field(min_length=1)
    augmentation: Augmentation | None = None
    dropout: Dropout = 0.1

    def on(self, task: str) -> "TaskDistillation":
        """Return what is in force on a task."""
        phases = [phase.on(task) for phase in self.phases]
        augmentation = self.augmentation.on(task) if self.augmentation else None
        return self.model_copy(update={"phases": phases, "augmentation": augmentation})

    @property
    def named_tasks(self) -> set[str]:
        """The tasks that have settings of their own."""
        found = {task for phase in self.phases for task in phase.by_task}
        return found | set(self.augmentation.num_variants_by_task if self.augmentation else ())
