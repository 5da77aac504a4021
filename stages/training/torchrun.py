"""torchrun, which ends as a stage does: with its workers' exit code, and without a traceback.

    python -m stages.training.torchrun --standalone --nproc-per-node 2 -m stages.teacher.adapt ...

Takes torchrun's own arguments. Whatever starts several processes starts this: to a signal, torchrun
itself answers with a traceback and exit code 1, however orderly its workers have stopped.
"""

import gc
import os
import sys
import tempfile

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from stages.command import log, start_logging
from stages.training.processes import EXIT_CODE, LAUNCHER

HABITS = {
    # A new store at every restart. In the shared one processes find the addresses of those that
    # have died, and wait for them half an hour.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # Seconds from a signal to SIGKILL, 30 by itself: nearly all of the 120 that clusters give.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "110",
}
"""What torchrun reads from its environment; what stands there already is left."""


def main() -> int:
    """Run torchrun with this process's arguments and return the exit code."""
    # stages/__init__.py says why it was off.
    gc.enable()
    start_logging()
    with tempfile.NamedTemporaryFile() as told:
        os.environ |= HABITS | dict(os.environ)
        os.environ |= {LAUNCHER: str(os.getpid()), EXIT_CODE: told.name}
        try:
            run.main()
        except (SignalException, ChildFailedError) as error:
            if code := told.read():
                return int(code)
            log.error("%s", _why(error))
            return 1
    return 0


def _why(error: SignalException | ChildFailedError) -> str:
    """Say why torchrun ended where no worker has."""
    if isinstance(error, SignalException):
        return f"stopped by {error.sigval.name} before a checkpoint was written"
    rank, failure = error.get_first_failure()
    killed = failure.exitcode < 0
    how = f"was ended by {failure.signal_name()}" if killed else f"failed ({failure.exitcode})"
    return (
        f"process {rank} {how}, and no restart is left (launch.max_restarts); once that is mended, "
        "the same command goes on from the last checkpoint"
    )


if __name__ == "__main__":
    sys.exit(main())
