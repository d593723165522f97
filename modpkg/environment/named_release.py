"""Whether a project may have a release that is named, and not locked: forked, merged, built upon.

It is held to what a lock is held to: who has to sign it, and that a version is what is locked or
was installed under it.
"""

from __future__ import annotations

from modpkg.core.errors import LockError, TrustError
from modpkg.core.names import ModuleName, parse_version
from modpkg.core.records import IndexLine
from modpkg.environment.signers import so_far, with_signers
from modpkg.environment.workspace import Workspace
from modpkg.registry.reader import Registry
from modpkg.resolve.catalog import Release
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.resolve.resolve import Chosen, Resolution
from modpkg.trust.rules import NOBODY, rule_of


def check_named(workspace: Workspace, line: IndexLine) -> None:
    """Check that a project may have a release that was named beside its lock.

    Nobody is asked for one that nobody has to have signed. A candidate is no release: who names one
    knows what it is.

    Raises:
        TrustError: Somebody else has signed it than has to have, or nobody; or it is another
            release than the one that is locked or was installed under its version.
        MissingExtra: Who has signed it cannot be verified here.
        LockError: The lock cannot be read.
        RegistryUnreachable, RegistryError: The registry cannot be read.
        InstallError: It has to be asked, and ``--offline`` forbids it.
    """
    registries, manifest, lock = workspace.registries, workspace.manifest, workspace.lock
    registry, installed = registries.of(line.name), workspace.environment.ever_installed()
    if registry.stands_for:
        return
    alone = Lock(
        requirements=[] if lock is None else lock.requirements,
        module=[_as_locked(line, registry, registries.recorded(registry))],
    )
    release = Release(
        line=line,
        registry=registry,
        overrides={},
        name=ModuleName(line.name),
        version=parse_version(line.version),
    )
    resolution = Resolution({release.name: Chosen(release, ())}, ())
    refused: dict[str, TrustError] = {}
    was = so_far(line.name, lock, installed)
    needed = manifest.resolution.require_signed or rule_of(manifest.trust, line.name) is not None
    if needed or (was is not None and was.signer != NOBODY):
        signed = with_signers(alone, lock, resolution, manifest, installed=installed)
        refused |= signed.refused
    try:
        registries.promise(lock, installed, ()).keep(alone, {}, refused)
    except LockError as error:
        raise TrustError("M595", change=error.values["changes"], name=line.name) from None
    except TrustError as error:
        raise TrustError("M595", change=error.values["change"], name=line.name) from None


def _as_locked(line: IndexLine, registry: Registry, address: str) -> LockedModule:
    return LockedModule(
        name=line.name,
        version=line.version,
        kind=line.kind,
        registry=registry.name,
        address=address,
        release=line.release,
        listing=registry.listing,
        requires=list(line.requires),
    )
