"""Building a release from a project: packs, tensor table, interfaces, record, index line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct

from modpkg.core.digests import Digest, digest_file, parse_digest
from modpkg.core.elsewhere import elsewhere_path, places_document
from modpkg.core.errors import PatchError, ReleaseError
from modpkg.core.filenames import CONFIG, MEMORY, REGISTRY_INFO, TOKENIZER
from modpkg.core.files import check_no_links, replace_tree, write_atomically
from modpkg.core.hub_address import is_hub_address
from modpkg.core.interface import ports_of, provides_of
from modpkg.core.jsonfile import read_json
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.names import parse_version, requirement_text
from modpkg.core.records import (
    ACTING_KINDS,
    SPEC,
    BuiltFrom,
    FileEntry,
    IndexLine,
    Provenance,
    RegistryInfo,
    ReleaseRecord,
    TensorEntry,
    canonical_json,
)
from modpkg.core.tree import BlobTree
from modpkg.core.untied import groups_of
from modpkg.core.version import __version__
from modpkg.manifest.normal import normal_form
from modpkg.manifest.schema import Dependency, Manifest, ModuleTable
from modpkg.release.base import Base
from modpkg.release.binding import bind
from modpkg.release.build_stamps import (
    check_unchanged,
    rename_release,
    stamps_of,
    without_new,
    write_stamps,
)
from modpkg.release.checkpoint import check_one_set
from modpkg.release.content import Content, collect
from modpkg.release.expects import BaseMemory
from modpkg.release.finite import count_nonfinite
from modpkg.release.known import Known
from modpkg.release.local_paths import without_local_paths
from modpkg.release.pack_writer import Part
from modpkg.release.packing import Tally, pack_tensors, tensors_of

_LARGE_FILE = 100_000
"""Bytes from which a file that was imported need not be uploaded."""
_NEEDS_WEIGHTS = ("base", "adapter", "head", "expert", "patch")


class Built(Struct, frozen=True):
    """The result of a build."""

    line: IndexLine
    record: ReleaseRecord
    tally: Tally
    untied: tuple[str, ...] = ()
    """The base's tied tensors, if the module is an adapter that changes only some of them."""
    checked_with: tuple[str, ...] = ()
    """The releases that its recipe was checked with, as ``name version``."""


def acts_on_base(manifest: Manifest) -> bool:
    """Return whether building this module needs the base that it acts on."""
    return manifest.module is not None and manifest.module.kind in ACTING_KINDS


def build(
    manifest: Manifest,
    module: ModuleTable,
    out: Path,
    *,
    base: Base | None = None,
    origins: Sequence[BuiltFrom] = (),
    known: Known | None = None,
    deltas: bool = True,
    progress: Callable[[int], None] | None = None,
    accept: Callable[[Path, ReleaseRecord], None] = lambda tree, record: None,
    memory: Callable[[Base], BaseMemory | None] = lambda base: None,
    older: bool = False,
    built_with: str = f"modpkg {__version__}",
) -> Built:
    """Write a module project's release as a registry tree into ``out``, replacing its contents.

    Digests, tensor table, the interface that the module offers or expects, and the base it was
    built against are computed here. Tensors that the registry has (``known``) are referred to;
    changed ones are encoded unless ``deltas`` is off. ``origins`` are the releases of the
    manifest's ``[provenance]``, from `modpkg.registry.origins.find_origins`. The same project and
    registry give the same bytes. ``accept`` is called with the finished tree before it replaces
    ``out``; if it raises, ``out`` is unchanged. ``memory`` tells how transformers has a base in
    memory, for an adapter that does not name its tensors as they are on disk. ``base`` is the
    release to bind it to, or with ``older`` the first to try (see `modpkg.release.binding`).
    ``built_with`` is what the record says of the program.

    Raises:
        ReleaseError, PackError, PatchError: A file or tensor is invalid; the message names it.
        IntegrityError: An earlier tensor is damaged in the registry.
        InstallError: The disk is full; ``out`` is unchanged.
    """
    check_no_links(out)
    content = collect(manifest)
    empty = module.kind == "model" and manifest.compose is None
    if (empty or module.kind in _NEEDS_WEIGHTS) and not content.weights:
        needs = "weights or a recipe under [compose]" if empty else "weights"
        raise ReleaseError("M204", folder=manifest.folder, kind=module.kind, needs=needs)
    check_one_set(module.name, module.kind, manifest.folder, content)
    sources = {**content.files, **content.weights}
    before = stamps_of(sources)
    stamps = without_new({path: before[path] for path in content.weights})
    staged = temporary_sibling(out)
    try:
        tree = BlobTree(staged)
        files = {path: _add_file(tree, path, file) for path, file in content.files.items()}
        config = read_json(content.files[CONFIG]) if CONFIG in content.files else {}
        tokenizer = files.get(TOKENIZER)
        ports = ports_of(config, tokenizer.digest if tokenizer else None)
        parts = tensors_of(content)
        if module.kind in ("adapter", "patch"):
            _check_finite(module, parts)
        provides = None
        if module.kind == "base" or (module.kind == "model" and parts):
            provides = tree.add(canonical_json(provides_of(parts, ports)))
        # Publishing asks the hub whether it has these very files: an import may have changed one.
        imported = is_hub_address(manifest.imported_from or "")
        packed = pack_tensors(
            tree,
            parts,
            known=known,
            provides=provides,
            patched=_patched(module, base),
            deltas=deltas,
            whole=set(content.weights.values()) if imported else (),
            progress=progress,
        )
        kept = packed.kept | _kept_files(content, files) if imported else {}
        for path, digest in kept.items():
            relative = path.relative_to(manifest.folder).as_posix()
            places = places_document([f"{manifest.imported_from}/{relative}"])
            write_atomically(staged / elsewhere_path(digest), places)
        expected: dict[str, str] = {}
        ties: set[str] = set()
        if module.kind in ACTING_KINDS:
            if base is None:
                raise ReleaseError("M210", where=manifest.path, kind=module.kind, found="")
            base, bound = bind(module, packed.tensors, content.files, base, memory, older=older)
            expected[base.record.name] = tree.add(canonical_json(bound.expects))
            files.pop(MEMORY, None)
            if bound.memory is not None and bound.memory.untied is not None:
                ties = {name for group in groups_of(bound.memory.untied) for name in group}
            if bound.memory is not None:
                data = canonical_json(bound.memory)
                files[MEMORY] = FileEntry(digest=tree.add(data), size=len(data))
        check_unchanged(before, sources)
        requires, extras = requires_of(manifest)
        record = ReleaseRecord(
            name=module.name,
            version=str(module.version),
            kind=module.kind,
            license=module.license,
            summary=module.summary,
            requires=requires,
            extras=extras,
            manifest=normal_form(manifest),
            files=files,
            packs=packed.packs,
            tensors=packed.tensors,
            sources=packed.sources or UNSET,
            provides=provides,
            expects=expected,
            requires_modpkg=manifest.requires_modpkg or UNSET,
            provenance=Provenance(
                built_with=built_with,
                built_from=_built_from(manifest, base, origins),
            ),
        )
        line = _index_line(record, tree.add(canonical_json(record)), packed.tally.new_bytes)
        info = RegistryInfo(spec=SPEC, name=f"build-of-{module.name}")
        write_atomically(staged / REGISTRY_INFO, canonical_json(info) + b"\n")
        write_atomically(staged / "index" / f"{module.name}.jsonl", canonical_json(line) + b"\n")
        write_stamps(staged, line.release, record, stamps)
        accept(staged, record)
        replace_tree(staged, out)
    finally:
        discard(staged)
    return Built(line=line, record=record, tally=packed.tally, untied=tuple(sorted(ties)))


