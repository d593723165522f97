"""How often one address or token may ask: a bucket of tokens for each, in this process.

It is for keeping one client from crowding out all others; guessing of passwords is limited for all
processes together (`modpkg.server.guessing`).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from modpkg.core.errors import AccessRefused

KEPT = 50_000
"""Clients of which it is known how much they have asked; those that asked longest ago are not."""


class RateLimits:
    """Lets each client ask so often.

    Args:
        per_second: How many requests a second one client may send in the long run; 0 for any.
        burst: How many it may send at once.
        clock: Returns seconds.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = per_second, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By client, how many it may still send, and when that was so."""

    def count(self, clients: Iterable[str]) -> None:
        """Count a request, for each of the names that its client has.

        Raises:
            AccessRefused: None is left for a client.
        """
        if self._rate <= 0:
            return
        moment, longest = self._clock(), 0.0
        for client in clients:
            left, then = self._left.pop(client, (float(self._burst), moment))
            left = min(left + (moment - then) * self._rate, float(self._burst))
            if left < 1:
                longest = max(longest, (1 - left) / self._rate)
            else:
                left -= 1
            self._left[client] = (left, moment)
        while len(self._left) > KEPT:
            self._left.popitem(last=False)
        if longest:
            raise AccessRefused("M484", seconds=math.ceil(longest))
