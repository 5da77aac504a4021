"""Memory that a training step frees stays with the process, for the next step to use.

glibc gives large blocks back to the system as soon as they are freed, and every step then pays for
getting the same pages again, cleared: tens of thousands of page faults, 3 to 5 % of the time of a
small student's step (docs/experiments.md). What a process needs at its highest stays the same.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""mallopt's names for two of its settings, from malloc.h."""
LIMITS = {True: (2**31 - 1, 2**30), False: (2**26, 2**25)}
"""How much may be free at the heap's end, and how large a block of it may be, in bytes: while
memory is kept, and as glibc's own adaptation ends up once large blocks have been freed."""


@contextmanager
def freed_memory_kept(device: "torch.device") -> Iterator[None]:
    """Keep freed memory inside a block that trains on a CPU, where the C library is glibc."""
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    keep_freed_memory(kept=True)
    try:
        yield
    finally:
        keep_freed_memory(kept=False)


def keep_freed_memory(*, kept: bool) -> None:
    """Set glibc's limits; what is free above them goes back to the system at once."""
    libc = ctypes.CDLL(None)
    for setting, limit in zip((TRIM_THRESHOLD, MMAP_THRESHOLD), LIMITS[kept], strict=True):
        libc.mallopt(setting, limit)
    if not kept:
        libc.malloc_trim(0)
