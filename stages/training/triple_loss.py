"""The triple loss of DistilBERT as one module; with only `mlm`, masked language modelling.

`ce`: soft targets at a temperature. `mlm`: the masked tokens. `cos`: the direction of the last
hidden states. Weights 5, 2, 1 and temperature 2 are what the released model was trained with.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.errors import TrainingError
from stages.objectives.hidden_states import cosine
from stages.objectives.term import masked_positions
from stages.objectives.vocabulary import vocabulary_losses
from stages.objectives.vocabulary_logits import Buffers, Head
from stages.students.heads import MaskedLM, embeddings_join_head, encode, head_of
from stages.students.taps import Seen, Taps, look
from stages.students.unpadding import layout_of, with_layout
from stages.training.batches import Batch, with_rows

if TYPE_CHECKING:
    from stages.params import Weights


class FrozenTeacher:
    """A teacher that can only be read: in eval mode, without gradient, not part of what trains.

    It is no `nn.Module`, so that nothing that walks over a model's modules can put it back into
    training mode, wrap it for DDP, or save it with the student.
    """

    def __init__(self, model: MaskedLM, *others: MaskedLM, narrow: bool = False) -> None:
        """Take a model, and others whose soft targets are averaged with its own.

        A narrow teacher multiplies in bfloat16, whatever its student does.
        """
        self.narrow = narrow
        self._model = model.eval().requires_grad_(False)
        self._others = [other.eval().requires_grad_(False) for other in others]

    @property
    def configs(self) -> list[Any]:
        """The configurations of the model and of the others."""
        return [model.config for model in self.models]

    @property
    def models(self) -> list[MaskedLM]:
        """The model and the others."""
        return [self._model, *self._others]

    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        """Return the last hidden states, B x S x D."""
        self._refuse_training_mode()
        with self._precision():
            return _encoded(self._model, batch)

    def shares_weights_with(self, model: nn.Module) -> bool:
        """Say whether training a model would change this teacher."""
        mine = {id(parameter) for one in self.models for parameter in one.parameters()}
        return any(id(parameter) in mine for parameter in model.parameters())

    def _refuse_training_mode(self) -> None:
        if any(module.training for model in self.models for module in model.modules()):
            raise TrainingError("the teacher was put into training mode: its targets are random")

    @torch.no_grad()
    def look(self, batch: Batch, taps: Taps, *, to_the_end: bool = True) -> Seen:
        """Return the last hidden states, and what taps ask for beside them."""
        self._refuse_training_mode()
        inputs = batch["input_ids"], batch["attention_mask"]
        with self._precision():
            return look(self._model, *inputs, taps, to_the_end=to_the_end, layout=layout_of(batch))

    @torch.no_grad()
    def head(self, hidden_ND: Tensor) -> Head:
        """Return the teacher's head for some hidden states."""
        with self._precision():
            return self._head(self._model, hidden_ND)

    @torch.no_grad()
    def other_heads(self, batch: Batch) -> list[Head]:
        """Return the heads of the others at the rows whose logits are needed."""
        with self._precision():
            return [
                self._head(other, _encoded(other, batch).flatten(0, 1)[batch["rows"]])
                for other in self._others
            ]

    def _head(self, model: MaskedLM, hidden_ND: Tensor) -> Head:
        head = head_of(model, hidden_ND)
        # The features decide in what precision logits are formed (objectives/vocabulary.py).
        return head._replace(features_ND=head.features_ND.bfloat16()) if self.narrow else head

    def _precision(self) -> AbstractContextManager[object]:
        if not self.narrow:
            return nullcontext()
        return torch.autocast(self._model.device.type, dtype=torch.bfloat16)


def _encoded(model: MaskedLM, batch: Batch) -> Tensor:
    return encode(model, batch["input_ids"], batch["attention_mask"], layout=layout_of(batch))


class TripleLoss(nn.Module):
    """A student and its loss, as the loop wants it (`stages.training.loop.Objective`)."""

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
        # Where no soft targets are asked for, only masked positions need logits: 15 % of them.
        positions = self.positions if "ce" in self.weights else "masked"
        if positions == "all":
            return with_rows(batch, batch["attention_mask"].bool())
        if positions == "sampled":
            return with_rows(batch, batch["importance"] > 0, batch["importance"])
        return with_rows(batch, masked_positions(batch["labels"]))

    def forward(self, batch: Batch, counts: list[float]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of a micro-batch, and each term's sum."""
        with embeddings_join_head(self.student):
            hidden_BSD = _encoded(self.student, batch)
        taught_BSD = self.teacher.hidden(batch) if self.teacher is not None else None
        return self.of_states(hidden_BSD, taught_BSD, batch, counts)

    def of_states(
        self, hidden_BSD: Tensor, taught_BSD: Tensor | None, batch: Batch, counts: list[float]
    ) -> tuple[Tensor, Tensor]:
        """Return the same from the last hidden states of the student, and of a teacher asked."""
        count = {name: max(n, 1) for name, n in zip(self.terms, counts, strict=True)}
        if "rows" not in batch:
            batch = self.prepare(batch)
        rows_N = batch["rows"]
        soft, others = None, list[Head]()
        if "ce" in self.weights:
            assert self.teacher is not None
            assert taught_BSD is not None
            soft = self.teacher.head(taught_BSD.flatten(0, 1).index_select(0, rows_N))
            others = self.teacher.other_heads(batch)
        losses = vocabulary_losses(
            head_of(self.student, hidden_BSD.flatten(0, 1).index_select(0, rows_N)),
            soft,
            batch["row_labels"],
            temperature=self.temperature,
            ce_coefficient=self.weights.get("ce", 0.0) / count.get("ce", 1),
            mlm_coefficient=self.weights.get("mlm", 0.0) / count.get("mlm", 1),
            others=others,
            importance_N=batch.get("row_importance"),
            buffers=self.memory,
        )
        total = losses.total
        sums = {"ce": losses.ce_sum, "mlm": losses.mlm_sum}
        if "cos" in self.weights:
            assert taught_BSD is not None
            sums["cos"] = cosine(hidden_BSD, taught_BSD, batch["attention_mask"]).sum
            total = total + self.weights["cos"] / count["cos"] * sums["cos"]
        return total, torch.stack([sums[name].detach().float() for name in self.terms])
