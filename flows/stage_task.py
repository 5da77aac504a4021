"""A task per DVC stage: each begins when those above it have succeeded and a slot is free."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State, TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed, Failed

from flows.artifacts import Progress
from flows.graph import RETRY_SECONDS, DvcBusy, Graph, Passing, Stage
from flows.slots import Slots, Stopped
from flows.stage_process import StageResult, run_stage
from flows.warm_dvc import WarmDvc


class StageKilled(Passing):
    """Something ended a stage outright; it goes on from its checkpoint."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the tasks of one flow run share. It is never a task's parameter: those are strings."""

    root: Path
    dvc: WarmDvc
    slots: Slots
    grace_seconds: float
    timeout_seconds: float | None
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)

    def halt(self) -> None:
        """Stop the stages that run, and let none start."""
        self.stop.set()
        self.slots.stop()


def run_stages(graph: Graph, stale: set[str], run: Run) -> dict[str, State[Any]]:
    """Run every stage once all above it have succeeded, and return how each ended."""
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for place, stage in enumerate(graph.stages):
            stage_task = _task_of(stage, place, run, is_stale=stage.name in stale)
            needs = [futures[name] for name in stage.upstream]
            futures[stage.name] = stage_task.submit(stage.name, return_state=False, wait_for=needs)
        wait(list(futures.values()))
    except BaseException:
        # Ctrl-C or a cancellation arrives here, in the main thread; the stages are other threads'.
        run.halt()
        raise
    finally:
        run.dvc.close()
    return {name: future.state for name, future in futures.items()}


def _task_of(stage: Stage, place: int, run: Run, *, is_stale: bool) -> Task[[str], State[Any]]:
    """Return the Prefect task of one stage, called like the stage."""

    @task(
        name=stage.name,
        task_run_name=stage.name,
        cache_policy=NO_CACHE,
        retries=len(RETRY_SECONDS),
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=is_worth_a_retry,
        tags=["exclusive"] if stage.is_exclusive else None,
    )
    def run_one(target: str) -> State[Any]:
        if not is_stale:
            return Completed(name="Cached", message="Up to date: no process was started.")
        try:
            with run.slots.claim(place, is_exclusive=stage.is_exclusive) as share:
                result = run_stage(
                    target,
                    root=run.root,
                    dvc=run.dvc,
                    share=share,
                    stop=run.stop,
                    log_line=_line_logger(),
                    timeout_seconds=run.timeout_seconds,
                    grace_seconds=run.grace_seconds,
                )
        except Stopped:
            return Cancelled(message=f"{target} did not start: the flow was stopped.")
        state = state_of(target, result, was_cancelled=run.stop.is_set())
        if state.is_completed():
            run.progress.add_one()
        return state

    return run_one


def is_worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Tell whether a task lacked a lock or was killed: what failed on its data fails again."""
    return isinstance(state.data, Passing)


def state_of(target: str, result: StageResult, *, was_cancelled: bool) -> State[Any]:
    """Return the Prefect state of a stage that ended.

    A failure is a returned state, for its message; only the exceptions are worth a retry.

    Raises:
        DvcBusy: another DVC process was in the way.
        StageKilled: the stage, or DVC with it, was killed outright.
    """
    lines = "\n".join(result.last_lines)
    again = f"Run it alone: dvc repro --single-item {target}"
    match result.outcome:
        case "ran":
            return Completed(message="Ran.")
        case "unchanged":
            return Completed(name="Cached", message="DVC: nothing it depends on changed.")
        case "restored":
            return Completed(name="Cached", message="DVC: restored from its run cache.")
        case "busy":
            raise DvcBusy(f"stage {target} met another DVC process:\n{lines}")
        case "killed":
            raise StageKilled(
                f"stage {target} was killed (SIGKILL): by hand, or for want of memory (see dmesg); "
                f"what it had checkpointed is kept.\n{lines}"
            )
        case "stopped" if was_cancelled:
            return Cancelled(message=f"Stage {target} was stopped with the flow.\n{lines}")
        case "stopped":
            return Failed(
                name="TimedOut",
                message=f"Stage {target} reached its time limit and was stopped; what it had "
                f"checkpointed is kept, and the same flow resumes it.\n{lines}",
            )
        case "interrupted":
            return Failed(
                message=f"Stage {target} was interrupted from outside and has checkpointed: run "
                f"the flow again and it resumes.\n{lines}"
            )
        case "failed":
            return Failed(
                message=f"Stage {target} failed with exit code {result.exit_code}. Its last "
                f"lines:\n{lines}\n{again}"
            )


def _line_logger() -> Callable[[str], None]:
    logger = get_run_logger()
    return lambda line: logger.info("%s", line)
