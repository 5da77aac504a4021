"""Work of an encoder, counted as the published tables count it.

2 x multiply-accumulates of the linear layers and of the two products of attention, for one
sequence; embedding look-ups, pooler, head and soft-max are left out.
"""

from typing import Any

PUBLISHED_LENGTH = 128
"""Tokens at which every published table counts its FLOPs."""


def encoder_gflops(config: Any, length: int = PUBLISHED_LENGTH) -> float:
    """Return the work of a forward pass over one sequence, in units of 10^9 operations.

    Args:
        config: Of any architecture that a student or teacher can have here.
        length: Tokens in the sequence.
    """
    weights, attended = _linear_weights(config)
    attention = 2 * length * attended
    layers = config.num_hidden_layers * (weights + attention)
    return 2 * length * (layers + _embedding_weights(config)) / 1e9


def _linear_weights(config: Any) -> tuple[int, int]:
    """Return the weights of one layer's linear maps, and the width over which it attends."""
    width = config.hidden_size
    if config.model_type in ("mobilebert", "ib_bert"):
        inner, narrow = config.intermediate_size, config.intra_bottleneck_size
        shared = config.key_query_shared_bottleneck and not config.use_bottleneck_attention
        # Into the bottleneck (once more for queries and keys where they share one) and out of it.
        bottlenecks = (2 + shared) * width * narrow
        from_bottleneck = narrow if shared or config.use_bottleneck_attention else width
        values = narrow if config.use_bottleneck_attention else width
        attention = narrow * (2 * from_bottleneck + values + narrow)
        feedforward = config.num_feedforward_networks * 2 * narrow * inner
        return bottlenecks + attention + feedforward, narrow
    if config.model_type == "modernbert":
        # Its feed-forward layer is gated: two maps in, one out.
        return 4 * width**2 + 3 * width * config.intermediate_size, width
    inner = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return 4 * width**2 + 2 * width * inner, width


def _embedding_weights(config: Any) -> int:
    """Return the weights of the linear map from embeddings to hidden states, where there is one."""
    if config.model_type not in ("mobilebert", "ib_bert"):
        return 0
    return (3 if config.trigram_input else 1) * config.embedding_size * config.hidden_size
