"""Prefetching: index files of remote registries are fetched concurrently before resolving."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from modpkg.core.errors import ModpkgError
from modpkg.core.names import read_requirement
from modpkg.registry.requests import abandon
from modpkg.resolve.catalog import Catalog

AT_ONCE = 32
"""Index files that are fetched at the same time; they are small."""


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Make a pool; an error or an interruption waits for no server."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield pool
    except (KeyboardInterrupt, SystemExit):
        pool.shutdown(wait=False, cancel_futures=True)
        abandon()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch(catalog: Catalog, names: Iterable[str], *, deep: bool) -> None:
    """Fetch the index files of ``names``, and with ``deep`` of everything that they may require.

    An error is not raised here but when the file is needed; fetching is not tried again.
    """
    if catalog.is_local:
        return
    with _pool() as pool:
        seen: set[str] = set()
        pending: deque[str] = deque()

        def want(name: str) -> None:
            if name not in seen:
                seen.add(name)
                pending.append(name)
                catalog.registry(name).prefetch(name, pool)

        for name in names:
            want(name)
        while pending:
            try:
                releases = catalog.releases(pending.popleft())
            except ModpkgError:
                continue
            for release in releases if deep else ():
                for texts in (release.line.requires, *release.line.extras.values()):
                    for text in texts:
                        want(read_requirement(text).name)
