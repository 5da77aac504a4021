"""The vocabulary-sized losses of a distillation step without vocabulary-sized tensors.

Soft targets and the masked-language-model loss share the student's logits, and logits are what a
step spends its memory on: 2,048 tokens of a 30,522-word vocabulary are 250 MB for one copy, and
the straightforward form keeps ten. Here both losses and their gradients are formed together. The
matrix products take CHUNK_ROWS rows at a time, in buffers that are used again
(vocabulary_logits.py). What lies between two products takes a few of these on a CPU, which stay in
the cache from the first pass to the last (vocabulary_sums.py), and is one kernel on a GPU
(vocabulary_kernel.py). What leaves the forward pass is the gradient of the features and of the
head. Values equal the textbook form (tests/test_vocabulary.py, tests/test_gpu.py).
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.objectives.vocabulary_logits import (
    CHUNK_ROWS,
    Buffers,
    Head,
    Logits,
    Mixture,
    slices,
    taught_by,
)
from stages.objectives.vocabulary_sums import Sums, Terms

if TYPE_CHECKING:
    from stages.objectives.vocabulary_kernel import FusedSums


@dataclass(frozen=True, slots=True)
class VocabularyLosses:
    """The weighted total, which carries the gradient, and the sums of its terms, which do not."""

    total: Tensor
    ce_sum: Tensor
    mlm_sum: Tensor


def vocabulary_losses(
    student: Head,
    teacher: Head | None,
    labels_M: Tensor,
    *,
    temperature: float,
    ce_coefficient: float,
    mlm_coefficient: float,
    others: Sequence[Head] = (),
    importance_N: Tensor | None = None,
    buffers: Buffers | None = None,
) -> VocabularyLosses:
    """Return `ce_coefficient * ce_sum + mlm_coefficient * mlm_sum` over N rows.

    `ce_sum` is T squared times KL(teacher || student) at the temperature, over every row; `mlm_sum`
    is the cross-entropy of the first M rows. The coefficients are the weights divided by the counts
    of the whole batch, over all micro-batches and processes: they must be known now, because the
    gradient is formed in the forward pass.

    Args:
        student: Its three tensors may require gradients; all three receive them.
        teacher: None leaves the soft targets out. Its vocabulary must be the student's.
        labels_M: Token ids of the rows that have one, M <= N: those rows come first.
        temperature: T > 0, of the soft targets only.
        ce_coefficient: Weight over count of the soft targets.
        mlm_coefficient: Weight over count of the masked-language-model loss.
        others: Further teachers; the soft targets are then the mean of all their probabilities.
        importance_N: What each row's soft targets count, where rows were sampled; None: 1.
        buffers: Kept by a caller that calls again.

    Raises:
        ValueError: teacher and student do not share a vocabulary.
    """
    student = _as_autocast_has_it(student)
    teachers = [] if teacher is None else [_as_autocast_has_it(t) for t in (teacher, *others)]
    for head in teachers:
        if head.weight_VD.shape[0] != student.weight_VD.shape[0]:
            raise ValueError(
                f"the teacher's vocabulary has {head.weight_VD.shape[0]} tokens, "
                f"the student's {student.weight_VD.shape[0]}: soft targets need the same one"
            )
    assert len(labels_M) <= len(student.features_ND), "more labels than rows"
    total, ce_sum, mlm_sum = _Losses.apply(
        *student,
        teachers,
        labels_M,
        importance_N,
        Terms(temperature, ce_coefficient, mlm_coefficient),
        buffers or Buffers(),
    )
    return VocabularyLosses(total, ce_sum, mlm_sum)


def _as_autocast_has_it(head: Head) -> Head:
    """Return a head whose features are narrow under autocast: its LayerNorm leaves them wide."""
    kind = head.features_ND.device.type
    if not torch.is_autocast_enabled(kind) or head.features_ND.dtype != torch.float32:
        return head
    return head._replace(features_ND=head.features_ND.to(torch.get_autocast_dtype(kind)))


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        teachers: list[Head],
        labels_M: Tensor,
        importance_N: Tensor | None,
        terms: Terms,
        buffers: Buffers,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Under autocast the features decide the precision; the casts below are then explicit.
        with torch.autocast(features_ND.device.type, enabled=False):
            fused = _can_fuse(features_ND, teachers)
            make = partial(Logits, temperature=terms.temperature, buffers=buffers, padded=fused)
            student = make(Head(features_ND, weight_VD, bias_V), "student")
            taught = taught_by(teachers, make)
            sums = _sums(student, taught, labels_M, importance_N, terms, fused=fused)
            learns = any(ctx.needs_input_grad)
            grad_features, grad_weight = torch.zeros_like(features_ND), None
            # Without soft targets, rows without a label have nothing to say.
            num_rows = len(features_ND) if taught else len(labels_M)
            for rows in slices(num_rows, CHUNK_ROWS[features_ND.device.type]):
                grad_logits = sums.add(rows, learns)
                if not learns:
                    continue
                narrow = grad_logits.to(features_ND.dtype)
                torch.mm(narrow, student.weight_VD, out=grad_features[rows])
                grad_weight = _accumulated(grad_weight, narrow.T, features_ND[rows], student.wide)
        if learns:
            if grad_weight is None:
                grad_weight = torch.zeros_like(weight_VD)
            grad_bias = sums.grad_bias
            # Not save_for_backward, and no view of all there is: autograd may then keep these very
            # tensors as gradients, and add to them in place.
            if len(grad_bias) > len(bias_V):
                grad_weight, grad_bias = grad_weight[: len(bias_V)], grad_bias[: len(bias_V)]
            ctx.gradients = [
                grad_features,
                grad_weight.to(weight_VD.dtype),
                grad_bias.to(bias_V.dtype),
            ]
        total = terms.ce * sums.ce + terms.mlm * sums.mlm
        ctx.mark_non_differentiable(sums.ce, sums.mlm)
        return total, sums.ce, sums.mlm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        # Reading a value from a GPU would make the host wait; there the product is cheap.
        if grad_total.device.type != "cpu" or grad_total.item() != 1.0:
            gradients = [gradient.mul_(grad_total) for gradient in gradients]
        return (*gradients, *([None] * 5))


def _can_fuse(features_ND: Tensor, teachers: Sequence[Head]) -> bool:
    """Return whether the kernel computes what lies between two products."""
    narrow_enough = features_ND.dtype in (torch.float32, torch.bfloat16)
    has_triton = importlib.util.find_spec("triton") is not None
    return features_ND.is_cuda and narrow_enough and len(teachers) < 2 and has_triton


def _sums(
    student: Logits,
    taught: Logits | Mixture | None,
    labels_M: Tensor,
    importance_N: Tensor | None,
    terms: Terms,
    *,
    fused: bool,
) -> "Sums | FusedSums":
    if not fused:
        return Sums(student, taught, labels_M, importance_N, terms)
    from stages.objectives.vocabulary_kernel import FusedSums

    assert not isinstance(taught, Mixture), "the kernel reads one teacher's logits"
    return FusedSums(student, taught, labels_M, importance_N, terms)


def _accumulated(
    total: Tensor | None, left_VN: Tensor, right_ND: Tensor, wide: torch.dtype
) -> Tensor:
    """Return `total + left @ right`, added in the wide type and in place where it can be."""
    widens = left_VN.is_cuda and left_VN.dtype != wide
    if total is None:
        if widens:
            return torch.mm(left_VN, right_ND, out_dtype=wide)
        return torch.mm(left_VN, right_ND).to(wide)
    if widens:
        return torch.addmm(total, left_VN, right_ND, out_dtype=wide, out=total)
    if left_VN.dtype == wide:
        return total.addmm_(left_VN, right_ND)
    return total.add_(torch.mm(left_VN, right_ND))
