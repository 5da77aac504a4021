"""What the pipeline does, a room per concern; a room imports only rooms before it."""

import gc
import signal
import sys
import traceback
from types import TracebackType


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in a line that a command was stopped; of what is wrong with the code say where."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("stopped; run the same command again to go on\n")
    else:
        from stages.command import without_secret

        # A library may name a server by its whole address.
        said = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(without_secret(said))


if sys.argv[:1] == ["-m"]:
    # So Python calls itself until it has found the module of `python -m stages...`. Imports make a
    # million objects that stay and no cycle: looking for one takes a third of a stage's start.
    # stages/command.py, where every command begins, sets the collector to work again.
    gc.disable()
    # Ctrl-C, at any moment from here on, is the user's wish: no traceback for it.
    sys.excepthook = _end
elif "--multiprocessing-fork" in sys.orig_argv:
    # So Python calls a process of a pool, which hears Ctrl-C as well: it ends without a word, and
    # the process that started it says one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
