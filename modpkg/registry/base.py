"""Finds the base that a module is built against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.digests import parse_digest
from modpkg.core.errors import IntegrityError, RecordError, ReleaseError
from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine
from modpkg.manifest.schema import Manifest
from modpkg.registry.missing import no_such_module
from modpkg.registry.reader import Registry
from modpkg.registry.select import usable_releases
from modpkg.release.base import Base


def find_base(
    manifest: Manifest, registries: Mapping[str, Registry], version: Version | None = None
) -> Base:
    """Return the release that an adapter, head, expert or patch is built against.

    It is the one of ``against`` in the manifest; or the one of ``version``; or the only one that
    ``[provenance]`` names; or else the newest release in the declared range (`usable_releases`),
    whose ``others`` are the rest of these; of the first dependency that provides an interface.

    Raises:
        ReleaseError: No dependency provides an interface, or the release of ``against`` does not
            exist.
        NotFound: The registry has no release in the range, or not the name of a dependency.
    """
    against = manifest.module.against if manifest.module is not None else None
    for dependency in manifest.dependencies:
        name, registry = dependency.name, registries[dependency.name]
        if against is not None and name != against.name:
            continue
        lines = [line for line in registry.index(name) if line.provides is not None]
        if against is not None:
            lines = [line for line in lines if parse_version(line.version) == against.version]
            if not lines:
                missing = registry.not_found(name, str(against.version)).values
                raise ReleaseError("M420", **{**missing, "where": against.where})
            return _base(registry, lines[0])
        if not lines:
            continue
        specifier = dependency.requirement.specifier
        named = [origin.version for origin in manifest.origins if origin.name == name]
        if version is None and len(named) == 1 and specifier.contains(named[0], prereleases=True):
            version = named[0]
        if version is not None:
            specifier = specifier & SpecifierSet(f"=={version}")
        usable = usable_releases(lines, specifier)
        if not usable:
            raise registry.not_found(name, str(version or specifier))
        return _base(registry, usable[0], usable[1:])
    kind = manifest.module.kind if manifest.module is not None else "app"
    found = ""
    if names := [dependency.name for dependency in manifest.dependencies]:
        for name in names:
            if not registries[name].index(name):
                raise no_such_module(name, registries[name])
        found = f", and none of its dependencies has weights of its own ({', '.join(names)})"
    raise ReleaseError("M210", where=manifest.path, kind=kind, found=found)


def _base(registry: Registry, line: IndexLine, others: Sequence[IndexLine] = ()) -> Base:
    return Base(
        release=parse_digest(line.release),
        record=registry.record(line),
        provides=registry.provides(line.provides or ""),
        read=partial(_read, registry),
        others=partial(_bases, registry, others),
    )


def _bases(registry: Registry, lines: Sequence[IndexLine]) -> Iterator[Base]:
    """Yield the releases whose records are there: a damaged one is nobody's base."""
    for line in lines:
        with suppress(IntegrityError, RecordError):
            yield _base(registry, line)


def _read(registry: Registry, digest: str, what: str) -> bytes:
    return registry.blob(parse_digest(digest), what)
