"""All releases of the registries, as the resolver sees them: parsed once per name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from msgspec import Struct
from packaging.version import Version

from modpkg.core.errors import IntegrityError, ModpkgError, NotFound, RecordError
from modpkg.core.interface import drift_of, unfit_reason
from modpkg.core.names import (
    ModuleName,
    ReadRequirement,
    module_name,
    parse_version,
    read_requirement,
)
from modpkg.core.records import IndexLine
from modpkg.registry.missing import no_such_module
from modpkg.registry.reader import Registry
from modpkg.resolve.policy import VersionRange


class Release(Struct, eq=False):
    """One release as the resolver sees it."""

    line: IndexLine
    registry: Registry
    overrides: Mapping[str, VersionRange]
    name: ModuleName
    version: Version
    place: int = 0
    """Its place among the releases of its name, by version: numbers compare faster."""

    @property
    def requires(self) -> list[ReadRequirement]:
        """Its dependencies, in the order in which they are written."""
        return self._requirements(self.line.requires)

    @property
    def extras(self) -> dict[str, list[ReadRequirement]]:
        """Its extras' dependencies, by the extra's name in normal form."""
        groups: dict[str, list[ReadRequirement]] = {}
        for extra, texts in self.line.extras.items():
            groups.setdefault(module_name(extra), []).extend(self._requirements(texts))
        return groups

    def _requirements(self, texts: list[str]) -> list[ReadRequirement]:
        """Parse requirements, and apply the project's overrides."""
        requirements = list(map(read_requirement, texts))
        if not self.overrides:
            return requirements
        return [
            item
            if (bound := self.overrides.get(item.name)) is None
            else ReadRequirement(item.name, item.extras, bound.specifier)
            for item in requirements
        ]

    def __repr__(self) -> str:
        return f"{self.name} {self.version}"


