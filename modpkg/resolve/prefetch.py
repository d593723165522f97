"""Prefetching: index files of remote registries are fetched concurrently before resolving."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from modpkg.core.errors import ModpkgError
from modpkg.core.names import read_requirement
from modpkg.resolve.catalog import Catalog

AT_ONCE = 32
"""Index files that are fetched at the same time; they are small."""


def prefetch(catalog: Catalog, names: Iterable[str], *, deep: bool) -> None:
    """Fetch the index files of ``names``, and with ``deep`` of everything that they may require.

    An error is not raised here but when the file is needed; fetching is not tried again.
    """
    if catalog.is_local:
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
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
