"""A teacher, sequences and settings small enough to train in a second."""

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from stages.corpus.reading import Sequences, SpecialIds
from stages.params import Launch, Masking, Schedule, Weights
from stages.students.distilbert import build_student
from stages.training.batches import MaskedBatches
from stages.training.compiling import compile_layers
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.processes import Processes
from stages.training.triple_loss import TripleLoss

VOCABULARY = 61
SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
ALONE = Processes(0, 1, torch.device("cpu"))
TRIPLE = Weights(ce=5, mlm=2, cos=1)


def tiny_teacher(dropout: float = 0.1) -> BertForMaskedLM:
    torch.manual_seed(4)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=20,
            initializer_range=0.2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


def tiny_sequences(num: int = 40, length: int = 12) -> Sequences:
    """Rows [CLS] ... [SEP] of random tokens; the last row is half padding."""
    rows = np.random.default_rng(9).integers(5, VOCABULARY, size=(num, length)).astype(np.uint16)
    rows[:, 0], rows[:, -1] = SPECIAL.cls, SPECIAL.sep
    rows[-1, length // 2 - 1] = SPECIAL.sep
    rows[-1, length // 2 :] = SPECIAL.pad
    return Sequences(
        num_sequences=num,
        sequence_length=length,
        vocabulary_size=VOCABULARY,
        special=SPECIAL,
        token_counts=np.bincount(rows[rows != 0], minlength=VOCABULARY),
        continuations=np.zeros(VOCABULARY, dtype=np.bool_),
        digest="0" * 64,
        _pieces=(rows,),
        _starts=np.array([0]),
    )


def schedule(**changes: object) -> Schedule:
    settings = {
        "num_steps": 8,
        "batch_sequences": 8,
        "learning_rate": 0.01,
        "warmup_fraction": 0.25,
    }
    return Schedule.model_validate(settings | changes)


def launch(**changes: object) -> Launch:
    settings = {"micro_batch_sequences": 8, "checkpoint_every_seconds": 0}
    return Launch.model_validate(settings | changes)


def batches(
    batch_size: int = 8, seed: int = 3, sampled_fraction: float | None = None
) -> MaskedBatches:
    return MaskedBatches(tiny_sequences(), batch_size, seed, Masking(), sampled_fraction)


def triple_loss(
    weights: Weights = TRIPLE,
    dropout: float = 0.0,
    positions: str = "all",
    *,
    compiled: bool = False,
) -> TripleLoss:
    teacher = tiny_teacher()
    student = build_student(teacher, [0, 2], dropout=dropout)
    if compiled:
        compile_layers(student)
    frozen = FrozenTeacher(teacher, compiled=compiled)
    return TripleLoss(student, frozen, weights, temperature=2.0, positions=positions)
