"""Settings of the students and of their distillation."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from stages.params.base import Dropout, Positive, Settings
from stages.params.objectives import Cosine, MaskedTokens, ObjectiveSettings, Positions, SoftTargets
from stages.params.recipes import AtRandom, FromLayers, Initialise, Phase, Recipe, Shape
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
    """A DistilBERT student in short: the teacher's width, some of its layers, the triple loss."""

    teacher_layers: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Zero-based layers of the teacher that become the student's; the paper's code takes
    [0, 2, 4, 7, 9, 11] of 12."""
    initialise: Literal["teacher", "random"] = "teacher"
    fold_token_type: bool = True
    """Add the teacher's token-type row 0 to the positions. Without it (as upstream) even a full
    copy of the teacher differs from it."""
    weights: Weights

    def recipe(self) -> Recipe:
        """Return the same in full: one phase with the objectives whose weight is not 0."""
        start: Initialise = AtRandom(kind="random")
        if self.initialise == "teacher":
            start = FromLayers(
                kind="layers", layers=self.teacher_layers, fold_token_type=self.fold_token_type
            )
        objectives: list[ObjectiveSettings] = []
        if self.weights.ce:
            objectives.append(SoftTargets(kind="soft_targets", weight=self.weights.ce))
        if self.weights.mlm:
            objectives.append(MaskedTokens(kind="mlm", weight=self.weights.mlm))
        if self.weights.cos:
            objectives.append(Cosine(kind="cosine", weight=self.weights.cos))
        return Recipe(
            architecture=Shape(kind="distilbert", num_layers=len(self.teacher_layers)),
            initialise=start,
            phases=[Phase(name="distil", objectives=objectives)],
        )


def _form(value: Any) -> str:
    in_full = isinstance(value, Recipe) or (isinstance(value, dict) and "phases" in value)
    return "recipe" if in_full else "short"


AnyStudent = Annotated[
    Annotated[Student, Tag("short")] | Annotated[Recipe, Tag("recipe")], Discriminator(_form)
]
"""A student in short, or as a whole recipe: what has `phases` is one."""


class Distill(Settings):
    """What every student's distillation shares."""

    temperature: float = Field(gt=0, json_schema_extra={"paper": "2.0"})
    positions: Positions = "all"
    """Where soft targets are compared: every real token (the paper), the masked ones, or `sampled`:
    the masked ones and a random share of the rest, each counted for those it stands for."""
    sampled_fraction: float = Field(default=0.1, gt=0, le=1)
    """The share of unmasked tokens that `sampled` draws."""
    teacher_precision: Literal["schedule", "bfloat16"] = "schedule"
    """In what the teacher multiplies: as `schedule.precision` says, or in bfloat16 whatever that
    is. Faster with AMX, or AMD's AVX512-BF16; its targets differ by rounding."""
    dropout: Dropout = Field(default=0.1, json_schema_extra={"paper": "0.1"})
    masking: Masking = Masking()
    schedule: Schedule
    heldout_sequences: Positive
    """Held-out sequences, from all of that split, on which teacher and students are measured."""
