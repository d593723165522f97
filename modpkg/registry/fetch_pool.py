"""Threads that ask registries for many small files at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from modpkg.registry.late_copies import copies_wait

if TYPE_CHECKING:
    from concurrent.futures import Executor

AT_ONCE = 64
"""Files that are fetched at the same time; they are small."""


@contextmanager
def fetch_pool(*, waits: bool = True) -> Iterator[Executor]:
    """Make a pool to fetch files in; an error or an interruption waits for no server.

    Unless it ``waits``, what has not come at the end is left out.
    """
    from modpkg.registry.requests import RequestPool, abandon  # slow to import; folders need none

    pool = RequestPool(AT_ONCE)
    with copies_wait():
        try:
            yield pool
            if waits:
                pool.shutdown()
        except (KeyboardInterrupt, SystemExit):
            pool.shutdown(wait=False, cancel_futures=True)
            abandon()
            raise
        finally:
            pool.shutdown(wait=waits, cancel_futures=True)
