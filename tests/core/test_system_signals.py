"""What a signal ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FORKED = """
import os, signal, time
from modpkg.core import system_signals
system_signals.MOMENT = 0
signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
with system_signals.ended_in_time():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"x")
        while True:
            time.sleep(1)
    os.read(reading, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    time.sleep(0.2)  # the time in which the watcher would end this process
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_signal_of_a_forked_process_is_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
