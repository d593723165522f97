"""One view of a module, wherever it is: published, built, in a project, installed, or a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from modpkg.core.all_cores import on_all_cores
from modpkg.core.digests import Digest, digest_bytes, digest_file, parse_digest
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import DIST, REPORT
from modpkg.core.files import write_atomically
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.core.report import Report, parse_report
from modpkg.core.tensors import HashedTensor
from modpkg.core.tree import BlobTree
from modpkg.environment.models import manifest_of
from modpkg.environment.registries import Registries
from modpkg.environment.releases import fetch_line
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest, ModuleTable
from modpkg.registry.place import Place
from modpkg.registry.reader import Registry
from modpkg.release.build_stamps import read_stamps, unchanged
from modpkg.release.content import Content, collect
from modpkg.release.local_paths import without_local_paths
from modpkg.release.packing import tensors_of
from modpkg.release.places import entries_by_identity
from modpkg.release.tensors import TensorReader


class ModuleView(Struct, frozen=True, kw_only=True):
    """A module at one version. Names, types and digests are here; bytes are located on demand."""

    label: str
    """How messages name it: ``summarizer 2.1.0``, or the folder as the user typed it."""
    name: str | None = None
    """None for a folder of weights that is not a module."""
    version: str | None = None
    manifest: Manifest | None = None
    """None for an installed model, and for a folder without ``modpkg.toml``."""
    record: ReleaseRecord | None = None
    """Of a published or built release."""
    tree: Path | None = None
    """The registry tree that a build is in; None for everything else."""
    tensors: Mapping[str, HashedTensor]
    files: Mapping[str, str]
    """Digest of each file other than weights, by path."""
    locate: Callable[[Collection[str]], Mapping[str, TensorRef]]
    """Return these tensors on this machine, fetched or decoded where necessary."""
    locate_file: Callable[[str], Path]
    """Return a file on this machine."""
    read: Callable[[str], bytes]
    """Return the bytes of a small file; of a published release, without fetching the rest."""

    @property
    def module(self) -> ModuleTable:
        """The ``[module]`` table; only of views with a manifest."""
        if self.manifest is None or self.manifest.module is None:
            raise AssertionError(f"{self.label} has no [module]")
        return self.manifest.module

    @property
    def declared(self) -> Manifest:
        """The manifest; only of views that have one."""
        if self.manifest is None:
            raise AssertionError(f"{self.label} has no manifest")
        return self.manifest

    @property
    def released(self) -> ReleaseRecord:
        """The release record; only of published and built releases."""
        if self.record is None:
            raise AssertionError(f"{self.label} is not a release")
        return self.record

    def report(self) -> Report | None:
        """Return the report of its tests that it carries; None if it carries none.

        Raises:
            TestError: The report is malformed.
        """
        if REPORT not in self.files:
            return None
        return parse_report(self.read(REPORT), f"{REPORT} of {self.label}")

    def refs(self) -> dict[str, TensorRef]:
        """Return all tensors on this machine."""
        return dict(self.locate(self.tensors))

    def paths(self) -> dict[str, Path]:
        """Return all files other than weights on this machine, by path."""
        return {path: self.locate_file(path) for path in self.files}


def view_of_release(
    line: IndexLine, workspace: Workspace, registries: Registries | None = None
) -> ModuleView:
    """Return a published release; its weights are fetched when they are first located.

    ``registries`` are the workspace's own if None.

    Raises:
        What reading a registry can raise.
    """
    sources = workspace.registries if registries is None else registries
    registry = sources.of(line.name)
    record = registry.record(line)

    @cache
    def fetched() -> InstalledModule:
        return fetch_line(workspace, line, sources)

    return _of_record(
        record,
        registry,
        locate=lambda names: {name: fetched().tensors[name] for name in names},
        locate_file=lambda path: fetched().files[path],
    )


def view_of_build(line: IndexLine, dist: Registry, target: Place | None, spool: Path) -> ModuleView:
    """Return a built release that is not published yet.

    Args:
        line: Its line in the index of ``dist``.
        dist: The registry tree that the build wrote.
        target: The place of the registry that it goes to; the build refers to tensors there. None
            if it has all of its own.
        spool: Folder for tensors that the build carries as changes, decoded when located, and for
            packs that are fetched.
    """
    record = dist.record(line)
    tree = BlobTree(Path(dist.url))

    def path_of(digest: Digest) -> Path:
        if target is None or tree.has(digest):
            return tree.path(digest)
        return target.local(digest, f"a pack of {record.name}", spool)

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

    return _of_record(
        record,
        dist,
        locate=lambda names: {name: located(name) for name in names},
        locate_file=lambda path: path_of(parse_digest(record.files[path].digest)),
        tree=Path(dist.url),
    )


def _of_record(
    record: ReleaseRecord,
    registry: Registry,
    *,
    locate: Callable[[Collection[str]], Mapping[str, TensorRef]],
    locate_file: Callable[[str], Path],
    tree: Path | None = None,
) -> ModuleView:
    label = f"{record.name} {record.version}"
    return ModuleView(
        label=label,
        name=record.name,
        version=record.version,
        manifest=manifest_of(record),
        record=record,
        tree=tree,
        tensors=record.tensors,
        files={path: entry.digest for path, entry in record.files.items()},
        locate=locate,
        locate_file=locate_file,
        read=lambda path: registry.blob(
            parse_digest(record.files[path].digest), f"{path} of {label}"
        ),
    )


def view_of_project(
    manifest: Manifest, progress: Callable[[int], None] | None = None
) -> ModuleView:
    """Return a module project with the content that a build of it would have.

    Weights that are unchanged since the last build of the project are not hashed again.
    ``progress`` is called with the bytes of the others.

    Raises:
        ReleaseError, PackError, RecordError, InvalidValue: A file cannot be part of a release.
    """
    module = manifest.module
    if module is None:
        raise AssertionError("an app is not a module")
    content = collect(manifest)
    return view_of_content(
        f"{module.name} {module.version}",
        content,
        manifest=manifest,
        built=_built_tensors(manifest.folder / DIST, module.name, content),
        progress=progress,
    )


def _built_tensors(dist: Path, name: str, content: Content) -> dict[Path, Mapping[str, str]]:
    """Return the digests of tensors in files that are unchanged since a build into ``dist``.

    Returns:
        By file, the digests of the release's tensors.
    """
    try:
        registry = Registry(str(dist.absolute()))
        for line in registry.index(name) if dist.is_dir() else ():
            stamps = read_stamps(dist, line.release)
            if stamps is not None:
                tensors = registry.record(line).tensors
                digests = {tensor: entry.digest for tensor, entry in tensors.items()}
                files = unchanged(stamps.sources, content.weights)
                return {content.weights[path]: digests for path in files}
    except ModpkgError:
        pass  # a broken build proves nothing
    return {}


def view_of_content(
    label: str,
    content: Content,
    *,
    manifest: Manifest | None = None,
    built: Mapping[Path, Mapping[str, str]] = MappingProxyType({}),
    progress: Callable[[int], None] | None = None,
) -> ModuleView:
    """Return files on this machine; tensors are hashed now, unless ``built`` has their digests.

    Raises:
        ReleaseError, PackError, RecordError: Names the file.
    """
    parts = tensors_of(content)

    def digest(name: str) -> str:
        part = parts[name]
        if (known := built.get(part.path, {}).get(name)) is not None:
            return known
        computed = digest_file(part.path, part.offset, part.length)
        if progress is not None:
            progress(part.length)
        return computed

    found = on_all_cores(digest, list(parts), lambda name: parts[name].length)
    digests = dict(zip(parts, found, strict=True))
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
    module = None if manifest is None else manifest.module
    return view_of_files(
        label,
        tensors,
        content.files,
        name=None if module is None else module.name,
        version=None if module is None else str(module.version),
        manifest=manifest,
    )


def view_of_files(
    label: str,
    tensors: Mapping[str, TensorRef],
    files: Mapping[str, Path],
    *,
    name: str | None = None,
    version: str | None = None,
    manifest: Manifest | None = None,
) -> ModuleView:
    """Return tensors and files that are on this machine; the files are hashed now."""
    return ModuleView(
        label=label,
        name=name,
        version=version,
        manifest=manifest,
        tensors=tensors,
        files={path: digest_bytes(without_local_paths(path, file)) for path, file in files.items()},
        locate=lambda names: {name: tensors[name] for name in names},
        locate_file=files.__getitem__,
        read=lambda path: without_local_paths(path, files[path]),
    )
