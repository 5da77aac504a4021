"""Work done side by side whose results come in order, with no more of it under way than helps."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from stages.errors import DistilleryError

LOOKAHEAD = 2
"""Calls that wait for a worker while another's result is waited for."""


def in_order(
    executor: Executor,
    num_workers: int,
    calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]],
) -> Iterator[Any]:
    """Yield the result of call after call; the next are done meanwhile, one by each worker.

    Raises:
        DistilleryError: a worker process has ended.
    """
    waiting: deque[Future[Any]] = deque()
    try:
        for function, arguments in calls:
            waiting.append(executor.submit(function, *arguments))
            if len(waiting) > num_workers + LOOKAHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenExecutor as error:
        raise DistilleryError(
            "a worker process was stopped, or lost for want of memory; run the same command again, "
            "with fewer other programs"
        ) from error
