"""Vendoring: a registry folder with exactly the releases of a lock, for offline use."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.errors import ConversionError, IntegrityError
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.files import check_no_links, write_atomically
from modpkg.core.leftovers import TEMPORARY
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.core.system_folders import is_link, open_folder
from modpkg.environment.registries import Registries
from modpkg.environment.tried_candidates import candidate_line, with_candidate
from modpkg.registry.folder_place import PARTS
from modpkg.registry.index import format_index
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.writer import RegistryWriter
from modpkg.resolve.lock import Lock, LockedModule

MARK = ".vendored"
"""File that marks a vendored folder: releases that are no longer locked are removed there."""


_MODULE = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PART, _HEX = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{64}")


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
    check_no_links(out, out / MARK)
    if out.exists() and not (out / MARK).exists() and not all(map(_is_temporary, out.iterdir())):
        raise ConversionError("M803", path=out)
    lines: dict[str, list[IndexLine]] = {}
    for module in lock.module:
        lines.setdefault(module.registry, []).append(_line(module, registries))
    folders = {name: out / _folder_name(name) if len(lines) > 1 else out for name in lines}
    for folder in {out, *folders.values()}:
        check_no_links(folder, *(folder / part for part in PARTS))
    write_atomically(out / MARK, b"", within=out.parent)
    progress.stage("Vendoring")
    progress.total(sum(line.size for of_one in lines.values() for line in of_one))
    for name, of_one in lines.items():
        writer = RegistryWriter(folders[name], name=name, within=out.parent)
        kept: set[Digest] = set()
        for line in of_one:
            record = writer.copy_release(registries.of(line.name), line, progress.advance)
            kept |= {parse_digest(line.release), *(digest for digest, _ in blobs_of(record))}
        _remove_others(writer, folders[name], out, of_one, kept)
    kept_names = {MARK, *(folder.name for folder in folders.values())}
    with open_folder(out) as opened:
        for name in opened.names():
            left = len(lines) > 1 and name not in kept_names and _is_ours(out / name)
            if left or name.startswith(TEMPORARY):
                opened.remove(name)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Vendored(folders, len(lock.module), size)


def _is_temporary(path: Path) -> bool:
    """Return whether a file is a temporary one that a killed command has left."""
    return path.name.startswith(TEMPORARY)


def _is_ours(path: Path) -> bool:
    """Return whether something in a vendored folder is a registry, or part of one."""
    if path.name in (REGISTRY_INFO, REGISTRY_MODULES, *PARTS):
        return True
    return not is_link(path) and (path / REGISTRY_INFO).is_file() and (path / "index").is_dir()


def _line(module: LockedModule, registries: Registries) -> IndexLine:
    registries.check_identity(module)
    registry = registries.of(module.name)
    candidate = candidate_line(registry, module)
    if candidate is not None:
        with_candidate(registry, candidate)
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


def _remove_others(
    writer: RegistryWriter,
    folder: Path,
    out: Path,
    lines: list[IndexLine],
    kept: set[Digest],
) -> None:
    """Remove other index lines, then the blobs that only those name; no link is followed.

    What is not named as a registry names its files is left.
    """
    locked = {line.name for line in lines}
    with open_folder(folder) as registry:
        registry.remove(REGISTRY_MODULES)  # it has the digests of what is replaced now
    for name in locked:
        own = [line for line in lines if line.name == name]
        path = folder / "index" / f"{name}.jsonl"
        write_atomically(path, format_index(own), within=out.parent)
    with open_folder(folder) as registry:
        with registry.folder("index") as index:
            for name in index.names():
                module = name.removesuffix(".jsonl")
                other = module != name and _MODULE.fullmatch(module) and module not in locked
                if other or name.startswith(TEMPORARY):
                    index.remove(name)
        with registry.folder("blobs") as blobs, blobs.folder("sha256") as all_blobs:
            for part in filter(_PART.fullmatch, all_blobs.names()):
                with all_blobs.folder(part) as some:
                    for name in some.names():
                        blob = _HEX.fullmatch(name) is not None
                        if (blob and f"sha256:{name}" not in kept) or name.startswith(TEMPORARY):
                            some.remove(name)
    writer.describe_all()
    with open_folder(folder) as registry:
        registry.remove("locks")
