"""Settings of the objectives that a phase of a recipe can have: one class a published loss.

Layers are counted from one wherever they are named, and 0 is the embedding output. Where a paper
and its released code reduce a loss differently, `reduction` names which, and `weight` is to be read
with it.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stages.params.base import EachOnce, Fraction, Positive, Settings

Weight = Annotated[float, Field(gt=0)]
Positions = Literal["all", "masked", "sampled"]
Layer = Annotated[int, Field(ge=0)]
LayerPairs = Annotated[list[tuple[Layer, Layer]], Field(min_length=1), EachOnce]
"""Pairs of a student's layer and the teacher's layer that it learns from."""


class SoftTargets(Settings):
    """KL to the teacher's distribution over the vocabulary, times T squared (DistilBERT's `ce`)."""

    kind: Literal["soft_targets"]
    weight: Weight = 1.0
    temperature: float | None = Field(default=None, gt=0)
    """null takes distill.temperature."""
    positions: Positions | None = None
    """null takes distill.positions."""


class MaskedTokens(Settings):
    """Masked language modelling: cross-entropy with the tokens that were there."""

    kind: Literal["mlm"]
    weight: Weight = 1.0


class MixedLabels(Settings):
    """MobileBERT's pre-training distillation: at masked positions, part label and part teacher."""

    kind: Literal["mixed_labels"]
    weight: Weight = 1.0
    hard_share: Fraction = Field(default=0.5, json_schema_extra={"paper": "0.5"})
    """The label's part of the target; the rest is the teacher's distribution at T = 1."""


class Cosine(Settings):
    """1 - cosine of the last hidden states; the widths must be equal (DistilBERT's `cos`)."""

    kind: Literal["cosine"]
    weight: Weight = 1.0


class HiddenStates(Settings):
    """TinyBERT's squared error of embeddings and hidden states, through learnt projections."""

    kind: Literal["hidden_states"]
    weight: Weight = 1.0
    layers: LayerPairs | None = None
    """null matches the embeddings and every layer of the student, evenly over the teacher's."""
    projection: Literal["shared", "per_kind", "per_layer", "none"] = "shared"
    """One for all (the released code), one for embeddings and one for layers (the paper), one a
    layer, or none, which asks for equal widths. Dropped when the student is saved."""
    reduction: Literal["clean", "upstream"] = "clean"
    """`upstream` counts padding as the released code does."""


class AttentionScores(Settings):
    """TinyBERT's squared error of attention scores before the softmax, summed over layers."""

    kind: Literal["attention_scores"]
    weight: Weight = 1.0
    layers: LayerPairs | None = None
    """null matches every layer of the student, evenly over the teacher's."""
    reduction: Literal["clean", "upstream"] = "clean"
    """`clean` averages over real query and key pairs; `upstream` lets padded queries in and
    averages over everything, so that the value depends on how far a batch is padded."""


class FeatureMaps(Settings):
    """MobileBERT's feature-map transfer: squared error of block outputs, averaged over layers.

    Both are normalised first, without parameters.
    """

    kind: Literal["feature_maps"]
    weight: Weight = Field(default=100.0, json_schema_extra={"paper": "100, in the released code"})
    layers: LayerPairs | None = None
    projection: Literal["shared", "per_layer", "none"] = "none"
    """For teachers whose blocks are not as wide as the student's."""
    reduction: Literal["clean", "upstream"] = "clean"


class AttentionMaps(Settings):
    """MobileBERT's attention transfer: divergence of attention, averaged over heads and layers."""

    kind: Literal["attention_maps"]
    weight: Weight = 1.0
    layers: LayerPairs | None = None
    reduction: Literal["paper", "upstream"] = "paper"
    """`paper` is KL over real queries; `upstream` the cross-entropy, larger by the teacher's
    entropy, with padded queries counted. The gradients differ by the padding alone."""


class Relations(Settings):
    """MiniLMv2's divergence of self-relations among queries, keys and values."""

    kind: Literal["relations"]
    weight: Weight = 1.0
    num_heads: Positive = Field(json_schema_extra={"paper": "48 for base, 64 for large teachers"})
    """Relation heads; must divide both widths."""
    teacher_layer: Positive | None = None
    """null takes the last; the paper takes 21 of 24 for a large teacher."""
    student_layer: Positive | None = None
    """null takes the last."""
    of: Annotated[list[Literal["queries", "keys", "values"]], EachOnce] = Field(
        default=["queries", "keys", "values"], min_length=1
    )
    reduction: Literal["paper", "per_token"] = "paper"
    """`paper` averages inside each sequence first; `per_token` weighs every real token alike."""


class Patience(Settings):
    """BERT-PKD's loss on the first token's states of intermediate layers."""

    kind: Literal["patience"]
    weight: Weight = Field(json_schema_extra={"paper": "10 to 1000"})
    """beta: means nothing without the reduction."""
    layers: Literal["skip", "last"] = "skip"
    """Every k-th layer of the teacher, or its last ones; the final layer is left out of both."""
    normalise: bool = True
    reduction: Literal["upstream", "paper"] = "upstream"
    """`upstream` averages over examples, layers and width, and its weights are of that form;
    `paper` sums over layers and width."""


ObjectiveSettings = Annotated[
    SoftTargets
    | MaskedTokens
    | MixedLabels
    | Cosine
    | HiddenStates
    | AttentionScores
    | FeatureMaps
    | AttentionMaps
    | Relations
    | Patience,
    Field(discriminator="kind"),
]


def _one_of_a_kind(objectives: list[ObjectiveSettings]) -> list[ObjectiveSettings]:
    kinds = [objective.kind for objective in objectives]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"objective {kind} is there twice: a phase has one of a kind")
    return objectives


Objectives = Annotated[list[ObjectiveSettings], AfterValidator(_one_of_a_kind)]
"""What a phase is trained on."""
