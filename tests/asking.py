"""Ask a Prefect server what is, and wait until something has come about."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from typing import Any


def ask(api_url: str, path: str, body: Any = None, method: str = "POST") -> Any:
    """Return a server's answer, None where it has none."""
    request = urllib.request.Request(
        f"{api_url}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            # Its SQLite was locked: nothing has happened, and Prefect's own client asks again too.
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return json.loads(text) if text else None


def deployments(api_url: str) -> dict[str, Any]:
    """Return the deployments by flow and name, such as `distillation/on-demand`."""
    found = ask(api_url, "deployments/filter", {})
    return {f"{each['entrypoint'].partition(':')[2]}/{each['name']}": each for each in found}


def start_run(api_url: str, deployment: str, parameters: dict[str, Any] | None = None) -> str:
    """Have a deployment run and return the run's id."""
    return _create_run(api_url, deployment, {"parameters": parameters or {}})


def miss_run(api_url: str, deployment: str, when: datetime) -> str:
    """Leave a run as a schedule does that no worker was there for; return its id."""
    details = {"scheduled_time": when.isoformat()}
    state = {"type": "SCHEDULED", "name": "Late", "state_details": details}
    return _create_run(api_url, deployment, {"state": state, "tags": ["auto-scheduled"]})


def _create_run(api_url: str, deployment: str, run: dict[str, Any]) -> str:
    path = f"deployments/{deployments(api_url)[deployment]['id']}/create_flow_run"
    return str(ask(api_url, path, run)["id"])


def final_state(api_url: str, run_id: str, seconds: float = 300) -> dict[str, Any]:
    """Wait for a run to end and return the state it ended in."""

    def state() -> dict[str, Any] | None:
        state: dict[str, Any] = ask(api_url, f"flow_runs/{run_id}", method="GET")["state"]
        ended = state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return state if ended else None

    return wait_until(state, seconds)


def wait_until(what: Callable[[], Any], seconds: float) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
    return found
