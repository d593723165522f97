"""Fetching one release into the store."""

from __future__ import annotations

from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.core.records import IndexLine
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.registry.standing import check_present
from modpkg.resolve.lock import LockedModule
from modpkg.transfer.fetch import fetch_all
from modpkg.transfer.plan import plan_transfer


def fetch_release(
    workspace: Workspace, name: ModuleName, version: str, registries: Registries | None = None
) -> InstalledModule:
    """Return a release from its name's registry, fetched as far as the store lacks it.

    ``registries`` are used in place of the workspace's own.

    Raises:
        NotFound: The registry has no such release, or has removed it.
        ModpkgError: The release cannot be fetched.
    """
    registries = registries or workspace.registries
    return fetch_line(workspace, registries.of(name).line(name, version), registries)


def fetch_line(
    workspace: Workspace, line: IndexLine, registries: Registries | None = None
) -> InstalledModule:
    """Return the release of an index line, or of a candidate; see `fetch_release`.

    Raises:
        ModpkgError: It cannot be fetched.
    """
    registries = registries or workspace.registries
    registry = registries.of(line.name)
    check_present(line, registry.shown)
    module = LockedModule(
        name=line.name,
        version=line.version,
        kind=line.kind,
        registry=registry.name,
        release=line.release,
    )
    return fetch_module(workspace, module, registries)


def fetch_module(
    workspace: Workspace, module: LockedModule, registries: Registries | None = None
) -> InstalledModule:
    """Return a locked release; see `fetch_release`.

    Raises:
        LockError: The name now belongs to another registry.
        ModpkgError: The release cannot be fetched.
    """
    registries = registries or workspace.registries
    store, progress = workspace.store, workspace.progress
    with store.lock():
        plan = plan_transfer([module], {module.name: registries.of(module.name)}, store)
        if plan.needed:
            registries.check_identity(module)
            progress.stage("Fetching")
            progress.total(plan.missing)
        fetch_all(plan, [module], store, lambda _, count: progress.advance(count))
        return store.module(plan.records[module.name], module.release, plan.places)