class Catalog:
    """All releases of all names, each name from exactly one registry.

    Args:
        default: The registry of every name that is not in ``assigned``.
        assigned: By name, its registry; a name is never looked up in another one.
        overrides: By name, the range that replaces every requirement on it.
        contested: By name, the error to raise where it is asked for: its registry is not known.
        elsewhere: Returns a hint for a name that its registry does not have.
        further: By name that is a model of a hub, those of other commits of it.
    """

    def __init__(
        self,
        default: Registry,
        assigned: Mapping[str, Registry] | None = None,
        *,
        overrides: Mapping[str, VersionRange] | None = None,
        contested: Mapping[str, ModpkgError] | None = None,
        elsewhere: Callable[[str], str] | None = None,
        further: Mapping[str, Sequence[Registry]] | None = None,
    ) -> None:
        self._default = default
        self.overrides: Mapping[str, VersionRange] = overrides or {}
        self._contested: Mapping[str, ModpkgError] = contested or {}
        self._elsewhere = elsewhere
        self._assigned = dict(assigned or {})
        self._further = further or {}
        self._releases: dict[str, list[Release]] = {}
        self._fits: dict[tuple[str, str], str | None] = {}
        self._drifts: dict[tuple[str, str], str | None] = {}

    def overriding(self, overrides: Mapping[str, VersionRange]) -> Catalog:
        """Return a catalog of the same releases with other overrides; nothing is fetched again."""
        if overrides is self.overrides:
            return self
        other = Catalog(
            self._default,
            self._assigned,
            overrides=overrides,
            contested=self._contested,
            elsewhere=self._elsewhere,
            further=self._further,
        )
        other._fits = self._fits
        other._drifts = self._drifts
        return other

    def registry(self, name: str) -> Registry:
        """Return the one registry that ``name`` comes from.

        Raises:
            ModpkgError: It is not known which that is.
        """
        if name in self._contested:
            raise self._contested[name]
        return self._assigned.get(name, self._default)

    @property
    def is_local(self) -> bool:
        """Whether every registry is a folder, so that there is nothing to prefetch."""
        return all(
            registry.folder is not None for registry in (self._default, *self._assigned.values())
        )

    def likely(self) -> list[str]:
        """Return names that are likely to be asked for, without what resolving knows.

        Those that the command is known to need, and what is new in a remote registry.
        """
        registries = dict.fromkeys((self._default, *self._assigned.values()))
        return [
            name
            for registry in registries
            for name in (*registry.files.needed, *registry.files.news())
            if name not in self._contested and self.registry(name) is registry
        ]

    def check_budgets(self) -> None:
        """Raise the error of a registry of which more was asked than a command may take.

        What is read ahead is not always looked at: whether a budget is spent must not depend on it.

        Raises:
            RegistryError: There is one.
        """
        for registry in (self._default, *self._assigned.values()):
            registry.allowance.check()

    def warn_of_lost(self) -> None:
        """Warn of names that registries had before and lack now, unless errors have said so."""
        for registry in (self._default, *self._assigned.values()):
            registry.warn_of_lost()

    @property
    def solver_work(self) -> int:
        """How many steps the solver may take, by the user's settings."""
        return self._default.allowance.limit("solver-work")

    def releases(self, name: str) -> list[Release]:
        """Return all releases of a name, newest first; none if its registry does not have it."""
        if name not in self._releases:
            own = ModuleName(name)
            releases = [
                Release(line, registry, self.overrides, own, parse_version(line.version))
                for registry in (self.registry(name), *self._further.get(name, ()))
                for line in registry.resolved_index(name)
            ]
            releases.sort(key=attrgetter("version"))
            for place, release in enumerate(releases):
                release.place = place
            releases.reverse()
            self._releases[name] = releases
        return self._releases[name]

    def unknown(self, name: str) -> NotFound | None:
        """Return the error for a name that its registry does not have; None if it has it."""
        if self.releases(name):
            return None
        registry = self.registry(name)
        if self._elsewhere and (hint := self._elsewhere(name)):
            registry.warn_of_lost()
            return NotFound("M304", name=name, registry=registry.shown, hint=hint)
        return no_such_module(name, registry)

    def unfit(self, parent: Release, release: Release) -> str | None:
        """Return why ``parent`` does not fit ``release``; None if it does, or expects nothing.

        Computed once per pair of interfaces, which many releases share. What a composed release
        provides follows from its parts, so it is compared when a composition is planned.
        """
        expects = parent.line.expects.get(release.name)
        if expects is None:
            return None
        provides = release.line.provides
        if provides is None:
            return None if release.line.kind == "model" else "it provides no interface"
        pair = (expects, provides)
        if pair not in self._fits:
            self._fits[pair] = unfit_reason(
                parent.registry.expects(expects), release.registry.provides(provides)
            )
        return self._fits[pair]

    def drift(self, parent: Release, release: Release) -> str | None:
        """Return how ``release`` differs from what ``parent`` was made for; None if it does not.

        ``parent`` fits it (`unfit`). The release record is read, once per base, for the digests of
        its tensors. A release whose record is missing or damaged differs.

        Raises:
            InstallError, RegistryError: The record cannot be read now.
        """
        expects = parent.line.expects.get(release.name)
        if expects is None:
            return None
        pair = (expects, release.line.release)
        if pair not in self._drifts:
            self._drifts[pair] = _drift(parent, expects, release)
        return self._drifts[pair]


def _drift(parent: Release, digest: str, release: Release) -> str | None:
    line, registry = release.line, release.registry
    if line.provides is None:
        return None  # of a composed release; see `modpkg.environment.fits`
    try:
        tensors = registry.record(line).tensors
    except (IntegrityError, RecordError):
        return f"the release record of {release} is missing or damaged"
    expects = parent.registry.expects(digest)
    drift = drift_of(expects, registry.provides(line.provides), tensors)
    return None if drift.exact else drift.text()
