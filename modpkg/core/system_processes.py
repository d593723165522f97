"""Processes of the system: what ends one, whether it runs, and what it starts."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modpkg.core import system
from modpkg.core.regular_file import read_head

_LOOKS_AGAIN = 0.5
"""Seconds after which a process looks again whether its parent is there."""


class Terminated(SystemExit):
    """SIGTERM came: the command unwinds as after an interruption, and leaves nothing half-made."""


def raise_on_termination() -> None:
    """Let SIGTERM raise `Terminated` in the main thread, unless the program handles it itself."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated(128 + number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)


@functools.cache
def process_space() -> str:
    """Return eight hex digits for the machine, or container, where a process's number counts.

    The same number is another process elsewhere, and elsewhere may see the same folder.
    """
    try:
        inner = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - Path.readlink needs it too
    except (AttributeError, OSError):  # not Linux
        inner = ""
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return hashlib.sha256(f"{host}\0{inner}".encode()).hexdigest()[:8]


def process_mark() -> str:
    """Return a text that no other has, of this process: its space, its number, and a random one."""
    return f"{process_space()}-{os.getpid()}-{os.urandom(4).hex()}"


def is_running(process: int) -> bool:
    """Return whether a process of this `process_space` runs; True where that cannot be known.

    One that was killed, and whose parent has not asked for its status yet, runs no more. Some
    parents never ask, such as a container's first process.
    """
    if system.WINDOWS:  # where a signal is no question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    try:
        state = read_head(Path(f"/proc/{process}/stat"), 4096).rpartition(b")")[2].split()[:1]
    except OSError:  # not Linux, or it ends just now
        return True
    return state not in ([b"Z"], [b"X"])


def group_options() -> dict[str, Any]:
    """Return the options of a process that `kill_group` can kill with everything it starts."""
    if hasattr(os, "killpg"):
        return {"start_new_session": True}
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process started with `group_options`, and everything it started that still runs."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        if system.WINDOWS and process.poll() is None:
            root = os.environ.get("SYSTEMROOT", r"C:\Windows")  # not what the folder may have
            with contextlib.suppress(OSError):
                subprocess.run(
                    [rf"{root}\System32\taskkill.exe", "/F", "/T", "/PID", str(process.pid)],
                    capture_output=True,
                    check=False,
                )
        process.kill()
    process.wait()


def end_with_parent(parent: int, seconds: float) -> None:
    """Wait for the end of this process's parent, and end it too: first by SIGTERM, then anyway.

    Args:
        parent: The number of the parent, as it was.
        seconds: How long what handles SIGTERM may take.
    """
    while os.getppid() == parent:
        time.sleep(_LOOKS_AGAIN)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds)
    os._exit(1)


def can_fork() -> bool:
    """Return whether a process with one thread may become several; macOS's libraries break then."""
    return sys.platform == "linux"


def forked(
    count: int, work: Callable[[int], None], begun: Callable[[int], None]
) -> Iterator[tuple[int, int]]:
    """Start so many processes, and yield the number and status of each one that ends.

    They are copies of this one, which must have no other thread.

    Args:
        count: How many processes.
        work: Called in each of them, with its number.
        begun: Called in this process when the one with a number has begun.

    Yields:
        The number, and the exit status; negative is the number of the signal that ended it.
    """
    running = {}
    for number in range(count):
        process = os.fork()
        if not process:
            try:
                work(number)
            finally:
                os._exit(1)
        running[process] = number
        begun(number)
    while running:
        process, status = os.wait()
        yield running.pop(process), os.waitstatus_to_exitcode(status)
