"""Resolving a project only to see what would come out: nothing is written."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from packaging.version import Version

from modpkg.core.names import parse_version
from modpkg.environment.locking import kept_versions, roots_of, stale_reason
from modpkg.environment.policy import policy_of
from modpkg.environment.registries import Registries
from modpkg.manifest.schema import Manifest
from modpkg.resolve.admission import Admission
from modpkg.resolve.lock import Lock
from modpkg.resolve.need import Need
from modpkg.resolve.resolve import Resolution, resolve


class Trial:
    """One project's manifest and lock, to be resolved under other wishes."""

    def __init__(
        self,
        manifest: Manifest,
        registries: Registries,
        lock: Lock | None,
        *,
        now: datetime | None = None,
    ) -> None:
        self.manifest = manifest
        self.lock = lock
        self.catalog = registries.catalog()
        self.policy = policy_of(manifest, now or datetime.now(timezone.utc))
        self.roots = roots_of(manifest)

    def resolve(
        self, roots: Iterable[Need] | None = None, *, upgrade: Iterable[str] | None = ()
    ) -> Resolution:
        """Return what would be chosen with these roots (the manifest's), after these upgrades.

        Raises:
            ResolutionImpossible, NotFound, and what reading a registry raises.
        """
        return resolve(
            self.roots if roots is None else list(roots),
            self.catalog,
            locked=kept_versions(self.manifest, self.lock, upgrade),
            policy=self.policy,
        )

    def admission(self, *, upgrade: Iterable[str] | None = ()) -> Admission:
        """Return which releases may be chosen with the manifest's own roots."""
        kept = kept_versions(self.manifest, self.lock, upgrade)
        return Admission(self.roots, kept, self.policy)

    def chosen(self) -> dict[str, Version]:
        """Return what is chosen now: what the lock has, or what locking would choose."""
        if self.lock is not None and stale_reason(self.manifest, self.lock) is None:
            return {module.name: parse_version(module.version) for module in self.lock.module}
        return versions_of(self.resolve())


def versions_of(resolution: Resolution) -> dict[str, Version]:
    """Return the version of each name of a resolution."""
    return {name: chosen.release.version for name, chosen in resolution.modules.items()}
