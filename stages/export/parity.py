"""Does the exported model answer as the PyTorch one? Measured at many shapes, padding included."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch.nn.functional import kl_div
from tqdm import tqdm
from transformers import PreTrainedModel

from stages.corpus.reading import Sequences
from stages.errors import DistilleryError
from stages.export.graph import INPUTS, LOGITS, Feeds
from stages.params import Export

Logits = NDArray[np.float32]

ROWS_PER_BATCH = 4
NUM_ROWS = 32
MASK_EVERY = 7


class ParityError(DistilleryError):
    """An exported model does not answer as its PyTorch original does."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an exported model is from the original, over real tokens or whole texts."""

    max_logit_difference: float
    agreement: float | None
    """Share of tokens, or texts, with the same first choice; None where there is no choice."""
    divergence: float | None
    """Nats from the original's distribution, the mean over tokens or texts."""


def heldout_batches(heldout: Sequences) -> list[Feeds]:
    """Return held-out text in several shapes: whole rows, padded cuts, one token alone.

    Every seventh token is masked, because restoring masked tokens is what the model is for, and
    agreeing on a token that can be read is easy.
    """
    whole = masked_rows(heldout, NUM_ROWS)
    ids, real = whole[INPUTS[0]], whole[INPUTS[1]]
    batches = [
        feeds(ids[start : start + ROWS_PER_BATCH], real[start : start + ROWS_PER_BATCH])
        for start in range(0, len(ids), ROWS_PER_BATCH)
    ]
    batches += [feeds(ids[:1], real[:1]), feeds(ids[:1, :1], real[:1, :1])]
    # Three rows cut at 17, 9 and 3 tokens; the shorter ones are padded.
    width = min(17, ids.shape[1])
    cut = (np.arange(width) < np.array([[width], [9], [3]]))[: len(ids)]
    mask = real[:3, :width] * cut
    batches.append(feeds(np.where(mask == 1, ids[:3, :width], heldout.special.pad), mask))
    return batches


def masked_rows(split: Sequences, num_rows: int) -> Feeds:
    """Return some rows, spread over a split, with every seventh token masked."""
    rows = split.rows(split.spread(num_rows))
    real = rows != split.special.pad
    chosen = rows[:, MASK_EVERY // 2 :: MASK_EVERY]
    chosen[chosen != split.special.pad] = split.special.mask
    return feeds(rows, real)


def feeds(ids: NDArray[np.int64], mask: NDArray[np.generic]) -> Feeds:
    """Return a graph's two inputs."""
    return dict(zip(INPUTS, (ids, mask.astype(np.int64)), strict=True))


def measure(
    model: PreTrainedModel, exported: dict[str, Path], batches: Sequence[Feeds]
) -> dict[str, Parity]:
    """Return the parity of every exported file with the model, one batch in memory at a time."""
    model.eval()
    sessions = {name: open_session(path) for name, path in exported.items()}
    tallies = {name: Tally() for name in exported}
    for batch in tqdm(batches, desc="parity", unit="batch"):
        expected = torch_logits(model, batch)
        for name, session in sessions.items():
            tallies[name].add(expected, onnx_logits(session, batch))
    return {name: tally.parity() for name, tally in tallies.items()}


def torch_logits(model: PreTrainedModel, batch: Feeds) -> Logits:
    """Return PyTorch's logits, a row per real token, or per text where the model classifies."""
    with torch.inference_mode():
        inputs = {name: torch.from_numpy(values) for name, values in batch.items()}
        return _rows(model(**inputs).logits.numpy(), batch)


def onnx_logits(session: onnxruntime.InferenceSession, batch: Feeds) -> Logits:
    """Return a graph's logits in the same form."""
    return _rows(session.run([LOGITS], batch)[0], batch)


class Tally:
    """Counts how far logits are from those of the original."""

    def __init__(self) -> None:
        self.difference, self.nats, self.num_agreed, self.num_rows = 0.0, 0.0, 0, 0
        self.num_choices = 0

    def add(self, expected: Logits, found: Logits) -> None:
        """Count some rows."""
        # numpy's maximum keeps a NaN, Python's may not.
        self.difference = float(np.maximum(self.difference, np.abs(found - expected).max()))
        self.num_agreed += int((found.argmax(-1) == expected.argmax(-1)).sum())
        self.nats += _divergence(expected, found)
        self.num_rows += len(expected)
        self.num_choices = expected.shape[-1]

    def parity(self) -> Parity:
        """Return what was counted; a regression has one output and nothing to choose."""
        if self.num_choices == 1:
            return Parity(self.difference, None, None)
        return Parity(self.difference, self.num_agreed / self.num_rows, self.nats / self.num_rows)


def open_session(path: Path, num_threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU, where the reports' numbers are taken; 0 threads: all."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(parity: dict[str, Parity], settings: Export, report: Path) -> None:
    """Refuse an export that is not near enough to the original.

    Raises:
        ParityError: with one line per bound that does not hold.
    """
    faults = []
    difference = parity["fp32"].max_logit_difference
    # Written so that a NaN fails.
    if not difference <= settings.max_logit_difference:
        faults.append(
            f"model.onnx: a logit differs from PyTorch's by {difference:.3g}, and "
            f"export.max_logit_difference allows {settings.max_logit_difference:g}"
        )
    agreement = parity["int8"].agreement
    if agreement is not None and not agreement >= settings.min_int8_agreement:
        faults.append(
            f"model.int8.onnx: has PyTorch's first choice on {agreement:.2%} of tokens, and "
            f"export.min_int8_agreement wants {settings.min_int8_agreement:.2%}"
        )
    refuse(faults, report)


def refuse(faults: Sequence[str], report: Path) -> None:
    """Raise a ParityError of these faults, if there are any."""
    if faults:
        raise ParityError(
            "\n".join([*faults, f"nothing was exported; the numbers are in {report}"])
        )


def as_report(parity: Parity) -> dict[str, float | None]:
    """Return a parity as it stands in the report, where what is not finite is no number."""
    return {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in asdict(parity).items()
    }


def _rows(logits: Logits, batch: Feeds) -> Logits:
    return logits[batch[INPUTS[1]] == 1] if logits.ndim == 3 else logits


def _divergence(expected: Logits, found: Logits) -> float:
    """Return the nats of all rows together."""
    p, q = (torch.from_numpy(logits).log_softmax(-1) for logits in (expected, found))
    # Of equal distributions rounding leaves a little less than nothing.
    return max(float(kl_div(q, p, reduction="sum", log_target=True)), 0.0)
