"""How the end of a stage becomes the state of its task, and which states are tried again."""

from typing import Any

import pytest
from prefect.client.schemas import State
from prefect.states import Failed

from flows.graph import DvcBusy, Passing
from flows.stage_process import Outcome, StageResult, _result
from flows.stage_task import StageKilled, is_worth_a_retry, state_of


def ended(outcome: Outcome, code: int = 255, *, was_cancelled: bool = False) -> State[Any]:
    result = StageResult(outcome, code, ("rows: 3", "the last line"))
    return state_of("distill@small", result, was_cancelled=was_cancelled)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        ("ran", "Completed"),
        ("unchanged", "Cached"),
        ("restored", "Cached"),
        ("failed", "Failed"),
        ("interrupted", "Failed"),
        ("stopped", "TimedOut"),
    ],
)
def test_each_outcome_has_its_state(outcome: Outcome, name: str) -> None:
    assert ended(outcome).name == name


@pytest.mark.parametrize(
    ("said", "outcome", "code"),
    [
        ("failed to run: python it.py, exited with 3", "failed", 3),
        ("failed to run: python it.py, exited with -9", "killed", -9),
        # As a shell in between says it.
        ("failed to run: python it.py, exited with 137", "killed", 137),
        ("failed to run: python it.py, exited with 75", "interrupted", 75),
        ("'a.txt' is busy, it is being blocked by:", "busy", 255),
        ("Unable to acquire lock", "busy", 255),
        # The stage itself spoke of a lock.
        ("Unable to acquire lock\nfailed to run: python it.py, exited with 1", "failed", 1),
        ("no space left", "failed", 255),
    ],
)
def test_how_a_stage_ended_is_read_from_the_words_of_dvc(
    said: str, outcome: Outcome, code: int
) -> None:
    lines = tuple(said.split("\n"))
    assert _result(255, lines, was_stopped=False) == StageResult(outcome, code, lines)
    assert _result(255, lines, was_stopped=True).outcome == "stopped"


def test_a_stage_stopped_with_the_flow_is_cancelled() -> None:
    assert ended("stopped", was_cancelled=True).name == "Cancelled"


def test_a_failure_says_the_code_the_last_lines_and_how_to_run_it_alone() -> None:
    message = ended("failed", 3).message or ""
    assert "Stage distill@small failed with exit code 3" in message
    assert "rows: 3\nthe last line" in message
    assert "dvc repro --single-item distill@small" in message


@pytest.mark.parametrize(("outcome", "passing"), [("busy", DvcBusy), ("killed", StageKilled)])
def test_only_a_busy_dvc_and_a_kill_are_worth_a_retry(
    outcome: Outcome, passing: type[Passing]
) -> None:
    with pytest.raises(passing, match="distill@small") as caught:
        ended(outcome)
    any_task: Any = None
    assert is_worth_a_retry(any_task, any_task, Failed(data=caught.value))
    assert not is_worth_a_retry(any_task, any_task, ended("failed", 3))
    assert not is_worth_a_retry(any_task, any_task, Failed(data=RuntimeError("a bug")))
