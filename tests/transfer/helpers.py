"""Locked modules and plans, without a resolver."""

from __future__ import annotations

import hashlib
from pathlib import Path

from modpkg.core.installed import InstalledModule
from modpkg.core.records import IndexLine
from modpkg.manifest.config import Settings
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import LockedModule
from modpkg.store.store import Store
from modpkg.transfer.fetch import fetch_all
from modpkg.transfer.plan import TransferPlan, plan_transfer
from tests.changing import Numbers
from tests.registry.servers import Server


def locked(line: IndexLine) -> LockedModule:
    return LockedModule(
        name=line.name,
        version=line.version,
        kind=line.kind,
        registry="registry",
        release=line.release,
    )


def plan_of(
    store: Store, url: str, *lines: IndexLine, settings: Settings | None = None
) -> TransferPlan:
    registry = Registry(url, cache=store.blobs, settings=settings)
    registries = {line.name: registry for line in lines}
    return plan_transfer([locked(line) for line in lines], registries, store)


def fetch(
    store: Store, url: str, *lines: IndexLine, settings: Settings | None = None
) -> TransferPlan:
    """Bring releases into a store, check that every byte is right, and return the plan."""
    plan = plan_of(store, url, *lines, settings=settings)
    came: list[int] = []
    fetch_all(plan, [locked(line) for line in lines], store, lambda _, count: came.append(count))
    again = plan_of(Store(store.root), url, *lines)
    assert not again.needed
    for line in lines:
        check(store.module(again.records[line.name], line.release))
    return plan


def check(module: InstalledModule) -> None:
    for ref in module.tensors.values():
        data = Path(ref.file).read_bytes()[ref.offset : ref.offset + ref.length]
        assert "sha256:" + hashlib.sha256(data).hexdigest() == ref.digest


def same(module: InstalledModule, tensors: Numbers) -> None:
    for name, values in tensors.items():
        ref = module.tensors[name]
        data = Path(ref.file).read_bytes()[ref.offset : ref.offset + ref.length]
        assert data == values.tobytes()


def asked_for(server: Server) -> int:
    """Return how many bytes of packs were requested by ranges."""
    total = 0
    for seen in server.seen:
        if asked := seen.headers.get("range"):
            first, last = asked.removeprefix("bytes=").split("-")
            total += int(last) - int(first) + 1
    return total


def partial(store: Store) -> list[str]:
    folder = store.root / "partial"
    return sorted(path.suffix for path in folder.iterdir()) if folder.is_dir() else []
