"""What a flow run leaves on Prefect's page: how each stage went, the scores, the verdict, links."""

import os
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas import State

from flows.results import DATA_DOCS, REPORT, Results, as_markdown, read_results, verdict_lines

MLFLOW_PAGE = "http://127.0.0.1:5000"
"""Where `make ui` shows MLflow's store under mlruns/."""


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
            description="Scores, the gate's verdict, and where to read more",
        )


def results_page(root: Path, results: Results) -> str:
    """Return the results of a run as one page of Markdown."""
    verdict = "\n".join(f"- {line.strip()}" for line in verdict_lines(results.verdicts))
    registered = "\n".join(f"- {entry}" for entry in results.registered)
    return "\n\n".join(
        [
            f"# Results, profile {results.profile}",
            as_markdown(results.header, results.rows),
            "\n".join(f"- {note}" for note in results.notes),
            f"## Gate\n\n{verdict or 'No student was judged.'}",
            f"## Registered\n\n{registered or 'No version was registered.'}",
            "## Read more\n\n" + "\n".join(f"- {line}" for line in links(root)),
        ]
    )


def links(root: Path) -> list[str]:
    """Return where the report, MLflow and the Data Docs are, as Markdown."""
    mlflow = os.environ.get("MLFLOW_TRACKING_URI", "")
    page = mlflow if mlflow.startswith("http") else MLFLOW_PAGE
    return [
        f"The report: {(root / REPORT).as_uri()}",
        f"MLflow: [{page}]({page}) (`make ui` starts it)",
        f"Data Docs, the checks on the shards: {(root / DATA_DOCS).as_uri()}",
    ]


def _first_line(state: State[Any]) -> str:
    return (state.message or "").partition("\n")[0]
