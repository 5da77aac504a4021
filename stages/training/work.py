"""Floating-point operations of a training step, by part.

2 x multiply-accumulates of the matrix products, as the published tables count; a backward pass is
twice its forward pass. Vocabulary-sized products count where they are formed: once forward and
twice backward for the student, once for the teacher.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stages.students.flops import encoder_gflops

if TYPE_CHECKING:
    from stages.params import Masking
    from stages.training.triple_loss import TripleLoss

OPTIMIZER_FLOPS = 14
"""Of AdamW, per parameter and step: two moments, their corrections, decay and the update."""


@dataclass(frozen=True, slots=True)
class Work:
    """Operations per token of training, by part."""

    teacher_forward: float
    student_forward: float
    student_backward: float
    heads: float
    """Both vocabulary heads, the student's with its gradients."""
    optimizer: float

    @property
    def total(self) -> float:
        """Return the sum of all parts."""
        return sum(asdict(self).values())


@dataclass(frozen=True, slots=True)
class Asked:
    """What a step asks of the models: which of them run, and at what share of the tokens."""

    teacher: bool
    teacher_head: float
    """Share of the tokens at which the teacher's logits are formed."""
    student_head: float
    teacher_layers: float = 1.0
    """Share of the layers that run; likewise of the student's."""
    student_layers: float = 1.0


def asked_by(
    triple: "TripleLoss | None",
    runs_teacher: bool,
    masking: "Masking",
    sampled_fraction: float = 0.0,
) -> Asked:
    """Return what a loss on logits and last hidden states asks for, if there is one."""
    if triple is None:
        return Asked(runs_teacher, 0.0, 0.0)
    soft = 0.0
    if "ce" in triple.weights:
        unmasked = {"all": 1.0, "masked": 0.0, "sampled": sampled_fraction}[triple.positions]
        soft = masking.fraction + (1 - masking.fraction) * unmasked
    hard = masking.fraction if "mlm" in triple.weights else 0.0
    return Asked(runs_teacher, soft, max(soft, hard))


def work_per_token(
    student: Any,
    teachers: Sequence[Any],
    asked: Asked,
    *,
    sequence_length: int,
    num_parameters: int,
    tokens_per_step: int,
) -> Work:
    """Return the operations of one step, divided by its tokens.

    Args:
        student: Its configuration.
        teachers: The teachers'; not looked at where nothing is asked of them. Only the first one
            runs where no soft targets are.
        asked: Of both.
        sequence_length: Tokens that attend to each other.
        num_parameters: Of what is trained.
        tokens_per_step: Over which the optimiser's work is spread.
    """
    forward = asked.student_layers * _encoder(student, sequence_length)
    heads = 3 * asked.student_head * _head(student)
    running = teachers if asked.teacher_head else teachers[:1] if asked.teacher else ()
    heads += asked.teacher_head * sum(_head(teacher) for teacher in running)
    return Work(
        teacher_forward=asked.teacher_layers
        * sum(_encoder(teacher, sequence_length) for teacher in running),
        student_forward=forward,
        student_backward=2 * forward,
        heads=heads,
        optimizer=OPTIMIZER_FLOPS * num_parameters / tokens_per_step,
    )


def _encoder(config: Any, sequence_length: int) -> float:
    return encoder_gflops(config, sequence_length) * 1e9 / sequence_length


def _head(config: Any) -> float:
    """Return the work of logits at one position: the transform, then every word."""
    width = config.hidden_size
    return 2 * (width**2 + width * config.vocab_size)
