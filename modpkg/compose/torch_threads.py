"""torch's threads: one per operation, where tensors or blocks of rows are the parallel work.

Sums then do not depend on the number of cores.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from modpkg.core import system

Item = TypeVar("Item")
Value = TypeVar("Value")


def use_one_thread() -> None:
    """Make torch use one thread per operation; with OpenMP this holds for the calling thread."""
    torch.set_num_threads(1)


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """Restore torch's number of threads on exit."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run a block with one torch thread per operation."""
    with threads_restored():
        use_one_thread()
        yield


def parallel_map(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """Yield ``function(item)`` for each item, in order, computed by one Python thread per core.

    Each of these threads runs torch operations single-threaded.
    """

    def call(item: Item) -> Value:
        use_one_thread()
        return function(item)

    with (
        threads_restored(),
        concurrent.futures.ThreadPoolExecutor(system.available_cores()) as pool,
    ):
        yield from pool.map(call, items)
