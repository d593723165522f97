"""One piece of work for each tensor, over threads."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from modpkg.compose.memory import default_threads

Item = TypeVar("Item")
Found = TypeVar("Found")


def spread(function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """Yield what ``function`` gives for each item, in their order.

    In each of the threads torch has one: tensors are the parallel work, and the order of sums does
    not depend on the machine's cores.
    """

    def alone(item: Item) -> Found:
        torch.set_num_threads(1)
        return function(item)

    inner = torch.get_num_threads()
    try:
        with concurrent.futures.ThreadPoolExecutor(default_threads()) as pool:
            yield from pool.map(alone, items)
    finally:
        torch.set_num_threads(inner)
