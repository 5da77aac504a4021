"""DistilBERT's training step as it is published, written the straightforward way.

All logits of both models are held, real positions are copied out with masked_select, every loss is
read by the host at every step, and AdamW is not fused (Sanh et al. 2019 and its released code).
It is the yardstick: same weights, same batches, same objective as the engine.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.params import Schedule, Weights
from stages.training.batches import Batch
from stages.training.optimisation import learning_rate


class PublishedStep:
    """A student, its teacher and its optimiser; each call trains on one batch."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        weights: Weights,
        schedule: Schedule,
        num_steps: int,
        temperature: float,
    ) -> None:
        self.student, self.teacher = student.train(), teacher.eval()
        self.weights, self.temperature = weights, temperature
        self.schedule, self.num_steps, self.step = schedule, num_steps, 0
        self.optimizer = torch.optim.AdamW(
            student.parameters(),
            lr=schedule.learning_rate,
            betas=schedule.betas,
            eps=schedule.epsilon,
            weight_decay=schedule.weight_decay,
            fused=False,
        )
        self.kl = nn.KLDivLoss(reduction="batchmean")
        self.cross_entropy = nn.CrossEntropyLoss(ignore_index=-100)
        self.cosine = nn.CosineEmbeddingLoss(reduction="mean")
        self.total = 0.0
        self.last: dict[str, float] = {}

    def __call__(self, batch: Batch) -> None:
        """Take one optimiser step."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        student = self.student(**inputs, output_hidden_states=True)
        with torch.no_grad():
            teacher = self.teacher(**inputs, output_hidden_states=True)
        real_BS1 = batch["attention_mask"].bool()[..., None]

        student_NV, teacher_NV = (selected(m.logits, real_BS1) for m in (student, teacher))
        ce = (
            self.kl(
                F.log_softmax(student_NV / self.temperature, dim=-1),
                F.softmax(teacher_NV / self.temperature, dim=-1),
            )
            * self.temperature**2
        )
        mlm = self.cross_entropy(student.logits.flatten(0, 1), batch["labels"].flatten())
        student_ND, teacher_ND = (
            selected(m.hidden_states[-1], real_BS1) for m in (student, teacher)
        )
        cos = self.cosine(student_ND, teacher_ND, student_ND.new_ones(len(student_ND)))
        loss = self.weights.ce * ce + self.weights.mlm * mlm + self.weights.cos * cos

        # Five reads a step, as published.
        self.total += loss.item()
        self.last = {"loss": loss.item(), "ce": ce.item(), "mlm": mlm.item(), "cos": cos.item()}
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.schedule.max_grad_norm)
        rate = learning_rate(self.schedule, self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1


def selected(states_BSX: Tensor, real_BS1: Tensor) -> Tensor:
    """Return the rows of real positions, N x X, by masked_select as published."""
    width = states_BSX.shape[-1]
    return states_BSX.masked_select(real_BS1.expand_as(states_BSX)).view(-1, width)
