"""Blobs of a registry that nothing names: publishers that were killed have left them, or candidates
that became no release.

A publisher adds blobs before anything names them, and one that is there already is not added again.
So what it adds, or relies on, must not be removed under its hands: in a folder nobody writes while
this is at work, by a lock; elsewhere nothing is removed where somebody wrote within the last hour,
and nowhere what is younger than the grace time.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.errors import (
    IntegrityError,
    ModpkgError,
    RecordError,
    RegistryError,
    RegistryUnreachable,
)
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.leftovers import TEMPORARY
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine, ReleaseRecord, decode_record
from modpkg.core.tree import check_digest
from modpkg.registry.candidates import (
    CANDIDATES,
    candidate_names,
    candidates_path,
    parse_candidates,
)
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.index import parse_index
from modpkg.registry.place import Place, StoredFile, bare_place, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.source import FileMissing
from modpkg.registry.standing import without_removed
from modpkg.registry.upkeep import all_names

PRIVATE_TREE = "private"
"""Folder of a served registry with the tree of its private modules."""
_TREES = ("", f"{PRIVATE_TREE}/")
QUIET = datetime.timedelta(hours=1)
"""For how long nobody must have written to a registry that has no locks."""


class Freed(Struct, frozen=True):
    """What was removed of a registry."""

    files: int
    freed: int
    """Bytes."""
    left: int
    """Files of blobs that stay."""


def remove_unnamed(
    place: Place,
    *,
    older_than: datetime.timedelta,
    now: datetime.datetime,
    progress: Progress,
    dry_run: bool = False,
) -> Freed:
    """Remove the blobs that neither releases nor open candidates name, older than the grace time.

    Those of the tree of private modules too; each tree keeps what either names.

    Raises:
        RegistryError: It is being written to, or it is not known what all of its releases name.
        NotFound: There is no registry.
    """
    _ = registry_at(place).info  # raises if this is not a registry
    with nobody_writes(place):
        progress.stage("Listing")
        stored = [*place.stored("blobs"), *place.stored(f"{PRIVATE_TREE}/blobs")]
        if place.folder is None and not dry_run:
            beside = [f"{tree}{kind}" for tree in _TREES for kind in ("index", CANDIDATES)]
            files = [*stored, *(file for folder in beside for file in place.stored(folder))]
            newest = max((file.modified for file in files), default=now - QUIET)
            if now - newest < QUIET:
                minutes = max(int((now - newest).total_seconds() // 60), 0)
                raise RegistryError(
                    "M873",
                    url=place.url,
                    reason=f"somebody wrote to it {minutes} minutes ago, and may still do",
                    remedy="run it again when nobody has for an hour",
                )
        named = named_blobs(place, progress)
        garbage = [
            file
            for file in stored
            if not _is_named(file, named) and now - file.modified >= older_than
        ]
        if not dry_run:
            for file in garbage:
                with contextlib.suppress(FileNotFoundError):
                    place.remove(file.path)
    freed = sum(file.size for file in garbage)
    return Freed(len(garbage), freed, len(stored) - len(garbage))


@contextlib.contextmanager
def nobody_writes(place: Place) -> Iterator[None]:
    """Keep writers out, where there are locks."""
    with contextlib.ExitStack() as held:
        if isinstance(folder := bare_place(place), FolderPlace):
            held.enter_context(folder.writing(exclusive=True))
            if (private := folder.folder / PRIVATE_TREE).is_dir():
                held.enter_context(FolderPlace(private).writing(exclusive=True))
        yield


def private_address(registry: Registry) -> str | None:
    """Return the address of the tree of private modules in a registry; None if there is none.

    Only who reads the storage itself finds one: what is served has none for those who do not ask
    as somebody.
    """
    address = registry.source.url
    if urlsplit(address).scheme in ("http", "https", "hf"):
        return None
    try:
        registry.source.read(f"{PRIVATE_TREE}/{REGISTRY_INFO}", bounds.REGISTRY_INFO_BYTES)
    except FileMissing:
        return None
    except RegistryUnreachable as error:
        if error.code != "M314":  # as where a bucket lets everybody read the public files alone
            raise
        return None
    return f"{address.rstrip('/')}/{PRIVATE_TREE}"


def _is_named(file: StoredFile, named: set[str]) -> bool:
    """Return whether a file is a blob that a release names, or is no blob at all."""
    last = file.path.rpartition("/")[2]
    if last.startswith(TEMPORARY):
        return False
    try:
        return parse_digest(f"sha256:{last}") in named
    except ModpkgError:
        return True


def named_blobs(place: Place, progress: Progress) -> set[str]:
    """Return the digests of all blobs that releases and open candidates name.

    Those of the tree of private modules within it count too: their packs may be public ones.

    Raises:
        RegistryError: That is not known of one.
    """
    registry = registry_at(place)
    named = _NamedBlobs(place, "", registry.record)
    named.read(all_names(registry), progress)
    inner = f"{PRIVATE_TREE}/"
    paths = [file.path.removeprefix(inner) for file in place.stored(f"{inner}index")]
    names = [path[len("index/") : -len(".jsonl")] for path in paths if path.endswith(".jsonl")]
    private = _NamedBlobs(place, inner, lambda line: _private_record(place, line))
    private.read(sorted(names), progress)
    return named.digests | private.digests


class _NamedBlobs:
    """The digests of blobs that one tree of a place names; ``prefix`` is where the tree lies."""

    def __init__(
        self, place: Place, prefix: str, record_of: Callable[[IndexLine], ReleaseRecord]
    ) -> None:
        self._place, self._prefix, self._record_of = place, prefix, record_of
        self.digests: set[str] = set()

    def read(self, names: Sequence[str], progress: Progress) -> None:
        """Read the indexes of modules, and all candidates.

        Raises:
            RegistryError: It is not known what one of them names.
        """
        progress.stage("Reading")
        progress.total(len(names))
        for name in names:
            with self._known():
                self._index(name)
            progress.advance(1)
        folder = f"{self._prefix}{CANDIDATES}"
        paths = [file.path.removeprefix(self._prefix) for file in self._place.stored(folder)]
        for name in candidate_names(paths):
            with self._known():
                self._candidates(name)

    def _index(self, name: str) -> None:
        path = f"{self._prefix}index/{name}.jsonl"
        data = self._place.source.read(path, bounds.INDEX_BYTES)
        lines = parse_index(data, name, self._place.url)
        if len(lines) != sum(1 for raw in data.split(b"\n") if raw.strip()):
            raise _unknown(self._place, f"{path} has lines that cannot be read")
        for line in without_removed(lines):
            self._add(line)

    def _candidates(self, name: str) -> None:
        path = f"{self._prefix}{candidates_path(name)}"
        data = self._place.source.read(path, bounds.CANDIDATES_BYTES)
        found = parse_candidates(data, name, self._place.url)
        if found.unreadable:
            raise _unknown(self._place, f"{path} has lines that cannot be read")
        for one in found.lines:
            if one.status == "open":
                self._add(one.line)

    def _add(self, line: IndexLine) -> None:
        record = self._record_of(line)
        self.digests |= {line.release, *(digest for digest, _ in blobs_of(record))}

    @contextlib.contextmanager
    def _known(self) -> Iterator[None]:
        try:
            yield
        except (RecordError, IntegrityError) as error:
            raise _unknown(self._place, str(error)) from None


def _private_record(place: Place, line: IndexLine) -> ReleaseRecord:
    """Return the record of a private release, which may be public too."""
    digest, what = parse_digest(line.release), f"the release record of {line.name} {line.version}"
    for path in (f"{PRIVATE_TREE}/{blob_path(digest)}", blob_path(digest)):
        with contextlib.suppress(FileMissing):
            data = place.source.read(path, bounds.RECORD_BYTES)
            check_digest(data, digest, what, place.url)
            return decode_record(data, ReleaseRecord, what)
    raise IntegrityError("M306", what=what, digest=digest, source=place.url)


def _unknown(place: Place, reason: str) -> RegistryError:
    return RegistryError(
        "M873",
        url=place.url,
        reason=f"it is not known what all of its releases name: {reason.rstrip('.')}",
        remedy=f"mend that first: 'modpkg registry verify {place.url}' tells more",
    )
