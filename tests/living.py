"""Which processes go on living after something that should have ended them."""

import time
from collections.abc import Iterable

import psutil

from flows.processes import is_alive

SECONDS_TO_BE_GONE = 3.0


def outliving(pids: Iterable[int], seconds: float = SECONDS_TO_BE_GONE) -> list[int]:
    """Wait for processes to end and return those that have not.

    One that has ended and that nobody has asked about yet (a zombie, which the first process of a
    container may leave for ever) is gone: it holds no memory, no port and no file.
    """
    deadline = time.monotonic() + seconds
    left = list(pids)
    while (left := [pid for pid in left if _lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _lives(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
