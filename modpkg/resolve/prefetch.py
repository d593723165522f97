"""Prefetching: what is read of remote registries is fetched concurrently before it is needed.

Only what can matter is fetched. Before the walk: what the preferred releases lead to, which it will
most likely choose. Before the search, which encodes all that can be reached: what any release leads
to that is admitted and in the range of who needs it. An extra counts where it is asked for. With
the preferred releases come the interfaces and records that tell whether they fit.

An error is not raised here but when the file is needed; fetching is not tried again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.errors import ModpkgError
from modpkg.core.names import ModuleName, read_requirement
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import Identifier, Need
from modpkg.resolve.order import Runs, bits, intersect, mask_of, within
from modpkg.resolve.space import Domain, Space

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from modpkg.registry.reader import Registry


class _Requires(Struct):
    """What an index line says that matters here."""

    requires: list[str] = []


_REQUIRES = msgspec.json.Decoder(_Requires)
COMPARED = 4
"""Releases of one base whose records are fetched ahead, since the modules may fit any of them."""


def prefetch_likely(space: Space, roots: Sequence[Need], locked: Iterable[str]) -> None:
    """Fetch what the preferred releases lead to from the roots, and the locked names.

    With a lock, its names are nearly always all that is needed.
    """
    if not space.provider.is_remote:
        return
    with fetch_pool() as pool, fetch_pool(waits=False) as hints:
        catalog = space.provider.catalog
        ahead = _Ahead(catalog, pool, hints)
        for name in (*(root.name for root in roots), *locked):
            ahead.fetch(name)
        for name in catalog.likely():
            ahead.fetch(name)
        acted_on: set[ModuleName] = set()
        allowed: dict[ModuleName, Runs] = {}
        followed: set[tuple[Identifier, int]] = set()
        pending = deque(roots)
        while pending:
            need = pending.popleft()
            with _unless_spent(pending):
                domain = space.domain(need.name)
                runs = _runs(domain, need)
                both = intersect(allowed.get(need.name, runs), runs)
                allowed[need.name] = both or runs
                best = next(_best(domain, both or runs), None)
                if best is None or (need.identifier, best) in followed:
                    continue
                followed.add((need.identifier, best))
                release = domain.ascending[best]
                registry = release.registry
                if registry.expected.get(need.name) != release.line.version:
                    registry.files.prefetch_vouching(release.line, pool)
                for base, digest in release.line.expects.items():
                    acted_on.add(ModuleName(base))
                    registry.prefetch_blob(digest, "an interface", pool)
                for other in space.needs(release, need.extra):
                    ahead.fetch(other.name)
                    pending.append(other)
        for base in acted_on:
            with suppress(ModpkgError):
                _fetch_base(space, base, allowed.get(base, ()), pool)


def _fetch_base(space: Space, name: ModuleName, runs: Runs, pool: Executor) -> None:
    """Fetch what tells whether modules fit a base: its interface, and the record if it may drift.

    That is of the preferred release, and of some that are compared with it.
    """
    domain, provider = space.domain(name), space.provider
    releases = [domain.ascending[at] for at in _best(domain, runs)]
    rank = provider.admission.rank
    equal = [one for one in releases if rank(one) == rank(releases[0])][:COMPARED]
    if not provider.admission.prefers_exact:
        equal = equal[:1]
    for release in equal:
        if release.line.provides is not None:
            release.registry.prefetch_blob(release.line.provides, "an interface", pool)
        if len(equal) > 1:
            what = f"the release record of {release}"
            release.registry.prefetch_blob(release.line.release, what, pool)


def prefetch_reachable(space: Space, roots: Sequence[Need]) -> None:
    """Fetch all that some chain of needs leads to from the roots."""
    if not space.provider.is_remote:
        return
    with fetch_pool() as pool, fetch_pool(waits=False) as hints:
        ahead = _Ahead(space.provider.catalog, pool, hints)
        limits: dict[ModuleName, int] = {}
        for root in roots:
            ahead.fetch(root.name)
        for root in roots:
            with suppress(ModpkgError):
                mask = mask_of(_runs(space.domain(root.name), root))
                limits[root.name] = limits.get(root.name, mask) & mask
        reached: dict[Identifier, int] = {}
        pending = deque(roots)
        while pending:
            need = pending.popleft()
            with _unless_spent(pending):
                domain = space.domain(need.name)
                known = reached.get(need.identifier, 0)
                mask = mask_of(_runs(domain, need)) & limits.get(need.name, -1)
                reached[need.identifier] = known | mask
                for at in bits(mask & ~known):
                    for other in space.needs(domain.ascending[at], need.extra):
                        ahead.fetch(other.name)
                        pending.append(other)


@contextmanager
def _unless_spent(pending: deque[Need]) -> Iterator[None]:
    """Pass over errors; where a registry asks for too much, nothing more is fetched ahead."""
    try:
        yield
    except ModpkgError as error:
        if error.code == "M328":
            pending.clear()


def prefetch_names(catalog: Catalog, names: Iterable[str]) -> None:
    """Fetch the index files of these names."""
    if not catalog.is_local:
        with fetch_pool() as pool, fetch_pool(waits=False) as hints:
            ahead = _Ahead(catalog, pool, hints)
            for name in names:
                ahead.fetch(name)


class _Ahead:
    """Begins to fetch the index file of each name once.

    While a registry's index is not verified yet, some of what its newest releases require is
    fetched too, in a pool of its own that nobody waits for: nothing else is done by it.
    """

    def __init__(self, catalog: Catalog, pool: Executor, hints: Executor) -> None:
        self._catalog = catalog
        self._pool = pool
        self._hints = hints
        self._lock = threading.Lock()
        self._seen: set[str] = set()

    def fetch(self, name: str) -> None:
        with self._lock:
            if name in self._seen:
                return
            self._seen.add(name)
        with suppress(ModpkgError):
            registry = self._catalog.registry(name)
            if len(self._seen) <= registry.allowance.limit("names"):  # else it is refused soon
                registry.prefetch(name, self._pool, partial(self._follow, registry))

    def _follow(self, registry: Registry, data: bytes) -> None:
        """Fetch what the last release of an index file requires, as far as it can be read.

        That is of the same registry: no other one hears of what nobody has verified.
        """
        last = data[data.rstrip(b"\n").rfind(b"\n") + 1 :]
        if len(last) > bounds.HINTED_FILE_BYTES:
            return
        with suppress(
            msgspec.MsgspecError, UnicodeError, RecursionError, ModpkgError, RuntimeError
        ):
            with self._lock:  # msgspec may crash where threads use a class for the first time
                texts = _REQUIRES.decode(last).requires
            for text in texts:  # RuntimeError: nobody needs what is fetched ahead any more
                name = read_requirement(text).name
                if name not in self._seen and self._catalog.registry(name) is registry:
                    path, most = f"index/{name}.jsonl", registry.allowance.hints
                    registry.files.hint(path, self._hints, most, partial(self._follow, registry))


def _runs(domain: Domain, need: Need) -> Runs:
    """Return the positions in the range of a need; whether interfaces fit is not asked yet."""
    return domain.order.runs(need.specifier)


def _best(domain: Domain, runs: Runs) -> Iterator[int]:
    return (at for at in domain.preference if within(at, runs))
