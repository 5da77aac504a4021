"""A model with a task's head on it: its loss for the loop, and its predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from stages.evaluation.examples import Examples
from stages.students.heads import encode_batch, quiet_transformers, set_dropout
from stages.students.layout import with_layout
from stages.students.unpadding import MODEL_TYPES
from stages.training.batches import Batch

EVALUATION_BATCH = 64


def open_classifier(
    folder: Path, labels: list[str] | None, dropout: float, seed: int
) -> PreTrainedModel:
    """Return the encoder in a folder with a new head.

    Args:
        folder: A stock model folder.
        labels: Names in id order, kept in the model's config; None makes a regression of one.
        dropout: Everywhere in the model.
        seed: Of the head's weights.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config.num_labels = len(labels) if labels else 1
    # Without a word of it, transformers' pipeline would squeeze a number between 0 and 1.
    config.problem_type = None if labels else "regression"
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    return under_new_head(AutoModelForSequenceClassification, folder, config, dropout, seed)


def under_new_head(
    kind: Any, folder: Path, config: Any, dropout: float, seed: int
) -> PreTrainedModel:
    """Return the encoder in a folder as one of transformers' kinds of model, by a configuration."""
    quiet_transformers()
    set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = kind.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        return model


class TaskLoss(nn.Module):
    """Cross-entropy with labels, or squared error for a regression."""

    def __init__(self, model: PreTrainedModel, *, regression: bool) -> None:
        super().__init__()
        self.model, self.regression = model, regression
        self.terms: tuple[str, ...] = ("mse",) if regression else ("ce",)

    def counts(self, batch: Batch) -> list[float]:
        """Return the number of examples."""
        return [len(batch["labels"])]

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch with its layout."""
        return with_layout(batch)

    def forward(self, batch: Batch, counts: list[float]) -> tuple[Tensor, Tensor]:
        """Return the loss of a micro-batch as its share of the batch's mean, and its sum."""
        logits_BC = logits_of(self.model, batch).float()
        if self.regression:
            total = F.mse_loss(logits_BC[:, 0], batch["labels"], reduction="sum")
        else:
            total = F.cross_entropy(logits_BC, batch["labels"], reduction="sum")
        return total / counts[0], total.detach()[None]


def logits_of(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return a classifier's logits, B x C; padding is not computed where the model allows it."""
    kind = model.config.model_type
    logits_BC: Tensor
    if kind not in MODEL_TYPES:
        logits_BC = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits_BC
    hidden_BSD = encode_batch(model, batch)
    if kind == "roberta":
        logits_BC = model.classifier(hidden_BSD)
        return logits_BC
    if kind == "distilbert":
        pooled_BD = F.relu(model.pre_classifier(hidden_BSD[:, 0]))
    else:
        pooled_BD = model.base_model.pooler(hidden_BSD)
    logits_BC = model.classifier(model.dropout(pooled_BD))
    return logits_BC


@torch.inference_mode()
def logits_of_all(model: PreTrainedModel, examples: Examples) -> NDArray[np.float32]:
    """Return a classifier's logits for all examples in their order, N x C."""
    model.eval()
    order = np.argsort([len(ids) for ids in examples.ids])
    logits_NC = np.empty((len(examples), model.config.num_labels), dtype=np.float32)
    for start in range(0, len(order), EVALUATION_BATCH):
        indices = order[start : start + EVALUATION_BATCH]
        batch = {name: x.to(model.device) for name, x in examples.batch(indices).items()}
        logits_NC[indices] = logits_of(model, batch).float().cpu().numpy()
    return logits_NC


def predict(model: PreTrainedModel, examples: Examples, *, regression: bool) -> NDArray[Any]:
    """Return the label id or the number that a model gives each example, in their order."""
    logits_NC = logits_of_all(model, examples)
    answers = logits_NC[:, 0] if regression else logits_NC.argmax(axis=-1)
    return answers.astype(examples.labels.dtype)
