"""Copies that are hashed on the very bytes that are written, on any number of threads at once.

A source that somebody may change meanwhile is read once: what is hashed and what is written is one
buffer. No thread holds Python's lock while it reads, hashes or writes.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any

from modpkg.core import system
from modpkg.core.system_writeback import begin_writing

STEP = 2 << 20
"""Bytes of each of a thread's two buffers."""
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
        beside: Where all hashes but the first are computed, the bytes written and those after them
            read, meanwhile.
        check: Called before each step; what it raises ends the copy.
    """
    view, copied = _read(source, offset, length, 0), 0
    for turn in itertools.count(1):
        if not view:
            return copied
        check()
        count, at = len(view), position + copied
        copied += count
        rest = source, offset + copied, length - copied
        if beside is None or count < _LARGE:
            for state in states:
                state.update(view)
            system.write_at(target, view, at)
            following = _read(*rest, 0)
        else:
            ahead = beside.submit(_read_into, *rest, _buffer(length - copied, turn % 2))
            jobs: list[Future[Any]] = [beside.submit(each.update, view) for each in states[1:]]
            jobs.append(beside.submit(system.write_at, target, view, at))
            try:
                states[0].update(view)
            finally:
                wait([ahead, *jobs])  # before the buffers are used again
            for job in jobs:
                job.result()
            following = ahead.result()
        if count >= _LARGE:
            begin_writing(target, at, count)
        view = following
    raise AssertionError("the file has an end")


def _read(source: int, offset: int, length: int, number: int) -> memoryview:
    return _read_into(source, offset, length, _buffer(length, number))


def _read_into(source: int, offset: int, length: int, view: memoryview) -> memoryview:
    """Read into a buffer, and return what was read; nothing at the end."""
    return view[: system.read_at(source, view, offset)] if length else view[:0]


def _buffer(most: int, number: int) -> memoryview:
    """Return one of this thread's two buffers, or as much of it as is needed."""
    size = min(most, STEP)
    held: dict[int, memoryview] = _buffers.__dict__.setdefault("held", {})
    if number not in held or len(held[number]) < size:
        held[number] = memoryview(bytearray(size))
    return held[number][:size]
