"""A model that answers with a span of a text: its loss for the loop, and its answers."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForQuestionAnswering, PreTrainedModel

from stages.evaluation.classifier import under_new_head
from stages.evaluation.windows import Windows
from stages.students.heads import encode_batch
from stages.students.layout import with_layout
from stages.students.unpadding import MODEL_TYPES
from stages.training.batches import Batch

MAX_ANSWER_TOKENS = 30
"""As in BERT's run_squad."""
EVALUATION_BATCH = 32


def open_span_model(folder: Path, dropout: float, seed: int) -> PreTrainedModel:
    """Return the encoder in a folder with a new head for spans; `seed` is of the head's weights."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config.num_labels = 2
    return under_new_head(AutoModelForQuestionAnswering, folder, config, dropout, seed)


class SpanLoss(nn.Module):
    """The mean of two cross-entropies over a window's tokens: where the answer begins and ends."""

    terms: tuple[str, ...] = ("ce",)

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def counts(self, batch: Batch) -> list[float]:
        """Return the number of windows."""
        return [len(batch["labels"])]

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch with its layout."""
        return with_layout(batch)

    def forward(self, batch: Batch, counts: list[float]) -> tuple[Tensor, Tensor]:
        """Return the loss of a micro-batch as its share of the batch's mean, and its sum."""
        logits_BSC = span_logits(self.model, batch).float()
        total = F.cross_entropy(logits_BSC, batch["labels"], reduction="sum") / 2
        return total / counts[0], total.detach()[None]


def span_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return logits for the begin and the end of the answer, B x S x 2; -inf at padding."""
    if model.config.model_type in MODEL_TYPES:
        hidden_BSD = encode_batch(model, batch)
        if model.config.model_type == "distilbert":
            hidden_BSD = model.dropout(hidden_BSD)
        logits_BSC = model.qa_outputs(hidden_BSD)
    else:
        output = model(batch["input_ids"], attention_mask=batch["attention_mask"])
        logits_BSC = torch.stack([output.start_logits, output.end_logits], dim=-1)
    # What a batch is padded to must not change a window's loss.
    padding_BS1 = batch["attention_mask"][:, :, None] == 0
    return logits_BSC.masked_fill(padding_BS1, float("-inf"))


@torch.inference_mode()
def answer(model: PreTrainedModel, windows: Windows) -> list[str]:
    """Return a model's answer to every question: the best span of any of its windows."""
    model.eval()
    examples = windows.examples
    best = [(float("-inf"), "")] * len(windows.questions)
    order = np.argsort([len(ids) for ids in examples.ids])
    for start in range(0, len(order), EVALUATION_BATCH):
        indices = order[start : start + EVALUATION_BATCH]
        batch = {name: x.to(model.device) for name, x in examples.batch(indices).items()}
        logits_BSC = span_logits(model, batch).float().cpu().numpy()
        for logits_SC, index in zip(logits_BSC, indices, strict=True):
            part = windows.parts[index]
            inside = logits_SC[part.first : part.first + len(part.characters)]
            score, first, last = best_span(inside, part.is_best_view)
            if score > best[part.question][0]:
                text = windows.questions[part.question].context
                begin, end = part.characters[first, 0], part.characters[last, 1]
                best[part.question] = (score, text[begin:end])
    return [text for _, text in best]


def best_span(
    logits_NC: NDArray[np.float32], may_begin_N: NDArray[np.bool_]
) -> tuple[float, int, int]:
    """Return the best span of a part of a text: its score, its first and its last token.

    Every span of up to MAX_ANSWER_TOKENS is compared; the published scripts compare those of the
    20 best begins and ends. [CLS] and the question are not in the part: in SQuAD 1.1 every question
    has an answer.

    Args:
        logits_NC: for begin and end, at the part's tokens.
        may_begin_N: tokens that no other window shows in more context.
    """
    after = np.pad(logits_NC[:, 1], (0, MAX_ANSWER_TOKENS - 1), constant_values=-np.inf)
    ends_NL = np.lib.stride_tricks.sliding_window_view(after, MAX_ANSWER_TOKENS)
    begins_N = np.where(may_begin_N, logits_NC[:, 0], -np.inf)
    first, length = np.unravel_index((begins_N[:, None] + ends_NL).argmax(), ends_NL.shape)
    return float(begins_N[first] + ends_NL[first, length]), int(first), int(first + length)
