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
import time
from pathlib import Path
from typing import Annotated, Any, cast

from httpx import HTTPError
from prefect import flow, get_run_logger
from prefect.client.schemas import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from flows import own_files
from flows.artifacts import Progress, write_artifacts
from flows.choices import AS_IT_IS, Profile, Targets
from flows.environment import project_root
from flows.graph import STRAYS, Graph, read_changed, read_graph, read_strays
from flows.missed import left_to_a_later_run
from flows.records import report_outcome, with_server
from flows.results import Results, read_results, report_line, result_lines
from flows.slots import Slots, gpus
from flows.stage_task import Run, run_stages
from flows.warm_dvc import WarmDvc
from stages import params
from stages.command import cores_to_use, parser_for
from stages.command import run as run_command
from stages.errors import DistilleryError

Runner = TaskRunner[PrefectFuture[Any]]


# A stage that waits holds a thread: as many threads as stages, the slots decide who runs.
@flow(name="distillation", task_runner=cast("Runner", ThreadPoolTaskRunner()))
def distillation(
    profile: Profile = AS_IT_IS,
    targets: Targets = (),
    stage_timeout_minutes: Annotated[float, Field(gt=0)] | None = None,
    grace_seconds: Annotated[float, Field(ge=0)] = 60.0,
) -> State[Any]:
    """Bring every stage up to date, and say what came out.

    Args:
        profile: Replace params.yaml by this profile first, or leave it as it is.
        targets: Only these stages, or groups such as finetune, and all they need; none chosen
            means every stage.
        stage_timeout_minutes: Stop a stage that takes longer; None is no limit.
        grace_seconds: How long a stage that is stopped may take to write its checkpoint.
    """
    if (skipped := left_to_a_later_run()) is not None:
        return skipped
    try:
        root = project_root()
        if profile != AS_IT_IS:
            params.use(profile)
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
    states = run_stages(graph, stale, run)
    try:
        write_artifacts(root, states)
    except HTTPError as error:
        # The work is done and DVC has it; what is lost is a page.
        get_run_logger().warning("the Prefect server did not take the artifacts: %s", error)
    return _conclusion(graph, states)


def _slots(launch: params.Launch) -> Slots:
    lock = None if launch.machine_lock is None else Path(launch.machine_lock)
    return Slots(launch.parallel_stages, cores_to_use(), gpus(), machine_lock=lock)


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
    # A mistake is told at once, without starting a server for it.
    if arguments.profile is not None:
        params.use(arguments.profile)
    params.load(root / params.PARAMS)
    if arguments.target:
        read_graph().upstream_of(arguments.target)
    started = time.monotonic()
    with with_server(root):
        try:
            state = distillation(targets=arguments.target, return_state=True)
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


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("--profile", help="make params.yaml this profile first")
    parser.add_argument(
        "--target", action="append", default=[], help="a stage or a group; may be repeated"
    )
    run_command(main, parser)
