"""Limits that the system puts on this process: memory, processor time, files, other processes.

Windows has none of them for a single process; there a parent's clock is the only bound.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
from collections.abc import Iterator


def limit_process(memory: int) -> None:
    """Let this process take no more than some bytes of memory beside what it has.

    It can write no file and start no process any more.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    taken = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as opened:
        taken = int(opened.read().split()[0]) * resource.getpagesize()
    bounds = {
        "RLIMIT_AS": taken + memory,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 0,
    }
    for name, bound in bounds.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (bound, bound))


def limit_memory(most: int) -> None:
    """Let this process take no more than some bytes of memory of its own; it can be called again.

    Memory that is shared or only reserved does not count. Where the system has no such limit,
    nothing is changed.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(AttributeError, ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def machine_memory() -> int | None:
    """Return the bytes of memory that this process may use, of the machine or its container."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    with (
        contextlib.suppress(OSError, ValueError),
        open("/sys/fs/cgroup/memory.max", encoding="ascii") as opened,
    ):
        found = min(found, int(opened.read(64)))
    return found


@contextlib.contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """End this process if the block takes more processor time; the signal reaches C code too."""
    timer = getattr(signal, "ITIMER_PROF", None)
    if timer is not None:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        if timer is not None:
            signal.setitimer(timer, 0)


def reached_processor_limit(status: int) -> bool:
    """Return whether a process with this status was ended by its `processor_limit`."""
    return status == -getattr(signal, "SIGPROF", 1 << 20)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def machine_text() -> str:
    """Return the system, its architecture, and the version of Python."""
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
