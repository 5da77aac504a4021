"""IB-BERT, the teacher of MobileBERT: blocks of 512 with an inverted bottleneck of 1024 inside.

Sun et al. 2020 (arXiv 2004.02984), section 3.2. transformers cannot express it: its MobileBERT
sizes queries and keys for a block that narrows, while here they read the 512 of the block itself.
Everything else is MobileBERT with LayerNorm, gelu and one feed-forward network. Neither weights nor
training of this teacher were ever released. Importing this module makes transformers' Auto classes
know it, in this process and nowhere else: a teacher is scored and timed, never exported.
"""

from typing import TYPE_CHECKING

from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    MobileBertConfig,
    MobileBertForMaskedLM,
    MobileBertForSequenceClassification,
    MobileBertModel,
)

if TYPE_CHECKING:
    from stages.params import IBBertTeacher


class IBBertConfig(MobileBertConfig):
    """The published IB-BERT_LARGE by default; a type of its own, so that nothing misreads it."""

    model_type = "ib_bert"

    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    intra_bottleneck_size: int = 1024
    key_query_shared_bottleneck: bool = False
    num_feedforward_networks: int = 1
    normalization_type: str = "layer_norm"
    classifier_activation: bool = False


def ib_bert_config(source: "IBBertTeacher", **more: int) -> IBBertConfig:
    """Return the configuration of a teacher in params.yaml; `more` is what that leaves open."""
    return IBBertConfig(
        num_hidden_layers=source.num_layers,
        hidden_size=source.width,
        intra_bottleneck_size=source.bottleneck,
        intermediate_size=source.inner,
        embedding_size=source.embedding,
        num_attention_heads=source.num_heads,
        **more,
    )


class IBBertModel(MobileBertModel):
    """IB-BERT's encoder."""

    config_class = IBBertConfig

    def __init__(self, config: IBBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        for layer in self.encoder.layer:
            attention = layer.attention.self
            for name in ("query", "key"):
                setattr(attention, name, nn.Linear(config.hidden_size, attention.all_head_size))
        # The replaced layers are drawn like all others, from the configuration's range.
        self.init_weights()


class IBBertForMaskedLM(MobileBertForMaskedLM):
    """IB-BERT with its masked-language-model head."""

    config_class = IBBertConfig

    def __init__(self, config: IBBertConfig) -> None:
        super().__init__(config)
        self.mobilebert = IBBertModel(config, add_pooling_layer=False)
        self.tie_weights()


class IBBertForSequenceClassification(MobileBertForSequenceClassification):
    """IB-BERT with a task's head, for its scores beside its students'."""

    config_class = IBBertConfig

    def __init__(self, config: IBBertConfig) -> None:
        super().__init__(config)
        self.mobilebert = IBBertModel(config)


AutoConfig.register(IBBertConfig.model_type, IBBertConfig)
AutoModel.register(IBBertConfig, IBBertModel)
AutoModelForMaskedLM.register(IBBertConfig, IBBertForMaskedLM)
AutoModelForSequenceClassification.register(IBBertConfig, IBBertForSequenceClassification)
