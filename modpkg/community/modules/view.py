"""One side of a check: a published release, a built one, or a project that may become one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import Digest, digest_file, parse_digest
from modpkg.core.filenames import REPORT
from modpkg.core.files import write_atomically
from modpkg.core.installed import TensorRef
from modpkg.core.names import ModuleName
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.core.report import Report, parse_report
from modpkg.core.tensors import HashedTensor
from modpkg.core.tree import BlobTree
from modpkg.environment.models import manifest_of
from modpkg.environment.registries import Registries
from modpkg.environment.releases import fetch_release
from modpkg.manifest.schema import Manifest, ModuleTable
from modpkg.registry.reader import Registry
from modpkg.release.content import collect
from modpkg.release.packing import tensors_of
from modpkg.release.places import entries_by_identity
from modpkg.release.tensors import TensorReader
from modpkg.store.store import Store


class Edition(Struct, frozen=True, kw_only=True):
    """A module at one version, as far as versions mean something."""

    module: ModuleTable
    manifest: Manifest
    tensors: Mapping[str, HashedTensor]
    files: Mapping[str, str]
    """By path, the digest of every file that is not weights."""
    read: Callable[[str], bytes]
    """Gives a small file of it."""
    locate: Callable[[Collection[str]], Mapping[str, TensorRef]]
    """Gives these tensors on this machine; they are fetched or decoded if need be."""

    @property
    def label(self) -> str:
        return f"{self.module.name} {self.module.version}"

    def report(self) -> Report | None:
        """Return the report of its tests that it carries.

        Raises:
            TestError: it is none.
        """
        if REPORT not in self.files:
            return None
        return parse_report(self.read(REPORT), f"{REPORT} of {self.label}")


def released(line: IndexLine, registries: Registries, store: Store, progress: Progress) -> Edition:
    """Return a published release; its weights are fetched only when they are looked at.

    Raises:
        What reading a registry can raise.
    """
    registry = registries.of(line.name)
    record = registry.record(line)

    @cache
    def fetched() -> Mapping[str, TensorRef]:
        name = ModuleName(line.name)
        return fetch_release(name, line.version, registries, store, progress).tensors

    def locate(names: Collection[str]) -> Mapping[str, TensorRef]:
        return {name: fetched()[name] for name in names}

    return _of_record(record, registry, locate)


def built(line: IndexLine, dist: Registry, registry: Path, spool: Path) -> Edition:
    """Return a release that was built for the registry in a folder, and is not published yet.

    Tensors that it carries as changes are decoded into the folder ``spool``.
    """
    record = dist.record(line)
    trees = (BlobTree(Path(dist.url)), BlobTree(registry))

    def path_of(digest: Digest) -> Path:
        return next((tree for tree in trees if tree.has(digest)), trees[1]).path(digest)

    reader = TensorReader(path_of, entries_by_identity(record).__getitem__)

    def located(name: str) -> TensorRef:
        entry = record.tensors[name]
        if entry.encoding is None:
            path, offset, length = path_of(parse_digest(entry.pack)), entry.offset, entry.length
        else:
            data = reader.read(entry, f"tensor {name!r} of {record.name}")
            path, offset, length = spool / entry.digest[7:], 0, len(data)
            if not path.exists():
                write_atomically(path, [data.tobytes()])
        return TensorRef(
            file=str(path.absolute()),
            offset=offset,
            length=length,
            dtype=entry.dtype,
            shape=entry.shape,
            digest=entry.digest,
        )

    return _of_record(record, dist, lambda names: {name: located(name) for name in names})


def _of_record(
    record: ReleaseRecord,
    registry: Registry,
    locate: Callable[[Collection[str]], Mapping[str, TensorRef]],
) -> Edition:
    manifest = manifest_of(record)
    if manifest.module is None:
        raise AssertionError("a release is a module's")

    def read(path: str) -> bytes:
        digest = parse_digest(record.files[path].digest)
        return registry.blob(digest, f"{path} of {record.name} {record.version}")

    return Edition(
        module=manifest.module,
        manifest=manifest,
        tensors=record.tensors,
        files={path: entry.digest for path, entry in record.files.items()},
        read=read,
        locate=locate,
    )


def of_project(
    manifest: Manifest, module: ModuleTable, progress: Callable[[int], None] | None = None
) -> Edition:
    """Return a module project as building would take it, without building it.

    ``progress`` is called with the bytes of weights that were hashed.

    Raises:
        What looking through a project's files can raise: `ReleaseError`, `ReleaseError`,
        `ReleaseError`, `ReleaseError`, `PackError` …
    """
    content = collect(manifest)
    parts = tensors_of(content)

    def digest(name: str) -> Digest:
        part = parts[name]
        found = digest_file(part.path, part.offset, part.length)
        if progress is not None:
            progress(part.length)
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = dict(zip(parts, pool.map(digest, parts), strict=True))
    tensors = {
        name: TensorRef(
            file=str(part.path.absolute()),
            offset=part.offset,
            length=part.length,
            dtype=part.dtype,
            shape=list(part.shape),
            digest=digests[name],
        )
        for name, part in parts.items()
    }
    return Edition(
        module=module,
        manifest=manifest,
        tensors=tensors,
        files={path: digest_file(file) for path, file in content.files.items()},
        read=lambda path: content.files[path].read_bytes(),
        locate=lambda names: {name: tensors[name] for name in names},
    )
