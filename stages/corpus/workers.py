"""Processes that do pieces of work side by side, and end when the one that started them ends."""

import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def processes(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes; on leaving, work that has not begun is given up.

    They are started afresh, not forked: a fork copies the locks of the libraries' threads, and
    may wait for them for ever.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_prepare)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _prepare() -> None:
    # Nothing these processes make has cycles, and looking for some doubles the time of parsing.
    gc.disable()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the parent is gone; a pool's process would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
