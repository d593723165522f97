"""The pace of an answer: a server may be slow, but not endlessly."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from modpkg.core import bounds
from modpkg.core.errors import RegistryUnreachable
from modpkg.registry.requests import TooLate, wait_for

T = TypeVar("T")


class Pace:
    """How fast an answer comes: the time that was waited for it, and the bytes that came."""

    def __init__(
        self, url: str, path: str, window: timedelta, *, whole: float | None = None
    ) -> None:
        """``window`` is the time over which a rate is taken; ``whole`` limits all, in seconds."""
        self._url = url
        self._path = path
        self._window = window.total_seconds()
        self._whole = whole
        self._total = 0.0
        self.begin()

    def begin(self) -> None:
        """Begin an attempt: how slow the one before was says nothing about this one."""
        self._waited, self._bytes = 0.0, 0

    def timed(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Return what a part of the request returns; only this time counts, not the reader's.

        Raises:
            RegistryUnreachable: It takes longer than ``seconds``.
        """
        began = time.monotonic()
        try:
            return wait_for(work, seconds)
        except TooLate:
            reason = f"its answer to {self._path} did not begin for {seconds:g} seconds"
            raise RegistryUnreachable("M302", url=self._url, reason=reason) from None
        finally:
            taken = time.monotonic() - began
            self._waited += taken
            self._total += taken

    def arrived(self, count: int) -> None:
        """Count bytes.

        Raises:
            RegistryUnreachable: They come too slowly, or take too long in all.
        """
        self._bytes += count
        if self._whole is not None and self._total > self._whole:
            reason = f"it took over {self._whole:g} seconds to send {self._path}"
            raise RegistryUnreachable("M302", url=self._url, reason=reason)
        if self._waited < self._window:
            return
        if self._bytes < bounds.SLOWEST_BYTES_PER_SECOND * self._waited:
            reason = (
                f"it sent {self._bytes} bytes of {self._path} in {self._waited:.0f} seconds, and "
                f"under {bounds.SLOWEST_BYTES_PER_SECOND} a second counts as no answer"
            )
            raise RegistryUnreachable("M302", url=self._url, reason=reason)
        self.begin()
