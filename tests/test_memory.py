"""Memory freed in a step is there for the next one, and goes back to the system in the end."""

import platform
import resource

import pytest
import torch

from stages.training.memory import freed_memory_kept

CPU = torch.device("cpu")
NUM_PAGES = 10_000


def faults() -> int:
    """How many pages the system hands out for a tensor of 40 MB that is freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(NUM_PAGES * 1024)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_the_same_pages_are_used_again_inside_the_block_only() -> None:
    with freed_memory_kept(CPU):
        faults()
        assert faults() < NUM_PAGES / 10
    faults()
    # Large pages, where the system makes them, are counted once for 512 small ones.
    assert faults() > NUM_PAGES / 600
