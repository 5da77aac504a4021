"""Runs that a schedule has missed while no worker was up: only the latest is worth starting.

A worker that comes back is given all of them at once. Each asks whether a later one of its own
schedule is due as well, and leaves the work to that one.
"""

from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas import State, StateType
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.runtime import deployment, flow_run
from prefect.states import Completed

SKIPPED = "Skipped"
BY_THE_CLOCK = "auto-scheduled"
"""Prefect's tag of runs that a schedule has made."""
DOES_IT = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.COMPLETED)


def left_to_a_later_run() -> State[Any] | None:
    """Return how the flow run in force ends if a later one of its schedule is due, else None."""
    # Whoever retries a run on its page means that one.
    if deployment.id is None or BY_THE_CLOCK not in flow_run.tags or flow_run.run_count > 1:
        return None
    due = FlowRunFilterExpectedStartTime.model_validate(
        {"after_": flow_run.scheduled_start_time, "before_": datetime.now(UTC)}
    )
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            flow_run_filter=FlowRunFilter(
                expected_start_time=due,
                tags=FlowRunFilterTags(all_=[BY_THE_CLOCK]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(DOES_IT))),
            ),
        )
    # Both bounds are part of what is asked for: of two schedules' runs at one time, one is later.
    mine = flow_run.scheduled_start_time, flow_run.id
    later = [run.name for run in runs if (run.expected_start_time, str(run.id)) > mine]
    if not later:
        return None
    return Completed(name=SKIPPED, message=f"Missed; a later run is due as well: {later[0]}.")
