"""An app's dependencies that are models of a hub: at which commit each is, and on which base."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING

from modpkg.core.errors import IntegrityError, LockError, ManifestError
from modpkg.core.hub_address import HubAddress, hub_endpoint, is_hub_address, parse_hub_address
from modpkg.core.names import read_requirement
from modpkg.environment.hub_release import Description, HubBase, version_of
from modpkg.manifest.schema import HubModel, Manifest
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.resolve.policy import VersionRange

if TYPE_CHECKING:
    from modpkg.environment.hub_modules import HubModules


class HubDependencies:
    """Those of one manifest.

    Args:
        manifest: The manifest.
        modules: Returns what makes modules of commits.
        registry_of: Returns the registry of a name, also of one of a registry.
    """

    def __init__(
        self,
        manifest: Manifest,
        modules: Callable[[], HubModules],
        registry_of: Callable[[str], Registry],
    ) -> None:
        self._sources: dict[str, HubModel] = {
            dependency.name: dependency.hub
            for dependency in manifest.dependencies
            if dependency.hub is not None
        }
        self._modules = modules
        self._registry_of = registry_of
        self._open: dict[Hashable, Registry] = {}
        self.again: Container[str] = ()
        """Names whose commit in the lock is not kept."""

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    @property
    def names(self) -> Iterable[str]:
        return self._sources

    def moving(
        self, again: Container[str], bounds: Mapping[str, VersionRange], lock: Lock | None
    ) -> set[str]:
        """Return which names of ``again`` are to be at the newest commit.

        A commit of the lock is kept where ``bounds`` allow it and not the newest, and with an
        adapter that of its base.
        """
        names = {name for name in self._sources if name in again}
        for name in sorted(names & bounds.keys()):
            module = lock.find(name) if lock is not None else None
            if module is None or self._locked(name, lock) is None:
                continue
            specifier = bounds[name].specifier
            newest = self.newest(name, lock)
            if specifier.contains(module.version) and not specifier.contains(newest):
                names -= {name, *(read_requirement(text).name for text in module.requires)}
        return names

    def registry(self, name: str, lock: Lock | None) -> Registry:
        """Return the registry that has one release of a name: that of its commit.

        Args:
            name: A name that is of a hub.
            lock: Its commit is kept, where the manifest asks for the same as when it was made.

        Raises:
            ManifestError: It is an adapter, and its base is not known; or it is none.
            ModpkgError: The commit cannot be known, or nothing can be made of it.
        """
        modules = [lock.find(other) for other in self._sources] if lock is not None else []
        state = [(one.name, one.address, one.release) for one in modules if one is not None]
        key = (name, *state, *(other for other in self._sources if other in self.again))
        if key in self._open:
            return self._open[key]
        kept = self._locked(name, lock)
        address = kept[0] if kept else self._modules().commit(self._sources[name].address)
        release = kept[1] if kept else None

        def find_base(description: Description) -> HubBase | None:
            return self._base(name, address, description, lock)

        self._open[key] = self._modules().registry(name, address, find_base, release)
        return self._open[key]

    def newest(self, name: str, lock: Lock | None) -> str:
        """Return the version of the commit at which the revision is now, without fetching it.

        Args:
            name: A name that is of a hub.
            lock: Its commit tells on which base it acts.

        Raises:
            ModpkgError: The hub does not tell.
        """
        commit = self._modules().commit(self._sources[name].address)
        base = next(iter(self.registry(name, lock).index(name)[0].expects), None)
        if base is None:
            return version_of(commit)
        if base in self:
            return version_of(commit, f"{base}=={self.newest(base, lock)}")
        version = (self._sources[name].against or "").partition("==")[2]
        return version_of(commit, str(self._release(base, version, lock)))

    def check(self, lock: Lock) -> None:
        """Check that what is made of commits here is what is locked.

        Raises:
            IntegrityError: A hub has other files at a commit; reported first, as adapters follow.
            LockError: It is another release.
        """
        others: list[tuple[LockedModule, Registry, list[str]]] = []
        for module in lock.module:
            if module.name in self:
                registry = self.registry(module.name, lock)
                found = [line.release for line in registry.index(module.name)]
                if module.release not in found:
                    others.append((module, registry, found))
        for module, registry, _ in others:
            if module.listing and registry.listing not in ("", module.listing):
                raise IntegrityError(
                    "M886",
                    name=module.name,
                    version=module.version,
                    address=registry.stands_for,
                    endpoint=hub_endpoint(),
                )
        for module, registry, found in others:
            reason = "another version of modpkg or of transformers imported it"
            remedy = f", or run 'modpkg lock --accept-changed {module.name}'"
            if not module.listing or not registry.listing:
                reason += ", or the hub has other files at the commit than it had"
                remedy += " once you know that the hub has the same files"
            raise LockError(
                "M850",
                name=module.name,
                version=module.version,
                address=registry.stands_for,
                made=found[0][7:19] if found else "none",
                locked=module.release[7:19],
                reason=reason,
                remedy=remedy,
            )

    def _locked(self, name: str, lock: Lock | None) -> tuple[HubAddress, str] | None:
        """Return the commit of the lock, and its release; None if it has none, or is not kept."""
        source = self._sources[name]
        module = lock.find(name) if lock is not None and name not in self.again else None
        if module is None or lock is None or lock.source_of(name) != str(source):
            return None
        if not is_hub_address(module.address):
            return None
        address = parse_hub_address(module.address)
        same = address.repository == source.address.repository
        return (address, module.release) if same and address.pinned else None

    def _base(
        self, name: str, address: HubAddress, description: Description, lock: Lock | None
    ) -> HubBase | None:
        def refuse(reason: str, remedy: str) -> ManifestError:
            return ManifestError("M851", name=name, address=address, reason=reason, remedy=remedy)

        against = self._sources[name].against
        if not description.is_adapter:
            if against is not None:
                raise refuse("which is a whole model and acts on no base", "remove 'against'")
            return None
        if against is None:
            wanted = description.base_model.casefold()
            same = [
                other
                for other, source in self._sources.items()
                if other != name and source.address.repository.casefold() == wanted
            ]
            if len(same) > 1 and len({self.registry(o, lock).stands_for for o in same}) == 1:
                # One commit under several names: the one that is locked, or else the first.
                module = lock.find(name) if lock is not None else None
                wants = [] if module is None else module.requires
                known = {read_requirement(text).name for text in wants}
                same = sorted(same, key=lambda other: other not in known)[:1]
            if len(same) != 1:
                trained = f"trained on {description.base_model}" if wanted else "of some base"
                has = "several dependencies are" if same else "no dependency is"
                raise refuse(
                    f"which is an adapter {trained}, and {has} that model of the hub",
                    'write the dependency that it was trained on, as against = "NAME" beside hub',
                )
            against = same[0]
        base, _, version = against.partition("==")
        found = self._release(base, version, lock)
        if found.line.provides is None:
            raise refuse(
                f"which is an adapter, and {base} has no weights that it could act on",
                "name a base as 'against'",
            )
        return found

    def _release(self, base: str, version: str, lock: Lock | None) -> HubBase:
        """Return a release of a registry, or without a version the one of a model of a hub."""
        registry = self.registry(base, lock) if base in self else self._registry_of(base)
        line = registry.line(base, version) if version else registry.index(base)[0]
        return HubBase(registry, line)
