"""Work on large pieces of files, spread over all cores; small work stays in the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from modpkg.core import system

T = TypeVar("T")
R = TypeVar("R")

_SMALL = 16 << 20
"""Bytes up to which starting threads costs more than it saves."""


def on_all_cores(work: Callable[[T], R], items: Sequence[T], size: Callable[[T], int]) -> list[R]:
    """Return the results of ``work`` on each item, in order; the largest ones begin first.

    ``work`` has to release Python's lock, as reading and hashing do. ``size`` is an item's, bytes.

    Raises:
        What ``work`` raises for the first item that it raises something for.
    """
    cores = min(system.available_cores(), len(items))
    if cores < 2 or sum(map(size, items)) <= _SMALL:
        return [work(item) for item in items]
    order = sorted(range(len(items)), key=lambda number: -size(items[number]))
    pool = ThreadPoolExecutor(cores, "modpkg-work")
    try:
        jobs = {number: pool.submit(work, items[number]) for number in order}
        return [jobs[number].result() for number in range(len(items))]
    finally:
        pool.shutdown(cancel_futures=True)
