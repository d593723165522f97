"""Which modules have something new, for who prepares their pages."""

from __future__ import annotations

import threading
from collections import deque

MOST = 64
"""Modules that are kept in mind."""


class ChangedModules:
    """Names of modules in which there is something new, for one who waits for them. Thread-safe.

    Of many at once, those that came last are kept: the others are found by looking for the newest.
    """

    def __init__(self) -> None:
        self._names: deque[str] = deque(maxlen=MOST)
        self._some = threading.Event()

    def add(self, name: str) -> None:
        """Say that a module has a release or a candidate that is new."""
        self._names.append(name)
        self._some.set()

    def wake(self) -> None:
        """Let whoever waits go on."""
        self._some.set()

    def wait(self, seconds: float) -> list[str]:
        """Return the names that came, after waiting for one; none if none came."""
        self._some.wait(seconds)
        self._some.clear()
        names = []
        while self._names:
            names.append(self._names.popleft())
        return [*dict.fromkeys(names)]
