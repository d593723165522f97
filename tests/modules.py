"""Small modules that tests build and publish."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from modpkg.core.digests import parse_digest
from modpkg.core.records import IndexLine
from modpkg.core.tree import BlobTree
from modpkg.manifest.read import read_manifest
from modpkg.registry.index import format_index
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import build

TABLE_KEYS = {"compose", "task", "files", "extras", "dependencies"}


def write_module(
    folder: Path,
    name: str,
    version: str = "1.0",
    kind: str = "collection",
    requires: dict[str, str] | None = None,
    more: str = "",
    files: dict[str, bytes] | None = None,
) -> Path:
    """Write a module project and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    dependencies = "".join(f'{key} = "{value}"\n' for key, value in (requires or {}).items())
    (folder / "modpkg.toml").write_text(
        f'[module]\nname = "{name}"\nversion = "{version}"\nkind = "{kind}"\nlicense = "MIT"\n'
        f"[dependencies]\n{dependencies}{more}"
    )
    for path, data in (files or {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def publish(folder: Path, registry: Path) -> IndexLine:
    """Build a module that needs no base, and publish it."""
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    built = build(manifest, manifest.module, folder / "dist")
    return RegistryWriter(registry, registry.name).publish(
        Registry(str(folder / "dist")), built.line
    )


def publish_versions(registry: Path, name: str, versions: list[str]) -> None:
    """Publish modules without content, as a writer does, but with one write of their index.

    A writer reads the index and the table of all tensors for each release.
    """
    RegistryWriter(registry, registry.name).prepare()
    lines = []
    for version in versions:
        folder = write_module(registry.parent / "projects" / f"{name}-{version}", name, version)
        manifest = read_manifest(folder / "modpkg.toml")
        assert manifest.module is not None
        line = build(manifest, manifest.module, folder / "dist").line
        data = BlobTree(folder / "dist").read(parse_digest(line.release), "a release record")
        BlobTree(registry).add(data)
        lines.append(replace(line, size=len(data), published="2026-01-01T00:00:00Z"))
    (registry / "index" / f"{name}.jsonl").write_bytes(format_index(lines))


def publish_collection(
    registry: Path,
    name: str,
    version: str = "1.0",
    requires: dict[str, str] | None = None,
    more: str = "",
) -> IndexLine:
    """Publish a module that is only its dependencies."""
    folder = registry.parent / "projects" / f"{name}-{version}"
    return publish(write_module(folder, name, version, requires=requires, more=more), registry)
