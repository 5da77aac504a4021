"""The published students and teachers as architectures, and the sizes they must have.

Parameters are counted as the papers do: encoder and embeddings, with the pooler where the published
model has one, without a masked-language-model head. FLOPs are those of one sequence of 128 tokens
(stages/students/flops.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, BertConfig, DistilBertConfig

from stages.params import Shape
from stages.students.families import relative_config
from stages.students.flops import encoder_gflops
from stages.students.heads import num_parameters
from stages.students.ib_bert import IBBertConfig
from stages.students.mobilebert import mobilebert_config

PARAMETER_TOLERANCE, MOBILEBERT_TOLERANCE, FLOP_TOLERANCE = 0.015, 0.03, 0.06


@dataclass(frozen=True, slots=True)
class PublishedSize:
    """One row of the published tables, and the architecture here that stands for it."""

    model: str
    config: Callable[[], Any]
    parameters_m: float
    """Published, in millions; written as printed."""
    gflops: float | None = None
    """Published; None where no paper gives it."""
    tolerance: float = PARAMETER_TOLERANCE
    note: str = ""


def _bert(num_layers: int, width: int, inner: int, num_heads: int) -> Callable[[], BertConfig]:
    shape = Shape(kind="bert", num_layers=num_layers, width=width, inner=inner, num_heads=num_heads)
    return lambda: relative_config(BertConfig(), shape)


SIZES = (
    PublishedSize("BERT-base", BertConfig, 109, 22.5),
    PublishedSize("BERT-large", _bert(24, 1024, 4096, 16), 334),
    PublishedSize("BERT-PKD 6, TinyBERT6", _bert(6, 768, 3072, 12), 67.0, 11.3),
    PublishedSize("DistilBERT", DistilBertConfig, 66, 11.3, note="no pooler"),
    PublishedSize("DistilBERT, 4 layers", lambda: DistilBertConfig(n_layers=4), 52.2, 7.6),
    PublishedSize("BERT-PKD 4", _bert(4, 768, 3072, 12), 52.2, 7.6),
    PublishedSize("BERT-PKD 3", _bert(3, 768, 3072, 12), 45.7, 5.7),
    PublishedSize("TinyBERT4", _bert(4, 312, 1200, 12), 14.5, 1.2),
    PublishedSize("BERT-small", _bert(4, 512, 2048, 8), 29.2, 3.4),
    PublishedSize("MobileBERT", lambda: mobilebert_config("base"), 25.3, 5.7, MOBILEBERT_TOLERANCE),
    PublishedSize(
        "MobileBERT-TINY", lambda: mobilebert_config("tiny"), 15.1, 3.1, MOBILEBERT_TOLERANCE
    ),
    PublishedSize("IB-BERT-large", IBBertConfig, 293, tolerance=MOBILEBERT_TOLERANCE),
    PublishedSize(
        "MiniLM, 6 layers of 384",
        _bert(6, 384, 1536, 12),
        22,
        tolerance=0.035,
        note="printed in whole millions",
    ),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What an architecture here has, beside what was published."""

    published: PublishedSize
    parameters_m: float
    gflops: float

    @property
    def parameter_error(self) -> float:
        """Relative difference from the published count."""
        return self.parameters_m / self.published.parameters_m - 1

    @property
    def flop_error(self) -> float | None:
        """Relative difference from the published FLOPs, where there are any."""
        return None if self.published.gflops is None else self.gflops / self.published.gflops - 1

    @property
    def holds(self) -> bool:
        """Whether both are within their tolerance."""
        within = abs(self.parameter_error) <= self.published.tolerance
        return within and abs(self.flop_error or 0.0) <= FLOP_TOLERANCE


def measure(row: PublishedSize) -> Measured:
    """Build the encoder of a row without its memory, and count."""
    config = row.config()
    with torch.device("meta"):
        # Without an activation MobileBERT's pooler has no parameters.
        parameters = num_parameters(AutoModel.from_config(config))
    return Measured(row, parameters / 1e6, encoder_gflops(config))
