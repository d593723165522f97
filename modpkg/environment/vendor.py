"""Vendoring: a registry folder with exactly the releases of a lock, for offline use."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.errors import ConversionError, IntegrityError
from modpkg.core.files import TEMPORARY, remove_tree, write_atomically
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.environment.registries import Registries
from modpkg.registry.index import format_index
from modpkg.registry.writer import RegistryWriter, blobs_of
from modpkg.resolve.lock import Lock, LockedModule

MARK = ".vendored"
"""File that marks a vendored folder: releases that are no longer locked are removed there."""


class Vendored(Struct, frozen=True):
    """The result of vendoring."""

    folders: dict[str, Path]
    """The folder of each registry, by the registry's name."""
    modules: int
    size: int
    """Bytes of the folders."""


def vendor(lock: Lock, registries: Registries, out: Path, progress: Progress) -> Vendored:
    """Write the releases of a lock into ``out``, and remove everything else from it.

    With one registry, ``out`` is that registry; with several, each is a folder in it by its name.
    They keep their identities, so the lock is valid for the copy too. ``out`` is a valid registry
    at every moment; blobs that it has are not fetched again.

    Raises:
        ConversionError: ``out`` is not a vendored folder.
        IntegrityError: The registry has another release of a version than the lock.
        RegistryError: A registry cannot be read.
    """
    if out.exists() and not (out / MARK).exists() and not all(map(_is_temporary, out.iterdir())):
        raise ConversionError("M803", path=out)
    lines: dict[str, list[IndexLine]] = {}
    for module in lock.module:
        lines.setdefault(module.registry, []).append(_line(module, registries))
    folders = {name: out / _folder_name(name) if len(lines) > 1 else out for name in lines}
    write_atomically(out / MARK, b"")
    progress.stage("Vendoring")
    progress.total(sum(line.size for of_one in lines.values() for line in of_one))
    for name, of_one in lines.items():
        writer = RegistryWriter(folders[name], name=name)
        kept: set[Digest] = set()
        for line in of_one:
            record = writer.copy_release(registries.of(line.name), line, progress.advance)
            kept |= {parse_digest(line.release), *(digest for digest, _ in blobs_of(record))}
        _remove_others(writer, of_one, kept)
    for path in out.iterdir():
        left = len(lines) > 1 and path.name != MARK and path not in folders.values()
        if left or _is_temporary(path):
            remove_tree(path) if path.is_dir() else path.unlink()
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Vendored(folders, len(lock.module), size)


def _is_temporary(path: Path) -> bool:
    """Return whether a file is a temporary one that a killed command has left."""
    return path.name.startswith(TEMPORARY)


def _line(module: LockedModule, registries: Registries) -> IndexLine:
    registries.check_identity(module)
    registry = registries.of(module.name)
    line = registry.line(module.name, module.version)
    if line.release != module.release:
        raise IntegrityError(
            "M305",
            what=f"the release record of {module.name} {module.version}",
            expected=module.release,
            actual=line.release,
            source=registry.url,
        )
    return line


def _folder_name(registry: str) -> str:
    """Return a registry's identity as a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in registry)


def _remove_others(writer: RegistryWriter, lines: list[IndexLine], kept: set[Digest]) -> None:
    """Remove other index lines, then the blobs that only those name."""
    for path in (writer.folder / "index").iterdir():
        own = [line for line in lines if path.name == f"{line.name}.jsonl"]
        if own:
            write_atomically(path, format_index(own))
        else:
            path.unlink()
    for path in (writer.folder / "blobs" / "sha256").glob("*/*"):
        if f"sha256:{path.name}" not in kept:
            path.unlink()
    writer.describe_all()
    remove_tree(writer.folder / "locks")
