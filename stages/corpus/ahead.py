"""Work done side by side whose results come in order, with no more of it under way than helps."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

LOOKAHEAD = 2
"""Calls that wait for a worker while another's result is waited for."""


def in_order(
    executor: Executor,
    num_workers: int,
    calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]],
) -> Iterator[Any]:
    """Yield the result of call after call; the next are done meanwhile, one by each worker."""
    waiting: deque[Future[Any]] = deque()
    for function, arguments in calls:
        waiting.append(executor.submit(function, *arguments))
        if len(waiting) > num_workers + LOOKAHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
