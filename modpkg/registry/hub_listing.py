"""The files of a repository of a hub, as the hub lists them; checked before they are believed."""

from __future__ import annotations

import datetime
import re

import msgspec
from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import InvalidValue
from modpkg.core.hub_address import HubAddress
from modpkg.core.release_path import safe_path


class HubFile(Struct, frozen=True):
    """A file as a hub lists it."""

    path: str
    size: int
    digest: str
    """Its sha256 if it is large (in Git LFS), else the sha1 that git gives it; in hex."""

    @property
    def is_large(self) -> bool:
        """Whether its sha256 is known."""
        return len(self.digest) == 64


class HubListing(Struct, frozen=True):
    """The files of a repository at a commit."""

    address: HubAddress
    """Pinned to the commit."""
    files: tuple[HubFile, ...]
    unsafe: tuple[str, ...]
    """Files with paths that no release may have, as they were given."""
    modified: datetime.datetime
    """When the commit was made; now, if the hub does not tell."""

    @property
    def digest(self) -> Digest:
        """The digest of the paths, sizes and digests of the files: a commit has one."""
        files = sorted((file.path, file.size, file.digest) for file in self.files)
        return digest_bytes(msgspec.json.encode(files))


def listing_of(
    address: HubAddress, commit: object, siblings: object, modified: object
) -> HubListing:
    """Return a hub's answer as a listing.

    Raises:
        AttributeError, TypeError, ValueError: It is malformed.
    """
    if not isinstance(commit, str) or not (pinned := address.at(commit)).pinned:
        raise ValueError("it names no commit")
    if address.pinned and address.revision != commit:
        raise ValueError("it is about another commit")
    if not isinstance(siblings, list):
        raise ValueError("it lists no files")
    if len(siblings) > bounds.HUB_FILES:
        raise ValueError(f"it lists over {bounds.HUB_FILES:,} files")
    files: dict[str, HubFile] = {}
    unsafe = []
    for entry in siblings:
        path, size = entry.rfilename, entry.size
        digest = entry.blob_id if entry.lfs is None else entry.lfs.sha256
        if not isinstance(path, str) or not isinstance(digest, str):
            raise ValueError("a file has no name or no digest")
        if entry.lfs is not None and entry.lfs.size != size:
            raise ValueError(f"{path[:200]!r} has two sizes")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**62:
            raise ValueError(f"{path[:200]!r} has no size")
        if not re.fullmatch("[0-9a-f]{40}" if entry.lfs is None else "[0-9a-f]{64}", digest):
            raise ValueError(f"{path[:200]!r} has no digest")
        try:
            safe_path(path)
        except InvalidValue:
            if not any(part.startswith(".") for part in path.split("/")) or ".." in path:
                unsafe.append(path[:200])
            continue
        if path in files:
            raise ValueError(f"{path!r} is listed twice")
        files[path] = HubFile(path, size, digest)
    for path in files:
        above = path.rpartition("/")[0]
        if above in files:
            raise ValueError(f"{above!r} is a file and a folder")
    now = datetime.datetime.now(datetime.timezone.utc)
    if not isinstance(modified, datetime.datetime) or modified.tzinfo is None or modified > now:
        modified = now
    return HubListing(pinned, tuple(files.values()), tuple(unsafe), modified)
