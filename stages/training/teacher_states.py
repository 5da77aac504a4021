"""The teacher's last hidden states, kept on the disk by the batch that they answer.

Runs that see the same batches ask the teacher the same: an ablation's students, other weights or
another depth, a phase that is tried again. Its states are kept whole and in the type that they were
computed in, so that a student is the same to the bit with and without them, and its logits are
formed from them anew. A row of logits is eighty times as long at a width of 384, and its largest
few alone would be targets with a bias.

A file is one micro-batch's, named by a digest of what was asked. It carries its sha256 and is whole
or absent: a damaged one is asked of the teacher again. What was not used for longest makes room.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
import transformers
from torch import Tensor

from stages.command import log
from stages.errors import SettingsError
from stages.files import SCRATCH, atomic_output, fingerprint, make_lasting
from stages.training.batches import Batch, part
from stages.training.hardware import device_name
from stages.training.processes import Processes

if TYPE_CHECKING:
    from stages.params import Launch

TAUGHT = "taught"
"""What a batch calls the states, B x S x D."""
FOLDER = SCRATCH / "teacher-states"
GIGABYTE = 10**9
_DIGEST_BYTES = 32


def bytes_of_states(num_tokens: int, width: int) -> int:
    """Return how large the float32 states of some tokens are."""
    return 4 * num_tokens * width


class TeacherStates:
    """A folder of them, which holds no more than it may."""

    def __init__(self, folder: Path, asked_of: str, max_bytes: int) -> None:
        """Open a folder, or make it.

        Args:
            folder: Of one process alone.
            asked_of: Whatever decides the answer beside the batch: weights, precision, threads.
            max_bytes: Of all files in it.
        """
        self.folder, self.asked_of, self.max_bytes = folder, asked_of, max_bytes
        make_lasting(folder)
        held = [(path.stat(), path) for path in folder.glob("*.states")]
        # From the one that was not used for longest to the newest.
        self._sizes = {
            path: found.st_size for found, path in sorted(held, key=lambda x: x[0].st_mtime_ns)
        }
        self._missed: Path | None = None

    def recall(self, batch: Batch) -> Batch:
        """Return a micro-batch, still on the host, with the teacher's states if they are known."""
        digest = hashlib.sha256(self.asked_of.encode())
        for name in (n for n in ("input_ids", "attention_mask", "token_type_ids") if n in batch):
            digest.update(f"{name} {tuple(batch[name].shape)} ".encode())
            digest.update(batch[name].numpy().data)
        path = self.folder / f"{digest.hexdigest()}.states"
        states_BSD = self._read(path)
        self._missed = path if states_BSD is None else None
        return batch if states_BSD is None else batch | {TAUGHT: states_BSD}

    def keep(self, states_BSD: Tensor) -> None:
        """Write the teacher's answer to the batch that `recall` was asked for last."""
        path, self._missed = self._missed, None
        if path is None:
            return
        content = safetensors.torch.save({TAUGHT: states_BSD.cpu().contiguous()})
        size = _DIGEST_BYTES + len(content)
        while self._sizes and sum(self._sizes.values()) + size > self.max_bytes:
            self._forget(next(iter(self._sizes)))
        with atomic_output(path) as target:
            target.write_bytes(hashlib.sha256(content).digest() + content)
        self._sizes[path] = size

    def _read(self, path: Path) -> Tensor | None:
        try:
            content = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            # Another run in this checkout may have made room.
            self._sizes.pop(path, None)
            return None
        size = len(content)
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            log.warning("%s is damaged: the teacher is asked again", path)
            self._forget(path)
            return None
        self._sizes.pop(path, None)
        self._sizes[path] = size
        return safetensors.torch.load(content)[TAUGHT]

    def _forget(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._sizes.pop(path, None)


def check_room(needed: int, launch: "Launch", who: str) -> None:
    """Refuse a run whose states would not all fit, before any is written.

    Raises:
        SettingsError: names the setting, what is needed and what there is.
    """
    allowed = launch.teacher_states_gigabytes
    if allowed is None:
        return
    make_lasting(FOLDER)
    held = sum(path.stat().st_size for path in FOLDER.rglob("*.states"))
    free = shutil.disk_usage(FOLDER).free + held
    room = min(allowed * GIGABYTE, free)
    if needed > room:
        of = "is what may be" if room < free else "are left on the disk"
        raise SettingsError(
            f"params.yaml: launch.teacher_states_gigabytes = {allowed:g}: the teacher's states for "
            f"{who} are {needed / GIGABYTE:.2f} GB, and {room / GIGABYTE:.2f} GB {of}; give more "
            "room, or null: the teacher is then asked at every step"
        )


def open_states(
    teacher_sha256: str,
    precisions: tuple[str, str],
    batch_sequences: int,
    launch: "Launch",
    processes: Processes,
) -> TeacherStates | None:
    """Return this process's states of a teacher, where the settings want them kept.

    Those that other numbers of processes have left are deleted: nothing would ask for them.

    Args:
        teacher_sha256: Of its weights.
        precisions: Of its products, and of the student's, under which it runs.
        batch_sequences: Of a global batch: room is divided as it is.
        launch: How much may be kept, and whether the teacher is compiled.
        processes: Each has its own part of every batch, and a folder for its answers.
    """
    if launch.teacher_states_gigabytes is None:
        return None
    # All that decides the last bit of an answer beside the batch.
    device = device_name(processes.device), torch.get_num_threads()
    by = *device, launch.compile, torch.__version__, transformers.__version__
    of = f"-of-{processes.world_size}"
    for left in FOLDER.glob("*-of-*") if processes.is_first_here else ():
        if not left.name.endswith(of):
            shutil.rmtree(left, ignore_errors=True)
    mine = len(range(batch_sequences)[part(batch_sequences, processes.rank, processes.world_size)])
    return TeacherStates(
        FOLDER / f"{processes.rank}{of}",
        fingerprint(teacher_sha256, precisions, by),
        round(launch.teacher_states_gigabytes * GIGABYTE * mine / batch_sequences),
    )
