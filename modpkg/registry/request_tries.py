"""Trying again what a registry failed to do, and waiting as long as it asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from modpkg.core import bounds
from modpkg.core.errors import ModpkgError, RegistryError
from modpkg.registry.attempts import jittered
from modpkg.registry.requests import wait_for

RETRIES = 5
"""How often a request is tried again."""
_PAUSE = 0.25


class PassingFailure(Exception):
    """A request failed such that another may succeed."""

    def __init__(self, reason: str, after: float = 0, error: ModpkgError | None = None) -> None:
        self.reason = reason
        self.error = error
        """What the registry says itself, to be raised where it is not tried again."""
        self.after = after
        """For how many seconds the registry wants to be left alone."""


class RequestTries:
    """The tries of one piece of work that a registry may fail to do at first."""

    def __init__(
        self, refusal: Callable[[str, str], RegistryError], check_going: Callable[[], None]
    ) -> None:
        """``refusal`` makes the error of a reason and a remedy; ``check_going`` may end it all."""
        self._refusal = refusal
        self._check_going = check_going
        self.count = 0
        """Of those that failed, since one brought something."""
        self._granted = 0.0

    def wait(self, failure: PassingFailure, *, progressed: bool = False) -> None:
        """Wait before the next try; ``progressed`` is whether the last one brought something.

        Raises:
            RegistryError: There were enough, or the registry asks for too long a wait; of another
                class if it says so itself.
        """
        if progressed:
            self.count, self._granted = 0, 0.0
        self.count += 1
        self._granted += failure.after
        if self._granted > bounds.RETRY_AFTER_SECONDS:
            remedy = f"try again in {failure.after:.0f} s, for which it asks to be left alone"
            raise (failure.error or self._refusal(failure.reason, remedy)) from None
        if self.count > RETRIES:
            raise (failure.error or self._refusal(failure.reason, "try again later")) from None
        self._check_going()
        wait_for(partial(time.sleep, max(failure.after, jittered(_PAUSE * 2**self.count))))
