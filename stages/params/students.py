"""Settings of the students and of their distillation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.params.base import Fraction, Positive, Settings
from stages.params.training import Masking, Schedule


class Weights(Settings):
    """Weights of the triple loss; a term at 0 is not computed."""

    ce: float = Field(ge=0)
    mlm: float = Field(ge=0)
    cos: float = Field(ge=0)

    @model_validator(mode="after")
    def _some_loss(self) -> "Weights":
        if self.ce + self.mlm + self.cos == 0:
            raise ValueError("at least one of ce, mlm and cos must be greater than 0")
        return self


class Student(Settings):
    """A DistilBERT-shaped student: the teacher's width, some of its layers."""

    teacher_layers: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Zero-based layers of the teacher that become the student's; the paper's code takes
    [0, 2, 4, 7, 9, 11] of 12."""
    initialise: Literal["teacher", "random"] = "teacher"
    fold_token_type: bool = True
    """Add the teacher's token-type row 0 to the positions. Without it (as upstream) even a full
    copy of the teacher differs from it."""
    weights: Weights


class Distill(Settings):
    """What every student's distillation shares."""

    temperature: float = Field(gt=0, json_schema_extra={"paper": "2.0"})
    positions: Literal["all", "masked"] = "all"
    """Where soft targets are compared: every real token (the paper) or the masked ones."""
    dropout: Fraction = Field(default=0.1, json_schema_extra={"paper": "0.1"})
    masking: Masking = Masking()
    schedule: Schedule
    heldout_sequences: Positive = 128
    """Held-out sequences on which the divergence from the teacher is measured."""
