"""The registry of each name: the manifest's choice or what follows of it, never a search."""

from __future__ import annotations

from collections.abc import (
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from modpkg.core.errors import LockError, ModpkgError, RegistryError
from modpkg.core.hub_address import is_hub_address
from modpkg.core.names import listed
from modpkg.environment.generations import ModuleState
from modpkg.environment.hub_dependencies import HubDependencies
from modpkg.environment.inherited import Match, inherited, inherited_of_lock
from modpkg.environment.open_registries import OpenRegistries
from modpkg.environment.policy import bounds_of
from modpkg.environment.promise import Promise
from modpkg.environment.rivals import Rivals
from modpkg.environment.signed_registries import expect_root, expect_seen
from modpkg.manifest.dependencies import DEFAULT
from modpkg.manifest.schema import Manifest
from modpkg.registry.location import (
    Location,
    alias_location,
    default_location,
    settings_locations,
    usual_location,
)
from modpkg.registry.reader import Registry
from modpkg.registry.recorded_address import BUILT_IN, recorded_address, same_place
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.lock import Lock, LockedModule, LockedRegistry
from modpkg.resolve.policy import VersionRange

if TYPE_CHECKING:
    pass


class Registries:
    """The registries of one manifest. An address is opened when something is read from it."""

    def __init__(
        self,
        manifest: Manifest,
        opened: OpenRegistries,
        *,
        default: str | None = None,
        lock: Lock | None = None,
        owner: Manifest | None = None,
        is_trial: bool = False,
    ) -> None:
        """``lock`` says from which registry the modules are that the manifest does not name.

        ``owner`` is the manifest that the lock belongs to, if that is another: of the project for
        which this one is tried. With ``is_trial`` the manifest was made of another, for which it
        was settled where names come from that it gives no registry.
        """
        self._manifest = manifest
        self._owner = owner or manifest
        self._is_trial = is_trial
        self._recorded: dict[str, str] = {}
        self._borrowed: dict[str, tuple[str, str]] = {}
        self._settled: dict[str, tuple[str, str]] = {}
        self._opened = opened
        self._override = default
        self._lock = lock
        self._aliases: dict[str, str] = {
            dependency.name: dependency.source or DEFAULT
            for dependency in (*manifest.dependencies, *manifest.suites)
        }
        self._direct: dict[str, str | None] = {
            dependency.name: None if dependency.hub else dependency.registry or DEFAULT
            for dependency in manifest.dependencies
        }
        self.of_hub = HubDependencies(manifest, opened.hub, self.of)
        self._overrides = bounds_of(manifest.overrides)

    @cached_property
    def _default(self) -> Location:
        return default_location(self._manifest, self._override, lambda: self._opened.settings)

    @property
    def _is_overridden(self) -> bool:
        """Whether the command line or the environment names the default registry."""
        return self._default.source in ("option", "variable")

    def _open(self, alias: str, *, quiet: bool = False) -> Registry:
        location = self._default if alias == DEFAULT else alias_location(self._manifest, alias)
        registry = self.at(location, quiet=quiet)
        if alias == DEFAULT and (locked := self.of_lock_alone):
            address = next(iter(locked))
            registry.remedy = f"use '--registry {address}', which modpkg.lock has modules from"
        return registry

    def at(self, location: Location, *, quiet: bool = False) -> Registry:
        """Return the registry at a location, held to what manifest and lock say of it."""
        registry = self._opened.at(
            location.address, self._manifest.folder, origin=location.origin, quiet=quiet
        )
        expect_root(registry, self._owner)
        if (one := self.locked(registry, self._lock)) is not None:
            expect_seen(registry, one)
        return registry

    def locked(self, registry: Registry, lock: Lock | None) -> LockedRegistry | None:
        """Return what a lock has seen of a registry."""
        for one in lock.registry if lock is not None else ():
            if self.among(one.address, [self.recorded(registry)]):
                return one
        return None

    def among(self, address: str, others: Iterable[str]) -> bool:
        """Return whether one of the recorded addresses leads to the same place."""
        return any(same_place(address, one, self._owner.folder) for one in others)

    def still_names(self, address: str, lock: Lock) -> bool:
        """Return whether a module of a lock is from an address, or the manifest names that."""
        owner = self._owner
        named = (recorded_address(text, owner) for text in owner.registries.values())
        return self.among(address, (*{module.address for module in lock.module}, *named))

    def locked_releases(self, registry: Registry, lock: Lock | None) -> set[str]:
        """Return the digests of a registry's releases that a lock has; one of old names none."""
        where = self.recorded(registry)
        return {
            module.release
            for module in (lock.module if lock is not None else ())
            if not module.address or self.among(module.address, [where])
        }

    @cached_property
    def of_lock_alone(self) -> dict[str, list[str]]:
        """By address, the modules of registries that the lock names and nothing else does."""
        if self._lock is None or self._default.source != "built-in":
            return {}
        owner, found = self._owner, dict[str, list[str]]()
        known = [BUILT_IN, *(recorded_address(a, owner) for a in owner.registries.values())]
        for module in self._lock.module:
            address = module.address
            if not address or self._aliases.get(module.name, DEFAULT) != DEFAULT:
                continue
            if not self.among(address, known):
                place = address if "://" in address else str(owner.folder / address)
                found.setdefault(place, []).append(module.name)
        return found

    def alias(self, name: str) -> str:
        """Return the alias of a name's registry."""
        return self._aliases.get(name) or self._inherited.get(name) or DEFAULT

    def depend_on_settings(self, lock: Lock) -> bool:
        """Return whether a lock has modules of the default that only ``config.toml`` names."""
        return any(self.alias(module.name) == DEFAULT for module in lock.module) and (
            self._default.source == "settings"
        )

    @cached_property
    def _inherited(self) -> dict[str, str]:
        lock = self._lock
        return {} if lock is None else inherited_of_lock(lock, self._direct, self._match)

    def _match(self, alias: str, module: LockedModule) -> Match:
        """Return how far the registry of an alias is the one that a module is locked from."""
        try:
            return self.match(self._open(alias), module)
        except ModpkgError:
            return Match.NONE

    def match(self, registry: Registry, module: LockedModule) -> Match:
        """Return how far a registry is the one that a module is locked from.

        Raises:
            ModpkgError: It is not a registry, or cannot be read.
        """
        if registry.name != module.registry:
            return Match.NONE
        if module.address and not self.is_at(module, registry):
            return Match.NAME
        return Match.FULL

    def is_at(self, module: LockedModule, registry: Registry) -> bool:
        """Return whether a module is locked from the address of a registry."""
        address, folder = module.address, self._owner.folder
        return bool(address) and same_place(address, self.recorded(registry), folder)

    def recorded(self, registry: Registry) -> str:
        """Return what the lock records of a registry's address."""
        url = registry.stands_for or registry.source.url
        if url not in self._recorded:
            self._recorded[url] = recorded_address(url, self._owner)
        return self._recorded[url]

    def promise(
        self, lock: Lock | None, installed: Sequence[ModuleState], accepted: Collection[str]
    ) -> Promise:
        """Return what a new lock is held to by the one before it and by what was installed."""

        return Promise(
            lock=lock,
            installed=installed,
            accepted=accepted,
            folder=self._owner.folder,
            is_overridden=lambda name: self.alias(name) == DEFAULT and self._is_overridden,
        )

    def searched(self) -> list[Registry]:
        """Return the registries to search: the default, the manifest's, and ``config.toml``'s.

        If the command line names one, only that.
        """
        if self._override is not None:
            return [self._open(DEFAULT)]
        default = self._default
        unused = default.source == "built-in" and not Path(default.address).is_dir()
        named = [
            *(alias_location(self._manifest, alias) for alias in self._manifest.registries),
            *settings_locations(self._opened.settings),
        ]
        places = named if unused and named else [default, *named]
        return [
            self.at(place)
            for number, place in enumerate(places)
            if not any(place.same(earlier.address) for earlier in places[:number])
        ]

    def of(self, name: str) -> Registry:
        """Return a name's registry."""
        if name in self.of_hub:
            return self.of_hub.registry(name, self._lock)
        return self._open(self.alias(name))

    def by_name(self, lock: Lock) -> dict[str, Registry]:
        """Return the registry of each module of a lock, which is the one to go by from now on."""
        self._lock, self.of_hub.again = lock, ()
        for follows in ("_inherited", "of_lock_alone"):
            self.__dict__.pop(follows, None)
        self.of_hub.check(lock)
        opened: dict[str, Registry] = {}
        for module in lock.module:
            alias = self.alias(module.name)
            if module.name not in self.of_hub and alias not in opened:
                opened[alias] = self._open(alias)
        return {m.name: opened.get(self.alias(m.name)) or self.of(m.name) for m in lock.module}

    def expect(self, modules: Iterable[LockedModule]) -> None:
        """Leave it to the caller to tell which locked versions a registry has lost or replaced."""
        self._opened.expected.update((module.name, module.version) for module in modules)

    def catalog(
        self,
        again: Container[str] = (),
        bounds: Mapping[str, VersionRange] = {},
        locks: Sequence[Lock] = (),
    ) -> Catalog:
        """Return the catalog that the resolver selects from.

        What is locked keeps its registry, but for the names in ``again``. Of models of a hub there
        is one commit: that of the lock, or for these names the newest, unless ``bounds`` exclude
        it. With ``locks`` there are those of these locks.
        """
        modules = self._lock.module if self._lock is not None else ()
        self._opened.needed.update(self._direct, (module.name for module in modules))
        self.of_hub.again = self.of_hub.moving(again, bounds, self._lock)
        kept = {module.name: module for module in modules if module.name not in again}
        claims = inherited(self._direct, self._open, kept, self._match)
        chosen, contested = claims.chosen, dict(claims.contested)
        locked = {module.name for module in modules}
        self._borrowed = {n: who for n, who in claims.borrowed.items() if n not in locked}
        self._settled = dict(claims.settled)
        if not self._is_trial and self._default.source != "option":
            contested.update(self._contested())
        assigned = {name: self._open(alias) for name, alias in chosen.items()}
        assigned |= {name: self.of(name) for name in self._direct}
        further = {}
        for name in self.of_hub.names if locks else ():
            each = dict.fromkeys(self.of_hub.registry(name, lock) for lock in locks)
            assigned[name], *further[name] = each
        return Catalog(
            self._open(DEFAULT),
            assigned,
            overrides=self._overrides,
            contested=contested,
            elsewhere=self.elsewhere,
            further=further,
        )

    @cached_property
    def rivals(self) -> Rivals:
        """The registries of the manifest and of ``config.toml`` beside the default one."""
        places = [
            *(alias_location(self._manifest, alias) for alias in self._manifest.registries),
            *settings_locations(self._opened.settings),
        ]
        others: dict[str, Registry] = {}
        seen = [self._default]
        for place in places:
            alias = place.alias or DEFAULT
            if alias == DEFAULT or any(place.same(one.address) for one in seen):
                continue
            seen.append(place)
            others[alias] = self.at(place)
        return Rivals(self._open(DEFAULT), others, self._opened.warn)

    def _contested(self) -> dict[str, RegistryError]:
        """Return the errors of names that nothing assigns to the default registry or another."""
        lock = self._lock
        unassigned: list[str] = []
        assigned: list[str] = []
        for dependency in self._manifest.dependencies:
            if dependency.source is None and not dependency.from_default:
                locked = lock.find(dependency.name) if lock is not None else None
                if locked is None or self._match(DEFAULT, locked) is Match.NONE:
                    unassigned.append(dependency.name)
                else:
                    assigned.append(dependency.name)
        asked = {alias for alias in self._direct.values() if alias is not None}
        for name, alias in self.rivals.settled(assigned, asked).items():
            self._settled[name] = DEFAULT, alias
        why = {
            name: f"is required by {parent}, of the registry {alias!r}, which does not have it"
            for name, (alias, parent) in self._borrowed.items()
        }
        return self.rivals.contested([*unassigned, *why], why)

    def notes(self, lock: Lock, before: Lock | None) -> list[str]:
        """Return what is to be reported of where the modules of a new lock come from."""
        notes = [] if self._is_trial else [*self._note_override(lock, before)]
        lenders: dict[str, list[str]] = {}
        for module in lock.module:
            if not self._is_trial and module.name in self._borrowed:
                lenders.setdefault(self._borrowed[module.name][0], []).append(module.name)
        for alias, names in lenders.items():
            notes.append(
                f"modules of the registry {alias!r} require {', '.join(names)}, which it does not "
                f"have: taken from {self._open(DEFAULT).shown}. To settle that, write "
                f"{self._assignment(names[0], DEFAULT)}, or another registry."
            )
        notes += [] if self._is_trial else self._note_settled(lock)
        return notes

    def _note_settled(self, lock: Lock) -> Iterator[str]:
        """Yield which names come from their registry only because the lock says so."""
        names: dict[tuple[str, str], list[str]] = {}
        for module in lock.module:
            if module.name in self._settled:
                names.setdefault(self._settled[module.name], []).append(module.name)
        for (alias, other), several in names.items():
            has_it_too = self.rivals.others.get(other) or self._open(other)
            yield (
                f"{listed(several)} come{'s' * (len(several) == 1)} from {self._open(alias).shown} "
                f"because modpkg.lock says so: {has_it_too.shown} has the name too, and "
                f"without modpkg.lock it would have to be said which is meant. To settle that, "
                f"write {self._assignment(several[0], alias)}."
            )

    def _assignment(self, name: str, alias: str) -> str:
        """Return what to write into the manifest, and where, so that a name is an alias's."""
        named = (d.requirement.specifier for d in self._manifest.dependencies if d.name == name)
        version = str(next(named, "")) or "*"
        return (
            f'{name} = {{ version = "{version}", registry = "{alias}" }} under [dependencies] of '
            f"{self._manifest.path.name}"
        )

    def _note_override(self, lock: Lock, before: Lock | None) -> Iterator[str]:
        """Yield what an option or a variable takes the place of."""
        if not self._is_overridden or all(self.alias(m.name) != DEFAULT for m in lock.module):
            return
        usual = usual_location(self._manifest, lambda: self._opened.settings)
        if usual.same(self._default.address):
            return
        named = self._default.origin.removeprefix("from ")
        locked = [
            module.name
            for module in (before.module if before is not None else ())
            if self.alias(module.name) == DEFAULT
            and not (before is not None and is_hub_address(before.source_of(module.name)))
            and self._match(DEFAULT, module) is not Match.FULL
            and not self.is_at(module, self._open(DEFAULT))
        ]
        if usual.source == "manifest":
            says = f"{usual.address}, which {self._manifest.path.name} names as default"
        elif locked:
            says = f"the registry from which modpkg.lock has {', '.join(locked[:3])}"
        else:
            return
        yield f"{self._default.address} ({named}) is asked in place of {says}."

    def elsewhere(self, name: str) -> str:
        """Return a hint if another registry of the manifest has a name, else ``""``."""
        for alias in self._manifest.registries:
            if alias in (DEFAULT, self.alias(name)):
                continue
            try:
                lines = self._open(alias, quiet=True).index(name)
            except ModpkgError:
                continue  # it is only a hint
            if lines:
                line = f'{name} = {{ version = "*", registry = "{alias}" }}'
                return (
                    f", but the registry {alias!r} has it: write {line} under [dependencies] of "
                    f"{self._manifest.path.name}"
                )
        return ""

    def check_identity(self, module: LockedModule) -> None:
        """Check that a module's registry is the one it was locked from.

        Raises:
            LockError: The address now leads to another registry.
        """
        actual = self.of(module.name).name
        if actual != module.registry:
            alias = self.alias(module.name)
            how = f"the alias {alias!r} now leads to"
            remedy = (
                "correct its address under [registries], or run 'modpkg lock', which tells how to "
                "accept the change"
            )
            if self.is_at(module, self.of(module.name)):
                how = f"its address {self.of(module.name).url} now leads to"
                remedy = (
                    "ask who keeps it, and if it is what you want, run 'modpkg lock "
                    f"--accept-changed {module.name}'"
                )
            elif alias == DEFAULT and self._is_overridden:
                how = f"{self._default.origin.removeprefix('from ')} names"
                remedy = (
                    f"leave that out, or run 'modpkg lock --accept-changed {module.name}' with it"
                )
            raise LockError(
                "M413",
                name=module.name,
                locked=module.registry,
                how=how,
                actual=actual,
                remedy=remedy,
            )
