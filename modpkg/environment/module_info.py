"""What the registry of a module says of it, without installing anything."""

from __future__ import annotations

import math

from msgspec import UNSET, Struct
from packaging.specifiers import SpecifierSet

from modpkg.core.errors import ModpkgError, NotFound
from modpkg.core.interface import drift_of, unfit_reason
from modpkg.core.names import module_name, parse_requirement, parse_version
from modpkg.core.records import BuiltFrom, Expects, IndexLine, ReleaseRecord
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.environment.yanked import replaced_release
from modpkg.registry.missing import no_such_module
from modpkg.registry.module_lines import task_kind
from modpkg.registry.reader import Registry
from modpkg.registry.select import newest_release
from modpkg.registry.standing import check_present

MOST_FITS = 10
"""Of each base, at most this many releases are compared with what a module was made for."""


class KnownRelease(Struct, frozen=True, kw_only=True):
    """A release that the registry has."""

    version: str
    published: str
    size: int
    """Bytes that it added to the registry."""
    yanked: str | None
    """Why it was yanked; None if it was not."""
    deprecated: str | None
    """Why it should not be used any more, if it should not; may be empty."""
    successor: str
    """What to use instead of a deprecated release, as a requirement."""
    removed: str | None
    """Why it was removed from its registry; None if it was not."""


class BaseFit(Struct, frozen=True, kw_only=True):
    """How a module fits a release of its base."""

    base: str
    version: str
    fit: str
    """``exact``, or as a clause how the base differs from the one that the module was made for."""


class ModuleInfo(Struct, frozen=True, kw_only=True):
    """A release of a module, and what else its registry has of the module."""

    name: str
    version: str
    kind: str
    summary: str
    license: str
    registry: str
    """The address of its registry."""
    origin: str
    """What named that registry."""
    release: str
    """Digest of the release."""
    published: str
    yanked: str | None
    """Why it was yanked; None if it was not."""
    deprecated: str | None
    """Why it should not be used any more, if it should not; may be empty."""
    successor: str
    """What to use instead of a deprecated release, as a requirement."""
    locked: str | None
    """The version that the project has locked; None if it has none."""
    replaced: str | None
    """How the registry differs from the lock in that version, as a clause; None if it does not."""
    requires: list[str]
    extras: dict[str, list[str]]
    requires_modpkg: str | None
    """The versions of modpkg that it needs; None for any."""
    task: str
    """The kind of its task; empty if it declares none."""
    tests: list[str]
    """Names of its tests."""
    tensors: int
    parameters: int
    """Elements of all its tensors."""
    files: int
    size: int
    """Bytes of its packs and files; of them, an install fetches what the store does not have."""
    fits: list[BaseFit]
    """Of what acts on a base, for its newest releases that the module's requirement allows."""
    built_from: list[BuiltFrom]
    """The releases that it was built against or made from."""
    breaking: str
    """Why it was published although its changes required a higher version; else empty."""
    versions: list[KnownRelease]
    """All releases of the module, newest first."""


def module_info(workspace: Workspace, text: str) -> ModuleInfo:
    """Return what is known of a module, by the newest release that a requirement allows.

    Raises:
        InvalidValue: `text` is not a requirement.
        NotFound: The registry has no such module or version.
        RegistryUnreachable, IntegrityError, InstallError: What is needed cannot be read.
    """
    requirement = parse_requirement(text)
    name, registries = module_name(requirement.name), workspace.registries
    registry = registries.of(name)
    lines = registry.known_index(name)
    if not lines:
        if not (elsewhere := registries.elsewhere(name)):
            raise no_such_module(name, registry)
        registry.warn_of_lost()
        raise NotFound("M304", name=name, registry=registry.shown, hint=elsewhere)
    line = newest_release(lines, requirement.specifier, or_yanked=True)
    if line is None:
        for gone in lines:
            if requirement.specifier.contains(gone.version, prereleases=True):
                check_present(gone, registry.shown)
        raise registry.not_found(name, str(requirement.specifier))
    record = registry.record(line)
    packs = sum(record.packs.values())
    lock = workspace.usable_lock()
    locked = None if lock is None else lock.find(name)
    return ModuleInfo(
        name=name,
        version=line.version,
        kind=line.kind,
        summary=record.summary,
        license=record.license,
        registry=registry.url,
        origin=registry.origin,
        release=line.release,
        published=line.published,
        yanked=line.yanked,
        deprecated=None if line.deprecated is UNSET else line.deprecated,
        successor=line.successor or "",
        locked=None if locked is None else locked.version,
        replaced=None if locked is None else replaced_release(locked, lines),
        requires=record.requires,
        extras=record.extras,
        requires_modpkg=None if record.requires_modpkg is UNSET else record.requires_modpkg,
        task=task_kind(record),
        tests=_tests(record),
        tensors=len(record.tensors),
        parameters=sum(math.prod(entry.shape) for entry in record.tensors.values()),
        files=len(record.files),
        size=packs + sum(entry.size for entry in record.files.values()),
        fits=[
            fit
            for base, digest in record.expects.items()
            for fit in _fits(registry.expects(digest), record, base, registries)
        ],
        built_from=record.provenance.built_from,
        breaking="" if record.provenance.breaking is UNSET else record.provenance.breaking,
        versions=[
            KnownRelease(
                version=each.version,
                published=each.published,
                size=each.size,
                yanked=each.yanked,
                deprecated=None if each.deprecated is UNSET else each.deprecated,
                successor=each.successor or "",
                removed=None if each.removed is UNSET else each.removed,
            )
            for each in _newest_first(lines)
        ],
    )


def _newest_first(lines: list[IndexLine]) -> list[IndexLine]:
    return sorted(lines, key=lambda line: parse_version(line.version), reverse=True)


def _tests(record: ReleaseRecord) -> list[str]:
    tests = record.manifest.get("tests")
    named = [test.get("name") for test in tests if isinstance(test, dict)] if tests else []
    return [name for name in named if isinstance(name, str)]


def _fits(
    expects: Expects, record: ReleaseRecord, base: str, registries: Registries
) -> list[BaseFit]:
    """Return how a module fits the releases of its base; of a base that cannot be read, none."""
    specifier = _specifier(record, base)
    try:
        source = registries.of(base)
        lines = [
            line
            for line in _newest_first(source.index(base))
            if line.yanked is None and specifier.contains(line.version, prereleases=True)
        ]
        return [
            BaseFit(base=base, version=line.version, fit=_fit(expects, line, source))
            for line in lines[:MOST_FITS]
        ]
    except ModpkgError:
        return []


def _specifier(record: ReleaseRecord, base: str) -> SpecifierSet:
    requirements = [parse_requirement(text) for text in record.requires]
    return next((one.specifier for one in requirements if one.name == base), SpecifierSet())


def _fit(expects: Expects, line: IndexLine, source: Registry) -> str:
    record = source.record(line)
    if record.provides is None:
        return "unfit: it is not a base"
    provides = source.provides(record.provides)
    if (reason := unfit_reason(expects, provides)) is not None:
        return f"unfit: {reason}"
    drift = drift_of(expects, provides, record.tensors)
    if drift.exact:
        return "exact"
    parts = [f"{len(drift.changed)} of {drift.touched} tensors differ"] if drift.changed else []
    parts += [f"other {', '.join(drift.ports)}"] if drift.ports else []
    return f"drifted: {'; '.join(parts)}"
