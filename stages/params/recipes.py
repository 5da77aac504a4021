"""Settings of a recipe: a student's architecture, its initialisation, and its phases."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.params.base import Dropout, Name, Positive, Settings
from stages.params.objectives import Objectives
from stages.params.training import Masking, Schedule


class Shape(Settings):
    """A stock encoder of some depth; what is left open is as in the teacher.

    Of a teacher of another kind the width alone, with a head for every 64 of it.
    """

    kind: Literal["bert", "roberta", "modernbert", "distilbert"]
    num_layers: Positive
    width: Positive | None = None
    inner: Positive | None = None
    """Width inside the feed-forward layers; null is the teacher's, or four times another width."""
    num_heads: Positive | None = None

    @model_validator(mode="after")
    def _distilbert_is_as_wide_as_its_teacher(self) -> "Shape":
        if self.kind == "distilbert" and (self.width or self.inner or self.num_heads):
            raise ValueError("a distilbert student has its teacher's width; use kind: bert")
        return self


class MobileBertShape(Settings):
    """MobileBERT: blocks with a bottleneck inside. Sizes left open are as published."""

    kind: Literal["mobilebert"]
    variant: Literal["base", "tiny"] = "base"
    num_layers: Positive = Field(default=24, json_schema_extra={"paper": "24"})
    width: Positive | None = None
    bottleneck: Positive | None = None
    inner: Positive | None = None
    embedding: Positive | None = None
    num_heads: Positive | None = None


class FromLayers(Settings):
    """Weights of some of the teacher's layers, of its embeddings and of its head."""

    kind: Literal["layers"]
    layers: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Zero-based layers of the teacher, one for each of the student's."""
    fold_token_type: bool = True
    """For DistilBERT, which has no token types: add the teacher's row 0 to the positions."""


class FromStudent(Settings):
    """Weights of the student that the recipe comes `after`."""

    kind: Literal["student"]
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Zero-based layers of that student, one for each of this one's; null takes all its weights as
    they are, which asks for the same architecture."""


class FromEmbeddings(Settings):
    """Embeddings and classifier of an IB-BERT teacher; the rest at random (MobileBERT)."""

    kind: Literal["embeddings"]


class AtRandom(Settings):
    """Every weight drawn at random."""

    kind: Literal["random"]


Initialise = Annotated[
    FromLayers | FromStudent | FromEmbeddings | AtRandom, Field(discriminator="kind")
]

TEACHER = "teacher"
"""What recipes call the model of the section of that name."""


BY_LAYER = ("hidden_states", "attention_scores", "feature_maps", "attention_maps")
"""Objectives that are a sum over layers, of which one can be had alone."""


class Phase(Settings):
    """A stretch of training with its own objectives and schedule."""

    name: Name
    objectives: Objectives = Field(min_length=1)
    schedule: Schedule | None = None
    """null takes distill.schedule."""
    masking: Masking | None = None
    """null takes distill.masking."""
    pairs: bool = False
    """Whether rows are read as `[CLS] A [SEP] B [SEP]` with token types, B from another row in half
    of them: the text that BERT, TinyBERT and MobileBERT were trained on."""
    progressive: bool = False
    """MobileBERT's progressive knowledge transfer: as many stages as the student has layers, in
    each the loss of one layer alone; those below learn at a tenth of the rate. Embeddings are held
    and have no loss."""

    @model_validator(mode="after")
    def _objectives_count_once(self) -> "Phase":
        kinds = [objective.kind for objective in self.objectives]
        if "mixed_labels" in kinds and {"soft_targets", "mlm"} & set(kinds):
            raise ValueError("objective mixed_labels: soft_targets and mlm are in it already")
        of_no_layer = [kind for kind in kinds if kind not in BY_LAYER]
        if self.progressive and of_no_layer:
            raise ValueError(
                f"objective {of_no_layer[0]}: a progressive phase teaches one layer after another, "
                f"by {', '.join(BY_LAYER)}"
            )
        return self

    def of_masked_tokens(self, positions: str) -> list[str]:
        """Return the kinds of objectives that masked tokens alone have.

        Args:
            positions: What holds for soft targets that name none.
        """
        return [
            objective.kind
            for objective in self.objectives
            if objective.kind in ("mlm", "mixed_labels")
            or (objective.kind == "soft_targets" and (objective.positions or positions) == "masked")
        ]


class Recipe(Settings):
    """How a student is made, as data."""

    architecture: Annotated[Shape | MobileBertShape, Field(discriminator="kind")]
    initialise: Initialise
    phases: list[Phase]
    """Empty leaves the student as it is initialised: the baseline that costs nothing."""
    taught_by: list[Name] = Field(default=[TEACHER], min_length=1)
    """`teacher`, names under `teacher.others`, and for a successor the student that it comes after.
    Soft targets of several are averaged; hidden states, attention and copied layers are the first
    one's."""
    dropout: Dropout | None = None
    """Of the student; null takes distill.dropout."""
    scale_steps: float = Field(default=1.0, gt=0)
    """Multiplies the number of steps of every phase: a published schedule, scaled down."""

    def recipe(self) -> "Recipe":
        """Return the recipe itself; a student in short returns what it stands for."""
        return self

    @model_validator(mode="after")
    def _phases_differ(self) -> "Recipe":
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"two phases have the same name: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _begins_with_what_fits_its_architecture(self) -> "Recipe":
        shape, start = self.architecture, self.initialise
        if start.kind == "embeddings" and shape.kind != "mobilebert":
            raise ValueError("initialise.kind = embeddings is for a mobilebert architecture")
        layers = start.layers if start.kind in ("layers", "student") else None
        if layers is not None and shape.kind == "mobilebert":
            raise ValueError("initialise.layers: layers of MobileBERT cannot be copied singly")
        if layers is not None and len(layers) != shape.num_layers:
            raise ValueError(
                f"initialise.layers names {len(layers)} layers, but the student has "
                f"{shape.num_layers}"
            )
        if start.kind == "layers" and not start.fold_token_type and shape.kind != "distilbert":
            raise ValueError(
                "initialise.fold_token_type = false is for a distilbert student: others keep the "
                "teacher's token types"
            )
        return self

    @model_validator(mode="after")
    def _others_teach_and_are_named_once(self) -> "Recipe":
        if len(set(self.taught_by)) < len(self.taught_by):
            raise ValueError(f"taught_by names one twice: {', '.join(self.taught_by)}")
        kinds = {objective.kind for phase in self.phases for objective in phase.objectives}
        if len(self.taught_by) > 1 and not kinds & {"soft_targets", "mixed_labels"}:
            raise ValueError(
                f"taught_by = {', '.join(self.taught_by)}: only soft_targets and mixed_labels are "
                "of more than the first, and no phase has them"
            )
        if self.initialise.kind == "student" and not isinstance(self, Successor):
            raise ValueError(
                "initialise.kind = student: one that begins from another student stands under "
                "successors, where `after` names it"
            )
        return self


class Successor(Recipe):
    """A student that begins from another student, or learns from it, or both.

    It stands in a section of its own because DVC must know which student to make first.
    """

    after: Name
    """A name under students or successors."""
