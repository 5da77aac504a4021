"""MobileBERT and MobileBERT-TINY: deep, and thin inside every block.

Sun et al. 2020 (arXiv 2004.02984), table 1, as transformers' stock `MobileBertForMaskedLM`. Blocks
are 512 wide outside, as those of their IB-BERT teacher, so that feature maps compare without a
projection; a teacher of any other kind needs one.
"""

from typing import TYPE_CHECKING

import torch
from transformers import MobileBertConfig, MobileBertForMaskedLM, PreTrainedModel

from stages.errors import SettingsError
from stages.students.heads import set_dropout
from stages.students.ib_bert import IBBertForMaskedLM
from stages.students.positions import num_positions

if TYPE_CHECKING:
    from stages.params import MobileBertShape

VARIANTS = {
    "base": {},
    "tiny": {
        "num_feedforward_networks": 2,
        "use_bottleneck_attention": True,
        "key_query_shared_bottleneck": False,
    },
}
"""What differs from transformers' defaults, which are the published MobileBERT."""


def mobilebert_config(variant: str, **changes: object) -> MobileBertConfig:
    """Return the configuration of a published variant, with some sizes changed."""
    return MobileBertConfig(classifier_activation=False, **(VARIANTS[variant] | changes))


def build_mobilebert(
    teacher: PreTrainedModel,
    shape: "MobileBertShape",
    *,
    copy_embeddings: bool,
    dropout: float,
    seed: int,
) -> MobileBertForMaskedLM:
    """Return a MobileBERT student.

    Args:
        teacher: Gives the vocabulary and the number of positions.
        shape: Its variant and depth; sizes it leaves open are as published.
        copy_embeddings: Take embeddings and classifier from the teacher, which must be IB-BERT
            with the same widths, as the released code does.
        dropout: Everywhere; the published distillation has none.
        seed: Of what is drawn at random.

    Raises:
        SettingsError: these sizes, or this teacher's, do not fit.
    """
    given = {
        "hidden_size": shape.width,
        "intra_bottleneck_size": shape.bottleneck,
        "intermediate_size": shape.inner,
        "embedding_size": shape.embedding,
        "num_attention_heads": shape.num_heads,
    }
    config = mobilebert_config(
        shape.variant,
        num_hidden_layers=shape.num_layers,
        vocab_size=teacher.config.vocab_size,
        pad_token_id=teacher.config.pad_token_id,
        max_position_embeddings=num_positions(teacher.config),
        **{name: value for name, value in given.items() if value is not None},
    )
    if config.true_hidden_size % config.num_attention_heads:
        raise SettingsError(
            f"architecture: a bottleneck of {config.true_hidden_size} cannot be split into "
            f"{config.num_attention_heads} heads"
        )
    set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = MobileBertForMaskedLM(config)
    if copy_embeddings:
        _copy_embeddings(teacher, student)
    return student


def _copy_embeddings(teacher: PreTrainedModel, student: MobileBertForMaskedLM) -> None:
    widths = ("hidden_size", "embedding_size", "type_vocab_size")
    if not isinstance(teacher, IBBertForMaskedLM) or any(
        getattr(teacher.config, name) != getattr(student.config, name) for name in widths
    ):
        raise SettingsError(
            "initialise.kind = embeddings: a MobileBERT student can take embeddings and classifier "
            "from an IB-BERT teacher of its own width alone; initialise it at random"
        )
    # LayerNorm and NoNorm have the same two parameters: the student keeps the teacher's.
    student.mobilebert.embeddings.load_state_dict(teacher.mobilebert.embeddings.state_dict())
    student.cls.load_state_dict(teacher.cls.state_dict())
    student.tie_weights()
