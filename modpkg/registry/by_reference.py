"""Publishing by reference: weights stay where they are, and the registry says where that is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from modpkg.core import bounds
from modpkg.core.digests import Digest, git_blob_hash, parse_digest
from modpkg.core.elsewhere import elsewhere_path, read_places
from modpkg.core.errors import ModpkgError, PublishError
from modpkg.core.records import IndexLine
from modpkg.core.tree import BlobTree
from modpkg.registry.outside import Hosts, OutsideFile
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.source import FileMissing


def kept_places(
    built: Registry,
    line: IndexLine,
    hosts: frozenset[str],
    warn: Callable[[str], None],
    *,
    lacks: Callable[[Digest], bool],
    must: bool,
    target: str = "",
) -> dict[Digest, list[str]]:
    """Return, by digest, the places of a build's packs and files that need not be uploaded.

    Each place that the build names is asked whether it has these very bytes.

    Args:
        built: The built tree.
        line: The release in it.
        hosts: Those that the user allows, besides the hub's.
        warn: Gets a sentence about a place that has them not: its pack is uploaded.
        lacks: Returns whether the registry has no copy of its own.
        must: Whether that is an error.
        target: The registry that is published to, for messages.

    Raises:
        PublishError: With ``must``, a pack has no place, is not what was imported, or is in another
            registry.
        IntegrityError, RegistryUnreachable, RegistryError: With ``must``, a place has it not.
    """
    record, found = built.record(line), dict[Digest, list[str]]()
    inside = BlobTree(Path(built.url))
    packs = map(parse_digest, record.packs)
    if must and (count := sum(not inside.has(pack) and lacks(pack) for pack in packs)):
        # It refers to those of the registry that it was built against.
        names = {"name": line.name, "version": line.version}
        raise PublishError("M317", count=count, registry=target, **names)
    sizes = record.packs | {entry.digest: entry.size for entry in record.files.values()}
    for digest, what in blobs_of(record):
        if digest not in sizes or not lacks(digest):
            continue  # an interface, or nothing is to be sent
        path = elsewhere_path(digest)
        try:
            places = read_places(built.source.read(path), f"{built.url}/{path}")
        except FileMissing:
            places = []
        small = digest not in record.packs and sizes[digest] <= bounds.SMALL_FILE_BYTES
        known = _blob_id(built.blob(digest, what)) if places and small else None

        def opened(
            place: str, digest: Digest = digest, what: str = what, known: str | None = known
        ) -> OutsideFile:
            return OutsideFile(place, digest, what, Hosts(hosts), blob_id=known)

        has_to = must and digest in record.packs
        kept = [
            place
            for place in places
            if _has(partial(opened, place), sizes[digest], warn, must=has_to)
        ]
        if kept:
            found[digest] = kept
        elif has_to:
            reason = "were not imported from a hub as they are"
            if places:
                reason = f"were imported from {places[0]}, which has other bytes than those here"
            raise PublishError("M887", name=line.name, version=line.version, reason=reason)
    return found


def _blob_id(data: bytes) -> str:
    """Return what git calls a file, and a hub one that is not large."""
    state = git_blob_hash(len(data))
    state.update(data)
    return state.hexdigest()


def _has(
    open_file: Callable[[], OutsideFile], size: int, warn: Callable[[str], None], *, must: bool
) -> bool:
    try:
        file = open_file()
        same = file.has_bytes(size)
    except ModpkgError as error:
        if must:
            raise
        warn(f"{error} So it is uploaded.")
        return False
    if not same and not must:
        warn(f"{file.address} has other bytes than the file here, which is uploaded.")
    return same
