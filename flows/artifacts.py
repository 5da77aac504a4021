"""What a flow run shows on Prefect's page: progress, each stage, the scores, the verdict, links."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas import State

from flows.results import (
    DATA_DOCS,
    REPORT,
    Registered,
    Results,
    gate_page,
    read_results,
)
from flows.tables import as_markdown, turned
from stages.command import without_secret

MLFLOW = "http://127.0.0.1:5000"
"""Where `make ui` shows MLflow's store under mlruns/."""


class Progress:
    """A bar on the page of a run: the share of its stages that are up to date."""

    def __init__(self, num_stages: int, num_stale: int) -> None:
        self._lock = threading.Lock()
        self._num_stages, self._num_done = num_stages, num_stages - num_stale
        self._artifact = cast(
            "UUID",
            create_progress_artifact(
                progress=self._percent(), key="progress", description="Stages that are up to date"
            ),
        )

    def add_one(self) -> None:
        """Say that one more stage is up to date."""
        with self._lock:
            self._num_done += 1
            # The work is done, whether the server takes this word of it or not.
            with contextlib.suppress(HTTPError):
                update_progress_artifact(self._artifact, progress=self._percent())

    def _percent(self) -> float:
        return 100.0 * self._num_done / max(1, self._num_stages)


def write_artifacts(root: Path, states: dict[str, State[Any]]) -> None:
    """Write the artifacts of a distillation run; the results only where reports exist."""
    create_table_artifact(
        key="stages",
        table=[
            {"stage": name, "state": state.name or "", "message": _first_line(state)}
            for name, state in states.items()
        ],
        description="How each stage of dvc.yaml ended",
    )
    if (results := read_results(root)) is not None:
        create_markdown_artifact(
            key="results",
            markdown=results_page(root, results),
            description="Scores, the gate, where to read more",
        )


def results_page(root: Path, results: Results) -> str:
    """Return the results of a run as one page of Markdown."""
    table = results.header, results.rows
    # The page is narrow: what there is more of, columns or models, goes down it.
    if len(results.header) > len(results.rows) + 1:
        table = turned(*table)
    registered = "\n".join(f"- {version_link(entry)}" for entry in results.registered)
    return "\n\n".join(
        [
            f"# Results, profile {results.profile}",
            as_markdown(*table),
            "\n".join(f"- {note}" for note in results.notes),
            f"## Gate\n\n{gate_page(results.verdicts) or 'No student was judged.'}",
            f"## Registered\n\n{registered or 'No version was registered.'}",
            "## Read more\n\n" + "\n".join(f"- {line}" for line in links(root)),
        ]
    )


def links(root: Path) -> list[str]:
    """Return where the report, MLflow and the Data Docs are, as Markdown."""
    page = mlflow_page()
    return [
        f"The report: {(root / REPORT).as_uri()}",
        f"MLflow: [{page}]({page}) (`make ui` starts it)",
        f"Data Docs, the checks on the shards: {(root / DATA_DOCS).as_uri()}",
    ]


def mlflow_page() -> str:
    """Return where a person finds MLflow: a worker may know it by another name than a browser."""
    uri = os.environ.get("MLFLOW_PAGE_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
    return without_secret(uri).rstrip("/") if uri.startswith("http") else MLFLOW


def version_link(entry: Registered) -> str:
    """Return a version as a link to MLflow's page of it, where its report and its card are."""
    return f"[{entry}]({mlflow_page()}/#/models/{entry.model}/versions/{entry.version})"


def _first_line(state: State[Any]) -> str:
    return (state.message or "").partition("\n")[0]
