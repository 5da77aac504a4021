"""The halt at a loss or gradient that is not finite, which says where to look."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import TrainingError
from stages.files import write_json
from stages.training.batches import Batches, rows_of
from stages.training.processes import Processes

NUM_SHOWN = 8


class NotFiniteError(TrainingError):
    """A term, or the gradient, that is not finite at a step (counted from 1)."""

    def __init__(self, step: int, term: str, learning_rate: float) -> None:
        super().__init__(
            f"step {step}: {term} is not finite. The last good checkpoint is kept; lower "
            f"learning_rate ({learning_rate}) or look at the batch of that step, and run again"
        )
        self.step, self.term = step, term


@contextmanager
def naming_the_batch(
    batches: Batches, workspace: Path | None, processes: Processes
) -> Iterator[None]:
    """Say of which rows a step was made whose loss or gradient is not finite."""
    try:
        yield
    except NotFiniteError as error:
        rows = rows_of(batches, error.step - 1)
        if rows and workspace is not None and processes.is_first:
            file = workspace / "not-finite.json"
            write_json(file, {"step": error.step, "term": error.term, "rows": rows})
            shown = ", ".join(str(row) for row in rows[:NUM_SHOWN])
            shown += ", ..." if len(rows) > NUM_SHOWN else ""
            raise TrainingError(
                f"{error}. The batch was rows {shown} of the training split (all in {file})"
            ) from None
        raise
