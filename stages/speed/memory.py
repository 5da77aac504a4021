"""How much memory a model takes to open and run: the growth of this process's peak (Linux)."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
"""What the kernel takes as: begin the peak of resident memory anew."""

Made = TypeVar("Made")


def peak_growth(make: Callable[[], Made]) -> tuple[Made, float | None]:
    """Return what `make` makes, and the megabytes that memory grew by at its highest meanwhile.

    None where the system does not tell. What the libraries keep for later calls is counted at
    the first of them: make something small before.
    """
    gc.collect()
    try:
        # Else the memory of what was made before would be used again, and not counted.
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text(FORGET_PEAK)
        before = _kibibytes("VmRSS")
    except (OSError, AttributeError, KeyError):
        return make(), None
    made = make()
    return made, round((_kibibytes("VmHWM") - before) * 1024 / 1e6, 1)


def _kibibytes(field: str) -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise KeyError(field)
