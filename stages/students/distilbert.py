"""A DistilBERT student made from a BERT teacher: its width, some of its layers.

Section 3 of Sanh et al. 2019 (arXiv 1910.01108): no token types, no pooler, layers taken from the
teacher. The released code drops the teacher's token-type embedding, which BERT adds to every token
before the first LayerNorm; folding row 0 of it into the positions makes a copy of all layers exact.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from stages.errors import TeacherError
from stages.students.heads import set_dropout

LAYER_KEYS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
"""A BERT layer's module names, and a DistilBERT layer's."""

HEAD_KEYS = {
    "bert.embeddings.word_embeddings.weight": "distilbert.embeddings.word_embeddings.weight",
    "bert.embeddings.LayerNorm.weight": "distilbert.embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.bias": "distilbert.embeddings.LayerNorm.bias",
    "cls.predictions.transform.dense.weight": "vocab_transform.weight",
    "cls.predictions.transform.dense.bias": "vocab_transform.bias",
    "cls.predictions.transform.LayerNorm.weight": "vocab_layer_norm.weight",
    "cls.predictions.transform.LayerNorm.bias": "vocab_layer_norm.bias",
    "cls.predictions.decoder.weight": "vocab_projector.weight",
    "cls.predictions.bias": "vocab_projector.bias",
}


def build_student(
    teacher: BertForMaskedLM,
    layers: Sequence[int],
    *,
    initialise: str = "teacher",
    fold_token_type: bool = True,
    dropout: float = 0.1,
    seed: int = 0,
) -> DistilBertForMaskedLM:
    """Return a student of `len(layers)` layers.

    Args:
        teacher: Any BERT masked language model.
        layers: Zero-based layers of the teacher, one for each of the student's.
        initialise: `teacher` copies weights; `random` only takes the shape.
        fold_token_type: Add the teacher's token-type row 0 to the student's positions.
        dropout: Of the student, everywhere.
        seed: Of whatever is drawn at random.

    Raises:
        TeacherError: the teacher computes something that DistilBERT cannot express.
    """
    config = teacher.config
    if config.layer_norm_eps != 1e-12 or config.hidden_act not in ("gelu", "relu"):
        raise TeacherError(
            f"DistilBERT computes with layer_norm_eps 1e-12 and gelu or relu; this teacher has "
            f"layer_norm_eps {config.layer_norm_eps} and {config.hidden_act}"
        )
    student_config = DistilBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        n_layers=len(layers),
        n_heads=config.num_attention_heads,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        activation=config.hidden_act,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )
    set_dropout(student_config, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = DistilBertForMaskedLM(student_config)
    if initialise == "teacher":
        state = _student_state(teacher.state_dict(), layers, fold=fold_token_type)
        student.load_state_dict(dict(state))
    return student


def _student_state(
    teacher: dict[str, Tensor], layers: Sequence[int], *, fold: bool
) -> Iterator[tuple[str, Tensor]]:
    for old, new in HEAD_KEYS.items():
        yield new, teacher[old]
    positions = teacher["bert.embeddings.position_embeddings.weight"]
    if fold:
        positions = positions + teacher["bert.embeddings.token_type_embeddings.weight"][0]
    yield "distilbert.embeddings.position_embeddings.weight", positions
    for index, layer in enumerate(layers):
        for old, new in LAYER_KEYS.items():
            for kind in ("weight", "bias"):
                yield (
                    f"distilbert.transformer.layer.{index}.{new}.{kind}",
                    teacher[f"bert.encoder.layer.{layer}.{old}.{kind}"],
                )
