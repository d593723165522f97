"""Writing to a registry: publish, copy, and say later what a release is worth.

Blobs are written first, then the release record, then the index line, so that a reader never sees
an incomplete release, and a publisher that is killed leaves at most unreferenced blobs. Packs that
the registry has already are not copied again.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from msgspec import UNSET
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path, parse_digest
from modpkg.core.elsewhere import elsewhere_path, places_document, read_places
from modpkg.core.errors import ModpkgError, PublishError
from modpkg.core.filenames import MANIFEST
from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.core.tree import BlobTree
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.index import parse_index
from modpkg.registry.known import remember_published
from modpkg.registry.missing import no_such_module
from modpkg.registry.module_list import ModuleList
from modpkg.registry.place import (
    BuiltBlob,
    CopiedBlob,
    Place,
    Progress,
    RegistryChange,
    bytes_elsewhere,
    is_registry,
    registry_at,
)
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of, verify_built
from modpkg.registry.signature_files import (
    add_bundles,
    signature_files,
    signatures_path,
    signed_line,
    successors_path,
)
from modpkg.registry.standing import (
    Standing,
    check_free,
    check_present,
    check_standing,
    is_removed,
    standing_of,
    without_removed,
)
from modpkg.registry.written_files import index_file
from modpkg.release.build_stamps import hashed_packs
from modpkg.release.verify import check_record


class RegistryWriter:
    """A registry that can be published to; it is created when it is first used."""

    def __init__(
        self, place: Place | Path, name: str | None = None, *, within: Path | None = None
    ) -> None:
        """``name`` is that of a new registry; ``within`` is that of a folder's `FolderPlace`."""
        self.place = FolderPlace(place, within=within) if isinstance(place, Path) else place
        self._name = name
        self._list = ModuleList(self.place)
        self.restored = 0
        """Bytes of a published release that this registry had lost, and has again."""
        self.copied = 0
        """Bytes of one that were elsewhere, and are here now."""

    @property
    def url(self) -> str:
        """The registry's address."""
        return self.place.url

    def prepare(self) -> None:
        """Make it a registry if it is none yet.

        Raises:
            PublishError: Nothing can be written there.
            InstallError: A part of a folder is a link of somebody else.
        """
        self.place.prepare(self._name)

    def publish(
        self,
        built: Registry,
        line: IndexLine,
        *,
        now: datetime.datetime | None = None,
        progress: Progress | None = None,
        elsewhere: Mapping[Digest, Sequence[str]] = MappingProxyType({}),
        bundle: bytes | None = None,
    ) -> IndexLine:
        """Add a release of a built tree to this registry, and return its index line.

        Into a folder its files are linked, not copied, where the file system can: nobody changes a
        built tree, which a later build replaces. Publishing the same release again only restores
        what the registry lost of it, or has with another size. Packs that the release refers to
        have to be in the built tree or in this registry. Of those in ``elsewhere``, by digest, only
        the places are written that other servers have them at. A signature, ``bundle``, is there
        before the index line, also of a release that was published without one.

        Raises:
            PublishError: The version is published with another release digest, or was removed, or a
                pack is in neither; or nobody could read the index any more.
            IntegrityError, RecordError, ReleaseError, PackError: The release is damaged; nothing is
                published.
        """
        record = built.record(line)
        tree = BlobTree(Path(built.url))
        verify_built(self.place, record, line.release, tree)
        self.prepare()  # what cannot be published leaves no registry
        new, already = 0, False

        def add(change: RegistryChange) -> int:
            return self._add_built(change, tree, record, line.release, progress, elsewhere)

        def edit(change: RegistryChange) -> IndexLine:
            nonlocal new, already
            lines, before = self._lines(change, line.name)
            check_free(line, lines, self.url)
            for existing in lines:
                if already := existing.release == line.release:
                    # Others may have published it since an earlier attempt added blobs.
                    copied = bytes_elsewhere(self.place, change, record, elsewhere)
                    self.restored = max(add(change) - new - copied, 0)
                    self.copied = max(copied, self.copied)
                    # Whoever published it may have been killed.
                    self._list.end(change, line.name, records={line.release: record})
                    return existing
            others = self._other_versions(line, lines)
            index_file(line.name, [*others, _longest(line, now)], before)
            new = add(change)
            published = replace(line, size=new, published=moment_text(now), yanked=None)
            if bundle is not None:
                published = signed_line(change, published, [bundle])
            known = {line.release: record}
            self._write_index(change, line.name, [*others, published], before, known)
            return published

        self.restored = self.copied = 0
        published = self.place.change(edit)
        with contextlib.suppress(OSError, ModpkgError):  # the release is published already
            remember_published(self.place)
        return self.sign(published, [bundle]) if bundle is not None and already else published

    def sign(self, line: IndexLine, bundles: list[bytes]) -> IndexLine:
        """Add signatures to a release that is published, and return its index line.

        Raises:
            NotFound: The registry does not have it any more.
            PublishError: It has as many as it may have, or nobody could read the index any more.
        """

        def edit(change: RegistryChange) -> IndexLine:
            lines, before = self._lines(change, line.name)
            known = next((one for one in lines if one.release == line.release), None)
            if known is None:
                raise self._reader().not_found(line.name, line.version)
            others = [other for other in lines if other is not known]
            if known.signed is not True:
                index_file(line.name, [*others, replace(known, signed=True)], before)
            signed = signed_line(change, known, bundles)
            if signed is not known:
                self._write_index(change, line.name, [*others, signed], before)
            return signed

        return self.place.change(edit)

    def preview(
        self,
        built: Registry,
        line: IndexLine,
        elsewhere: Mapping[Digest, Sequence[str]] = MappingProxyType({}),
    ) -> IndexLine:
        """Return the index line that publishing would write, with the bytes that it would copy.

        Nothing is written, and the checks are those of `publish`.

        Raises:
            What `publish` raises for the release.
        """
        record, tree = built.record(line), BlobTree(Path(built.url))
        verify_built(self.place, record, line.release, tree)
        lines = self._reader().index(line.name) if is_registry(self.place) else []
        check_free(line, lines, self.url)
        for existing in lines:
            if existing.release == line.release:
                return existing
        others = self._other_versions(line, lines)
        index_file(line.name, [*others, _longest(line, None)], b"")
        blobs = [
            BuiltBlob(digest, what, tree)
            for digest, what in blobs_of(record)
            if digest not in elsewhere
        ]
        blobs.append(BuiltBlob(parse_digest(line.release), "the release record", tree))
        sizes = [b.size or 0 for b in blobs if self.place.size(blob_path(b.digest)) is None]
        return replace(line, size=sum(sizes), published="", yanked=None)

    def copy_release(
        self, source: Registry, line: IndexLine, progress: Progress | None = None
    ) -> ReleaseRecord:
        """Copy a release with its index line from another registry, and return its record.

        Raises:
            NotFound: It was removed.
            IntegrityError, RecordError: The other registry is damaged; nothing is published.
            PublishError: The version is published with another release digest.
        """
        check_present(line, source.shown)
        self.prepare()
        (record,) = self.copy_releases(source, [line], progress).values()
        return record

    def copy_releases(
        self, source: Registry, lines: Sequence[IndexLine], progress: Progress | None = None
    ) -> dict[str, ReleaseRecord]:
        """Copy releases of one module, of which some may be there; return records by digest.

        Raises:
            IntegrityError, RecordError: The other registry is damaged; none is published.
            PublishError: A version is published with another release digest, or nobody could read
                the index any more.
        """
        records, blobs = {}, dict[Digest, CopiedBlob]()
        there = without_removed(lines)  # of the others, the lines are all that there is
        for line in there:
            record = records[line.release] = source.record(line)
            check_record(record)
            sizes = record.packs | {entry.digest: entry.size for entry in record.files.values()}
            for digest, what in blobs_of(record):
                blobs[digest] = CopiedBlob(digest, what, source, sizes.get(digest))
        own = [
            CopiedBlob(parse_digest(line.release), "the release record", source) for line in there
        ]
        name = lines[0].name
        signatures = dict(signature_files(source, lines))

        def edit(change: RegistryChange) -> None:
            others, before = self._lines(change, name)
            for line in lines:
                others = self._other_versions(line, others)
            index_file(name, [*others, *lines], before)
            change.add([*blobs.values()], progress)
            change.add(own, progress)
            for path, bundles in signatures.items():
                add_bundles(change, path, bundles)
            self._write_index(change, name, [*others, *lines], before, records)

        self.place.change(edit)
        return records

    def _other_versions(self, line: IndexLine, lines: list[IndexLine]) -> list[IndexLine]:
        """Return the lines of other versions.

        Raises:
            PublishError: This version is another release.
        """
        others = []
        for existing in lines:
            if parse_version(existing.version) != parse_version(line.version):
                others.append(existing)
            elif existing.release != line.release:
                raise PublishError(
                    "M307",
                    name=line.name,
                    version=line.version,
                    registry=self.url,
                    manifest=MANIFEST,
                )
        return others

    def yank(
        self, name: str, version: str, reason: str | None, bundle: bytes | None = None
    ) -> IndexLine:
        """Mark a release as yanked with a reason, or undo that with None; ``bundle`` signs it.

        Raises:
            What `restate` raises.
        """
        bundles = [] if bundle is None else [bundle]
        return self.restate(name, version, lambda said: replace(said, yanked=reason), bundles)[0]

    def deprecate(
        self, name: str, version: str | None, reason: str | None, successor: str = ""
    ) -> list[IndexLine]:
        """Mark a release, or all of a module, as deprecated; undo that with ``reason=None``.

        Args:
            name: The module.
            version: None for all of its releases so far.
            reason: May be empty.
            successor: What to use instead, as a requirement.

        Raises:
            What `restate` raises.
        """
        deprecated = UNSET if reason is None else reason
        instead = UNSET if reason is None or not successor else successor

        def edit(said: Standing) -> Standing:
            return replace(said, deprecated=deprecated, successor=instead)

        return self.restate(name, version, edit)

    def follow(self, line: IndexLine, bundles: Sequence[bytes] = ()) -> IndexLine:
        """Say of a release what another registry says of it, and signs, of which this is a copy.

        Raises:
            What `restate` raises.
        """
        return self.restate(line.name, line.version, lambda _: standing_of(line), bundles)[0]

    def succeed(self, name: str, bundle: bytes) -> list[IndexLine]:
        """Add what a signer of a module says of the one after it, and note that in the index.

        Raises:
            What `restate` and `add_bundles` raise.
        """
        lines = self.restate(name, None, lambda said: replace(said, succeeded=True))
        self.place.change(lambda change: add_bundles(change, successors_path(name), [bundle]))
        return lines

    def restate(
        self,
        name: str,
        version: str | None,
        edit: Callable[[Standing], Standing],
        bundles: Sequence[bytes] = (),
    ) -> list[IndexLine]:
        """Change what is said of a release, or of all that a module has; return the lines.

        ``bundles`` are signatures of it, which are added.

        Raises:
            InvalidValue: Readers would not take a reason as it is.
            NotFound: The registry does not have it.
            PublishError: The release was removed, has as many signatures as it may have, or nobody
                could read the index any more.
        """
        wanted = None if version is None else parse_version(version)

        def change_lines(change: RegistryChange) -> list[IndexLine]:
            lines, before = self._lines(change, name)
            chosen = [
                line for line in lines if wanted is None or parse_version(line.version) == wanted
            ]
            if not chosen:
                raise (
                    no_such_module(name, self._reader())
                    if version is None
                    else (self._reader().not_found(name, version))
                )
            new = {line.version: edit(standing_of(line)).on(line) for line in chosen}
            for line in new.values():
                check_standing(line)
            if all(is_removed(line) for line in chosen) and [*new.values()] != chosen:
                raise PublishError("M482", name=name, version=chosen[-1].version, registry=self.url)
            new |= {line.version: line for line in chosen if is_removed(line)}
            if bundles:
                new = {one: replace(line, signed=True) for one, line in new.items()}
            changed = [new.get(line.version, line) for line in lines]
            if changed != lines:
                index_file(name, changed, before)
            for line in new.values() if bundles else ():
                add_bundles(change, signatures_path(parse_digest(line.release)), [*bundles])
            if changed == lines:
                self._list.end(change, name)  # whoever changed it may have been killed
            else:
                self._write_index(change, name, changed, before)
            return [*new.values()]

        return self.place.change(change_lines)

    def _reader(self) -> Registry:
        """Return the registry as it is now."""
        return registry_at(self.place)

    def _lines(self, change: RegistryChange, name: str) -> tuple[list[IndexLine], bytes]:
        """Return the releases of a module, and their index file, which is to be replaced."""
        data = change.read(f"index/{name}.jsonl", bounds.INDEX_BYTES) or b""
        return parse_index(data, name, self.url), data

    def _write_index(
        self,
        change: RegistryChange,
        name: str,
        lines: list[IndexLine],
        before: bytes,
        records: Mapping[str, ReleaseRecord] | None = None,
    ) -> None:
        data = index_file(name, lines, before)
        self._list.begin(change, name)
        change.replace(f"index/{name}.jsonl", data)
        self._list.end(change, name, data, records)

    def describe_all(self) -> None:
        """Write ``modules.jsonl`` by the index."""
        self.place.change(self._list.write_all)

    def _add_built(
        self,
        change: RegistryChange,
        tree: BlobTree,
        record: ReleaseRecord,
        release: str,
        progress: Progress | None,
        elsewhere: Mapping[Digest, Sequence[str]],
    ) -> int:
        """Add the blobs of a build, and return the bytes of new ones."""
        hashed = hashed_packs(record, release, tree)
        for digest in sorted(elsewhere):
            path = elsewhere_path(digest)
            before = change.read(path, bounds.BLOB_PLACES_BYTES)
            listed = [] if before is None else read_places(before, f"{self.url}/{path}")
            if (data := places_document(elsewhere[digest], listed)) != before:
                change.replace(path, data)
        blobs = [
            BuiltBlob(digest, what, tree, hashed.get(digest))
            for digest, what in blobs_of(record)
            if digest not in elsewhere
        ]
        own = BuiltBlob(parse_digest(release), "the release record", tree)
        return change.add(blobs, progress) + change.add([own], progress)


def _longest(line: IndexLine, now: datetime.datetime | None) -> IndexLine:
    """Return the line of a release to publish, at least as long as it will be."""
    return replace(line, size=10**15, published=moment_text(now), yanked=None, signed=True)
