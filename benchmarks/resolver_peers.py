"""The peers in the resolver's benchmark, each in a separate process.

usage: python -m benchmarks.resolver_peers stock|nab FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from modpkg.core.names import read_requirement
from modpkg.manifest.read import read_manifest
from modpkg.registry.reader import Registry
from modpkg.resolve.catalog import Catalog


def stock(folder: Path) -> int:
    """Resolve with `resolvelib.Resolver` and our provider; return how many were chosen."""
    import os

    from modpkg.environment.locking import roots_of
    from modpkg.resolve.resolve import resolve

    os.environ["MODPKG_SOLVER"] = "resolvelib"
    manifest = read_manifest(folder / "modpkg.toml")
    return len(resolve(roots_of(manifest), Catalog(Registry(str(folder / "registry")))).modules)


def nab(folder: Path) -> int:
    """Resolve with nab-resolver, newest first; return how many were chosen."""
    from nab_resolver.ranges import Range
    from nab_resolver.resolver import BaseProvider, Resolver

    catalog = Catalog(Registry(str(folder / "registry")))

    @cache
    def range_of(text: str) -> Any:
        found = Range.full()
        for item in read_requirement(text).specifier:
            from packaging.version import Version

            bound = Version(item.version)
            found &= {">=": Range.at_least, "<": Range.less_than}[item.operator](bound)
        return found

    class Provider(BaseProvider):  # type: ignore[misc]
        def choose_version(self, package: str, version_range: Any) -> Any:
            return next((v for v in versions(package) if v in version_range), None)

        def has_satisfying_version(self, package: str, version_range: Any) -> bool:
            return self.choose_version(package, version_range) is not None

        def get_dependencies(self, package: str, version: Any) -> Mapping[str, Any]:
            return needs(package, version)

        def prioritize(
            self, package: str, version_range: Any, conflicts: Any, culprits: Any = None
        ) -> Any:
            # As pip and the package's own examples do: names with the most conflicts go first.
            return -conflicts.get(package, 0), package

        def widen_decision(self, package: str, version: Any) -> Any:
            # Versions in a row that need the same are rejected as one.
            known = versions(package)
            newest = oldest = known.index(version)
            while newest and needs(package, known[newest - 1]) == needs(package, version):
                newest -= 1
            while oldest + 1 < len(known) and (
                needs(package, known[oldest + 1]) == needs(package, version)
            ):
                oldest += 1
            if newest == oldest:
                return None
            widened = Range.at_least(known[oldest])
            return widened & Range.less_than(known[newest - 1]) if newest else widened

    @cache
    def versions(package: str) -> list[Any]:
        return [release.version for release in catalog.releases(package)]

    @cache
    def needs(package: str, version: Any) -> dict[str, Any]:
        release = next(r for r in catalog.releases(package) if r.version == version)
        return {read_requirement(text).name: range_of(text) for text in release.line.requires}

    manifest = read_manifest(folder / "modpkg.toml")
    wanted = {dependency.name: Range.full() for dependency in manifest.dependencies}
    return len(Resolver(Provider(), max_iterations=10**9).resolve(wanted))


if __name__ == "__main__":
    print({"stock": stock, "nab": nab}[sys.argv[1]](Path(sys.argv[2])))
