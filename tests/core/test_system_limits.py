"""Limits that the system puts on a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modpkg.core.system_limits import machine_memory

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count other memory")
def test_a_process_takes_no_more_memory_than_its_limit() -> None:
    script = """
from modpkg.core.system_limits import limit_memory
limit_memory(200 << 20)
assert len(bytearray(50 << 20))
try:
    bytearray(300 << 20)
except MemoryError:
    limit_memory(800 << 20)  # a larger model may take more
    assert len(bytearray(300 << 20))
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "refused\n", done.stderr


def test_the_memory_of_the_machine_is_known_or_not() -> None:
    memory = machine_memory()
    assert memory is None or memory > 100 << 20
