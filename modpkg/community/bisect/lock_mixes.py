"""Mixes of two locks: manifests and locks in which some changes are made and others are not.

A mix is a resolution like any other: its versions meet every requirement, and its modules fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.bisect.lock_diff import Changes, Names
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import ResolutionImpossible
from modpkg.core.names import module_name, parse_requirement, specifier_text
from modpkg.core.records import canonical_json
from modpkg.environment.locking import requirements_of, roots_of
from modpkg.environment.policy import locked_policy, policy_of, recorded
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.manifest.edit import remove_dependency, set_dependency
from modpkg.manifest.schema import Manifest
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.lock import Lock, LockedPolicy, lock_of
from modpkg.resolve.need import Need
from modpkg.resolve.policy import Policy, VersionRange
from modpkg.resolve.resolve import resolve


class Mix(Struct, frozen=True):
    """What one trial installs: a manifest's text, and a lock that answers it."""

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


class Impossible(Struct, frozen=True):
    """There is no such mix."""

    reason: str


class Mixes:
    """All mixes of two locks of one project.

    The manifest is the project's of today, but for what the locks say was required; constraints,
    the strategy and cut-offs chose the locks' versions once and are not asked again.
    """

    def __init__(
        self,
        project: Project,
        text: str,
        old: Lock,
        new: Lock,
        registries: Registries,
    ) -> None:
        """``project`` is where trials are installed; ``text`` its manifest, as it is today."""
        self._project = project
        self._text = text
        self._manifest = project.parse(text)
        self.old, self.new = old, new
        self._asked = tuple(_by_name(lock.requirements) for lock in (old, new))
        self._catalog: Catalog = registries.catalog()
        self._policy = policy_of(self._manifest, datetime.now(timezone.utc))
        sides = [self._roots(asked) for asked in self._asked]
        self.changes = Changes(
            old,
            new,
            self._catalog,
            {
                name: (sides[0].get(name, []), sides[1].get(name, []))
                for name in dict.fromkeys([*sides[1], *sides[0]])
            },
        )

    def _roots(self, asked: Mapping[str, str]) -> dict[str, list[Need]]:
        roots: dict[str, list[Need]] = {}
        for need in roots_of(self._project.parse(self._text_with(asked))):
            roots.setdefault(need.name, []).append(need)
        return roots

    def mix(self, moved: Iterable[str]) -> Mix | Impossible:
        """Return the mix with these names as in the new lock, and all others as in the old."""
        names = frozenset(moved)
        whole = {frozenset[str](): self.old, frozenset(self.changes.names): self.new}
        text = self._text_with(self._requirements(names))
        if names in whole:
            return self._stamped(text, whole[names])
        pins = {name: _exactly(at) for name, at in self.changes.versions(names).items()}
        return self._resolved(text, pins, {})

    def mix_at(self, at: Mapping[str, Version], moved: Names = frozenset()) -> Mix | Impossible:
        """Return the mix with some changed names at versions between the locks'.

        ``moved`` are names that are as in the new lock. All others are as in the old one where
        that can be, and else not beyond the new one.
        """
        before, after = self.changes.versions(()), self.changes.versions(self.changes.names)
        pins = {name: after[name] for name in moved} | dict(at)
        bounds = {name: _exactly(version) for name, version in pins.items()}
        for name, version in before.items():
            if name not in bounds:
                low, high = sorted((version, after[name]))
                bounds[name] = SpecifierSet(f">={low},<={high}")
        asked = self._requirements(
            {name for name, version in pins.items() if name in moved or version != before[name]}
        )
        for name in at:
            if name in asked and len({side.get(name) for side in self._asked}) > 1:
                asked[name] = _pinned(asked[name], pins[name])
        locked = {name: version for name, version in before.items() if name not in pins}
        return self._resolved(self._text_with(asked), bounds, locked)

    def with_bound(self, name: str, bound: SpecifierSet) -> Mix | Impossible:
        """Return the new lock with one name kept in a range, and as little else changed."""
        after = self.changes.versions(self.changes.names)
        locked = {other: version for other, version in after.items() if other != name}
        text = self._text_with(self._asked[1])
        return self._resolved(text, {name: bound}, locked)

    def between(self, name: str) -> list[Version]:
        """Return the versions of a changed name from the old one to the new one, both included.

        Those that the project's policy would not choose (yanked, too new …) are left out.
        """
        ends = [self.changes.version(name, moved=moved) for moved in (False, True)]
        low, high = sorted(ends)
        admission = Admission(roots_of(self._manifest), {}, self._policy)
        found = [
            release.version
            for release in self._catalog.releases(name)
            if low < release.version < high and admission.refusal(self._catalog, release) is None
        ]
        inside = sorted(found, reverse=ends[0] > ends[1])
        return [ends[0], *inside, ends[1]]

    # Manifests -----------------------------------------------------------------------------

    def _requirements(self, moved: Iterable[str]) -> dict[str, str]:
        """Return by name what the project requires when these names are moved."""
        after = set(moved)
        found = {}
        for name in dict.fromkeys([*self._asked[1], *self._asked[0]]):
            text = self._asked[name in after].get(name)
            if text is not None:
                found[name] = text
        return found

    def _text_with(self, asked: Mapping[str, str]) -> str:
        """Return the manifest's text with these requirements, and no others."""
        text = self._text
        held = _by_name(requirements_of(self._manifest))
        for name in held:
            if name not in asked:
                text = remove_dependency(text, name)
        for name, wanted in asked.items():
            if held.get(name) != wanted:
                text = set_dependency(text, name, _value(wanted))
        return text

    # Resolving -----------------------------------------------------------------------------

    def _resolved(
        self, text: str, bounds: Mapping[str, SpecifierSet], locked: Mapping[str, Version]
    ) -> Mix | Impossible:
        manifest = self._project.parse(text)
        base = self._policy
        policy = Policy(
            strategy=base.strategy,
            prereleases=base.prereleases,
            constraints={name: VersionRange(bound) for name, bound in bounds.items()},
            cutoff=base.cutoff,
            cutoffs=dict(base.cutoffs) | dict.fromkeys(bounds),
        )
        try:
            found = resolve(roots_of(manifest), self._catalog, locked=locked, policy=policy)
        except ResolutionImpossible as error:
            return Impossible(str(error))
        return Mix(text, lock_of(requirements_of(manifest), found, **_policy_fields(manifest)))

    def _stamped(self, text: str, lock: Lock) -> Mix:
        """Return the mix that is one of the locks, as an answer to a manifest's text."""
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
    """Return requirements as locks record them, by the name that each is of."""
    return {
        module_name(parse_requirement(text.partition(" @ ")[0]).name): text for text in requirements
    }


def _value(text: str) -> dict[str, Any]:
    """Return a requirement as a manifest has it, from how a lock records it."""
    written, _, alias = text.partition(" @ ")
    requirement = parse_requirement(written)
    value: dict[str, Any] = {"version": specifier_text(requirement.specifier) or "*"}
    if requirement.extras:
        value["extras"] = sorted(requirement.extras)
    if alias:
        value["registry"] = alias
    return value


def _pinned(text: str, version: Version) -> str:
    """Return a requirement of a lock with one version in the place of its range."""
    written, at, alias = text.partition(" @ ")
    requirement = parse_requirement(written)
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}=={version}{at}{alias}"


def _exactly(version: Version) -> SpecifierSet:
    """Return the range of one version; ``==1.0`` would allow 1.0+local too."""
    return SpecifierSet(f"==={version}")
