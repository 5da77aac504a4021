"""Logits of some rows at a time, of a student, a teacher or the mean of several teachers."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows whose logits exist at one time: enough for the matrix products to run at full speed."""
ALIGNED_COLUMNS = 64
"""On a GPU a head's columns are padded to a multiple of this."""
NO_LOGIT = -1e30
"""What has no probability; finite, so that no difference of two is NaN."""


class Head(NamedTuple):
    """What turns features into logits: features_ND @ weight_VD.T + bias_V."""

    features_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor


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


def slices(num_rows: int, size: int) -> Iterator[slice]:
    """Yield slices of so many rows, of one size but for the last."""
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


class Logits:
    """One head's logits divided by the temperature, some rows at a time, in one buffer.

    They come without their bias, which is cheaper to add where they are in the cache. The kernel
    widens what it reads; PyTorch's operations must be given wide numbers.
    """

    def __init__(
        self, head: Head, name: str, *, temperature: float, buffers: Buffers, padded: bool
    ) -> None:
        dtype = head.features_ND.dtype
        # A softmax in half precision would drown the small probabilities soft targets are about.
        self.wide = torch.promote_types(dtype, torch.float32)
        # Dividing N x D features by the temperature is dividing N x V logits by it, but cheaper.
        self.cooled_ND = head.features_ND / temperature
        # Of BERT's 30,522 columns tensor cores would make a third of their speed.
        missing = -len(head.bias_V) % ALIGNED_COLUMNS if padded else 0
        self.weight_VD = head.weight_VD.to(dtype)
        self.cooled_bias_V = (head.bias_V / temperature).to(self.wide)
        # Padding by nothing would copy.
        if missing:
            self.weight_VD = pad(self.weight_VD, (0, 0, 0, missing))
            self.cooled_bias_V = pad(self.cooled_bias_V, (0, missing), value=NO_LOGIT)
        rows = min(CHUNK_ROWS[head.features_ND.device.type], len(head.features_ND))
        held = dtype if padded else self.wide
        self.buffer = buffers.get(name, rows, len(self.weight_VD), head.features_ND, held)

    def of(self, rows: slice) -> Tensor:
        """Return the cooled logits of some rows, less the bias; valid until the next call."""
        features = self.cooled_ND[rows]
        out = self.buffer[: len(features)]
        if out.dtype == features.dtype:
            return torch.mm(features, self.weight_VD.T, out=out)
        return out.copy_(torch.mm(features, self.weight_VD.T))


class Mixture:
    """Several heads as one: logits whose softmax is the mean of the heads' probabilities."""

    def __init__(self, members: Sequence[Logits]) -> None:
        first, *self.others = members
        self.first = first
        # Every member has added its own by then.
        self.cooled_bias_V = torch.zeros_like(first.cooled_bias_V)

    def of(self, rows: slice) -> Tensor:
        """Return the cooled logits of some rows; valid until the next call."""
        # Logarithms throughout: a probability that all members round to zero must not become -inf.
        mixed = _log_probabilities(self.first, rows)
        for other in self.others:
            torch.logaddexp(mixed, _log_probabilities(other, rows), out=mixed)
        # Not divided by their number: a constant, which the softmax takes out.
        return mixed


def _log_probabilities(member: Logits, rows: slice) -> Tensor:
    """Return the logarithms of one head's probabilities, in the place of its logits."""
    logits = member.of(rows).add_(member.cooled_bias_V)
    return logits.sub_(torch.logsumexp(logits, dim=-1, keepdim=True))


def taught_by(
    teachers: Sequence[Head], make: Callable[[Head, str], Logits]
) -> Logits | Mixture | None:
    """Return the logits that teach: one head's, the mean of several, or none."""
    if not teachers:
        return None
    # All but the first take turns in one buffer: what it held is in the mixture by then.
    names = ["teacher", *["member"] * (len(teachers) - 1)]
    members = [make(head, name) for head, name in zip(teachers, names, strict=True)]
    return Mixture(members) if len(members) > 1 else members[0]
