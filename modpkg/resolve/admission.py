"""Which releases of a name may be chosen at all, and in which order they are preferred."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from modpkg.core.errors import InvalidValue
from modpkg.core.names import requirement_text
from modpkg.manifest.cutoff import moment_text, parse_moment
from modpkg.registry.cool_down import cool_down_of
from modpkg.registry.standing import removal
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Need
from modpkg.resolve.order import plainly_final
from modpkg.resolve.policy import Policy, VersionRange

BY_TIME = ("was published ", "has no publication time")
"""How the reasons begin for which a release is excluded by when it was published."""
NOT_BY_A_PIN = ("was removed ", "requires modpkg ", *BY_TIME)
"""How the reasons begin for which a release is excluded whatever pins it."""
_SPECIFIER = 1000
"""Characters of a specifier that is read."""
LOCKED, FINAL, PRERELEASE = range(3)
"""Ranks of a name's releases, the preferred one first."""


class Admission:
    """The releases that a resolution may choose from, by policy, roots and lock.

    A release is excluded for the first of these reasons that applies:

    1. it was removed from its registry;
    2. it was published after the name's cut-off, or, where the manifest has none, later than the
       cool-down of its registry allows, and is not locked;
    3. it requires another version of modpkg;
    4. it was yanked, and neither does a root, constraint or override pin it with ``==``, nor is it
       locked;
    5. a constraint on the name excludes it.

    A name in ``held`` is limited to its locked version. Pre-releases are preferred last.
    """

    def __init__(
        self,
        roots: Sequence[Need],
        locked: Mapping[str, Version],
        policy: Policy | None = None,
        *,
        held: Collection[str] = (),
    ) -> None:
        self._policy = policy or Policy()
        self._locked = locked
        self._roots: dict[str, list[SpecifierSet]] = {}
        self._held = held
        self._pinned: dict[str, set[Version]] = {}
        self._admitted: dict[str, list[Release]] = {}
        self._refused: dict[str, dict[Version, str]] = {}
        for root in roots:
            self._roots.setdefault(root.name, []).append(root.specifier)
            self._pin(root.name, root.specifier)
        for name, bound in self._policy.constraints.items():
            self._pin(name, bound.specifier)

    def _pin(self, name: str, specifier: SpecifierSet) -> None:
        """Record the versions that a specifier pins."""
        for item in specifier:
            if item.operator in ("==", "===") and not item.version.endswith(".*"):
                self._pinned.setdefault(name, set()).add(Version(item.version))

    def prefers_lowest(self, name: str) -> bool:
        """Return whether the oldest version of a name is preferred to the newest."""
        strategy = self._policy.strategy
        return strategy == "lowest" or (strategy == "lowest-direct" and name in self._roots)

    def releases(self, catalog: Catalog, name: str) -> list[Release]:
        """Return the admitted releases, the preferred first: the locked one before any other."""
        if name not in self._admitted:
            self._evaluate(catalog, name)
        return self._admitted[name]

    def refusal(self, catalog: Catalog, release: Release) -> str | None:
        """Return why a release is excluded, as the rest of a sentence; None if it is admitted."""
        self.releases(catalog, release.name)
        return self._refused[release.name].get(release.version)

    def _evaluate(self, catalog: Catalog, name: str) -> None:
        override = catalog.overrides.get(name)
        if override is not None:
            self._pin(name, override.specifier)
        locked = self._locked.get(name)
        refused = self._refused[name] = {}
        left: list[Release] = []
        releases = catalog.releases(name)
        cutoff, why, taken = self._cut_off(name, releases)
        for release in releases:
            line = release.line
            if cutoff is None and line.yanked is None and not line.requires_modpkg:
                left.append(release)  # as nearly all are
                continue
            limit = None if release.version == taken else cutoff
            reason = self._own_refusal(release, limit, why)
            if reason is None:
                left.append(release)
            else:
                refused[release.version] = reason
        bound = self._policy.constraints.get(name)
        if bound is not None:
            refused |= {
                r.version: _outside(name, bound)
                for r in left
                if r.version not in refused
                and not bound.specifier.contains(r.version, prereleases=True)
            }
        if refused:
            left = [release for release in left if release.version not in refused]
        if name in self._held:
            left = [release for release in left if release.version == locked]
        if self.prefers_lowest(name):
            left = left[::-1]
        if locked is None and plainly_final("".join([r.line.version for r in left])):
            self._admitted[name] = left  # all are of one rank
        else:
            self._admitted[name] = sorted(left, key=self.rank)

    def _cut_off(
        self, name: str, releases: Sequence[Release]
    ) -> tuple[datetime | None, str, Version | None]:
        """Return the cut-off of a name, its source, and the version that it leaves alone."""
        if releases and self._policy.cools_down(name):
            registry = releases[0].registry
            if (span := cool_down_of(registry)) is not None and self._policy.now is not None:
                why = f"the cool-down of the registry {registry.name} is {span.text}"
                return span.at(self._policy.now), why, self._policy.taken.get(name)
        return self._policy.cutoff_of(name), "exclude-newer", None

    def excluding(self, release: Release, at: str) -> tuple[datetime, str] | None:
        """Return the cut-off that would exclude a release published at a moment, and its source.

        Raises:
            InvalidValue: It is no moment.
        """
        cutoff, why, taken = self._cut_off(release.name, [release])
        if cutoff is None or release.version == taken or parse_moment(at) <= cutoff:
            return None
        return cutoff, why

    def rank(self, release: Release) -> int:
        """Return `LOCKED`, `FINAL` or `PRERELEASE`; lower ranks are preferred."""
        locked = self._locked.get(release.name)
        if locked is not None and release.version == locked:
            return LOCKED
        if plainly_final(release.line.version) or not release.version.is_prerelease:
            return FINAL
        return FINAL if release.name in self._policy.prereleases else PRERELEASE

    @property
    def prefers_exact(self) -> bool:
        """Whether bases that modules fit exactly are preferred."""
        return self._policy.fit == "exact-first"

    def unfit(self, catalog: Catalog, parent: Release, release: Release) -> str | None:
        """Return why a module may not act on a release, as the rest of a sentence; None if it may.

        Under the policy ``strict``, it may only if it fits exactly.
        """
        reason = catalog.unfit(parent, release)
        if reason is not None or not self._policy.strict:
            return reason
        drift = catalog.drift(parent, release)
        return drift and f"{parent} was made for other weights ({drift}), and strict is set"

    def locked_release(self, catalog: Catalog, name: str) -> Release | None:
        """Return the locked release of a name; None if it is excluded or out of a root's range."""
        locked = self._locked.get(name)
        ranges = self._roots.get(name, ())
        if locked is None or not all(r.contains(locked, prereleases=True) for r in ranges):
            return None
        first = next(iter(self.releases(catalog, name)), None)
        return first if first is not None and first.version == locked else None

    def _own_refusal(self, release: Release, cutoff: datetime | None, why: str) -> str | None:
        """Return why a release is excluded, regardless of the other releases of its name.

        ``why`` says what the cut-off comes from.
        """
        line = release.line
        if (reason := removal(line)) is not None:
            return reason
        if cutoff is not None:
            reason = _too_new(line.published, cutoff, why)
            if reason is not None:
                return reason
        if line.requires_modpkg:
            reason = _engine_refusal(line.requires_modpkg, self._policy.engine)
            if reason is not None:
                return reason
        if line.yanked is not None and not (
            release.version in self._pinned.get(release.name, ())
            or self._locked.get(release.name) == release.version
        ):
            return f"was yanked: {line.yanked or 'no reason was given'}"
        return None


@lru_cache(maxsize=1024)
def _engine_refusal(specifier: str, engine: Version) -> str | None:
    """Return why a release that needs some versions of modpkg is excluded; None if it is not."""
    try:
        if len(specifier) <= _SPECIFIER and SpecifierSet(specifier).contains(
            engine, prereleases=True
        ):
            return None
    except InvalidSpecifier:
        pass
    return (
        f"requires modpkg {specifier}, and this is modpkg {engine}; install that version of modpkg "
        "to use it"
    )


def _too_new(published: str, cutoff: datetime, why: str) -> str | None:
    try:
        if parse_moment(published) <= cutoff:
            return None
    except InvalidValue:
        return (
            f"has no publication time, and there is a cut-off ({why}); "
            "exempt it with exclude-newer-package under [resolution]"
        )
    return (
        f"was published {published}, after the cut-off {moment_text(cutoff)} ({why}); "
        "exempt it with exclude-newer-package under [resolution]"
    )


def _outside(name: str, bound: VersionRange) -> str:
    where = f" ({bound.where})" if bound.where else ""
    return f"is excluded by the constraint {requirement_text(name, set(), bound.specifier)}{where}"
