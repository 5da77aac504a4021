"""Settings of export, gate and registry: what a student must show, and where it is kept."""

from typing import Annotated, Literal

from pydantic import Field

from stages.params.base import EachOnce, Fraction, Name, Positive, Settings, Text


class Int8(Settings):
    """How ONNX INT8 is made; the defaults came out best where it was measured (docs/export.md)."""

    activations: Literal["dynamic", "calibrated"] = "dynamic"
    """Ranges of activations: measured as they come, or taken from calibration texts."""
    feed_forward_out: bool = True
    """False leaves the second map of every feed-forward block in fp32: half the error, and about
    a seventh slower."""
    calibration_rows: Positive = 32


class Export(Settings):
    """What is exported and how near it must stay to the PyTorch student."""

    students: Annotated[list[Name], EachOnce] = Field(min_length=1)
    """Students that are exported, gated and registered."""
    max_logit_difference: float = Field(default=1e-3, gt=0)
    """Largest allowed absolute difference of a logit between PyTorch and ONNX fp32."""
    min_int8_agreement: Fraction = 0.9
    """Smallest allowed share of tokens on which ONNX INT8 has PyTorch's first choice."""
    max_score_drop: float = Field(default=1.0, ge=0)
    """Points of a task's score that a fine-tuned model may lose from PyTorch to ONNX."""
    int8: Int8 = Int8()
    licence: Text | None = None
    """Under which the students are given on: an id of SPDX, for the model card; null says nothing.
    """


class Gate(Settings):
    """What a student must show before it may be promoted; every check is reported."""

    min_retention: Fraction
    """Mean over tasks of student score / teacher score. The paper's own student has 0.9686."""
    min_task_retention: Fraction
    max_parameter_fraction: Fraction
    min_speedup: float = Field(gt=0)
    """Teacher time / student time at the first batch size, measured side by side."""
    must_beat_baseline_on: Annotated[list[Literal["heldout_kl", "task_mean"]], EachOnce] = Field(
        default=["heldout_kl", "task_mean"]
    )
    """Where the student must be better than the baseline; the others are reported."""


class Registry(Settings):
    """Where runs and models are recorded."""

    experiment: Text = "distillation"
    model_name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    approval: bool = False
    """Promote only versions that somebody has approved, besides the gate."""
