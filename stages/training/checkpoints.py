"""Checkpoints: weights, optimiser and a step number, whole or absent, verified when read.

Layout of a workspace: `step-00000120/{weights,optimizer}.safetensors` and `state.json`, which holds
the step, what was measured so far and the sha256 of both. Randomness needs no place here: it is a
function of (seed, step). Only the first process reads and writes here; the others are sent what it
read, so that machines need not share a disk.
"""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stages.command import log
from stages.errors import DataError, TrainingError
from stages.files import atomic_output, file_lock, make_lasting, read_json, sha256_of, write_json
from stages.training.processes import Processes

CurveRow = dict[str, float]
T = TypeVar("T")
SECONDS_TO_LET_GO = 30.0
"""How long a new run waits for the one before it, which may be on its way out."""


@dataclass(slots=True)
class Progress:
    """How far training has come, and what it has cost."""

    step: int = 0
    seconds: float = 0.0
    curve: list[CurveRow] = field(default_factory=list)
    unflushed: list[float] = field(default_factory=list)
    """Sums of the loss and its terms over the steps since the curve's last row."""
    num_unflushed: int = 0


@contextmanager
def held(workspace: Path | None, processes: Processes) -> Iterator[None]:
    """Keep every other run out of a workspace, if there is one, for the length of a block.

    Raises:
        TrainingError: another run holds it.
    """
    if workspace is None or not processes.is_first:
        yield
        return
    make_lasting(workspace)
    try:
        with file_lock(workspace / ".lock", SECONDS_TO_LET_GO):
            yield
    except BlockingIOError as error:
        raise TrainingError(
            f"another process trains in {workspace}: wait for it, or stop it and run again"
        ) from error


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
    for old in checkpoints_in(workspace)[:-keep]:
        shutil.rmtree(old)
    return folder


def resume(
    workspace: Path, model: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes
) -> Progress:
    """Load the newest checkpoint that is whole, in every process, and return how far it had come.

    Damaged checkpoints are passed over with a warning, and deleted with whatever a killed run left
    half written. Where there is no checkpoint, the progress is at step 0.

    Raises:
        TrainingError: a file cannot be read, and nothing is deleted; or the newest checkpoint that
            is whole is another model's.
    """
    progress = Progress()
    if processes.is_first:
        progress = _load_newest(workspace, model, optimizer)
        _tidy(workspace, progress.step)
    if processes.world_size > 1:
        progress = _send(progress, model, optimizer, processes)
    return progress


def _load_newest(workspace: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    for folder in reversed(checkpoints_in(workspace)):
        try:
            progress = _verified(folder)
        except (DataError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
            log.warning("passed over the damaged checkpoint %s: %s", folder.name, error)
            continue
        _restore(folder, model, optimizer)
        return progress
    return Progress()


def _tidy(workspace: Path, newest: int) -> None:
    for path in workspace.glob(".step-*"):
        shutil.rmtree(path)
    for folder in checkpoints_in(workspace):
        # Left here, a damaged one would count among those that are kept.
        if _step_of(folder) > newest:
            shutil.rmtree(folder)


def _send(
    progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes
) -> Progress:
    """Give every process the first one's progress, weights and optimiser."""
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    layout = [
        (name, key, tuple(value.shape), value.dtype)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    ]
    progress, layout = processes.from_first((progress, layout))
    for parameter in parameters.values():
        processes.copy_from_first(parameter.detach())
    for name, key, shape, dtype in layout:
        state = optimizer.state[parameters[name]]
        if key not in state:
            state[key] = torch.empty(shape, dtype=dtype, device=parameters[name].device)
        processes.copy_from_first(state[key])
    return progress


def _verified(folder: Path) -> Progress:
    state: dict[str, Any] = _read(read_json, folder / "state.json")
    for name, expected in state.pop("sha256").items():
        if _read(sha256_of, folder / name) != expected:
            raise DataError(f"{folder / name} does not have its sha256")
    progress = Progress(**state)
    if progress.step != _step_of(folder):
        raise DataError(f"{folder / 'state.json'} is of step {progress.step}")
    return progress


def _read(reader: Callable[[Path], T], path: Path) -> T:
    """Return what a reader makes of a file, whose damage is its own to tell."""
    try:
        return reader(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        # The disk, or the network before it: what it holds may be whole, and is not to be deleted.
        raise TrainingError(
            f"{path} cannot be read: {error.strerror or error}; no checkpoint was touched: run the "
            "same command again once it can be, or delete the folder to do without it"
        ) from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what safetensors calls a full disk into the OSError that everything else calls it."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def checkpoints_in(workspace: Path) -> list[Path]:
    """Return the folders of all checkpoints, the newest last."""
    return sorted(workspace.glob("step-*"))


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


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
    weights = _read(load_file, folder / "weights.safetensors")
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if weights.keys() != parameters.keys():
        raise TrainingError(f"{folder} holds another model's weights; delete it to start anew")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in _read(load_file, folder / "optimizer.safetensors").items():
        name, _, field = key.partition("|")
        # All of it, the step counter too: the fused optimiser wants it where the weights are.
        optimizer.state[parameters[name]][field] = value.to(parameters[name].device)
