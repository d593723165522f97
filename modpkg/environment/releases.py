"""Fetching one release into the store."""

from __future__ import annotations

from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.core.progress import Progress
from modpkg.environment.registries import Registries
from modpkg.resolve.lock import LockedModule
from modpkg.store.store import Store
from modpkg.transfer.fetch import fetch_all
from modpkg.transfer.plan import plan_transfer


def fetch_release(
    name: ModuleName, version: str, registries: Registries, store: Store, progress: Progress
) -> InstalledModule:
    """Return a release from its name's registry, fetched as far as the store lacks it.

    Raises:
        NotFound: The registry does not have it.
        ModpkgError: It cannot be fetched.
    """
    registry = registries.of(name)
    line = registry.line(name, version)
    module = LockedModule(
        name=name,
        version=line.version,
        kind=line.kind,
        registry=registry.name,
        release=line.release,
    )
    return fetch_module(module, registries, store, progress)


def fetch_module(
    module: LockedModule, registries: Registries, store: Store, progress: Progress
) -> InstalledModule:
    """Return a locked release, fetched as far as the store lacks it.

    Raises:
        LockError: Its name comes from another registry now.
        ModpkgError: It cannot be fetched.
    """
    with store.lock():
        plan = plan_transfer([module], {module.name: registries.of(module.name)}, store)
        if plan.needed:
            registries.check_identity(module)
            progress.stage("Fetching")
            progress.total(plan.missing)
        fetch_all(plan, [module], store, lambda _, count: progress.advance(count))
        return store.module(plan.records[module.name], module.release, plan.places)
