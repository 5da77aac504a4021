"""The halt at a loss or gradient that is not finite, which says where to look."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import TrainingError
from stages.files import write_json
from stages.training.batches import Batches, rows_of
from stages.training.checkpoints import checkpoints_in
from stages.training.processes import Processes

NUM_SHOWN = 8


class NotFiniteError(TrainingError):
    """A term, or the gradient, that is not finite at a step (counted from 1)."""

    def __init__(self, step: int, term: str, learning_rate: float) -> None:
        super().__init__(
            f"step {step}: {term} is not finite; lower learning_rate ({learning_rate}) or look at "
            "the batch of that step, and run again"
        )
        self.step, self.term = step, term


@contextmanager
def naming_the_batch(
    batches: Batches, workspace: Path | None, processes: Processes
) -> Iterator[None]:
    """Say of which rows a step was made whose loss or gradient is not finite, and what is kept.

    Args:
        batches: What is trained on.
        workspace: Where checkpoints may be and the rows are written; None: all are said.
        processes: The first one writes; any may be the one that is heard.
    """
    try:
        yield
    except NotFiniteError as error:
        said, rows = [str(error)], rows_of(batches, error.step - 1)
        if rows and workspace is None:
            said.append(f"The batch was rows {_listed(rows)} of what is trained on")
        elif rows and workspace is not None:
            file = workspace / "not-finite.json"
            if processes.is_first:
                write_json(file, {"step": error.step, "term": error.term, "rows": rows})
            shown = _listed(rows[:NUM_SHOWN]) + (", ..." if len(rows) > NUM_SHOWN else "")
            said.append(f"The batch was rows {shown} of what is trained on (all in {file})")
        if workspace is not None and checkpoints_in(workspace):
            said.append("The last checkpoint is from before it, and is kept")
        raise TrainingError(". ".join(said)) from None


def _listed(rows: list[int]) -> str:
    return ", ".join(map(str, rows))
