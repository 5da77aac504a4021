"""What the pipeline does, a room per concern; a room imports only rooms before it."""

import gc
import sys

if sys.argv[:1] == ["-m"]:
    # So Python calls itself until it has found the module of `python -m stages...`. Imports make a
    # million objects that stay and no cycle: looking for one takes a third of a stage's start.
    # stages/command.py, where every command begins, sets the collector to work again.
    gc.disable()
