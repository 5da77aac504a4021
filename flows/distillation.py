"""The whole graph as one Prefect flow: a task per DVC stage, in DVC's order, side by side.

Run it here and now, server or no server:  python -m flows.distillation
Only some stages and what they need:       python -m flows.distillation --target speed
With another profile's settings:           python -m flows.distillation --profile bert-base

DVC decides whether a stage runs, this flow decides when. After it `dvc status` is empty, as after
`dvc repro`. Reads dvc.yaml, dvc.lock and params.yaml; writes what the stages write.
"""

import argparse
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from httpx import HTTPError
from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State, TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import own_files
from flows.artifacts import Progress, write_artifacts
from flows.choices import AS_IT_IS, Profile, Targets
from flows.environment import project_root
from flows.graph import (
    RETRY_SECONDS,
    STRAYS,
    DvcBusy,
    Graph,
    Passing,
    Stage,
    read_changed,
    read_graph,
    read_strays,
)
from flows.records import report_outcome, with_server
from flows.results import Results, read_results, report_line, result_lines
from flows.slots import Slots, Stopped, gpus
from flows.stage_process import StageResult, run_stage
from flows.warm_dvc import WarmDvc
from stages import params
from stages.command import cores_to_use, parser_for
from stages.command import run as run_command
from stages.errors import DistilleryError, SettingsError

Runner = TaskRunner[PrefectFuture[Any]]


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


# A stage that waits holds a thread: as many threads as stages, the slots decide who runs.
@flow(name="distillation", task_runner=cast("Runner", ThreadPoolTaskRunner()))
def distillation(
    profile: Profile = AS_IT_IS,
    targets: Targets = (),
    stage_timeout_minutes: float | None = None,
    grace_seconds: float = 60.0,
) -> State[Any]:
    """Bring every stage up to date, and say what came out.

    Args:
        profile: Replace params.yaml by this profile first, or leave it as it is.
        targets: Only these stages, or groups such as finetune, and all they need; none chosen
            means every stage.
        stage_timeout_minutes: Stop a stage that takes longer; None is no limit.
        grace_seconds: How long a stage that is stopped may take to write its checkpoint.
    """
    try:
        root = project_root()
        if profile != AS_IT_IS:
            use_profile(root, profile)
        settings = params.load(root / params.PARAMS)
        graph = read_graph()
        if targets:
            graph = graph.upstream_of(targets)
        stale = graph.downstream_of(read_changed())
        strays = read_strays()
    except DistilleryError as error:
        return Failed(message=str(error))
    get_run_logger().info(
        "%d stages, %d up to date, profile %s",
        len(graph.stages),
        len(graph.stages) - len(stale),
        settings.profile,
    )
    for said in own_files.changed(root, settings).values():
        get_run_logger().warning(said)
    if strays:
        get_run_logger().warning(STRAYS, " ".join(map(str, strays)))
    run = Run(
        root=root,
        dvc=WarmDvc(),
        slots=_slots(settings.launch),
        grace_seconds=grace_seconds,
        timeout_seconds=None if stage_timeout_minutes is None else 60 * stage_timeout_minutes,
        progress=Progress(len(graph.stages), len(stale)),
    )
    states = _run_stages(graph, stale, run)
    try:
        write_artifacts(root, states)
    except HTTPError as error:
        # The work is done and DVC has it; what is lost is a page.
        get_run_logger().warning("the Prefect server did not take the artifacts: %s", error)
    return _conclusion(graph, states)


def _slots(launch: params.Launch) -> Slots:
    lock = None if launch.machine_lock is None else Path(launch.machine_lock)
    return Slots(launch.parallel_stages, cores_to_use(), gpus(), machine_lock=lock)


def use_profile(root: Path, name: str) -> None:
    """Make params.yaml a copy of a profile, as `make profile NAME=...` does."""
    command = [sys.executable, "-m", "stages.params", "use", name]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SettingsError(done.stderr.strip())


# ------------------------------------------------------------------------------------- the tasks


def _run_stages(graph: Graph, stale: set[str], run: Run) -> dict[str, State[Any]]:
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


# ------------------------------------------------------------------------------------ the outcome


def _conclusion(graph: Graph, states: dict[str, State[Any]]) -> State[Any]:
    """Fail with the stages that failed, or with what `dvc status` still finds to do."""
    failed = {name: state for name, state in states.items() if state.is_failed()}
    unreached = [
        name for name, state in states.items() if not state.is_completed() and name not in failed
    ]
    if failed or unreached:
        messages = [state.message or state.name or "failed" for state in failed.values()]
        if unreached:
            messages.append(f"Not run: {', '.join(unreached)}")
        done = len(states) - len(failed) - len(unreached)
        messages.append(f"The other {done} stages are up to date.")
        return Failed(message="\n\n".join(messages))
    changed = read_changed()
    left = [f"{name}: {'; '.join(changed[name])}" for name in graph.names() if name in changed]
    if left:
        return Failed(
            message="Every stage ended well, and yet dvc status is not empty. Did something change "
            "a file or params.yaml during the run? Run the flow again. Left:\n" + "\n".join(left)
        )
    num_ran = sum(state.name == "Completed" for state in states.values())
    return Completed(message=f"{num_ran} of {len(states)} stages had to run.")


def main(arguments: argparse.Namespace) -> None:
    """Run the flow once, with the configured server or with one of its own."""
    root = project_root()
    if arguments.profile == AS_IT_IS:
        # A mistake in the settings is told at once, without starting a server for it.
        params.load(root / params.PARAMS)
    started = time.monotonic()
    with with_server(root):
        try:
            state = distillation(
                profile=arguments.profile, targets=arguments.target, return_state=True
            )
            report_outcome(state)
        except HTTPError as error:
            raise DistilleryError(
                f"the Prefect server does not answer any more ({error}); the stages that have "
                "ended are kept, and the same command goes on once it is back"
            ) from error
    logging.getLogger("distillery").info("took %.0f s", time.monotonic() - started)
    if not arguments.target and (results := read_results(root)) is not None:
        print("\n".join(closing_words(root, results)))


def closing_words(root: Path, results: Results) -> list[str]:
    """Say what came out and where it is, and how the student is promoted if it may be."""
    lines = [*result_lines(results, shutil.get_terminal_size().columns), "", report_line(root)]
    if any(verdict.passed for verdict in results.verdicts):
        lines.append('Promote: python -m flows.promotion promote --reason "..."')
    return lines


def _parser(names: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = parser_for(__doc__, names)
    parser.add_argument("--profile", default=AS_IT_IS, help="make params.yaml this profile first")
    parser.add_argument(
        "--target", action="append", default=[], help="a stage or a group; may be repeated"
    )
    return parser


if __name__ == "__main__":
    run_command(main, _parser())
