"""Loss curves as CSV, which DVC and spreadsheets plot."""

import csv
from pathlib import Path

from stages.files import atomic_output
from stages.training.checkpoints import CurveRow


def write_curve(path: Path, rows: list[CurveRow]) -> None:
    """Write one line per row under a header of their keys; what a row lacks is left empty."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["step", "loss"]
    # Phases differ in their terms, and the learning rate comes after all of them.
    names.sort(key=lambda name: name == "learning_rate")
    with atomic_output(path) as target, target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(
            {k: v if k == "step" else f"{v:.6g}" for k, v in row.items()} for row in rows
        )
