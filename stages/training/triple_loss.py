"""The triple loss of DistilBERT as one module; with only `mlm`, masked language modelling.

`ce`: soft targets at a temperature. `mlm`: the masked tokens. `cos`: the direction of the last
hidden states. Weights 5, 2, 1 and temperature 2 are what the released model was trained with.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stages.errors import TrainingError
from stages.objectives.hidden_states import cosine
from stages.objectives.term import masked_positions
from stages.objectives.vocabulary import VocabularyLosses, vocabulary_losses
from stages.objectives.vocabulary_logits import Buffers, Head
from stages.students.heads import MaskedLM, embeddings_join_head, encode_batch, head_of
from stages.students.layout import with_layout
from stages.training.batches import Batch, with_rows
from stages.training.frozen_teacher import FrozenTeacher

if TYPE_CHECKING:
    from stages.params import Weights


class TripleLoss(nn.Module):
    """A student and its loss, as the loop wants it (`stages.training.steps.Objective`)."""

    def __init__(
        self,
        student: MaskedLM,
        teacher: FrozenTeacher | None,
        weights: "Weights",
        *,
        temperature: float = 1.0,
        positions: str = "all",
    ) -> None:
        super().__init__()
        if teacher is not None and teacher.shares_weights_with(student):
            raise TrainingError("student and teacher share weights: one of them needs a copy")
        self.student = student
        self.temperature, self.positions = temperature, positions
        given = {"ce": weights.ce, "mlm": weights.mlm, "cos": weights.cos}
        self.weights = {name: weight for name, weight in given.items() if weight > 0}
        self.terms = tuple(self.weights)
        # A teacher that no term asks is not run.
        self.teacher = None if self.terms == ("mlm",) else teacher
        assert self.teacher or self.terms == ("mlm",), "soft targets and cosine need a teacher"
        # The head of a student whose logits nobody reads has nothing to learn.
        self.reads_logits = self.terms != ("cos",)
        self.samples = "ce" in self.weights and positions == "sampled"
        self.memory = Buffers()

    def counts(self, batch: Batch) -> list[float]:
        """Return what each term sums over: real tokens, or masked ones."""
        real = int(batch["attention_mask"].sum())
        masked = int(masked_positions(batch["labels"]).sum())
        # Sampled positions stand for all of them, so that is what their sum is divided by.
        of = {"ce": masked if self.positions == "masked" else real, "mlm": masked, "cos": real}
        return [of[name] for name in self.terms]

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch with its layout and the rows whose logits are needed.

        Found while it is on the host.
        """
        batch = with_layout(batch)
        if not self.reads_logits:
            return batch
        # Where no soft targets are asked for, only masked positions need logits: 15 % of them.
        positions = self.positions if "ce" in self.weights else "masked"
        if positions == "all":
            return with_rows(batch, batch["attention_mask"].bool())
        if positions == "sampled":
            return with_rows(batch, batch["importance"] > 0, batch["importance"])
        return with_rows(batch, masked_positions(batch["labels"]))

    def forward(self, batch: Batch, counts: list[float]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of a micro-batch, and each term's sum."""
        with embeddings_join_head(self.student) if self.reads_logits else nullcontext():
            hidden_BSD = encode_batch(self.student, batch)
        taught_BSD = self.teacher.hidden(batch) if self.teacher is not None else None
        return self.of_states(hidden_BSD, taught_BSD, batch, counts)

    def of_states(
        self, hidden_BSD: Tensor, taught_BSD: Tensor | None, batch: Batch, counts: list[float]
    ) -> tuple[Tensor, Tensor]:
        """Return the same from the last hidden states of the student, and of a teacher asked."""
        count = {name: max(n, 1) for name, n in zip(self.terms, counts, strict=True)}
        total, sums = hidden_BSD.new_zeros((), dtype=torch.float32), dict[str, Tensor]()
        if self.reads_logits:
            losses = self._vocabulary(hidden_BSD, taught_BSD, batch, count)
            total, sums = losses.total, {"ce": losses.ce_sum, "mlm": losses.mlm_sum}
        if "cos" in self.weights:
            assert taught_BSD is not None
            sums["cos"] = cosine(hidden_BSD, taught_BSD, batch["attention_mask"]).sum
            total = total + self.weights["cos"] / count["cos"] * sums["cos"]
        return total, torch.stack([sums[name].detach().float() for name in self.terms])

    def _vocabulary(
        self, hidden_BSD: Tensor, taught_BSD: Tensor | None, batch: Batch, count: dict[str, float]
    ) -> VocabularyLosses:
        if "rows" not in batch:
            batch = self.prepare(batch)
        rows_N, labels_M = batch["rows"], batch["row_labels"]
        soft, others = None, list[Head]()
        if "ce" in self.weights:
            assert self.teacher is not None
            assert taught_BSD is not None
            soft = self.teacher.head(taught_BSD.flatten(0, 1).index_select(0, rows_N))
            others = self.teacher.other_heads(batch)
        return vocabulary_losses(
            head_of(self.student, hidden_BSD.flatten(0, 1).index_select(0, rows_N)),
            soft,
            labels_M if "mlm" in self.weights else labels_M[:0],
            temperature=self.temperature,
            ce_coefficient=self.weights.get("ce", 0.0) / count.get("ce", 1),
            mlm_coefficient=self.weights.get("mlm", 0.0) / count.get("mlm", 1),
            others=others,
            importance_N=batch.get("row_importance"),
            buffers=self.memory,
        )
