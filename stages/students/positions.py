"""Where a model's positions begin, and how many tokens it reads."""

from typing import Any


def first_position(config: Any) -> int:
    """Return the position of a text's first token: RoBERTa's begin after that of padding."""
    return int(config.pad_token_id) + 1 if config.model_type == "roberta" else 0


def num_positions(config: Any) -> int:
    """Return how many tokens a model of this configuration reads."""
    return int(config.max_position_embeddings) - first_position(config)
