"""The vocabulary-sized losses of a distillation step without vocabulary-sized tensors.

Soft targets and the masked-language-model loss share the student's logits, and logits are what a
step spends its memory on: 2,048 tokens of a 30,522-word vocabulary are 250 MB for one copy, and
the straightforward form keeps ten. Here both losses and their gradients are formed together. The
matrix products take CHUNK_ROWS rows at a time, in buffers that are used again; what lies between
two products takes BLOCK_ROWS of them, which stay in the cache from the first pass to the last.
What leaves the forward pass is the gradient of the features and of the head. Values equal the
textbook form (tests/test_vocabulary.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ROWS = 512
"""Rows whose logits exist at one time: enough for the matrix products to run at full speed."""
BLOCK_ROWS = 16
"""Rows between two products on a CPU: a few arrays of them, 2 MB each, stay near its cores."""


class Head(NamedTuple):
    """What turns features into logits: features_ND @ weight_VD.T + bias_V."""

    features_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor


@dataclass(frozen=True, slots=True)
class VocabularyLosses:
    """The weighted total, which carries the gradient, and the sums of its terms, which do not."""

    total: Tensor
    ce_sum: Tensor
    mlm_sum: Tensor


class Buffers:
    """Memory that calls use again; paging it in afresh each time costs more than the sums do."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def get(self, name: str, rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Return memory of this size, on the device of `like`; what it holds is undefined."""
        held = self._held.get(name)
        wanted = (columns, dtype, like.device)
        if held is None or len(held) < rows or (held.shape[1], held.dtype, held.device) != wanted:
            held = self._held[name] = torch.empty(rows, columns, dtype=dtype, device=like.device)
        return held[:rows]


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
    teachers = [] if teacher is None else [teacher, *others]
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
        _Terms(temperature, ce_coefficient, mlm_coefficient),
        buffers or Buffers(),
    )
    return VocabularyLosses(total, ce_sum, mlm_sum)


