"""Mixes of two locks: a manifest and a lock with some of their changes applied.

A mix is a complete resolution: its versions meet every requirement, and its modules fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.bisect.lock_diff import LockDiff, Names
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import LockError, ResolutionImpossible, TrustError
from modpkg.core.hub_address import is_hub_address
from modpkg.core.names import module_name, parse_requirement, specifier_text
from modpkg.core.records import canonical_json
from modpkg.environment.generations import ModuleState
from modpkg.environment.locking import requirements_of, roots_of
from modpkg.environment.policy import locked_policy, policy_of, recorded
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.environment.signers import with_signers
from modpkg.manifest.edit import remove_dependency, set_dependency
from modpkg.manifest.hub_model import parse_hub_model
from modpkg.manifest.schema import Manifest
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.lock import Lock, LockedPolicy, lock_of
from modpkg.resolve.need import Need
from modpkg.resolve.policy import VersionRange
from modpkg.resolve.resolve import resolve


class Mix(Struct, frozen=True):
    """What one trial installs: a manifest's text, and a lock that satisfies it."""

    manifest: str
    lock: Lock

    @property
    def digest(self) -> Digest:
        """Digest of the manifest and of what the lock installs."""
        modules = sorted(
            [module.name, module.version, module.release, *sorted(module.extras)]
            for module in self.lock.module
        )
        return digest_bytes(canonical_json([self.manifest, modules]))


class Unresolvable(Struct, frozen=True):
    """A mix that does not resolve."""

    reason: str


