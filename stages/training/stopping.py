"""SIGINT and SIGTERM as a wish to stop at the next step, not in the middle of one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """Whether this process has been asked to stop."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        """Note the wish; a signal handler may do no more."""
        self.wanted = True


@contextmanager
def stop_on_signals() -> Iterator[StopWish]:
    """Turn SIGINT and SIGTERM into a wish for the length of a block."""
    wish = StopWish()
    previous = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
