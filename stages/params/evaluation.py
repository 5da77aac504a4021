"""Settings of fine-tuning and of the speed test."""

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.params.base import (
    Dropout,
    EachOnce,
    Fraction,
    Name,
    Positive,
    Seed,
    Settings,
    Text,
    raise_all,
)
from stages.params.tasks import TASK_NAMES, OwnTask, TaskDistillation

LearningRate = Annotated[float, Field(gt=0, le=1)]
Epochs = Annotated[float, Field(gt=0)]


class TaskTuning(Settings):
    """What one task sets in place of the settings of all; null leaves those."""

    num_epochs: Epochs | None = None
    batch_examples: Positive | None = None
    learning_rate: LearningRate | None = None
    max_length: int | None = Field(default=None, ge=8, le=512)
    max_train_examples: Positive | None = None
    max_validation_examples: Positive | None = None


class Grid(Settings):
    """Values to try, every combination with every seed; null keeps the one that is set."""

    num_epochs: list[Epochs] | None = Field(default=None, min_length=1)
    batch_examples: list[Positive] | None = Field(default=None, min_length=1)
    learning_rate: list[LearningRate] | None = Field(default=None, min_length=1)


class FineTune(Settings):
    """How a model is fine-tuned on a task; the same for teacher and students."""

    num_epochs: Epochs
    batch_examples: Positive = 32
    learning_rate: LearningRate
    warmup_fraction: Fraction = 0.1
    weight_decay: float = Field(default=0.01, ge=0)
    max_length: int = Field(default=128, ge=8, le=512)
    stride: Positive = 128
    """Of questions on texts: tokens from one window of a long text to the next."""
    dropout: Dropout = 0.1
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of training; scores are computed in float32."""
    max_train_examples: Positive | None = None
    """A fixed random part of this size; null takes all."""
    max_validation_examples: Positive | None = None
    """The same of what scores are of: for trying out, since published scores are of all."""
    by_task: dict[Name, TaskTuning] = Field(default_factory=dict)
    """Small tasks need more epochs than large ones."""
    grid: Grid | None = None
    """The best median on validation is reported, as selected, with all that was tried."""

    def choices(self, task: str) -> list["FineTune"]:
        """Return what to try on a task: one setting, or the grid's; what the task sets stays."""
        own = self.by_task.get(task, TaskTuning()).model_dump(exclude_none=True)
        grid = self.grid.model_dump(exclude_none=True) if self.grid else {}
        grid = {name: values for name, values in grid.items() if name not in own}
        settled = {"by_task": {}, "grid": None} | own
        return [
            self.model_copy(update=settled | dict(zip(grid, values, strict=True)))
            for values in product(*grid.values())
        ]


class SpeedTest(Settings):
    """How models are timed: in turns in one process, on the CPU.

    The gate, the summary and the page's headline take the first batch size and the first length.
    """

    batch_sizes: list[Positive] = Field(min_length=1)
    """Rising: the first is what one waiting user sees."""
    sequence_lengths: Annotated[list[Annotated[int, Field(ge=8, le=512)]], EachOnce] = Field(
        default=[128], min_length=1
    )
    num_rounds: Positive = 10
    published_pass: bool = False
    """Whether one pass over STS-B's validation set is timed too, as in DistilBERT's paper."""

    @model_validator(mode="after")
    def _batches_rise(self) -> "SpeedTest":
        if self.batch_sizes != sorted(set(self.batch_sizes)):
            raise ValueError(
                f"batch_sizes = {self.batch_sizes}: must rise; of the first one is the speed-up "
                "that is judged and shown"
            )
        return self


class Evaluation(Settings):
    """Which models are measured on which tasks, and how often."""

    students: Annotated[list[Name], EachOnce] = Field(min_length=1)
    tasks: Annotated[list[Name], EachOnce] = Field(min_length=1)
    task_root: Text | None
    """A folder of GLUE's official TSV files, or of Parquet files; null reads the hub or hub_root.
    """
    own_tasks: dict[Name, OwnTask]
    """Tasks of your own, which `tasks` may name beside those of stages/evaluation/tasks.py."""
    predict_test: bool
    """Whether GLUE's unlabelled test splits are predicted too, for its server (docs/evaluation.md).
    """
    baseline: Name | None
    """The student trained without distillation that the others are compared with."""
    seeds: Annotated[list[Seed], EachOnce] = Field(min_length=1)
    finetune: FineTune
    task_distillation: dict[Name, TaskDistillation] = Field(default_factory=dict)
    """Recipes of `python -m stages.evaluation.distil_task` (docs/recipes.md), which no stage runs.
    """
    speed: SpeedTest

    @model_validator(mode="after")
    def _tasks_exist(self) -> "Evaluation":
        raise_all(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[str]:
        known = (*TASK_NAMES, *self.own_tasks)
        for name in self.own_tasks:
            if name in TASK_NAMES:
                yield f"own_tasks: '{name}' is a task already; give yours another name"
        for name in self.tasks:
            if name not in known:
                yield (
                    f"tasks names '{name}', and there is no such task; there are: "
                    f"{', '.join(known)}; one of your own stands under own_tasks"
                )
        for name in self.finetune.by_task:
            if name not in self.tasks:
                yield f"finetune.by_task names '{name}', which tasks leaves out"
        for recipe, settings in self.task_distillation.items():
            for name in sorted(settings.named_tasks - set(known)):
                yield (
                    f"task_distillation.{recipe} names '{name}', and there is no such task; there "
                    f"are: {', '.join(known)}"
                )
