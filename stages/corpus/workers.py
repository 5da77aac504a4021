"""Where pieces of work run side by side: processes of this machine, or a Dask cluster.

Either is a `concurrent.futures.Executor`, and none of the work knows which.
"""

import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager

from stages.command import log, num_cores
from stages.errors import DistilleryError, SettingsError

SECONDS_TO_CONNECT = 30


def workers(address: str | None, num_tasks: int) -> AbstractContextManager[Executor]:
    """Return the workers of the cluster at an address; without one, a process for each core."""
    if address is None:
        return processes(min(num_cores(), num_tasks))
    return cluster(address)


@contextmanager
def processes(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes; on leaving, work that has not begun is given up.

    They are started afresh, not forked: a fork copies the locks of the libraries' threads, and
    may wait for them for ever. They end when the process that started them ends.
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


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """Yield the workers of a Dask cluster; what a lost worker was doing, another does again.

    The workers must see this folder under the same path, and run this code: start each in the
    project's folder with `python -m distributed.cli.dask_worker ADDRESS --nthreads 1`.

    Raises:
        SettingsError: `distributed` is not installed, or nothing answers at the address.
        DistilleryError: one piece of work has ended several workers, one after the other, or the
            scheduler is gone.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise SettingsError(
            f"params.yaml: launch.dask_address = {address}: needs a package that is not "
            "installed: pip install distributed"
        ) from error
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"params.yaml: launch.dask_address = {address}: no Dask scheduler answers there "
            f"({error}); start one with `dask scheduler`, or set null to use this machine alone"
        ) from error
    with client:
        num_workers = len(client.nthreads())
        log.info("%d workers at %s%s", num_workers, address, "" if num_workers else "; waiting")
        executor = client.get_executor(pure=False)
        try:
            yield executor
        except KilledWorker as error:
            raise DistilleryError(
                f"a shard has ended several workers of {address}, perhaps for want of memory; "
                f"what is finished is kept, run the same command again ({error})"
            ) from error
        except CancelledError as error:
            raise DistilleryError(
                f"the Dask scheduler at {address} was lost; what is finished is kept: start it and "
                "its workers again, and run the same command"
            ) from error
        finally:
            executor.shutdown(wait=False)