class LockMixes:
    """All mixes of two locks of one project.

    The manifest is the project's current one with the requirements of the locks; constraints,
    strategy and cut-offs, which chose the locks' versions, are not applied again.
    """

    def __init__(
        self,
        project: Project,
        text: str,
        old: Lock,
        new: Lock,
        registries: Registries,
        *,
        accepted: Collection[str] = (),
        installed: Sequence[ModuleState] = (),
    ) -> None:
        """``project`` is where trials are installed; ``text`` is the current manifest, for it.

        ``accepted`` are modules whose signer may be another one than in the old lock, and
        ``installed`` is what remembers the signers of what no lock has; see `with_signers`.
        """
        self._project = project
        self._text = text
        self._manifest = project.parse(text)
        self.old, self.new = old, new
        self._replaced = [
            module.name
            for module in new.module
            if (was := old.find(module.name)) is not None
            and was.version == module.version
            and was.release != module.release
        ]
        self._required = tuple(_by_name(lock.requirements) for lock in (old, new))
        self._registries = registries
        self._accepted, self._installed = accepted, installed
        self._catalog: Catalog = registries.catalog(locks=(new, old))
        policy = policy_of(self._manifest, datetime.now(timezone.utc))
        self._policy = msgspec.structs.replace(policy, now=None)  # what was locked has cooled down
        sides = [self._roots(required) for required in self._required]
        self.diff = LockDiff(
            old,
            new,
            self._catalog,
            {
                name: (sides[0].get(name, []), sides[1].get(name, []))
                for name in dict.fromkeys([*sides[1], *sides[0]])
            },
        )

    def _roots(self, required: Mapping[str, str]) -> dict[str, list[Need]]:
        roots: dict[str, list[Need]] = {}
        for need in roots_of(self._project.parse(self._text_with(required))):
            roots.setdefault(need.name, []).append(need)
        return roots

    def mix(self, moved: Iterable[str]) -> Mix | Unresolvable:
        """Return the mix with these names as in the new lock, and all others as in the old one."""
        names = frozenset(moved)
        whole = {frozenset[str](): self.old, frozenset(self.diff.names): self.new}
        text = self._text_with(self._requirements(names))
        if names in whole:
            return self._unchanged(text, whole[names])
        pins = {name: _exactly(at) for name, at in self.diff.versions(names).items()}
        return self._resolved(text, pins, {})

    def mix_at(self, at: Mapping[str, Version], moved: Names = frozenset()) -> Mix | Unresolvable:
        """Return the mix with some changed names at versions between those of the locks.

        ``moved`` are names that are as in the new lock. All others are as in the old one where
        possible, else between the two.
        """
        before, after = self.diff.versions(()), self.diff.versions(self.diff.names)
        pins = {name: after[name] for name in moved} | dict(at)
        bounds = {name: _exactly(version) for name, version in pins.items()}
        for name, version in before.items():
            if name not in bounds:
                low, high = sorted((version, after[name]))
                bounds[name] = SpecifierSet(f">={low},<={high}")
        required = self._requirements(
            {name for name, version in pins.items() if name in moved or version != before[name]}
        )
        for name in at:
            if name in required and len({side.get(name) for side in self._required}) > 1:
                required[name] = _pinned(required[name], pins[name])
        locked = {name: version for name, version in before.items() if name not in pins}
        return self._resolved(self._text_with(required), bounds, locked)

    def with_bound(self, name: str, bound: SpecifierSet) -> Mix | Unresolvable:
        """Return the new lock with one name in a range, and as little else changed as possible."""
        after = self.diff.versions(self.diff.names)
        locked = {other: version for other, version in after.items() if other != name}
        text = self._text_with(self._required[1])
        return self._resolved(text, {name: bound}, locked)

    def between(self, name: str) -> list[Version]:
        """Return the versions of a changed name from the old one to the new one, inclusive.

        Versions that the project's policy refuses (yanked, too new …) are left out.
        """
        ends = [self.diff.version(name, moved=moved) for moved in (False, True)]
        low, high = sorted(ends)
        admission = Admission(roots_of(self._manifest), {}, self._policy)
        between = [
            release.version
            for release in self._catalog.releases(name)
            if low < release.version < high and admission.refusal(self._catalog, release) is None
        ]
        inside = sorted(between, reverse=ends[0] > ends[1])
        return [ends[0], *inside, ends[1]]

    # Manifests -----------------------------------------------------------------------------

    def _requirements(self, moved: Iterable[str]) -> dict[str, str]:
        """Return the project's requirements by name, with these names moved."""
        after = set(moved)
        required = {}
        for name in dict.fromkeys([*self._required[1], *self._required[0]]):
            text = self._required[name in after].get(name)
            if text is not None:
                required[name] = text
        return required

    def _text_with(self, required: Mapping[str, str]) -> str:
        """Return the manifest's text with these requirements, and no others."""
        text = self._text
        current = _by_name(requirements_of(self._manifest))
        for name in current:
            if name not in required:
                text = remove_dependency(text, name)
        for name, requirement in required.items():
            if current.get(name) != requirement:
                text = set_dependency(text, name, _value(requirement))
        return text

    # Resolving -----------------------------------------------------------------------------

    def _resolved(
        self, text: str, bounds: Mapping[str, SpecifierSet], locked: Mapping[str, Version]
    ) -> Mix | Unresolvable:
        manifest = self._project.parse(text)
        base = self._policy
        policy = msgspec.structs.replace(
            base,
            constraints={name: VersionRange(bound) for name, bound in bounds.items()},
            cutoffs=dict(base.cutoffs) | dict.fromkeys(bounds),
        )
        try:
            resolution = resolve(roots_of(manifest), self._catalog, locked=locked, policy=policy)
        except ResolutionImpossible as error:
            return Unresolvable(str(error))
        fields = _policy_fields(manifest)
        lock = lock_of(
            requirements_of(manifest), resolution, address=self._registries.recorded, **fields
        )
        try:
            for known in (self.old, self.new):
                lock = self._registries.promise(known, (), self._replaced).keep(lock)
            signed = with_signers(
                *(lock, self._known(lock), resolution, manifest),
                accepted=self._accepted,
                installed=self._installed,
            )
        except (LockError, TrustError) as error:
            return Unresolvable(str(error))
        if signed.refused:
            return Unresolvable(str(next(iter(signed.refused.values()))))
        return Mix(text, signed.lock)

    def _known(self, lock: Lock) -> Lock:
        """Return what the two locks have of a mix's modules: of one, what it has as it is there."""
        modules = []
        for module in lock.module:
            both = [one.find(module.name) for one in (self.new, self.old)]
            known = [was for was in both if was is not None]
            as_it_is = [was for was in known if was.release == module.release]
            modules += [*as_it_is, *reversed(known)][:1]
        return msgspec.structs.replace(lock, module=modules)

    def _unchanged(self, text: str, lock: Lock) -> Mix:
        """Return the mix that is one of the locks itself, with a manifest's text."""
        manifest = self._project.parse(text)
        fields = {"requirements": requirements_of(manifest), "composed": []}
        policy = _policy_fields(manifest)
        policy["resolution"] = policy.pop("policy")
        return Mix(text, msgspec.structs.replace(lock, **fields, **policy))


def _policy_fields(manifest: Manifest) -> dict[str, Any]:
    policy: LockedPolicy = locked_policy(manifest, None)
    return {
        "constraints": recorded(manifest.constraints),
        "overrides": recorded(manifest.overrides),
        "policy": policy,
    }


def _by_name(requirements: Iterable[str]) -> dict[str, str]:
    """Return requirements, as locks record them, by name."""
    return {
        module_name(parse_requirement(text.partition(" @ ")[0]).name): text for text in requirements
    }


def _value(text: str) -> dict[str, Any]:
    """Return the manifest's value of a requirement that a lock records."""
    written, _, alias = text.partition(" @ ")
    if is_hub_address(alias):
        return {**parse_hub_model(alias).entries()}
    requirement = parse_requirement(written)
    value: dict[str, Any] = {"version": specifier_text(requirement.specifier) or "*"}
    if requirement.extras:
        value["extras"] = sorted(requirement.extras)
    if alias:
        value["registry"] = alias
    return value


def _pinned(text: str, version: Version) -> str:
    """Return a requirement of a lock with one version in place of its range."""
    written, at, alias = text.partition(" @ ")
    requirement = parse_requirement(written)
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}=={version}{at}{alias}"


def _exactly(version: Version) -> SpecifierSet:
    """Return the range of exactly one version; ``==1.0`` would also allow 1.0+local."""
    return SpecifierSet(f"==={version}")
