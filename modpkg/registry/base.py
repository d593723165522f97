"""Finding the base that a module is built against."""

from __future__ import annotations

from collections.abc import Mapping

from modpkg.core.digests import parse_digest
from modpkg.core.errors import NotFound, ReleaseError
from modpkg.core.names import parse_version
from modpkg.manifest import Manifest
from modpkg.registry.reader import Registry
from modpkg.release.build import Base


def find_base(manifest: Manifest, registries: Mapping[str, Registry], version: str | None) -> Base:
    """Return the release that an adapter, head, expert or patch is built against.

    It is the newest release, not yanked, of the first dependency that is a base (or has weights
    of its own) within the declared range; ``version`` names another one.

    Raises:
        ReleaseError: no dependency is a base.
        NotFound: the registry has no release in the range.
    """
    for dependency in manifest.dependencies:
        registry = registries[dependency.name]
        lines = [line for line in registry.index(dependency.name) if line.provides is not None]
        if not lines:
            continue
        specifier = dependency.requirement.specifier
        chosen = [
            line
            for line in lines
            if (line.yanked is None and specifier.contains(line.version, prereleases=True))
            and (version is None or parse_version(line.version) == parse_version(version))
        ]
        if not chosen:
            raise NotFound(
                "M312",
                name=dependency.name,
                version=version or str(specifier),
                registry=registry.url,
                hint=f" (it has {', '.join(line.version for line in lines)})",
            )
        final = [line for line in chosen if not parse_version(line.version).is_prerelease]
        line = max(final or chosen, key=lambda item: parse_version(item.version))
        return Base(
            release=parse_digest(line.release),
            record=registry.record(line),
            provides=registry.provides(line.provides or ""),
        )
    kind = manifest.module.kind if manifest.module is not None else "app"
    raise ReleaseError("M210", where=manifest.path, kind=kind)
