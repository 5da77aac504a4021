"""The loss of a student that learns a task from a teacher that was fine-tuned on it.

PD (Turc et al. 2019) and TinyBERT's prediction phase have soft targets alone, BERT-PKD (Sun et al.
2019) labels, soft targets and patience, TinyBERT's intermediate phase attention and hidden states.
DistilBERT (D) has labels and soft targets of where an answer begins and where it ends.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.distillation.terms import LayerTerm
from stages.evaluation.classifier import logits_of
from stages.objectives.soft_targets import soft_target_kl, span_ce, span_kl
from stages.params import TaskPhase
from stages.students.heads import types_read
from stages.students.layout import with_layout
from stages.students.taps import Seen, Taps, watch
from stages.training.batches import Batch


class TaskDistillation(nn.Module):
    """A student's classifier and one phase's loss (`stages.training.steps.Objective`)."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        phase: TaskPhase,
        layer_terms: Sequence[LayerTerm],
        projections: nn.ModuleDict,
        *,
        kind: str,
    ) -> None:
        """Take both models, both with a head for the task; `kind` is the task's."""
        super().__init__()
        self.student, self.projections = student, projections
        # In a tuple it is no module of this one: nothing trains it, wraps it or saves it.
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.phase, self.kind, self.layer_terms = phase, kind, tuple(layer_terms)
        weights = {"labels": phase.labels, "soft_targets": phase.soft_targets}
        self.answer_terms = {name: weight for name, weight in weights.items() if weight > 0}
        self.terms = (*self.answer_terms, *(term.name for term in self.layer_terms))
        self.student_taps, self.teacher_taps = Taps(), Taps()
        for term in self.layer_terms:
            self.student_taps |= term.student_taps
            self.teacher_taps |= term.teacher_taps
        self.asks_teacher = bool(self.layer_terms) or "soft_targets" in self.answer_terms

    @property
    def reads_answers_alone(self) -> bool:
        """Whether a class or a number is all that is asked of the teacher: the same every epoch."""
        return self.asks_teacher and not self.layer_terms and self.kind != "span"

    def counts(self, batch: Batch) -> list[float]:
        """Return the number of examples, times classes where the reduction says so."""
        examples = len(batch["labels"])
        is_upstream = self.phase.reduction == "upstream" and self.kind == "classification"
        soft = examples * (self.student.config.num_labels if is_upstream else 1)
        of = {"labels": examples, "soft_targets": soft}
        counts = [of[name] for name in self.answer_terms]
        return [*counts, *(term.count(batch) for term in self.layer_terms)]

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch with its layout."""
        return with_layout(batch)

    def forward(self, batch: Batch, counts: list[float]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of a micro-batch, and each term's sum."""
        logits, mine = self._answer(self.student, batch, self.student_taps)
        taught, theirs = batch.get("taught"), Seen(None, {}, {})
        if self.asks_teacher and taught is None:
            with torch.no_grad():
                taught, theirs = self._answer(self._teacher[0], batch, self.teacher_taps)
        sums = {}
        if "labels" in self.answer_terms:
            sums["labels"] = self._with_labels(logits, batch)
        if "soft_targets" in self.answer_terms:
            assert taught is not None
            sums["soft_targets"] = self._with_teacher(logits, taught, batch)
        weights = [*self.answer_terms.values(), *(term.weight for term in self.layer_terms)]
        values = [*sums.values(), *(term.sum(mine, theirs, batch) for term in self.layer_terms)]
        total = logits.new_zeros(())
        for weight, value, count in zip(weights, values, counts, strict=True):
            total = total + weight / max(count, 1) * value
        return total, torch.stack([value.detach().float() for value in values])

    def _answer(self, model: PreTrainedModel, batch: Batch, taps: Taps) -> tuple[Tensor, Seen]:
        """Return logits, B x C or for spans B x S x 2, and what the taps ask for.

        In float32: what losses compare at a high temperature is less than bfloat16 rounds away.
        """
        if taps == Taps() and self.kind != "span":
            return logits_of(model, batch).float(), Seen(None, {}, {})
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        inputs |= types_read(model, batch["token_type_ids"])
        output, hidden, attention = watch(model, inputs, taps)
        if "start_logits" in output:
            logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
        else:
            logits = output.logits
        return logits.float(), Seen(None, hidden, attention)

    def _with_labels(self, logits: Tensor, batch: Batch) -> Tensor:
        labels, mask_BS = batch["labels"], batch["attention_mask"]
        if self.kind == "regression":
            return F.mse_loss(logits[:, 0], labels, reduction="sum")
        if self.kind == "span":
            begin_BS, end_BS = logits.masked_fill(mask_BS[:, :, None] == 0, -1e4).unbind(-1)
            return span_ce(begin_BS, end_BS, *labels.unbind(-1)).sum
        return F.cross_entropy(logits, labels, reduction="sum")

    def _with_teacher(self, logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
        temperature = self.phase.temperature
        if self.kind == "regression":
            return F.mse_loss(logits, taught, reduction="sum")
        if self.kind == "span":
            mine, theirs, mask_BS = logits.unbind(-1), taught.unbind(-1), batch["attention_mask"]
            return span_kl(mine[0], mine[1], theirs[0], theirs[1], temperature, mask_BS).sum
        return soft_target_kl(logits, taught, temperature).sum
