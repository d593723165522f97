"""Whether a version is high enough, from the files of a registry alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from packaging.version import Version

from modpkg.community.modules.view import view_of_build
from modpkg.community.semver.check import check
from modpkg.community.semver.releases import version_too_low
from modpkg.core.errors import ModpkgError, NotFound
from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine
from modpkg.registry.place import Place
from modpkg.registry.reader import Registry
from modpkg.registry.select import earlier_release


def check_version(place: Place, built: Registry, line: IndexLine) -> None:
    """Check that a version is high enough for what changed since the release before.

    Raises:
        PublishError: It is too low, and the record does not say why.
    """
    registry = Registry(place.source.url, source=place.source)
    try:
        lines = registry.index(line.name)
    except NotFound:
        return
    version = parse_version(line.version)
    earlier = earlier_release(lines, version)
    record = built.record(line)
    if earlier is None or record.provenance.breaking:
        return

    def published(name: str) -> list[Version]:
        try:
            return [parse_version(other.version) for other in registry.index(name)]
        except ModpkgError:
            return []

    with tempfile.TemporaryDirectory(prefix="modpkg-check-") as spool:
        result = check(
            view_of_build(earlier, registry, place, Path(spool)),
            view_of_build(line, built, place, Path(spool)),
            published=published,
            count=False,
        )
    if not result.legal:
        raise version_too_low(result)
