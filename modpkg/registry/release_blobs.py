"""The blobs of a release: which they are, and that they are sound before it is published."""

from __future__ import annotations

import tempfile
from pathlib import Path

from modpkg.core.digests import Digest, blob_path, parse_digest
from modpkg.core.errors import PublishError
from modpkg.core.records import ReleaseRecord, TensorEntry
from modpkg.core.tree import BlobTree
from modpkg.registry.known import published_tensors
from modpkg.registry.place import Place
from modpkg.release.build_stamps import hashed_packs
from modpkg.release.secret_texts import check_secrets
from modpkg.release.verify import verify_release


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


def verify_built(place: Place, record: ReleaseRecord, release: str, built: BlobTree) -> None:
    """Verify a release, of which some blobs may be in the registry only.

    Tensors in packs that are unchanged since the build hashed them are not hashed again.

    Args:
        place: The registry.
        record: The release's record.
        release: The digest of that.
        built: The tree that it was built in.

    Raises:
        PublishError: A pack is in neither.
        IntegrityError, RecordError, ReleaseError, PackError: The release is damaged.
    """
    check_secrets(record, built.path)
    published = [pack for pack in record.packs if not built.has(parse_digest(pack))]
    sizes = {pack: place.size(blob_path(parse_digest(pack))) for pack in published}
    if missing := [pack for pack in published if sizes[pack] is None]:
        raise PublishError(
            "M317",
            name=record.name,
            version=record.version,
            count=len(missing),
            registry=place.url,
        )
    hashed = set(hashed_packs(record, release, built))
    if not published and all(built.has(digest) for digest, _ in blobs_of(record)):
        verify_release(record, built.path, lambda entry: entry.pack in hashed)
        return
    with (
        tempfile.TemporaryDirectory(prefix="modpkg-publish-") as spool,
        published_tensors(place, record) as holds,
    ):

        def path_of(digest: Digest) -> Path:
            if built.has(digest):
                return built.path(digest)
            return place.local(digest, f"a part of {record.name}", Path(spool))

        def vouched(entry: TensorEntry) -> bool:
            return entry.pack in hashed or (entry.pack in sizes and holds(entry))

        remote = {} if place.folder is not None else sizes
        verify_release(record, path_of, vouched, remote)
