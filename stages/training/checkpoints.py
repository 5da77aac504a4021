"""Checkpoints: weights, optimiser and a step number, whole or absent, verified when read.

Layout of a workspace: `step-00000120/{weights,optimizer}.safetensors` and `state.json`, which holds
the step, what was measured so far and the sha256 of both. Randomness needs no place here: it is a
function of (seed, step).
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stages.errors import DataError, TrainingError
from stages.files import atomic_output, read_json, sha256_of, write_json

CurveRow = dict[str, float]


@dataclass(slots=True)
class Progress:
    """How far training has come, and what it has cost."""

    step: int = 0
    seconds: float = 0.0
    curve: list[CurveRow] = field(default_factory=list)


def save_checkpoint(
    workspace: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    keep: int,
) -> Path:
    """Write a checkpoint and delete all but the newest `keep`."""
    folder = workspace / f"step-{progress.step:08d}"
    with atomic_output(folder) as target:
        target.mkdir()
        with disk_errors(target):
            save_file(_trained(model), target / "weights.safetensors")
            save_file(_optimizer_tensors(model, optimizer), target / "optimizer.safetensors")
        files = ("weights.safetensors", "optimizer.safetensors")
        write_json(
            target / "state.json",
            asdict(progress) | {"sha256": {name: sha256_of(target / name) for name in files}},
        )
    for old in _folders(workspace)[:-keep]:
        shutil.rmtree(old)
    return folder


def load_newest(
    workspace: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, list[str]]:
    """Load the newest checkpoint that is whole, if there is one.

    Returns:
        The progress to go on from (step 0 where there is nothing), and a sentence for each
        checkpoint that was damaged and passed over.
    """
    damaged = []
    for folder in reversed(_folders(workspace)):
        try:
            state = _verified_state(folder)
        except (DataError, OSError, KeyError) as error:
            damaged.append(f"passed over the damaged checkpoint {folder.name}: {error}")
            continue
        _restore(folder, model, optimizer)
        return Progress(**state), damaged
    return Progress(), damaged


def _verified_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = read_json(folder / "state.json")
    for name, expected in state.pop("sha256").items():
        if sha256_of(folder / name) != expected:
            raise DataError(f"{folder / name} does not have its sha256")
    return state


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what safetensors calls a full disk into the OSError that everything else calls it."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def _folders(workspace: Path) -> list[Path]:
    return sorted(workspace.glob("step-*"))


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}|{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights = load_file(folder / "weights.safetensors")
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if weights.keys() != parameters.keys():
        raise TrainingError(f"{folder} holds another model's weights; delete it to start anew")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in load_file(folder / "optimizer.safetensors").items():
        name, _, field = key.partition("|")
        # The step counter stays on the CPU, as the fused optimiser keeps it where it was made.
        device = parameters[name].device if value.ndim else value.device
        optimizer.state[parameters[name]][field] = value.to(device)
