"""A teacher that is asked and never changed, in as few operations as its precision allows."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import TrainingError
from stages.objectives.vocabulary_logits import Head
from stages.students.heads import MaskedLM, encode_batch, head_of
from stages.students.layout import layout_of
from stages.students.taps import Seen, Taps, look
from stages.training.batches import Batch
from stages.training.compiling import compile_layers


class FrozenTeacher:
    """A teacher that can only be read: in eval mode, without gradient, not part of what trains.

    It is no `nn.Module`, so that nothing that walks over a model's modules can put it back into
    training mode, wrap it for DDP, or save it with the student.
    """

    def __init__(
        self, model: MaskedLM, *others: MaskedLM, narrow: bool = False, compiled: bool = False
    ) -> None:
        """Take a model, and others whose soft targets are averaged with its own.

        A narrow teacher multiplies in bfloat16, whatever its student does. A compiled one has its
        layers compiled when they run first.
        """
        self.narrow, self.compiled = narrow, compiled
        self.models = [one.eval().requires_grad_(False) for one in (model, *others)]
        self._narrowed: list[MaskedLM] | None = None
        self._modules = [module for one in self.models for module in one.modules()]
        if compiled:
            compile_layers(*self.models)

    @property
    def configs(self) -> list[Any]:
        """The configurations of the model and of the others."""
        return [model.config for model in self.models]

    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        """Return the last hidden states, B x S x D."""
        with self._precision():
            return encode_batch(self._in_force()[0], batch)

    @torch.no_grad()
    def look(self, batch: Batch, taps: Taps, *, to_the_end: bool = True) -> Seen:
        """Return the last hidden states, and what taps ask for beside them."""
        inputs = batch["input_ids"], batch["attention_mask"]
        with self._precision():
            return look(
                self._in_force()[0],
                *inputs,
                taps,
                token_types_BS=batch.get("token_type_ids"),
                to_the_end=to_the_end,
                layout=layout_of(batch),
            )

    @torch.no_grad()
    def head(self, hidden_ND: Tensor) -> Head:
        """Return the teacher's head for some hidden states."""
        with self._precision():
            return self._head(self._in_force()[0], hidden_ND)

    @torch.no_grad()
    def other_heads(self, batch: Batch) -> list[Head]:
        """Return the heads of the others at the rows whose logits are needed."""
        with self._precision():
            return [
                self._head(other, encode_batch(other, batch).flatten(0, 1)[batch["rows"]])
                for other in self._in_force()[1:]
            ]

    def shares_weights_with(self, model: nn.Module) -> bool:
        """Say whether training a model would change this teacher."""
        mine = {id(parameter) for one in self.models for parameter in one.parameters()}
        return any(id(parameter) in mine for parameter in model.parameters())

    def _head(self, model: MaskedLM, hidden_ND: Tensor) -> Head:
        head = head_of(model, hidden_ND)
        # The features decide in what precision logits are formed (objectives/vocabulary.py).
        return head._replace(features_ND=head.features_ND.bfloat16()) if self.narrow else head

    def _precision(self) -> AbstractContextManager[object]:
        if not self.narrow:
            return nullcontext()
        return torch.autocast(self.models[0].device.type, dtype=torch.bfloat16)

    def _in_force(self) -> list[MaskedLM]:
        """Return the models as they are run: with narrow weights where products are narrow."""
        if any(module.training for module in self._modules):
            raise TrainingError("the teacher was put into training mode: its targets are random")
        if not torch.is_autocast_enabled(self.models[0].device.type):
            return self.models
        if self._narrowed is None:
            self._narrowed = [narrowed(model) for model in self.models]
            if self.compiled:
                compile_layers(*self._narrowed)
        return self._narrowed


def narrowed(model: MaskedLM) -> MaskedLM:
    """Return a frozen model's copy whose linear maps hold bfloat16; everything else is shared.

    Autocast keeps no narrow copy of weights without a gradient: it rounds all of them in every
    pass, each with a kernel that a GPU's host has to launch. Rounded once they give the same
    numbers to the bit. What has a row for each word stays wide: it is the losses that round it.
    """
    narrow = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Linear)
        for parameter in module.parameters()
        if model.config.vocab_size not in parameter.shape
    }
    known = {
        id(parameter): nn.Parameter(parameter.bfloat16(), requires_grad=False)
        if id(parameter) in narrow
        else parameter
        for parameter in model.parameters()
    }
    # What a deep copy takes for copied already, it does not copy.
    return copy.deepcopy(model, known)
