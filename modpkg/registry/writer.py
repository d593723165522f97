"""Writing to a registry in a folder: publish and yank.

Blobs are written first, then the release record, then the index line, so that a reader never sees
an incomplete release, and a publisher that is killed leaves at most unreferenced blobs. Packs that
the registry has already are not copied again.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from modpkg.core.all_cores import on_all_cores
from modpkg.core.digests import Digest, parse_digest
from modpkg.core.errors import ModpkgError, PublishError, RegistryUnreachable
from modpkg.core.filenames import MANIFEST, REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.files import make_folder, write_atomically
from modpkg.core.leftovers import remove_leftovers
from modpkg.core.names import parse_version
from modpkg.core.ownership import check_links_of_owner
from modpkg.core.records import (
    SPEC,
    IndexLine,
    ModuleLine,
    RegistryInfo,
    ReleaseRecord,
    TensorEntry,
    canonical_json,
)
from modpkg.core.regular_file import read_file
from modpkg.core.tree import BlobTree
from modpkg.registry.index import format_index
from modpkg.registry.lookup import TensorLookup
from modpkg.registry.module_lines import format_module_lines, module_line, shown_release
from modpkg.registry.reader import Registry
from modpkg.registry.write_lock import folder_lock
from modpkg.release.build_stamps import FileStamp, read_stamps, stamp_of, unchanged
from modpkg.release.verify import check_record, verify_release

PARTS = ("index", "blobs", "blobs/sha256", "locks", "lookup")
"""The folders of a registry."""


_UNIQUE = re.compile(r"-[0-9a-f]{8}$")


class RegistryWriter:
    """A registry folder that can be published to; it is created when it is first used.

    With ``within``, nothing below that folder is a link, as in a copy that modpkg makes.
    """

    def __init__(
        self, folder: Path, name: str | None = None, *, within: Path | None = None
    ) -> None:
        self.folder = folder
        self.blobs = BlobTree(folder, within)
        self._name = name
        self.restored = 0
        """Bytes of a published release that this registry had lost, and has again."""
        self._within = within

    def prepare(self) -> None:
        """Make the folder a registry if it is not one yet.

        Raises:
            PublishError: The folder cannot be created or written to.
            InstallError: A part of it is a link of somebody else.
        """
        check_links_of_owner(self.folder, PARTS)
        try:
            make_folder(self.folder / "index", within=self._within)
            make_folder(self.folder / "blobs" / "sha256", within=self._within)
            if not (self.folder / REGISTRY_INFO).exists():
                info = RegistryInfo(spec=SPEC, name=self._name or new_name(self.folder))
                data = canonical_json(info) + b"\n"
                write_atomically(self.folder / REGISTRY_INFO, data, within=self._within)
            if not os.access(self.folder / "index", os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise PublishError(
                "M309", url=self.folder, reason=error.strerror or str(error)
            ) from None

    def publish(
        self,
        built: Registry,
        line: IndexLine,
        *,
        now: datetime.datetime | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> IndexLine:
        """Add a release of a built tree to this registry, and return its index line.

        Its files are linked, not copied, where the file system can: nobody changes a built tree,
        which a later build replaces. Publishing the same release again only restores what the
        registry lost of it, or has with another size. Packs that the release refers to have to be
        in the built tree or in this registry.

        Raises:
            PublishError: The version is published with another release digest, or a pack is in
                neither.
            IntegrityError, RecordError, ReleaseError, PackError: The release is damaged; nothing is
                published.
        """
        self.prepare()
        record = built.record(line)
        self._verify(record, line.release, BlobTree(Path(built.url)))
        with self._locked(line.name):
            lines = self._reader().index(line.name)
            for existing in lines:
                if existing.release == line.release:
                    self.restored = self._add_built(built, record, line.release, progress)
                    self._describe(line.name)  # whoever published it may have been killed
                    return existing
            others = self._other_versions(line, lines)
            added = self._add_built(built, record, line.release, progress)
            published = msgspec.structs.replace(
                line, size=added, published=_timestamp(now), yanked=None
            )
            self._write_index(line.name, [*others, published])
        with contextlib.suppress(OSError, ModpkgError):  # the release is published already
            TensorLookup(self.folder).close()  # opening it updates it
        return published

    def preview(self, built: Registry, line: IndexLine) -> IndexLine:
        """Return the index line that publishing would write, with the bytes that it would copy.

        Nothing is written, and the checks are those of `publish`.

        Raises:
            What `publish` raises for the release.
        """
        record, tree = built.record(line), BlobTree(Path(built.url))
        self._verify(record, line.release, tree)
        known = (self.folder / REGISTRY_INFO).exists()
        lines = self._reader().index(line.name) if known else []
        for existing in lines:
            if existing.release == line.release:
                return existing
        self._other_versions(line, lines)
        digests = [*(digest for digest, _ in blobs_of(record)), parse_digest(line.release)]
        sizes = [tree.path(d).stat().st_size for d in digests if not self.blobs.has(d)]
        return msgspec.structs.replace(line, size=sum(sizes), published="", yanked=None)

    def copy_release(
        self, source: Registry, line: IndexLine, progress: Callable[[int], None] | None = None
    ) -> ReleaseRecord:
        """Copy a release with its index line from another registry, and return its record.

        Raises:
            IntegrityError, RecordError: The other registry is damaged; nothing is published.
            PublishError: The version is published with another release digest.
        """
        self.prepare()
        record = source.record(line)
        check_record(record)
        with self._locked(line.name):
            others = self._other_versions(line, self._reader().index(line.name))
            for digest, what in blobs_of(record):
                self._add(source, digest, what, progress)
            self._add(source, parse_digest(line.release), "the release record", progress)
            self._write_index(line.name, [*others, line])
        return record

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
                    registry=self.folder,
                    manifest=MANIFEST,
                )
        return others

    def _verify(self, record: ReleaseRecord, release: str, built: BlobTree) -> None:
        """Verify a release, of which some packs may be in this registry only.

        Tensors in packs that are unchanged since the build hashed them are not hashed again.
        """

        def path_of(digest: Digest) -> Path:
            return built.path(digest) if built.has(digest) else self.blobs.path(digest)

        published = [pack for pack in record.packs if not built.has(parse_digest(pack))]
        if missing := [pack for pack in published if not self.blobs.has(parse_digest(pack))]:
            raise PublishError(
                "M317",
                name=record.name,
                version=record.version,
                count=len(missing),
                registry=self.folder,
            )
        hashed = set(_hashed(record, release, built))
        if not published:
            verify_release(record, path_of, lambda entry: entry.pack in hashed)
            return
        with contextlib.closing(TensorLookup(self.folder)) as lookup:

            def vouched(entry: TensorEntry) -> bool:
                return entry.pack in hashed or (entry.pack in published and lookup.holds(entry))

            verify_release(record, path_of, vouched)

    def yank(self, name: str, version: str, reason: str | None) -> IndexLine:
        """Mark a release as yanked with a reason, or undo that with ``reason=None``.

        Raises:
            NotFound: The registry does not have it.
        """
        with self._locked(name):
            reader = self._reader()
            line = reader.line(name, version)
            changed = msgspec.structs.replace(line, yanked=reason)
            if changed != line:
                others = [other for other in reader.index(name) if other is not line]
                self._write_index(name, [*others, changed])
        return changed

    def _reader(self) -> Registry:
        return Registry(str(self.folder.absolute()))

    def _write_index(self, name: str, lines: list[IndexLine]) -> None:
        path, before = self.folder / "index" / f"{name}.jsonl", b""
        with contextlib.suppress(FileNotFoundError):
            before = read_file(path)
        write_atomically(path, format_index(lines, before), within=self._within)
        self._describe(name)

    def describe_all(self) -> None:
        """Write ``modules.jsonl`` by the index."""
        with self._locked(".modules"):
            self._write_modules({}, self._reader().names() or ())

    def _describe(self, name: str) -> None:
        """Write a module's line of ``modules.jsonl``; all lines, if there is no such file."""
        with self._locked(".modules"):
            known = self._reader().modules()
            names = [name] if known is not None else self._reader().names() or ()
            self._write_modules(known or {}, names)

    def _write_modules(self, known: Mapping[str, ModuleLine], names: Iterable[str]) -> None:
        """Write ``modules.jsonl`` with what is known, and by the index what it has of ``names``."""
        path, reader = self.folder / REGISTRY_MODULES, self._reader()
        lines = {**known}
        for name in names:
            lines.pop(name, None)
            try:
                if (line := shown_release(reader.index(name))) is not None:
                    lines[name] = module_line(line, reader.record(line))
            except RegistryUnreachable:
                raise  # the disk failed: what it has is not left out
            except ModpkgError:
                continue  # damaged: fetching it tells that
        if known != lines or not path.exists():
            with contextlib.suppress(PermissionError):  # a release is not refused for this
                write_atomically(path, format_module_lines(lines), within=self._within)

    def _locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        for folder in (self.folder, self.folder / "index"):
            remove_leftovers(folder)
        return folder_lock(self.folder, name, within=self._within)

    def _add_built(
        self,
        built: Registry,
        record: ReleaseRecord,
        release: str,
        progress: Callable[[int], None] | None,
    ) -> int:
        """Add the blobs of a build, without a copy where possible; return the bytes of new ones."""
        tree = BlobTree(Path(built.url))
        hashed = _hashed(record, release, tree)

        def add(blob: tuple[Digest, str]) -> int:
            digest, what = blob
            held = self.blobs.path(digest)
            if self.blobs.has(digest) and (
                not tree.has(digest) or held.stat().st_size == tree.path(digest).stat().st_size
            ):
                return 0
            stamp, path = hashed.get(digest), tree.path(digest)
            if stamp is not None and stamp_of(path) != stamp:
                stamp = None  # changed after it was verified
            self.blobs.add_shared(
                tree,
                digest,
                what,
                lambda: stamp is not None and stamp.same_but_for_links(stamp_of(path)),
            )
            return self._added(digest, progress)

        added = sum(on_all_cores(add, blobs_of(record), lambda b: record.packs.get(b[0], 0)))
        return added + add((parse_digest(release), "the release record"))

    def _add(
        self,
        source: Registry,
        digest: Digest,
        what: str,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Add a blob of a registry, unless it is here."""
        if not self.blobs.has(digest):
            self.blobs.add_stream(source.stream(digest, what), digest, what, source.url)
            self._added(digest, progress)

    def _added(self, digest: Digest, progress: Callable[[int], None] | None) -> int:
        """Report a blob that was added, and return its bytes."""
        size = self.blobs.path(digest).stat().st_size
        if progress is not None:
            progress(size)
        return size


def _hashed(record: ReleaseRecord, release: str, built: BlobTree) -> dict[str, FileStamp]:
    """Return the stamps of the packs in a built tree that are unchanged since they were hashed."""
    stamps = read_stamps(built.root, release)
    if stamps is None:
        return {}
    carried = {pack: built.path(parse_digest(pack)) for pack in record.packs}
    return {pack: stamps.packs[pack] for pack in unchanged(stamps.packs, carried)}


def new_name(folder: Path) -> str:
    """Return a name for a new registry, that no other has although many folders are called alike.

    >>> plain_name(new_name(Path("/srv/models")))
    'models'
    """
    plain = "".join(letter for letter in folder.resolve().name if letter.isprintable()).strip()
    return f"{plain[:80] or 'registry'}-{secrets.token_hex(4)}"


def plain_name(name: str) -> str:
    """Return a registry's name without what `new_name` made it unique with."""
    return _UNIQUE.sub("", name)


def blobs_of(record: ReleaseRecord) -> list[tuple[Digest, str]]:
    """Return all blobs that a release names, each with its description for errors."""
    needed: dict[str, str] = {}
    for digest in sorted(record.packs):
        needed[digest] = f"a pack of {record.name}"
    for path, entry in sorted(record.files.items()):
        needed[entry.digest] = f"{path} of {record.name}"
    if record.provides is not None:
        needed[record.provides] = "an interface"
    for digest in record.expects.values():
        needed[digest] = "an interface"
    return [(parse_digest(digest), what) for digest, what in needed.items()]


def _timestamp(now: datetime.datetime | None) -> str:
    moment = now or datetime.datetime.now(datetime.timezone.utc)
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
