"""Checkpoints survive a power cut between any two writes, and damage to any of their bytes."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages.errors import TrainingError
from stages.files import atomic_output
from stages.training import checkpoints
from stages.training.checkpoints import Progress, held, resume, save_checkpoint
from stages.training.optimisation import make_optimizer
from tests.conftest import ROOT
from tests.power_cut import Disk, build
from tests.tiny_models import ALONE, batches, schedule, triple_loss

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


class Model:
    """A tiny student whose every step leaves other weights."""

    def __init__(self) -> None:
        self.objective = triple_loss()
        self.optimizer = make_optimizer(self.objective, schedule())
        self.progress = Progress()

    def step(self) -> None:
        batch = batches()(self.progress.step)
        self.objective(batch, self.objective.counts(batch))[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.curve.append({"step": self.progress.step, "loss": 0.5})

    def save(self, workspace: Path, keep: int = 2) -> None:
        save_checkpoint(workspace, self.objective, self.optimizer, self.progress, keep)

    def resume(self, workspace: Path) -> int:
        self.progress = resume(workspace, self.objective, self.optimizer, ALONE)
        return self.progress.step

    def values(self) -> torch.Tensor:
        parameters = list(self.objective.parameters())
        state = [v for p in parameters for _, v in sorted(self.optimizer.state[p].items())]
        return torch.cat([tensor.detach().flatten() for tensor in (*parameters, *state)])


def trained(workspace: Path, num_steps: int, keep: int = 2) -> dict[int, torch.Tensor]:
    """Checkpoint after every step; return what the student was after each."""
    model, after = Model(), {}
    for _ in range(num_steps):
        model.step()
        model.save(workspace, keep)
        after[model.progress.step] = model.values().clone()
    return after


def steps_kept(workspace: Path) -> list[int]:
    return sorted(int(folder.name[5:]) for folder in workspace.glob("step-*"))


@pytest.mark.parametrize("keep", [1, 2])
def test_power_cut_between_any_two_writes_costs_at_most_the_last_checkpoint(
    tmp_path: Path, keep: int
) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    after = trained(workspace, 3, keep)
    model = Model()
    assert model.resume(workspace) == 3
    model.step()
    after[4] = model.values().clone()
    disk = Disk(workspace)
    with disk.watched():
        model.save(workspace, keep)

    found = []
    states = [state for i, state in enumerate(disk.states) if state not in disk.states[:i]]
    for number, (kind, tree) in enumerate(states):
        woken = build(tree, tmp_path / str(number))
        fresh = Model()
        step = fresh.resume(woken)
        assert step in (3, 4), (number, kind)
        assert torch.equal(fresh.values(), after[step]), (number, kind)
        assert fresh.progress.curve[-1]["step"] == step
        # Nothing half written is left, and saving goes on.
        assert steps_kept(woken)[-1] == step
        assert not list(woken.glob(".step-*"))
        fresh.step()
        fresh.save(woken, keep)
        assert fresh.progress.step in steps_kept(woken)
        found.append(step)
    # Many calls, few of which leave a state that was not there before.
    assert len(disk.states) > 3 * 20
    assert {3, 4} == set(found)
    # What save_checkpoint has returned from is there, whatever the disk had not yet written.
    for number, (_, tree) in enumerate(disk.states[-3:]):
        assert Model().resume(build(tree, tmp_path / f"after-{number}")) == 4


def test_checkpoint_without_flushing_would_not_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states above are real ones: without fsync some of them lose everything."""
    workspace = tmp_path / "work"
    workspace.mkdir()
    monkeypatch.setattr("stages.files._flush", lambda target: None)
    model = Model()
    model.step()
    disk = Disk(workspace)
    with disk.watched():
        model.save(workspace, keep=1)
    assert [Model().resume(build(tree, tmp_path / kind)) for kind, tree in disk.states[-3:]] == [
        1,
        0,
        0,
    ]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "one bit"])
def test_any_damage_to_the_newest_checkpoint_is_noticed(
    tmp_path: Path, name: str, damage: str
) -> None:
    after = trained(tmp_path, 2)
    file = tmp_path / "step-00000002" / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "one bit":
        # In state.json: a digit of the step; elsewhere: of a tensor.
        at = content.index(b'"step": 2,\n  "unflushed') + 8 if name == FILES[2] else -5
        content[at] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    model = Model()
    assert model.resume(tmp_path) == 1
    assert torch.equal(model.values(), after[1])
    assert steps_kept(tmp_path) == [1]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that answers EIO")
@pytest.mark.parametrize("name", FILES)
def test_disk_that_does_not_answer_stops_the_run_and_costs_no_checkpoint(
    tmp_path: Path, name: str
) -> None:
    after = trained(tmp_path, 2)
    folders = sorted(tmp_path.glob("step-*"))
    for folder in folders:
        (folder / name).rename(folder / "aside")
        (folder / name).symlink_to("/proc/self/mem")
    with pytest.raises(TrainingError, match=rf"step-00000002/{name} cannot be read: Input/output"):
        Model().resume(tmp_path)
    assert steps_kept(tmp_path) == [1, 2]
    for folder in folders:
        (folder / "aside").rename(folder / name)
    model = Model()
    assert model.resume(tmp_path) == 2
    assert torch.equal(model.values(), after[2])


def test_checkpoint_of_an_older_form_is_passed_over(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    state = tmp_path / "step-00000001" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"weather": "fair"}))
    assert Model().resume(tmp_path) == 0


def test_second_run_is_kept_out_of_a_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_TO_LET_GO", 0.2)
    with (
        held(tmp_path, ALONE),
        pytest.raises(TrainingError, match=r"another process trains in .*: wait for it"),
        held(tmp_path, ALONE),
    ):
        pass
    with held(tmp_path, ALONE):
        pass


def test_write_that_fails_for_want_of_room_names_its_file(tmp_path: Path) -> None:
    for number, name in ((errno.ENOSPC, "states"), (errno.ECONNRESET, None)):
        with pytest.raises(OSError, match="Error") as told, atomic_output(tmp_path / "states"):
            raise OSError(number, "Error")
        assert (told.value.filename and Path(told.value.filename).name) == name
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_gone_with_the_next_and_a_living_ones_is_not(
    tmp_path: Path,
) -> None:
    kill_while_writing = (
        "import os, sys, pathlib; from stages.files import atomic_output\n"
        "with atomic_output(pathlib.Path(sys.argv[1])) as target:\n"
        "    target.mkdir(); (target / 'half').write_text('a'); os.kill(os.getpid(), 9)"
    )
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", kill_while_writing, out], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_output(out) as outer:
        assert list(tmp_path.iterdir()) == [outer.parent]
        with atomic_output(out) as inner:
            inner.write_text("first")
        outer.write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.read_text() == "second"
