"""How every stage runs as a command: one log format, one way to fail, documented exit codes.

0: the stage reached its target. 1: it failed, and the message says why. 2: usage or settings.
75: it was asked to stop and has checkpointed; run the same command again.
Where there is nothing to checkpoint, Ctrl-C ends it as it ends any command (stages/__init__.py).
"""

import argparse
import gc
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stages.errors import DistilleryError

log = logging.getLogger("distillery")


def _scrub(record: logging.LogRecord) -> bool:
    """Cut the password out of every address in a message; a library's error may hold one."""
    record.msg, record.args = without_secret(record.getMessage()), None
    return True


log.addFilter(_scrub)


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parse the command line, run `main`, and leave the process with the right exit code."""
    # What has been imported stays; stages/__init__.py says why the collector was off.
    gc.freeze()
    gc.enable()
    arguments = parser.parse_args()
    start_logging()
    try:
        main(arguments)
    except DistilleryError as error:
        # The message is for the user to act on; a traceback would only hide it.
        log.error("%s", error)  # noqa: TRY400
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        # A full disk or a read-only folder is the user's to mend, not a bug to trace.
        log.error("%s: %s", error.filename or "input/output", error.strerror or error)  # noqa: TRY400
        sys.exit(1)


def start_logging() -> None:
    """Log to standard error; only rank 0 of a distributed run speaks below warnings."""
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "datasets", "alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns of each of its tries; what comes of the last one is told.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def num_cores() -> int:
    """Return how many cores this process may use, which Slurm and containers may have made few."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cores_to_use() -> int:
    """Return how many cores a run may use: those it is allowed, or fewer by OMP_NUM_THREADS."""
    allowed, limit = num_cores(), os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(limit)) if limit.isdigit() and int(limit) > 0 else allowed


def parser_for(module_doc: str | None, names: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a parser whose help is the module's docstring, with one required path per name."""
    spec = sys.modules["__main__"].__spec__
    parser = argparse.ArgumentParser(
        # As it was called: argparse of Python 3.11 says only the file's name.
        prog=f"python -m {spec.name.removesuffix('.__main__')}" if spec else None,
        description=module_doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="PATH")
    return parser


def without_secret(address: str) -> str:
    """Return an address without the user and password that may stand in it: safe to show."""
    # To the last @: a password may hold one.
    return re.sub(r"//[^/\s]*@", "//", address)
