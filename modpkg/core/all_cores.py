"""Work on large pieces of files, spread over all cores; small work stays in the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from modpkg.core import system

T = TypeVar("T")
R = TypeVar("R")

_BATCH = 1 << 20
"""Bytes of small items that are one job."""
_SMALL = 16 << 20
"""Bytes up to which starting threads costs more than it saves."""


def on_all_cores(work: Callable[[T], R], items: Sequence[T], size: Callable[[T], int]) -> list[R]:
    """Return the results of ``work`` on each item, in order; the largest ones begin first.

    ``work`` has to release Python's lock, as reading and hashing do. ``size`` is an item's, bytes.

    Raises:
        What ``work`` raises for an item.
    """
    cores = min(system.available_cores(), len(items))
    if cores < 2 or sum(map(size, items)) <= _SMALL:
        return [work(item) for item in items]
    order = sorted(range(len(items)), key=lambda number: -size(items[number]))
    pool = ThreadPoolExecutor(cores, "modpkg-work")
    try:
        jobs: dict[int, tuple[Future[list[R]], int]] = {}
        for batch in _batches(order, lambda number: size(items[number])):
            job = pool.submit(_worked, work, [items[number] for number in batch])
            jobs |= {number: (job, at) for at, number in enumerate(batch)}
        return [jobs[number][0].result()[jobs[number][1]] for number in range(len(items))]
    finally:
        pool.shutdown(cancel_futures=True)


def _worked(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]


def _batches(order: Sequence[int], size: Callable[[int], int]) -> Iterator[list[int]]:
    """Yield the items in order, small ones together: each job of a pool takes time by itself."""
    batch: list[int] = []
    held = 0
    for number in order:
        batch.append(number)
        held += size(number)
        if held >= _BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
