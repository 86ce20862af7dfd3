"""Memory that was freed stays with the process."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from aigc.training.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def batch():
    return [np.ones(1 << 20, np.float32) for _ in range(20)]

batch(), batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(what: str) -> int:
    """Pages that 20 batches of 80 MiB took from the system."""
    command = [sys.executable, "-c", SCRIPT, what]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_reused_by_the_next_batch() -> None:
    assert pages("keep") < 1000
    assert pages("give back") > 100_000  # half of all
