"""A registry with a log, for tests: in a folder, with a key."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.records import IndexLine, canonical_json
from modpkg.manifest.read import read_manifest
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import build
from modpkg.trust.log.appending import LogWriter
from modpkg.trust.log.checking import read_checkpoint
from modpkg.trust.log.entries import LogEntry, parse_entry
from modpkg.trust.log.merkle import GrowingTree, leaf_hash
from modpkg.trust.log.tiles import entries_in, entry_bundles
from modpkg.trust.private_key import new_key, read_key
from tests.modules import write_module

ORIGIN = "models.example/log"


class LoggedRegistry:
    """A registry in a folder, whose writer has a log."""

    def __init__(self, folder: Path, key: Path | None = None) -> None:
        self.folder = folder
        key = key or folder.parent / f"{folder.name}.pem"
        if not key.exists():
            new_key(key, "ed25519", None)
        self.key = read_key(key, str)
        self.place = FolderPlace(folder)
        self.place.prepare(folder.name)
        self.log = LogWriter(self.place, self.key)
        self.writer = RegistryWriter(self.place)

    def begin(self) -> LoggedRegistry:
        self.place.journal = self.log
        self.log.begin(ORIGIN, self.place)
        return self

    def publish(self, name: str, version: str = "1.0") -> IndexLine:
        folder = self.folder.parent / "projects" / f"{name}-{version}"
        manifest = read_manifest(write_module(folder, name, version) / "modpkg.toml")
        assert manifest.module is not None
        built = build(manifest, manifest.module, folder / "dist")
        return self.writer.publish(Registry(str(folder / "dist")), built.line)

    def read(self) -> Registry:
        """Return the registry as it is now, for a reader."""
        return Registry(str(self.folder))


def entries_of(folder: Path) -> list[LogEntry]:
    """Return the entries of a registry's log, whose tree has the root that is signed."""
    registry = Registry(str(folder))
    assert registry.info.log is not None
    checkpoint = read_checkpoint(registry, registry.info.log)
    tree, found = GrowingTree(), []
    for bundle in entry_bundles(checkpoint.size):
        for entry in entries_in(bundle, (folder / bundle.path).read_bytes(), str(folder)):
            tree.add(leaf_hash(entry))
            found.append(parse_entry(entry))
            assert canonical_json(found[-1]) == entry
    assert (tree.size, tree.root) == (checkpoint.size, checkpoint.root)
    return found


def actions_of(folder: Path) -> list[tuple[str, str, str]]:
    """Return what was done, to which module and version."""
    return [(entry.action, entry.name, entry.version) for entry in entries_of(folder)]
