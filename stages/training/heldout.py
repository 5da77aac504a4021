"""How far a model is from its teacher, and from the text, on sequences it was never trained on."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stages.corpus.reading import open_split
from stages.objectives.hidden_states import cosine
from stages.objectives.term import masked_positions
from stages.objectives.vocabulary import vocabulary_losses
from stages.objectives.vocabulary_logits import Buffers
from stages.students.heads import MaskedLM, encode, head_of
from stages.training.batches import Batch, MaskedBatches, with_rows
from stages.training.frozen_teacher import FrozenTeacher

if TYPE_CHECKING:
    from stages.params import Masking

BATCH = 16
"""Sequences whose masks are drawn together. Not what the launch takes at a time, which must not
change a figure."""


def heldout_batches(shards: Path, seed: int, masking: "Masking", *, verify: bool) -> MaskedBatches:
    """Return the held-out part of some shards, for `measure_heldout`; hashed if to be verified."""
    return MaskedBatches(open_split(shards, "heldout", verify=verify), BATCH, seed, masking)


@torch.no_grad()
def measure_heldout(
    model: MaskedLM, teacher: FrozenTeacher | None, batches: Iterable[Batch]
) -> dict[str, float]:
    """Return means over all real tokens of `kl` (nats, T = 1) and `cos`, over masked ones of `mlm`.

    Without a teacher only `mlm` is measured, no `cos` where the widths differ, and no `mlm` where
    nothing is masked. The model is left in eval mode.
    """
    model.eval()
    sums = {"kl": 0.0, "mlm": 0.0, "cos": 0.0}
    num_real = num_masked = 0
    comparable = False
    buffers = Buffers()
    for given in batches:
        # Without a teacher to compare with, only labelled positions have anything to say.
        asked_BS = given["attention_mask"].bool() if teacher else masked_positions(given["labels"])
        batch = {name: x.to(model.device) for name, x in with_rows(given, asked_BS).items()}
        hidden_BSD = encode(model, batch["input_ids"], batch["attention_mask"])
        soft = None
        if teacher is not None:
            taught_BSD = teacher.hidden(batch)
            soft = teacher.head(taught_BSD.flatten(0, 1).index_select(0, batch["rows"]))
            comparable = taught_BSD.shape == hidden_BSD.shape
            if comparable:
                sums["cos"] += float(cosine(hidden_BSD, taught_BSD, batch["attention_mask"]).sum)
        losses = vocabulary_losses(
            head_of(model, hidden_BSD.flatten(0, 1).index_select(0, batch["rows"])),
            soft,
            batch["row_labels"],
            temperature=1.0,
            ce_coefficient=1.0,
            mlm_coefficient=1.0,
            buffers=buffers,
        )
        sums["kl"] += float(losses.ce_sum)
        sums["mlm"] += float(losses.mlm_sum)
        num_real += len(batch["rows"])
        num_masked += len(batch["row_labels"])
    means = {"mlm": sums["mlm"] / num_masked} if num_masked else {}
    if teacher is not None:
        names = ("kl", "cos") if comparable else ("kl",)
        means |= {name: sums[name] / num_real for name in names}
    return means
