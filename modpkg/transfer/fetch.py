"""Fetching what a plan names: in parallel, hashed while it streams, checked before it is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modpkg.errors import DiskFull
from modpkg.files import human_bytes
from modpkg.lock import LockedModule
from modpkg.release.verify import verify_release
from modpkg.store.store import Store
from modpkg.transfer.plan import Fetch, TransferPlan

WORKERS = 8
SPARE = 16 << 20
"""Bytes that are left free on the disk beyond what is fetched."""

Progress = Callable[[str, int], None]
"""Called with a module's name and how many more bytes of it have come."""


def check_space(path: Path, needed: int) -> None:
    """Raise `DiskFull` when ``needed`` bytes do not fit where ``path`` lies."""
    path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path).free
    if needed and needed + SPARE > free:
        raise DiskFull(path=path, needed=human_bytes(needed), free=human_bytes(free))


def fetch_all(
    plan: TransferPlan,
    modules: list[LockedModule],
    store: Store,
    progress: Progress | None = None,
) -> None:
    """Bring every missing blob into the store, and check each release as a whole once.

    Raises:
        DigestMismatch, BadRecord, PackError, NotData: what came is not what the lock names.
        DiskFull, Offline, RegistryUnreachable, BlobMissing.
    """
    if plan.fetches:
        with ThreadPoolExecutor(WORKERS) as pool:
            jobs = [pool.submit(_fetch, item, store, progress) for item in plan.fetches]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise
    for module in modules:
        if not store.is_checked(module.release):
            verify_release(plan.records[module.name], store.blobs.path)
            store.mark_checked(module.release)


def _fetch(item: Fetch, store: Store, progress: Progress | None) -> None:
    chunks = _bounded(item, progress)
    store.blobs.add_stream(chunks, item.digest, item.what, item.registry.url)


def _bounded(item: Fetch, progress: Progress | None) -> Iterator[bytes]:
    """Yield the blob's chunks, and stop one that is longer than the record says."""
    left = item.size
    for chunk in item.registry.stream(item.digest, item.what):
        left -= len(chunk)
        if progress is not None:
            progress(item.module, len(chunk))
        yield chunk
        if left < 0:
            return  # the digest cannot match any more; do not fill the disk
