"""Batches that are ready when they are asked for."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from stages.training.batches import Batch, Batches, Order


class Ahead:
    """Other batches, the next step's made in a thread while a step is under way.

    Every process makes the whole batch of a step, and so of many processes each would wait for it
    longer than for its own share of the work: a million tokens take some 40 ms. The batches are the
    same ones, because a batch is a function of its step.
    """

    def __init__(self, batches: Batches, num_steps: int) -> None:
        """Take batches, and the number of steps: none is made beyond."""
        self.batches, self.num_steps = batches, num_steps
        self._thread = ThreadPoolExecutor(1)
        self._waiting: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> Self:
        """Begin with nothing made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Wait for the batch under way, and end the thread."""
        self._thread.shutdown()

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, and begin with the next one."""
        waiting = self._waiting
        if waiting is None or waiting[0] != step:
            waiting = step, self._thread.submit(self.batches, step)
        batch = waiting[1].result()
        self._waiting = None
        if step + 1 < self.num_steps:
            self._waiting = step + 1, self._thread.submit(self.batches, step + 1)
        return batch

    @property
    def order(self) -> Order | None:
        """The order of the batches, once the thread does not read it; None where they have none."""
        if self._waiting is not None:
            self._waiting[1].exception()
        return getattr(self.batches, "order", None)
