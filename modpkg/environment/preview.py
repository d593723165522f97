"""Resolving a project without writing anything, to see what would be chosen."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timezone

from packaging.version import Version

from modpkg.core.errors import InstallError, LockError, ModpkgError, TrustError
from modpkg.core.names import listed, parse_version
from modpkg.environment.locking import kept_versions, make_lock, roots_of
from modpkg.environment.named_release import check_lockable
from modpkg.environment.policy import policy_of
from modpkg.environment.removed_modules import removed_by_user
from modpkg.environment.up_to_date import stale_reason
from modpkg.environment.workspace import Workspace
from modpkg.resolve.admission import PRERELEASE, Admission
from modpkg.resolve.catalog import Release
from modpkg.resolve.need import Need
from modpkg.resolve.resolve import Resolution, resolve


class Preview:
    """A workspace's manifest and lock, to be resolved with other roots and upgrades."""

    def __init__(self, workspace: Workspace) -> None:
        self.project, self.manifest = workspace.project, workspace.manifest
        self.lock = workspace.lock
        self._workspace = workspace
        self._registries = workspace.registries
        self.catalog = self._registries.catalog()
        self.policy = policy_of(self.manifest, datetime.now(timezone.utc), self.lock)
        self.roots = roots_of(self.manifest)

    def resolve(
        self, roots: Iterable[Need] | None = None, *, upgrade: Iterable[str] | None = ()
    ) -> Resolution:
        """Return what would be chosen with ``roots`` (default: the manifest's), after ``upgrade``.

        Raises:
            ResolutionImpossible: No versions fit together.
            NotFound: A registry lacks a module.
            RegistryError: A registry cannot be read.
        """
        return resolve(
            self.roots if roots is None else list(roots),
            self.catalog,
            locked=kept_versions(self.manifest, self.lock, upgrade),
            policy=self.policy,
        )

    def admission(self, *, upgrade: Iterable[str] | None = ()) -> Admission:
        """Return which releases may be selected with the manifest's own roots."""
        kept = kept_versions(self.manifest, self.lock, upgrade)
        return Admission(self.roots, kept, self.policy)

    def passed_over(
        self, release: Release, chosen: Version, modules: Iterable[Release]
    ) -> str | None:
        """Return why ``chosen`` is preferred, whatever the strategy, as the rest of a sentence.

        ``modules`` are those that are chosen. None if the strategy decides.
        """
        admission = self.admission()
        if admission.rank(release) == PRERELEASE and not chosen.is_prerelease:
            return f"is a pre-release, and a final release ({chosen}) fits"
        acting = [module for module in modules if release.name in module.line.expects]
        drifting = [
            str(module)
            for module in acting
            if self.catalog.unfit(module, release) is None
            and self.catalog.drift(module, release) is not None
        ]
        if not drifting or not admission.prefers_exact:
            return None
        return f"has other weights than {listed(drifting)} was made for"

    def refused(self, release: Release) -> TrustError | None:
        """Return why no lock takes a release, although it fits: by who has signed it.

        It is None where that cannot be read now.
        """
        try:
            check_lockable(self._workspace, release.line)
        except TrustError as error:
            return error
        except ModpkgError:
            return None
        return None

    def broken(self) -> dict[str, str]:
        """Return by module what of the lock an update would break, so that it is refused (M416)."""
        try:
            make_lock(
                self.manifest,
                self._registries,
                self.lock,
                upgrade=None,
                accepted=self._workspace.options.accepted,
                installed=self._workspace.environment.ever_installed(),
                is_removed=removed_by_user(self._workspace.environment, self.manifest, self.lock),
            )
        except LockError as error:
            modules: dict[str, str] = error.values.get("modules", {})
            return modules
        except ModpkgError:
            return {}
        return {}

    def newest_of_hub(self, name: str) -> str | None:
        """Return the version of the commit that a model of a hub is at now; None for others.

        The catalog has the locked one: nothing is fetched to tell that there is another. With
        ``--offline`` it is not known, as what is new in a registry is not.
        """
        of_hub = self._registries.of_hub
        with suppress(InstallError):
            return of_hub.newest(name, self.lock) if name in of_hub else None
        return None

    def chosen(self) -> dict[str, Version]:
        """Return the versions that are locked, or, if the lock is out of date, would be locked."""
        if self.lock is not None and stale_reason(self.manifest, self.lock) is None:
            return {module.name: parse_version(module.version) for module in self.lock.module}
        return versions_of(self.resolve())


def versions_of(resolution: Resolution) -> dict[str, Version]:
    """Return the version of each name of a resolution."""
    return {name: chosen.release.version for name, chosen in resolution.modules.items()}


def open_preview(workspace: Workspace) -> Preview:
    """Return the preview of a workspace; warn if its lock is out of date."""
    preview = Preview(workspace)
    if preview.lock is not None and (reason := stale_reason(preview.manifest, preview.lock)):
        workspace.progress.warn(
            f"modpkg.lock is out of date with {preview.manifest.path.name} ({reason}); "
            f"run 'modpkg lock{workspace.project.user_option}'."
        )
    workspace.progress.stage("Resolving")
    return preview
