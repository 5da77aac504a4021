"""Settings of whatever is trained: schedule, masking, and how the machine is used."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.params.base import Fraction, Positive, Settings, Text

Beta = Annotated[float, Field(ge=0, lt=1)]


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
    betas: tuple[Beta, Beta] = (0.9, 0.98)
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

    fraction: float = Field(default=0.15, ge=0, lt=1)
    """0 leaves the text as it is, for objectives that restore nothing."""
    smoothing: float = Field(default=0.7, ge=0)
    """Power in count^-power: 0.7 favours rare tokens (DistilBERT), 0 is uniform (BERT)."""
    whole_words: bool = False
    """Mask all pieces of a word or none; a piece is then not told by the others."""


class Launch(Settings):
    """How the machine is used. Not tracked by DVC: one more GPU does not make another model."""

    num_processes: Positive = 1
    """Processes on this machine, one a GPU; torchrun starts them."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often torchrun starts the processes again, from the last checkpoint, when one dies."""
    command: Annotated[list[str], Field(min_length=1)] | None = None
    """What starts training instead of torchrun on this machine: its words, which are followed by
    the stage's module and arguments. [sbatch, --wait, launch/slurm.sh] trains on a cluster."""
    micro_batch_sequences: Positive
    """Sequences in one forward pass of one process; the rest of the batch is accumulated."""
    compile: bool = False
    """Whether encoder layers are compiled while a teacher adapts and students train. It pays on a
    GPU that the host keeps busy, with large micro-batches, and costs seconds at the start."""
    checkpoint_every_seconds: float = Field(default=60.0, ge=0)
    """How much work a kill may cost; 0 checkpoints after every step."""
    num_checkpoints: Positive = 2
    teacher_states_gigabytes: float | None = Field(default=None, gt=0)
    """How much disk the teacher's last hidden states may take, kept for the next student that sees
    the same batches; a run that needs more is refused. null asks the teacher at every step."""
    live_curve_after_seconds: float | None = Field(default=120.0, ge=0)
    """How long a student trains before its curve is written to MLflow as it grows: importing MLflow
    costs seconds that a short run does better without. null writes it at registration only."""
    dask_address: str | None = Field(default=None, pattern=r"^(tcp|tls|ucx|ws|wss)://.+$")
    """A Dask scheduler, such as tcp://10.0.0.1:8786, whose workers make the shards; null uses the
    cores of this machine."""
    parallel_stages: Positive = 2
    """Stages that the flow runs side by side."""
    machine_lock: Text | None = None
    """A file such as /var/lock/gpu. Flows of all checkouts that name it have their exclusive
    stages (training, timing) one after the other; null knows of this flow's stages only."""
