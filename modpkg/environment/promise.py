"""What a lock promises: a version that it keeps is the same release, of the same registry.

A registry can replace a line of its index, and another registry can take the place of one, also
under its name. Neither changes what a project has locked or installed without a word (as in cargo
and uv): it is refused, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, structs
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.errors import LockError, TrustError
from modpkg.core.hub_address import is_hub_address
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.environment.generations import ModuleState
from modpkg.registry.reader import Registry
from modpkg.registry.recorded_address import same_place, shown_address
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.resolve.need import Identifier, Need
from modpkg.resolve.resolve import Resolution


class Promise(Struct, frozen=True, kw_only=True):
    """What a project's lock, and what was installed of it, hold a new lock to."""

    lock: Lock | None
    """The project's lock so far."""
    installed: Sequence[ModuleState] = ()
    """What the generations of the environment have, the newest generation first."""
    accepted: Collection[str] = ()
    """Modules that may be another release, or of another registry."""
    candidates: Collection[str] = ()
    """Modules that were tried as candidates, or are now: another release may have the version."""
    folder: Path
    """The project's; relative addresses of registries are relative to it."""
    is_overridden: Callable[[str], bool] = lambda name: False
    """Returns whether the command line or the environment named a module's registry."""

    def keep(
        self,
        after: Lock,
        lost: Mapping[str, Lost] = {},
        unsigned: Mapping[str, TrustError] = {},
    ) -> Lock:
        """Return a new lock in which the releases that stay keep their registry.

        Args:
            after: The new lock.
            lost: What `lost_versions` returns of it.
            unsigned: By module, why it is not signed by who signed it so far. Whoever accepts a
                change sees that one too.

        Raises:
            TrustError: Nothing has changed but who signed a module.
            LockError: A version that is kept is another release or is lost, or a module is of
                another registry, although the manifest asks for it as before.
        """
        accepted = {module_name(name) for name in self.accepted}
        changes: dict[str, str] = {}
        modules = []
        for module in after.module:
            kept, change = module, None
            if module.name not in accepted:
                kept, change = self._compared(module, after)
                if change is None and module.name in lost and lost[module.name].is_broken:
                    one = lost[module.name]
                    change = one.sentence
                    if one.required:
                        change += f" (if that is to be, require {one.required} yourself)"
            modules.append(kept)
            if change is not None:
                changes[module.name] = change
        if changes:
            said = [*changes.values(), *(str(one.values["change"]) for one in unsigned.values())]
            options = " ".join(f"--accept-changed {name}" for name in {**changes, **unsigned})
            raise LockError("M416", changes="; ".join(said), options=options, modules=changes)
        for error in unsigned.values():
            raise error
        return structs.replace(after, module=modules)

    def _compared(self, module: LockedModule, after: Lock) -> tuple[LockedModule, str | None]:
        """Return a module as the lock is to have it, and what changed."""
        was = self.lock.find(module.name) if self.lock is not None else None
        new = was is None or not _is_same_version(was, module)
        tried = module.name in self.candidates
        if new and not tried and (earlier := self._replaced(module)) is not None:
            return module, earlier
        if was is None or self.lock is None or _reassigned(module.name, self.lock, after):
            return module, None
        if is_hub_address(after.source_of(module.name)) and not _is_same_version(was, module):
            return module, None  # another commit, which was asked for
        overridden = self.is_overridden(module.name) and not (
            was.address and self._is_same_place(was, module)
        )
        if _is_same_version(was, module) and was.release == module.release:
            if was.registry != module.registry and not overridden:
                return module, self._moved(was, module)
            if not was.address and not overridden:
                return module, None  # a lock of old
            listing = module.listing or was.listing  # a vendored copy has none
            where = {"registry": was.registry, "address": was.address, "listing": listing}
            return structs.replace(module, **where), None
        if was.registry != module.registry or not self._is_same_place(was, module):
            return module, self._moved(was, module)
        if _is_same_version(was, module) and not tried:
            if was.listing and module.listing not in ("", was.listing):
                return module, (
                    f"{module.address} has other files than when {_named(was)} was locked, under "
                    "the same commit, which never changes, so somebody has replaced them"
                )
            return module, _another_release(module, was.release, "the locked one")
        return module, None

    def _is_same_place(self, was: LockedModule, now: LockedModule) -> bool:
        known = was.address and now.address
        return not known or same_place(was.address, now.address, self.folder)

    def _moved(self, was: LockedModule, now: LockedModule) -> str:
        if was.address and self._is_same_place(was, now):
            return (
                f"the registry at {shown_address(now.address)}, of which {was.name} was locked, "
                f"called itself {was.registry!r}, and now calls itself {now.registry!r}"
            )
        return (
            f"{_named(now)} is now of the registry {_where(now)}, and was locked from {_where(was)}"
        )

    def _replaced(self, module: LockedModule) -> str | None:
        """Return how a version differs from the same one that is, or was, installed here."""
        for state in self.installed:
            if state.candidate:
                continue  # another one may have become the release
            if state.name == module.name and _is_same_version(state, module):
                if state.registry == module.registry and state.release != module.release:
                    return _another_release(module, state.release, "the one that was installed")
                return None
        return None


class Lost(Struct, frozen=True):
    """A locked version in whose place another one was chosen, since its registry took it back."""

    sentence: str
    is_broken: bool
    """Whether the lock promised it: nothing else asked for another version, or not for an older."""
    required: str = ""
    """What requires another version, and is not heeded of who requires it: only of the manifest."""


