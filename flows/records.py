"""Flows from the command line: a server to record them, and an exit code that tells how they ended.

Imports Prefect, unlike flows/server.py, which only starts it.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas import State
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from flows import server
from stages.command import log, without_secret
from stages.errors import DistilleryError

RECORD_SECONDS = 20.0


@contextmanager
def with_server(root: Path) -> Iterator[None]:
    """Have a Prefect server for the block.

    It is the configured one, else that of `make ui`, else one started for the block alone.
    """
    known = get_current_settings().api.url or server.advertised_url()
    if known is not None:
        log.info("Prefect server: %s", without_secret(known))
        with temporary_settings({PREFECT_API_URL: known}):
            yield
        return
    log.info("no Prefect server is configured: starting one for this run (7 to 20 s)")
    with server.running_server(root) as started:
        log.info("Prefect server: %s (while this runs; later: make ui)", started.page)
        with temporary_settings({PREFECT_API_URL: started.api_url}):
            try:
                yield
            finally:
                _send_logs()


def report_outcome(state: State[Any]) -> None:
    """Wait until the server has recorded a flow run, and raise if the run did not succeed.

    Task states reach the server as events, a moment after the run: stopped too early, it would
    show tasks that run for ever.
    """
    _wait_until_recorded(state)
    if not state.is_completed():
        raise DistilleryError(f"the flow ended as {state.name}.\n{state.message}")
    log.info("%s", state.message)


def _send_logs() -> None:
    """Send what Prefect's log handlers hold back; they would try again once the server is gone."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            handler.flush()


def _wait_until_recorded(state: State[Any]) -> None:
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    deadline = time.monotonic() + RECORD_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
            )
            states = [run.state for run in runs if run.state is not None]
            if all(s.is_final() or s.name == "NotReady" for s in states):
                return
            time.sleep(0.2)
    log.warning("the Prefect server has not recorded every task; its page may show some as running")
