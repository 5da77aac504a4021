"""Does the exported model answer as the PyTorch one? Measured on held-out text, at many shapes."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedModel

from stages.corpus.reading import Sequences
from stages.errors import DistilleryError
from stages.export.graph import INPUTS, OUTPUT
from stages.params import Export

Ids = NDArray[np.int64]
Batch = tuple[Ids, Ids]
"""input_ids and attention_mask, both batch x sequence."""

ROWS_PER_BATCH = 4
NUM_ROWS = 32
MASK_EVERY = 7


class ParityError(DistilleryError):
    """An exported model does not answer as its PyTorch original does."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an exported model is from the original, over real tokens only."""

    max_logit_difference: float
    agreement: float
    """Share of tokens with the same first choice."""


def heldout_batches(heldout: Sequences) -> list[Batch]:
    """Return held-out text in several shapes: whole rows, padded cuts, one token alone.

    Every seventh token is masked, because restoring masked tokens is what the model is for, and
    agreeing on a token that can be read is easy.
    """
    rows = heldout.rows(np.arange(min(NUM_ROWS, heldout.num_sequences)))
    real = rows != heldout.special.pad
    masked = np.where(real, rows, heldout.special.pad)
    chosen = masked[:, MASK_EVERY // 2 :: MASK_EVERY]
    chosen[chosen != heldout.special.pad] = heldout.special.mask
    batches = [
        (masked[start : start + ROWS_PER_BATCH], real[start : start + ROWS_PER_BATCH])
        for start in range(0, len(rows), ROWS_PER_BATCH)
    ]
    batches += [(masked[:1], real[:1]), (masked[:1, :1], real[:1, :1])]
    # Three rows cut at 17, 9 and 3 tokens; the shorter ones are padded.
    width = min(17, rows.shape[1])
    cut = (np.arange(width) < np.array([[width], [9], [3]]))[: len(rows)]
    short, mask = masked[:3, :width], real[:3, :width] & cut
    batches.append((np.where(mask, short, heldout.special.pad), mask))
    return [(ids.astype(np.int64), mask.astype(np.int64)) for ids, mask in batches]


def measure(
    model: PreTrainedModel, exported: dict[str, Path], batches: list[Batch]
) -> dict[str, Parity]:
    """Return the parity of every exported file with the model."""
    sessions = {name: open_session(path) for name, path in exported.items()}
    differences = dict.fromkeys(exported, 0.0)
    agreed, num_tokens = dict.fromkeys(exported, 0), 0
    model.eval()
    for ids, mask in tqdm(batches, desc="parity", unit="batch"):
        real = mask.astype(bool)
        expected = _torch_logits(model, ids, mask)[real]
        choice = expected.argmax(-1)
        num_tokens += len(choice)
        for name, session in sessions.items():
            inputs = dict(zip(INPUTS, (ids, mask), strict=True))
            found = session.run([OUTPUT], inputs)[0][real]
            difference = float(np.abs(found - expected).max())
            differences[name] = max(differences[name], difference)
            agreed[name] += int((found.argmax(-1) == choice).sum())
    return {name: Parity(differences[name], agreed[name] / num_tokens) for name in exported}


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU, where the reports' numbers are taken."""
    options = onnxruntime.SessionOptions()
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
    if not agreement >= settings.min_int8_agreement:
        faults.append(
            f"model.int8.onnx: has PyTorch's first choice on {agreement:.2%} of tokens, and "
            f"export.min_int8_agreement wants {settings.min_int8_agreement:.2%}"
        )
    if faults:
        raise ParityError(
            "\n".join([*faults, f"nothing was exported; the numbers are in {report}"])
        )


def as_report(parity: Parity) -> dict[str, float]:
    """Return a parity as it stands in the report."""
    return asdict(parity)


def _torch_logits(model: PreTrainedModel, ids: Ids, mask: Ids) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits = model(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
        ).logits
    return logits.numpy()