def lost_versions(
    before: Lock,
    resolution: Resolution,
    catalog: Catalog,
    *,
    kept: Collection[str],
    roots: Sequence[Need],
    refusal: Callable[[Release], str | None],
    taken_back: Callable[[LockedModule, Release], str | None] = lambda was, release: None,
    is_held: Callable[[LockedModule], bool] = lambda was: False,
    heeds: Callable[[Release], bool] = lambda release: True,
    is_at: Callable[[LockedModule, Registry], bool] = lambda was, registry: True,
) -> dict[str, Lost]:
    """Return the locked versions that their registry has no more, or takes back, by name.

    Only where another version takes its place: that of a version that is kept is refused.

    Args:
        before: The project's lock so far.
        resolution: What was resolved.
        catalog: What it was resolved from.
        kept: Modules whose locked version was to be kept.
        roots: What the manifest requires.
        refusal: Returns why a kept release may not be chosen any more, although the manifest asks
            for it as before.
        taken_back: Returns why one that is held is not chosen any more, if its registry alone says
            so.
        is_held: Returns whether a locked module goes back only for a reason that its registry
            cannot make up.
        heeds: Returns whether what a release requires is such a reason.
        is_at: Returns whether a locked module is from where a registry is.
    """
    changed = []
    for name, chosen in resolution.modules.items():
        was, registry = before.find(name), chosen.release.registry
        if was is None or was.registry != registry.name or registry.stands_for:
            continue
        if parse_version(was.version) != chosen.release.version:
            changed.append((was, name))
    if not changed:
        return {}
    required = _required(resolution, roots, lambda _: True)
    heeded = _required(resolution, roots, heeds)
    found: dict[str, Lost] = {}
    for was, name in changed:
        version, chosen = parse_version(was.version), resolution.modules[name]
        releases = {release.version: release for release in catalog.releases(name)}
        locked = releases.get(version)
        registry = chosen.release.registry
        asked = None if not was.address or is_at(was, registry) else registry
        reason = _lost_reason(was, asked, locked, refusal if name in kept else None)
        excluding = _excluding(name, version, required, catalog)
        held = is_held(was)
        only = ""
        heeding = _excluding(name, version, heeded, catalog) if held else excluding
        goes_back = chosen.release.version < version and not heeding
        if reason is None and held and goes_back and locked is not None:
            reason = taken_back(was, locked)
            if reason is None and excluding and locked.line.yanked is None:
                by, specifier = excluding[0]
                only = f"{name}{specifier}"
                reason = f"{by} requires {only}, which nobody has signed whose releases were locked"
        if reason is not None:
            found[name] = Lost(
                f"{_named(was)} was locked, and {reason}; {chosen.release.line.version} takes its "
                "place",
                goes_back or (not excluding and name in kept),
                only,
            )
    return found


def _lost_reason(
    was: LockedModule,
    asked: Registry | None,
    release: Release | None,
    refusal: Callable[[Release], str | None] | None,
) -> str | None:
    """Return why a locked version is not kept; ``asked`` is the registry, if it is elsewhere."""
    where = _where(was) if asked is None else f"{asked.name!r} at {asked.url}"
    now, more = ("now ", " any more") if asked is None else ("", "")
    if release is None:
        return f"the registry {where} does not have it{more}"
    if release.line.release != was.release:
        yanked = ", yanked" if release.line.yanked is not None else ""
        return f"the registry {where} {now}has another release under that version{yanked}"
    reason = refusal(release) if refusal is not None else None
    return None if reason is None else f"it {reason}"


_Required = dict[ModuleName, list[tuple[Release | None, SpecifierSet]]]
"""By module, what requires it, None for the manifest, and which versions of it."""


def _required(
    resolution: Resolution, roots: Sequence[Need], heeds: Callable[[Release], bool]
) -> _Required:
    """Return what is required, from the manifest on, by releases that are heeded."""
    found: _Required = {}
    for root in roots:
        found.setdefault(root.name, []).append((None, root.specifier))
    todo, seen = [root.identifier for root in roots], set[Identifier]()
    while todo:
        identifier = todo.pop()
        name, extra = identifier
        if identifier in seen or name not in resolution.modules:
            continue
        seen.add(identifier)
        if extra is not None:
            todo.append((name, None))
        release = resolution.modules[name].release
        if not heeds(release):
            continue
        for item in release.requires if extra is None else release.extras.get(extra, []):
            found.setdefault(item.name, []).append((release, item.specifier))
            todo += [(item.name, each) for each in (None, *item.extras)]
    return found


def _excluding(
    name: ModuleName, version: Version, required: _Required, catalog: Catalog
) -> list[tuple[Release | None, SpecifierSet]]:
    """Return what of what requires a module excludes a version of it."""
    override = catalog.overrides.get(name)
    if override is not None:
        wanted: list[tuple[Release | None, SpecifierSet]] = [(None, override.specifier)]
    else:
        wanted = required.get(name, [])
    return [one for one in wanted if not one[1].contains(version, prereleases=True)]


def _another_release(module: LockedModule, was: str, what: str) -> str:
    return (
        f"the registry {_where(module)} now has another release as {_named(module)} "
        f"({module.release[7:19]}…) than {what} ({was[7:19]}…)"
    )


def _is_same_version(one: LockedModule | ModuleState, other: LockedModule) -> bool:
    """Return whether versions are equal: ``1.0`` is ``1.0.0``."""
    return parse_version(one.version) == parse_version(other.version)


def _named(module: LockedModule) -> str:
    return f"{module.name} {module.version}"


def _where(module: LockedModule) -> str:
    place = f" at {shown_address(module.address)}" if module.address else ""
    return f"{module.registry!r}{place}"


def _reassigned(name: str, before: Lock, after: Lock) -> bool:
    """Return whether the manifest now names another registry for a module, or none any more.

    That it names the module without a registry is not an answer to which one is meant.
    """
    return before.source_of(name) != after.source_of(name)
