"""Values kept in memory by a key for good, within a bound: of what never changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def _one(value: object) -> int:
    return 1


class KeptValues(Generic[Key, Value]):
    """The values used last, together not heavier than a bound.

    Threads may use it at once. Two that need one value at the same time may both make it.
    """

    def __init__(self, most: int) -> None:
        """``most`` is the weight of all values, in what `get` is given."""
        self._most = most
        self._weight = 0
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, key: Key, make: Callable[[], Value], weigh: Callable[[Value], int] = _one
    ) -> Value:
        """Return the value of a key; ``make`` is called if it is not kept.

        One that is heavier than the bound is not kept.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value = make()
        weight = weigh(value)
        if weight > self._most:
            return value
        with self._lock:
            if key not in self._values:
                self._values[key] = value, weight
                self._weight += weight
            while self._weight > self._most:
                _, (_, left) = self._values.popitem(last=False)
                self._weight -= left
        return value
