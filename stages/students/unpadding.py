"""Encode sequences of many lengths without computing padding, and without one seeing another.

The tokens of all sequences stand in one row, one sequence after the other. Positions begin anew at
each, and attention is computed inside each: sequences of one length together, so that nothing is
padded there either and the cost is never that of the whole row squared. The models are stock ones;
what they need is an attention function of their own, registered here.

Two obvious ways are wrong without a sign of it: position ids alone (attention crosses), and leaving
MobileBERT's embeddings as they are (they take in a token's neighbours). tests/test_unpadding.py
shows both failing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from stages.students.cpu_attention import attend_whole
from stages.students.layout import Layout
from stages.students.positions import first_position

ATTENTION = "within_sequences"
"""The attention function's name in transformers."""
MODEL_TYPES = {"bert", "distilbert", "mobilebert", "ib_bert", "roberta"}
"""Those whose attention is everyone's with everyone; ModernBERT's local layers are not."""


def can_unpad(base: PreTrainedModel) -> bool:
    """Return whether a model can be encoded so: of a known kind, with an attention of no other."""
    is_ours = base.config._attn_implementation in ("sdpa", ATTENTION)
    return is_ours and base.config.model_type in MODEL_TYPES


def use_own_attention(base: PreTrainedModel) -> None:
    """Leave the attention function of this module in place in a model that `can_unpad`."""
    if base.config._attn_implementation != ATTENTION:
        base.set_attn_implementation(ATTENTION)


def encode_unpadded(
    base: PreTrainedModel,
    input_ids_BS: Tensor,
    layout: Layout,
    token_types_BS: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states, B x S x D, each as if its sequence were alone; padding is 0.

    Args:
        base: A model without a head that uses the attention of this module.
        input_ids_BS: Token ids.
        layout: Of this batch.
        token_types_BS: For models that have token types.
    """
    positions_N = layout.positions_N + first_position(base.config)
    inputs = {"input_ids": input_ids_BS}
    if token_types_BS is not None:
        inputs["token_type_ids"] = token_types_BS
    inputs = {name: ids.flatten()[layout.places_N][None] for name, ids in inputs.items()}
    with _neighbours_in_the_sequence(base, layout):
        hidden_ND = base(
            **inputs, position_ids=positions_N[None], attention_mask=None, layout=layout
        ).last_hidden_state[0]
    batch, length = layout.shape
    hidden_BSD = hidden_ND.new_zeros(batch * length, hidden_ND.shape[1])
    return hidden_BSD.index_copy(0, layout.places_N, hidden_ND).view(batch, length, -1)


def attend_within_sequences(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend inside the sequences of a layout; without one, as transformers' own function.

    The signature and the shapes are transformers': 1 x H x N x d in, 1 x N x H x d out.
    """
    if layout is None and attention_mask is None and _is_cpus(query):
        whole = attend_whole(query, key, value, dropout=dropout, scaling=scaling)
        return whole.transpose(1, 2).contiguous(), None
    if layout is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    states = [states.transpose(1, 2)[0] for states in (query, key, value)]
    if not query.is_cuda:
        attended_NHd = _attend_by_length(states, layout, dropout, scaling)
    elif not dropout and query.dtype in (torch.bfloat16, torch.float16):
        attended_NHd = _attend_by_kernel(states, layout, scaling)
    else:
        attended_NHd = _attend_padded(states, layout, dropout, scaling)
    return attended_NHd[None], None


def _attend_by_length(
    states: list[Tensor], layout: Layout, dropout: float, scaling: float | None
) -> Tensor:
    """Sequences of one length together: nothing is copied or padded, in a call per length."""
    groups = layout.groups
    sizes = [count * length for count, length in groups]
    parts = zip(*(x.split(sizes) for x in states), strict=True)
    return torch.cat(
        [
            _attend(group, list(part), None, dropout, scaling)
            for group, part in zip(groups, parts, strict=True)
        ]
    )


def _attend_padded(
    states: list[Tensor], layout: Layout, dropout: float, scaling: float | None
) -> Tensor:
    """All sequences in one call, padded here only: for GPUs, where a call costs more than that."""
    lengths = layout.bounds.diff()
    shape = len(lengths), layout.shape[1]
    columns = torch.arange(shape[1], device=lengths.device)
    slots_N = layout.sequences_N * shape[1] + layout.positions_N
    padded = [
        x.new_zeros(shape[0] * shape[1], *x.shape[1:]).index_copy(0, slots_N, x) for x in states
    ]
    mask = (columns < lengths[:, None])[:, None, None]
    return _attend(shape, padded, mask, dropout, scaling)[slots_N]


def _attend(
    shape: tuple[int, int],
    states: list[Tensor],
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Attend inside so many sequences of so many tokens each, N x H x d in and out."""
    query, key, value = (x.unflatten(0, shape).transpose(1, 2) for x in states)
    if mask is None and _is_cpus(query):
        out = attend_whole(query, key, value, dropout=dropout, scaling=scaling)
    else:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
    return out.transpose(1, 2).flatten(0, 1)


def _is_cpus(states: Tensor) -> bool:
    """Return whether attention is ours to compute; in half precision PyTorch's softmax is wider."""
    return not states.is_cuda and states.dtype in (torch.float32, torch.float64)


def _attend_by_kernel(states: list[Tensor], layout: Layout, scaling: float | None) -> Tensor:
    """The flash kernel for rows of sequences: half precision on a GPU, and no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = states
    # How long a sequence may be, not is: that would have to be read from the GPU.
    most = layout.shape[1]
    out = varlen_attn(query, key, value, layout.bounds, layout.bounds, most, most, scale=scaling)
    assert isinstance(out, Tensor)
    return out


@contextmanager
def _neighbours_in_the_sequence(base: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """Keep MobileBERT's trigrams, the next, own and last token's embedding, inside sequences."""
    if not getattr(base.config, "trigram_input", False):
        yield
        return
    is_first = (layout.positions_N == 0)[None, :, None]
    is_last = is_first.roll(-1, dims=1)

    def cut(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        following, own, preceding = inputs[0].chunk(3, dim=-1)
        edges = following.masked_fill(is_last, 0), own, preceding.masked_fill(is_first, 0)
        return (torch.cat(edges, dim=-1),)

    hook = base.embeddings.embedding_transformation.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        hook.remove()


AttentionInterface.register(ATTENTION, attend_within_sequences)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
