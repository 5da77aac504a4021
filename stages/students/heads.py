"""Masked language models as an encoder, features and a head, alike for every architecture.

The stock `forward` of a masked language model forms logits at every position. Objectives want the
features and the head's weights instead, and form logits only where and when they need them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import (
    BertForMaskedLM,
    DistilBertForMaskedLM,
    MobileBertForMaskedLM,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaForMaskedLM,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from stages.errors import TeacherError
from stages.objectives.vocabulary_logits import Head
from stages.students.ib_bert import IBBertForMaskedLM
from stages.students.layout import Layout, lay_out, layout_of
from stages.students.unpadding import can_unpad, encode_unpadded, use_own_attention

MaskedLM: TypeAlias = PreTrainedModel
"""A stock masked language model that `head_of` knows."""


def encode(
    model: MaskedLM,
    input_ids_BS: Tensor,
    attention_mask_BS: Tensor,
    *,
    token_types_BS: Tensor | None = None,
    layout: Layout | None = None,
) -> Tensor:
    """Return the last hidden states, B x S x D, without forming any logits.

    Padding is not computed where the model allows (`can_unpad`): its states are then 0, and every
    sequence has those it has alone.

    Args:
        model: With any head or none.
        input_ids_BS: Token ids.
        attention_mask_BS: 1 on real tokens.
        token_types_BS: 0 or 1; left out where the model has no such.
        layout: Of this batch, where it was found before.
    """
    base = model.base_model
    types = types_read(base, token_types_BS)
    mask_BS: Tensor | None = attention_mask_BS
    if can_unpad(base):
        use_own_attention(base)
        layout = layout or lay_out(attention_mask_BS)
        if not layout.is_whole:
            return encode_unpadded(base, input_ids_BS, layout, types.get("token_type_ids"))
        mask_BS = None
    hidden_BSD: Tensor = base(
        input_ids=input_ids_BS, attention_mask=mask_BS, **types
    ).last_hidden_state
    return hidden_BSD


def types_read(model: PreTrainedModel, token_types_BS: Tensor | None) -> dict[str, Tensor]:
    """Return token types as a model is given them: nothing where it has none."""
    has_types = getattr(model.config, "type_vocab_size", 0) > 1
    return {"token_type_ids": token_types_BS} if has_types and token_types_BS is not None else {}


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return a model's layers, from the first on; nothing inside them is looked at."""
    for module in model.modules():
        # What every encoder's layer in transformers is.
        layers = list(module) if isinstance(module, nn.ModuleList) else []
        if layers and isinstance(layers[0], GradientCheckpointingLayer):
            return layers
    return []


def encode_batch(model: MaskedLM, batch: dict[str, Tensor]) -> Tensor:
    """Return the last hidden states of a batch, with the token types and layout that it carries."""
    return encode(
        model,
        batch["input_ids"],
        batch["attention_mask"],
        token_types_BS=batch.get("token_type_ids"),
        layout=layout_of(batch),
    )


def head_of(model: MaskedLM, hidden_ND: Tensor) -> Head:
    """Return the model's head for some hidden states: transformed features, weight and bias."""
    if isinstance(model, BertForMaskedLM):
        predictions = model.cls.predictions
        decoder = predictions.decoder
        return Head(predictions.transform(hidden_ND), decoder.weight, decoder.bias)
    if isinstance(model, DistilBertForMaskedLM):
        features_ND = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden_ND)))
        return Head(features_ND, model.vocab_projector.weight, model.vocab_projector.bias)
    if isinstance(model, RobertaForMaskedLM):
        head = model.lm_head
        features_ND = head.layer_norm(gelu(head.dense(hidden_ND)))
        return Head(features_ND, head.decoder.weight, head.decoder.bias)
    if isinstance(model, ModernBertForMaskedLM):
        return Head(model.head(hidden_ND), model.decoder.weight, model.decoder.bias)
    if isinstance(model, MobileBertForMaskedLM | IBBertForMaskedLM):
        predictions = model.cls.predictions
        # Word embeddings narrower than the block, and beside them what they lack.
        weight_VD = torch.cat([predictions.decoder.weight, predictions.dense.weight.T], dim=1)
        return Head(predictions.transform(hidden_ND), weight_VD, predictions.decoder.bias)
    raise TeacherError(
        f"{type(model).__name__} has no masked-language-model head known here; known are those of "
        "BERT, DistilBERT, RoBERTa, ModernBERT and MobileBERT"
    )


@contextmanager
def embeddings_join_head(model: MaskedLM) -> Iterator[None]:
    """Have the gradient of tied word embeddings added to the head's, for forward passes in a block.

    Autograd would form one of the vocabulary's size, nearly all zeros, beside it. Only for losses
    that form the head's, which comes first in the backward pass, and on a CPU: a GPU would make
    the host wait.
    """
    embeddings, decoder = model.get_input_embeddings(), model.get_output_embeddings()
    tied = decoder is not None and decoder.weight is embeddings.weight
    joins = tied and embeddings.weight.device.type == "cpu"
    before, embeddings.sparse = embeddings.sparse, joins
    try:
        yield
    finally:
        embeddings.sparse = before


def set_dropout(config: Any, dropout: float) -> None:
    """Give a configuration one dropout rate everywhere, under whatever names it has for it."""
    for name in (
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "dropout",
        "attention_dropout",
        "seq_classif_dropout",
        "qa_dropout",
        "embedding_dropout",
        "mlp_dropout",
    ):
        if hasattr(config, name):
            setattr(config, name, dropout)


def quiet_transformers() -> None:
    """Keep transformers from telling what opening a model does anyway, and from drawing a bar."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def num_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
