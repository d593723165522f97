"""Copies that are hashed on the very bytes that are written, on any number of threads at once.

A source that somebody may change meanwhile is read once: what is hashed and what is written is one
buffer. No thread holds Python's lock while it reads, hashes or writes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, wait

from modpkg.core import system
from modpkg.core.system_writeback import begin_writing

STEP = 4 << 20
"""Bytes of a thread's buffer."""
_LARGE = 1 << 20
"""Bytes from which it pays to ask another thread, and to write early."""
_buffers = threading.local()


def copy_hashed(
    source: int,
    offset: int,
    length: int,
    target: int,
    position: int,
    states: tuple[hashlib._Hash, ...],
    *,
    beside: Executor | None = None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Copy bytes of an open file to another, and return how many there were.

    Args:
        source: The file that is read, from ``offset`` on.
        offset: The first byte.
        length: Number of bytes; fewer are copied where the file ends before.
        target: The file that is written, from ``position`` on.
        position: Where the first byte is written.
        states: Hashes that are updated with the bytes.
        beside: Where all hashes but the first are computed, and the bytes written, meanwhile.
        check: Called before each step; what it raises ends the copy.
    """
    copied = 0
    while copied < length:
        check()
        view = _buffer(length - copied)
        count = system.read_at(source, view, offset + copied)
        if not count:
            break
        view = view[:count]
        if beside is None or count < _LARGE:
            for state in states:
                state.update(view)
            system.write_at(target, view, position + copied)
        else:
            jobs = [beside.submit(state.update, view) for state in states[1:]]
            jobs.append(beside.submit(system.write_at, target, view, position + copied))
            try:
                states[0].update(view)
            finally:
                wait(jobs)  # before the buffer is used again
            for job in jobs:
                job.result()
        if count >= _LARGE:
            begin_writing(target, position + copied, count)
        copied += count
    return copied


def _buffer(most: int) -> memoryview:
    """Return this thread's buffer, or as much of it as is needed."""
    size = min(most, STEP)
    held: memoryview | None = getattr(_buffers, "held", None)
    if held is None or len(held) < size:
        held = _buffers.held = memoryview(bytearray(size))
    return held[:size]
