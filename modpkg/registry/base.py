"""Finds the base that a module is built against."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from packaging.specifiers import SpecifierSet

from modpkg.core.digests import parse_digest
from modpkg.core.errors import ReleaseError
from modpkg.core.names import parse_version
from modpkg.manifest.schema import Manifest
from modpkg.registry.reader import Registry, no_such_module
from modpkg.registry.select import newest_release
from modpkg.release.build import Base


def find_base(manifest: Manifest, registries: Mapping[str, Registry], version: str | None) -> Base:
    """Return the release that an adapter, head, expert or patch is built against.

    It is the newest release in the declared range (`newest_release`), or the one of ``version``, of
    the first dependency that provides an interface.

    Raises:
        ReleaseError: No dependency provides an interface.
        NotFound: The registry has no release in the range, or not the name of a dependency.
    """
    for dependency in manifest.dependencies:
        registry = registries[dependency.name]
        lines = [line for line in registry.index(dependency.name) if line.provides is not None]
        if not lines:
            continue
        specifier = dependency.requirement.specifier
        if version is not None:
            specifier = specifier & SpecifierSet(f"=={parse_version(version)}")
        line = newest_release(lines, specifier)
        if line is None:
            raise registry.not_found(dependency.name, version or str(specifier))
        record = registry.record(line)
        return Base(
            release=parse_digest(line.release),
            record=record,
            provides=registry.provides(line.provides or ""),
            read=partial(_read, registry),
        )
    kind = manifest.module.kind if manifest.module is not None else "app"
    found = ""
    if names := [dependency.name for dependency in manifest.dependencies]:
        for name in names:
            if not registries[name].index(name):
                raise no_such_module(name, registries[name])
        found = f", and none of its dependencies has weights of its own ({', '.join(names)})"
    raise ReleaseError("M210", where=manifest.path, kind=kind, found=found)


def _read(registry: Registry, digest: str, what: str) -> bytes:
    return registry.blob(parse_digest(digest), what)
