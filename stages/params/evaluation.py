"""Settings of fine-tuning and of the speed test."""

from typing import Annotated

from pydantic import Field

from stages.params.base import Fraction, Name, Positive, Settings


class FineTune(Settings):
    """How a model is fine-tuned on a task; the same for teacher and students."""

    num_epochs: float = Field(gt=0)
    batch_examples: Positive = 32
    learning_rate: float = Field(gt=0, le=1)
    warmup_fraction: Fraction = 0.1
    weight_decay: float = Field(default=0.01, ge=0)
    max_length: int = Field(default=128, ge=8, le=512)
    stride: Positive = 128
    """Of questions on texts: tokens from one window of a long text to the next."""
    dropout: Fraction = 0.1
    max_train_examples: Positive | None = None
    max_validation_examples: Positive | None = None


class SpeedTest(Settings):
    """How models are timed: interleaved in one process, batch 1 and a larger batch, on the CPU."""

    batch_sizes: list[Positive] = Field(min_length=1)
    sequence_length: int = Field(default=128, ge=8, le=512)
    num_rounds: Positive = 10


class Evaluation(Settings):
    """Which models are measured on which tasks, and how often."""

    students: list[Name] = Field(min_length=1)
    tasks: list[Name] = Field(min_length=1)
    task_root: str | None = None
    """A folder of GLUE's official TSV files, or of Parquet files; null reads the hub or hub_root.
    """
    predict_test: bool = False
    """Whether GLUE's unlabelled test splits are predicted too, for its server (docs/evaluation.md).
    """
    baseline: Name | None
    """The student trained without distillation that the others are compared with."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    finetune: FineTune
    speed: SpeedTest
