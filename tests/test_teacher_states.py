"""A teacher's states that are kept: the same student to the bit, whatever becomes of the files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.distillation.phase_loss import PhaseLoss
from stages.errors import SettingsError
from stages.training import teacher_states
from stages.training.batches import Batch
from stages.training.loop import train
from stages.training.processes import Processes
from stages.training.teacher_states import (
    GIGABYTE,
    TAUGHT,
    TeacherStates,
    bytes_of_states,
    check_room,
    open_states,
)
from tests.test_recipes import loss_of
from tests.tiny_models import ALONE, batches, launch, schedule

SOFT = ({"kind": "soft_targets"}, {"kind": "cosine"}, {"kind": "mlm"})
SAME_WIDTH = {"kind": "bert", "num_layers": 2, "width": 16, "inner": 12, "num_heads": 2}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(teacher_states, "FOLDER", tmp_path / "teacher-states")
    return tmp_path / "teacher-states"


def trained(states: TeacherStates | None) -> tuple[dict[str, Tensor], list[bool]]:
    """A student after four steps of two micro-batches, and for each whether its teacher ran."""
    loss: PhaseLoss = loss_of(*SOFT, architecture=SAME_WIDTH)
    assert loss.reads_last_states_alone
    loss.states = states
    asked: list[bool] = []
    loss.register_forward_pre_hook(lambda _, inputs: asked.append(TAUGHT not in inputs[0]))
    train(
        loss, batches(), schedule(num_steps=4), 4, launch(micro_batch_sequences=4), ALONE,
        seed=1, workspace=None, title="test",
    )  # fmt: skip
    return loss.student.state_dict(), asked


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_the_student_is_the_same_without_states_with_new_ones_and_with_old_ones(
    folder: Path,
) -> None:
    allowed = launch(teacher_states_gigabytes=0.001)
    without, _ = trained(None)
    cold, first = trained(open_states("a", ("schedule", "float32"), 8, allowed, ALONE))
    files = sorted(folder.rglob("*.states"))
    assert len(files) == 8
    # A torn file: what a power cut may leave.
    files[3].write_bytes(files[3].read_bytes()[:-5])
    warm, second = trained(open_states("a", ("schedule", "float32"), 8, allowed, ALONE))
    assert same(without, cold)
    assert same(without, warm)
    assert first == [True] * 8
    assert sorted(second) == [False] * 7 + [True]


def batch(token: int) -> Batch:
    ids = torch.full((2, 3), token)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    one = TeacherStates(tmp_path / "one", "a", 10**6)
    assert TAUGHT not in one.recall(batch(0))
    one.keep(torch.ones(2, 3, 4))
    (size,) = (path.stat().st_size for path in one.folder.iterdir())
    states = TeacherStates(tmp_path / "two", "a", 2 * size)
    for token in (1, 2, 1, 3):
        if TAUGHT not in states.recall(batch(token)):
            states.keep(torch.full((2, 3, 4), float(token)))
    again = TeacherStates(tmp_path / "two", "a", 2 * size)
    assert [TAUGHT in again.recall(batch(token)) for token in (1, 2, 3)] == [True, False, True]
    assert torch.equal(again.recall(batch(3))[TAUGHT], torch.full((2, 3, 4), 3.0))


def test_states_that_another_run_deletes_meanwhile_are_asked_again(tmp_path: Path) -> None:
    states = TeacherStates(tmp_path, "a", 10**6)
    states.recall(batch(1))
    states.keep(torch.ones(2, 3, 4))
    for path in tmp_path.iterdir():
        path.unlink()
    assert TAUGHT not in states.recall(batch(1))
    states.keep(torch.ones(2, 3, 4))
    assert TAUGHT in states.recall(batch(1))


def test_room_is_divided_as_batches_are_and_is_that_of_all(folder: Path) -> None:
    allowed = launch(teacher_states_gigabytes=0.001)

    def opened(rank: int, world_size: int) -> TeacherStates:
        there = Processes(rank, world_size, ALONE.device)
        states = open_states("a", ("schedule", "float32"), 10, allowed, there)
        assert states is not None
        return states

    assert [opened(rank, 3).max_bytes for rank in range(3)] == [300_000, 300_000, 400_000]
    assert len(list(folder.iterdir())) == 3
    assert opened(0, 1).max_bytes == 1_000_000
    assert [path.name for path in folder.iterdir()] == ["0-of-1"]


def test_another_teacher_precision_device_or_mask_is_another_question(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = launch(teacher_states_gigabytes=0.001)
    states = open_states("a", ("schedule", "float32"), 8, allowed, ALONE)
    assert states is not None
    states.recall(batch(1))
    states.keep(torch.zeros(2, 3, 4))
    others = [
        open_states("b", ("schedule", "float32"), 8, allowed, ALONE),
        open_states("a", ("bfloat16", "float32"), 8, allowed, ALONE),
        open_states(
            "a", ("schedule", "float32"), 8, allowed.model_copy(update={"compile": True}), ALONE
        ),
    ]
    monkeypatch.setattr(teacher_states, "device_name", lambda device: "another")
    others.append(open_states("a", ("schedule", "float32"), 8, allowed, ALONE))
    assert all(TAUGHT not in other.recall(batch(1)) for other in others if other)
    padded = batch(1) | {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    assert TAUGHT not in states.recall(padded)
    assert TAUGHT in states.recall(batch(1))


def test_states_that_do_not_fit_are_refused_before_any_is_written(folder: Path) -> None:
    # 4 bytes x 1,000 tokens x width 384
    needed = bytes_of_states(1000, 384)
    assert needed == 1_536_000
    check_room(needed, launch(teacher_states_gigabytes=needed / GIGABYTE), "tiny")
    with pytest.raises(SettingsError, match=r"teacher_states_gigabytes = 0.001: .* for tiny are"):
        check_room(needed, launch(teacher_states_gigabytes=0.001), "tiny")
    with pytest.raises(SettingsError, match="left on the disk"):
        check_room(10**18, launch(teacher_states_gigabytes=10**10), "tiny")
    assert not list(folder.iterdir())


def test_objectives_on_layers_ask_the_teacher_for_more_than_its_last_states() -> None:
    assert not loss_of({"kind": "hidden_states"}, *SOFT[:1]).reads_last_states_alone
    assert not loss_of({"kind": "mlm"}).reads_last_states_alone
