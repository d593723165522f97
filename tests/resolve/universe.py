"""A registry written by hand, for tests of resolving."""

from __future__ import annotations

from pathlib import Path

import msgspec
from packaging.version import Version

from modpkg.core.names import parse_requirement
from modpkg.core.records import Expects, IndexLine, Provides, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import root_needs
from modpkg.resolve.policy import Policy, VersionRange
from modpkg.resolve.resolve import Resolution, resolve


def bound(text: str, where: str = "modpkg.toml:9") -> VersionRange:
    return VersionRange(parse_requirement("x" + text).specifier, where)


class Universe:
    """A registry written by hand, in the form of ``name version: requirement, …`` lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        RegistryWriter(folder, "universe").prepare()

    def add(self, name: str, version: str, *requires: str, **fields: object) -> None:
        line = {
            "name": name,
            "version": version,
            "kind": "collection",
            "requires": list(requires),
            "release": "sha256:" + "0" * 64,
            **fields,
        }
        self.write(name, canonical_json(line))

    def write(self, name: str, line: bytes) -> None:
        with open(self.folder / "index" / f"{name}.jsonl", "ab") as file:
            file.write(line + b"\n")

    def document(self, value: Provides | Expects) -> str:
        return BlobTree(self.folder).add(canonical_json(value))

    def line(self, name: str, version: str) -> IndexLine:
        return Registry(str(self.folder)).line(name, version)

    def expects(self, name: str) -> dict[str, str]:
        return self.line(name, "1").expects

    def again(self, line: IndexLine, version: str) -> str:
        """Return the digest of a release record that is another version of a release."""
        record = Registry(str(self.folder)).record(line)
        return BlobTree(self.folder).add(
            canonical_json(msgspec.structs.replace(record, version=version))
        )

    def resolve(
        self,
        *roots: str,
        locked: dict[str, str] | None = None,
        overrides: dict[str, str] | None = None,
        **policy: object,
    ) -> Resolution:
        needs = []
        for number, text in enumerate(roots, 1):
            requirement = parse_requirement(text)
            needs += root_needs(
                requirement.name, requirement.extras, requirement.specifier, f"modpkg.toml:{number}"
            )
        catalog = Catalog(
            Registry(str(self.folder), warn=self.warnings.append),
            overrides={name: bound(text) for name, text in (overrides or {}).items()},
        )
        kept = {name: Version(version) for name, version in (locked or {}).items()}
        return resolve(needs, catalog, locked=kept, policy=Policy(**policy))  # type: ignore[arg-type]

    def versions(
        self, *roots: str, locked: dict[str, str] | None = None, **policy: object
    ) -> dict[str, str]:
        found = self.resolve(*roots, locked=locked, **policy)  # type: ignore[arg-type]
        return {name: str(chosen.release.version) for name, chosen in found.modules.items()}
