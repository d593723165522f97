"""What one command takes from one registry, counted: names, releases, bytes and requests.

A registry can make up names, versions and files without end. All counts are of work, not of time,
so that the same registry is refused on every machine. What is counted by many threads is counted
together, and once a budget is spent, everything else is refused too: whether it is does not depend
on which thread was first.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from modpkg.core import bounds
from modpkg.core.errors import RegistryError
from modpkg.core.home import config_path
from modpkg.manifest.limits import LIMITS, Limits, shown_limit

RAISED = 10
"""By how much a message tells to raise a limit."""


class Allowance:
    """What is left of a command's budgets for one registry."""

    def __init__(self, url: str, limits: Limits) -> None:
        self._url = url
        self._limits = limits
        self._spent: dict[str, int] = {}
        self._lock = threading.Lock()
        self._refusal: dict[str, str] | None = None

    def limit(self, key: str) -> int:
        """Return the whole of a budget."""
        return self._limits[key]

    @property
    def hints(self) -> int:
        """How many files may be asked for by what is not verified: an eighth of each budget."""
        each = {"names": 1, "requests": 1, "index-bytes": bounds.HINTED_FILE_BYTES}
        most = min(self._limits[key] // (8 * count) for key, count in each.items())
        return min(most, bounds.HINTED_FILES)

    def spend(self, key: str, count: int, what: str, *, counter: str = "") -> None:
        """Count something; ``what`` is an example of it.

        With a ``counter`` it is counted by itself, against the same limit.

        Raises:
            RegistryError: A budget is spent, this one or another.
        """
        with self._lock:
            self._add(key, count, what, counter or key)
        self.check()

    def spend_all(self, counts: Mapping[str, int], what: str) -> None:
        """Count several things of one file, by their budgets.

        Raises:
            RegistryError: A budget is spent, one of these or another.
        """
        with self._lock:
            for key, count in counts.items():
                self._add(key, count, what, key)
        self.check()

    def _add(self, key: str, count: int, what: str, counter: str) -> None:
        spent = self._spent[counter] = self._spent.get(counter, 0) + count
        if spent > self._limits[key] and self._refusal is None:
            self._refusal = {
                "key": key,
                "things": LIMITS[key].things,
                "most": shown_limit(key, self._limits[key]),
                "more": shown_limit(key, RAISED * self._limits[key], quoted=True),
                "example": what,
            }

    def spend_if_over(self, key: str, count: int, what: str) -> None:
        """Count something only if it is more than the whole budget by itself.

        Raises:
            RegistryError: It is.
        """
        if count > self._limits[key]:
            self.spend(key, count, what)

    def check(self) -> None:
        """Raise the error if a budget is spent, in whatever thread that was.

        Raises:
            RegistryError: It is.
        """
        if self._refusal is not None:
            raise RegistryError("M328", url=self._url, config=config_path(), **self._refusal)