class _Terms(NamedTuple):
    temperature: float
    ce: float
    mlm: float


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
        terms: _Terms,
        buffers: Buffers,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Under autocast the features decide the precision; the casts below are then explicit.
        with torch.autocast(features_ND.device.type, enabled=False):
            student = _Logits(
                Head(features_ND, weight_VD, bias_V), terms.temperature, buffers, "student"
            )
            taught = _taught_by(teachers, terms.temperature, buffers)
            sums = _Sums(student, taught, labels_M, importance_N, terms, buffers)
            learns = any(ctx.needs_input_grad)
            grad_features, grad_weight = torch.zeros_like(features_ND), None
            # Without soft targets, rows without a label have nothing to say.
            num_rows = len(features_ND) if taught else len(labels_M)
            for rows in _slices(num_rows, CHUNK_ROWS):
                grad_logits = sums.add(rows, learns)
                if not learns:
                    continue
                narrow = grad_logits.to(features_ND.dtype)
                torch.mm(narrow, student.weight_VD, out=grad_features[rows])
                grad_weight = _accumulated(grad_weight, narrow.T, features_ND[rows], student.wide)
        if learns:
            if grad_weight is None:
                grad_weight = torch.zeros_like(weight_VD)
            # Not save_for_backward: autograd may then keep these very tensors as gradients.
            ctx.gradients = [
                grad_features,
                grad_weight.to(weight_VD.dtype),
                sums.grad_bias.to(bias_V.dtype),
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


def _slices(num_rows: int, size: int) -> Iterator[slice]:
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def _accumulated(
    total: Tensor | None, left_VN: Tensor, right_ND: Tensor, wide: torch.dtype
) -> Tensor:
    """Return `total + left @ right`, added in the wide type and in place where it can be."""
    if total is None:
        return torch.mm(left_VN, right_ND).to(wide)
    if left_VN.dtype == wide:
        return total.addmm_(left_VN, right_ND)
    return total.add_(torch.mm(left_VN, right_ND))


class _Logits:
    """One head's logits divided by the temperature, some rows at a time, in one buffer.

    They come without their bias, which is cheaper to add where they are in the cache.
    """

    def __init__(self, head: Head, temperature: float, buffers: Buffers, name: str) -> None:
        dtype = head.features_ND.dtype
        # A softmax in half precision would drown the small probabilities soft targets are about.
        self.wide = torch.promote_types(dtype, torch.float32)
        # Dividing N x D features by the temperature is dividing N x V logits by it, but cheaper.
        self.cooled_ND = head.features_ND / temperature
        self.weight_VD = head.weight_VD.to(dtype)
        self.cooled_bias_V = (head.bias_V / temperature).to(self.wide)
        rows = min(CHUNK_ROWS, len(head.features_ND))
        self.buffer = buffers.get(name, rows, len(self.weight_VD), head.features_ND, self.wide)

    def of(self, rows: slice) -> Tensor:
        """Return the cooled logits of some rows, less the bias; valid until the next call."""
        features = self.cooled_ND[rows]
        out = self.buffer[: len(features)]
        if self.wide == features.dtype:
            return torch.mm(features, self.weight_VD.T, out=out)
        return out.copy_(torch.mm(features, self.weight_VD.T))

    def biased(self, block: Tensor) -> Tensor:
        """Add the bias to some rows that `of` gave, in place."""
        return block.add_(self.cooled_bias_V)


class _Mixture:
    """Several heads as one: logits whose softmax is the mean of the heads' probabilities."""

    def __init__(self, members: Sequence[_Logits]) -> None:
        first, *self.others = members
        self.first = first

    def of(self, rows: slice) -> Tensor:
        """Return the cooled logits of some rows; valid until the next call."""
        # Logarithms throughout: a probability that all members round to zero must not become -inf.
        mixed = _log_softmax(self.first.biased(self.first.of(rows)))
        for other in self.others:
            torch.logaddexp(mixed, _log_softmax(other.biased(other.of(rows))), out=mixed)
        # Not divided by their number: a constant, which the softmax takes out.
        return mixed

    def biased(self, block: Tensor) -> Tensor:
        """Return some rows that `of` gave as they are: every member has added its own."""
        return block


def _log_softmax(logits: Tensor) -> Tensor:
    """Turn logits into the logarithms of their probabilities, in place."""
    return logits.sub_(torch.logsumexp(logits, dim=-1, keepdim=True))


def _taught_by(
    teachers: Sequence[Head], temperature: float, buffers: Buffers
) -> _Logits | _Mixture | None:
    if not teachers:
        return None
    # All but the first take turns in one buffer: what it held is in the mixture by then.
    names = ["teacher", *["member"] * (len(teachers) - 1)]
    members = [
        _Logits(head, temperature, buffers, name)
        for head, name in zip(teachers, names, strict=True)
    ]
    return _Mixture(members) if len(members) > 1 else members[0]


class _Sums:
    """Losses and the gradient of the logits between two matrix products, block by block."""

    def __init__(
        self,
        student: _Logits,
        teacher: _Logits | _Mixture | None,
        labels_M: Tensor,
        importance_N: Tensor | None,
        terms: _Terms,
        buffers: Buffers,
    ) -> None:
        self.student, self.teacher, self.terms = student, teacher, terms
        self.labels_M, self.importance_N = labels_M, importance_N
        like, wide = student.buffer, student.wide
        num_rows, num_columns = like.shape
        # A GPU has no cache worth staying in, and every call on it costs a launch.
        self.block_rows = min(BLOCK_ROWS if like.device.type == "cpu" else num_rows, num_rows)
        self.probabilities, self.targets, self.hard = (
            buffers.get(name, self.block_rows, num_columns, like, wide)
            for name in ("probabilities", "targets", "hard")
        )
        self.grad_bias = torch.zeros(num_columns, dtype=wide, device=like.device)
        self.ce = torch.zeros((), dtype=wide, device=like.device)
        self.mlm = torch.zeros_like(self.ce)

    def add(self, rows: slice, learns: bool) -> Tensor:
        """Add some rows' losses; return the gradient of their logits, in the logits' place."""
        student = self.student.of(rows)
        teacher = self.teacher.of(rows) if self.teacher else None
        for block in _slices(len(student), self.block_rows):
            cooled = self.student.biased(student[block])
            start = rows.start + block.start
            hard = self._labelled(cooled, self.labels_M[start : start + len(cooled)])
            if self.teacher is None or teacher is None:
                cooled.zero_()
            else:
                importance = self.importance_N
                if importance is not None:
                    importance = importance[start : start + len(cooled)]
                self._soft(cooled, self.teacher.biased(teacher[block]), importance)
            if learns:
                cooled[: len(hard)].add_(hard, alpha=self.terms.mlm)
                self.grad_bias += cooled.sum(dim=0)
        return student

    def _labelled(self, cooled: Tensor, labels: Tensor) -> Tensor:
        """Add the loss of the first rows, those with labels; return d(loss)/d(logits)."""
        if not len(labels):
            return self.hard[:0]
        logits = self.targets[: len(labels)]
        torch.mul(cooled[: len(labels)], self.terms.temperature, out=logits)
        probabilities, log_normaliser = _softmax(logits, self.hard)
        at_labels = labels[:, None]
        self.mlm += (log_normaliser - logits.gather(1, at_labels)[:, 0]).sum()
        return probabilities.scatter_add_(1, at_labels, probabilities.new_full(at_labels.shape, -1))

    def _soft(self, cooled: Tensor, taught: Tensor, importance: Tensor | None) -> None:
        """Add the divergence from the teacher; turn the student's logits into its gradient."""
        temperature = self.terms.temperature
        mine, log_normaliser = _softmax(cooled, self.probabilities)
        soft, taught_log_normaliser = _softmax(taught, self.targets)
        # KL = sum p_t (t - s) - (log Z_t - log Z_s), because the p_t sum to one.
        kl = taught.sub_(cooled).mul_(soft).sum(dim=-1)
        kl += log_normaliser - taught_log_normaliser
        # d(T^2 KL)/d(logits) = T (p_s - p_t)
        torch.sub(mine, soft, out=cooled)
        if importance is None:
            cooled.mul_(self.terms.ce * temperature)
        else:
            kl *= importance
            cooled.mul_(importance[:, None] * (self.terms.ce * temperature))
        self.ce += kl.sum() * temperature**2


def _softmax(cooled: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of some logits, in a buffer, and their log normaliser."""
    probabilities = torch.softmax(cooled, -1, out=buffer[: len(cooled)])
    # The largest logit minus the log of its own probability: no second pass over exponentials.
    return probabilities, cooled.amax(dim=-1) - probabilities.amax(dim=-1).log_()
