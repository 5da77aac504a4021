"""A student and the objectives of one phase, as the loop wants them.

The vocabulary-sized losses and the cosine are those of the triple loss; what looks into the layers
comes beside them. Student and teacher run once, whatever the number of objectives.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.distillation.terms import LayerTerm
from stages.params import Cosine, MaskedTokens, MixedLabels, ObjectiveSettings, SoftTargets, Weights
from stages.students.heads import MaskedLM, embeddings_join_head
from stages.students.layout import layout_of
from stages.students.taps import Seen, Taps, layers_run, look
from stages.training.batches import Batch
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.teacher_states import TAUGHT, TeacherStates
from stages.training.triple_loss import TripleLoss
from stages.training.work import Asked, asked_by

if TYPE_CHECKING:
    from stages.params import Distill, Masking


class PhaseLoss(nn.Module):
    """The weighted sum of a phase's objectives (`stages.training.steps.Objective`)."""

    def __init__(
        self,
        student: MaskedLM,
        teacher: FrozenTeacher,
        triple: TripleLoss | None,
        layer_terms: Sequence[LayerTerm],
        projections: nn.ModuleDict,
    ) -> None:
        super().__init__()
        self.student, self.projections, self.triple = student, projections, triple
        self.layer_terms = tuple(layer_terms)
        self.student_taps = _all(term.student_taps for term in self.layer_terms)
        self.teacher_taps = _all(term.teacher_taps for term in self.layer_terms)
        self.asks_last_states = triple is not None and triple.teacher is not None
        # A teacher that no objective asks is not run.
        self.teacher = teacher if self.layer_terms or self.asks_last_states else None
        self.states: TeacherStates | None = None
        self.terms = (*(triple.terms if triple else ()), *(term.name for term in self.layer_terms))

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term."""
        weights = dict(self.triple.weights) if self.triple else {}
        return weights | {term.name: term.weight for term in self.layer_terms}

    @property
    def reads_last_states_alone(self) -> bool:
        """Whether the teacher's last hidden states are all that is asked of it."""
        return self.teacher is not None and self.teacher_taps == Taps()

    @property
    def samples(self) -> bool:
        """Whether batches must say where soft targets are compared."""
        return self.triple is not None and self.triple.samples

    def asked(self, masking: "Masking", sampled_fraction: float) -> Asked:
        """Return what a step asks of student and teacher, by how much text is masked."""
        asked = asked_by(self.triple, self.teacher is not None, masking, sampled_fraction)
        student = _share(self.student.config, self.student_taps, to_the_end=self.triple is not None)
        if self.teacher is None:
            return replace(asked, student_layers=student)
        config, to_the_end = self.teacher.configs[0], self.asks_last_states
        teacher = _share(config, self.teacher_taps, to_the_end=to_the_end)
        return replace(asked, student_layers=student, teacher_layers=teacher)

    def counts(self, batch: Batch) -> list[float]:
        """Return what each term sums over."""
        counts = self.triple.counts(batch) if self.triple else []
        return [*counts, *(term.count(batch) for term in self.layer_terms)]

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch with the rows whose logits are needed, where any are.

        Where the teacher's states are kept, with those that are known.
        """
        batch = self.triple.prepare(batch) if self.triple else batch
        return self.states.recall(batch) if self.states else batch

    def forward(self, batch: Batch, counts: list[float]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of a micro-batch, and each term's sum."""
        inputs = batch["input_ids"], batch["attention_mask"]
        # Layers above those that an objective reads are not run.
        joins = self.triple is not None and self.triple.reads_logits
        with embeddings_join_head(self.student) if joins else nullcontext():
            student = look(
                self.student,
                *inputs,
                self.student_taps,
                token_types_BS=batch.get("token_type_ids"),
                to_the_end=self.triple is not None,
                layout=layout_of(batch),
            )
        teacher = None
        if TAUGHT in batch:
            teacher = Seen(batch[TAUGHT], {}, {})
        elif self.teacher is not None:
            to_the_end = self.asks_last_states
            teacher = self.teacher.look(batch, self.teacher_taps, to_the_end=to_the_end)
            if self.states is not None and teacher.last_BSD is not None:
                self.states.keep(teacher.last_BSD)
        total, sums = torch.zeros((), device=inputs[0].device), []
        num_triple = len(self.terms) - len(self.layer_terms)
        if self.triple is not None:
            assert student.last_BSD is not None
            taught_BSD = teacher.last_BSD if teacher and self.triple.teacher else None
            total, triple_sums = self.triple.of_states(
                student.last_BSD, taught_BSD, batch, counts[:num_triple]
            )
            sums = list(triple_sums)
        for term, count in zip(self.layer_terms, counts[num_triple:], strict=True):
            assert teacher is not None
            term_sum = term.sum(student, teacher, batch)
            total = total + term.weight / max(count, 1) * term_sum
            sums.append(term_sum.detach().float())
        return total, torch.stack(sums)


def triple_of(
    objectives: Sequence[ObjectiveSettings],
    student: MaskedLM,
    teacher: FrozenTeacher,
    defaults: "Distill",
) -> TripleLoss | None:
    """Return the vocabulary-sized losses and the cosine among some objectives as one triple loss.

    MobileBERT's mixed labels are soft targets at T = 1 and labels, both at masked positions: the
    value is smaller by the entropy of the teacher's part, the gradient is the same.
    """
    weights = {"ce": 0.0, "mlm": 0.0, "cos": 0.0}
    temperature, positions = 1.0, "masked"
    for objective in objectives:
        if isinstance(objective, SoftTargets):
            weights["ce"] = objective.weight
            temperature = objective.temperature or defaults.temperature
            positions = objective.positions or defaults.positions
        elif isinstance(objective, MixedLabels):
            weights["ce"] = objective.weight * (1 - objective.hard_share)
            weights["mlm"] = objective.weight * objective.hard_share
        elif isinstance(objective, MaskedTokens):
            weights["mlm"] = objective.weight
        elif isinstance(objective, Cosine):
            weights["cos"] = objective.weight
    if not any(weights.values()):
        return None
    return TripleLoss(
        student, teacher, Weights(**weights), temperature=temperature, positions=positions
    )


def _share(config: Any, taps: Taps, *, to_the_end: bool) -> float:
    num_layers: int = config.num_hidden_layers
    return layers_run(taps, num_layers, to_the_end=to_the_end) / num_layers


def _all(taps: Iterable[Taps]) -> Taps:
    return reduce(or_, taps, Taps())
