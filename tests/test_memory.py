"""Memory freed in a step is there for the next one, and goes back to the system in the end."""

import json
import platform
import subprocess
import sys

import pytest

NUM_PAGES = 10_000
# In a process of its own: in one that has run other tests, the heap may have nowhere to grow.
SCRIPT = f"""
import json, resource
from types import SimpleNamespace
from stages.training.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray({NUM_PAGES} * 4096)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = []
try:
    with freed_memory_kept(SimpleNamespace(type="cpu")):
        found += [faults(), faults()]
        raise KeyError
except KeyError:
    found += [faults(), faults()]
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_the_same_pages_are_used_again_inside_the_block_only() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    first, inside, _, after = json.loads(ran.stdout)
    assert inside < NUM_PAGES / 100
    # Large pages, where the system makes them, are counted once for 512 small ones.
    assert min(first, after) > NUM_PAGES / 600