def _patched(module: ModuleTable, base: Base | None) -> Mapping[str, TensorEntry] | None:
    """Return the tensors that a patch's may be written as changes of; those of a registry."""
    if base is None or base.parts or module.kind != "patch":
        return None
    return base.record.tensors


def _kept_files(content: Content, files: Mapping[str, FileEntry]) -> dict[Path, Digest]:
    """Return the large files, besides weights, that are in the release as they are."""
    found = {}
    for relative, path in content.files.items():
        digest = parse_digest(files[relative].digest)
        if files[relative].size >= _LARGE_FILE and digest_file(path) == digest:
            found[path] = digest
    return found


def with_reason(out: Path, line: IndexLine, record: ReleaseRecord, reason: str) -> IndexLine:
    """Record in a built tree why its version is lower than required; return the new index line."""
    provenance = msgspec.structs.replace(record.provenance, breaking=reason)
    stamped = msgspec.structs.replace(record, provenance=provenance)
    release = BlobTree(out, out.parent).add(canonical_json(stamped))
    updated = msgspec.structs.replace(line, release=release)
    index = out / "index" / f"{line.name}.jsonl"
    write_atomically(index, canonical_json(updated) + b"\n", within=out.parent)
    rename_release(out, line.release, release)
    return updated


def _index_line(record: ReleaseRecord, release: Digest, weights: int) -> IndexLine:
    return IndexLine(
        name=record.name,
        version=record.version,
        kind=record.kind,
        requires=record.requires,
        extras=record.extras,
        provides=record.provides,
        expects=record.expects,
        requires_modpkg=record.requires_modpkg,
        release=release,
        size=weights + sum(file.size for file in record.files.values()),
    )


def _check_finite(module: ModuleTable, parts: Mapping[str, Part]) -> None:
    """Check that the tensors of an adapter or a patch are finite, without reading the base."""
    for name, part in parts.items():
        if count := count_nonfinite(part.path, part.offset, part.length, part.dtype):
            if module.kind == "patch":
                raise PatchError("M733", what=module.name, tensor=name, count=count)
            raise ReleaseError("M217", what=module.name, tensor=name, count=count)


def _built_from(
    manifest: Manifest, base: Base | None, origins: Sequence[BuiltFrom]
) -> list[BuiltFrom]:
    """Return a release's provenance: its base, what that is composed of, and its origins."""
    expected = [(origin.name, origin.version) for origin in manifest.origins]
    if [(origin.name, parse_version(origin.version)) for origin in origins] != expected:
        raise AssertionError(f"{manifest.path}: [provenance] was not looked up in a registry")
    if base is None:
        return list(origins)
    own = BuiltFrom(base.record.name, base.record.version, base.release)
    same = [origin for origin in origins if origin.release == own.release]
    named = {origin.release for origin in origins}
    parts = [part for part in base.parts if part.release not in named]
    return [*(same or [own]), *parts, *(origin for origin in origins if origin not in same)]


def requires_of(manifest: Manifest) -> tuple[list[str], dict[str, list[str]]]:
    """Return a manifest's requirements and extras, as in release record and index line."""
    return [_text(dependency) for dependency in manifest.dependencies], {
        str(extra): [_text(dependency) for dependency in group]
        for extra, group in manifest.extras.items()
    }


def _text(dependency: Dependency) -> str:
    requirement = dependency.requirement
    return requirement_text(requirement.name, requirement.extras, requirement.specifier)


def _add_file(tree: BlobTree, relative: str, path: Path) -> FileEntry:
    data = without_local_paths(relative, path)
    return FileEntry(digest=tree.add(data), size=len(data))
