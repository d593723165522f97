"""Publishing of private modules: into their own tree, and of blobs that the publisher can read.

Whoever names a blob in a release can read it from then on. So of the blobs that are there already,
a private release may name those that its publisher could read before, and no others: to know the
digest of a private blob is not to have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.orm import Session

from modpkg.core.digests import Digest, blob_path
from modpkg.core.errors import PublishError
from modpkg.core.names import parse_requirement
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.core.tree import BlobTree
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.place import Place, bare_place
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.server.callers import Caller
from modpkg.server.private_reading import note_private_blobs, readable_blobs
from modpkg.server.rights import roles_of
from modpkg.server.state import Server
from modpkg.server.tables import Module

HasBlob = Callable[[Digest, int | None], Place | None]
"""Returns the place that has a blob, of this size if it is known; None if there is none."""


def is_private_release(db: Session, name: str, *, wanted: bool) -> bool:
    """Return whether a release is one of a private module.

    Args:
        db: The database.
        name: The module.
        wanted: Whether the publisher wants a module that is new here to be private.

    Raises:
        PublishError: He does, and the module is public already.
    """
    module = db.get(Module, name)
    if module is None:
        return wanted
    if wanted and not module.is_private:
        raise PublishError("M449", reason=f"{name} is a public module here, and stays one")
    return module.is_private


def blobs_there(
    server: Server, caller: Caller, digests: Iterable[str], *, private: bool
) -> HasBlob:
    """Return what finds those of some blobs that a release may name without their upload."""
    place, inner = server.place, server.private
    readable: set[str] = set()
    if private:
        with server.database.begin() as db:
            readable = readable_blobs(db, caller, digests)

    def find(digest: Digest, size: int | None) -> Place | None:
        for one in (place, inner):
            if one is None or (one is inner and digest not in readable):
                continue
            found = one.size(blob_path(digest))
            if found is not None and size in (None, found):
                return one
        return None

    return find


def add_readable(server: Server, caller: Caller, record: ReleaseRecord, tree: BlobTree) -> None:
    """Add to the tree of a private release what is there already, and its publisher can read.

    Raises:
        PublishError: A blob was neither uploaded nor is it one of those.
    """
    sizes = {entry.digest: entry.size for entry in record.files.values()} | record.packs
    lacking = [(digest, what) for digest, what in blobs_of(record) if not tree.has(digest)]
    find = blobs_there(server, caller, [digest for digest, _ in lacking], private=True)
    missing = []
    for digest, what in lacking:
        place = find(digest, sizes.get(digest))
        if place is None:
            missing.append(digest)
        elif isinstance(folder := bare_place(place), FolderPlace):
            tree.add_shared(folder.blobs, digest, what)
        else:
            tree.add_stream(place.source.stream(blob_path(digest)), digest, what, place.url)
    if missing:
        raise PublishError("M456", count=len(missing), digest=missing[0])


def note_release(server: Server, registry: Registry, line: IndexLine) -> None:
    """Note the blobs of a private release, so that those with a role may read them."""
    record = registry.record(line)
    digests = {digest for digest, _ in blobs_of(record)} | {line.release}
    with server.database.begin() as db:
        note_private_blobs(db, line.name, digests)


def check_public_needs(db: Session, caller: Caller, line: IndexLine) -> None:
    """Check that a public release needs no private module, of those that its publisher knows of.

    One that he does not know of is as a name that nobody has.

    Raises:
        PublishError: It does.
    """
    texts = {*line.requires, *(text for group in line.extras.values() for text in group)}
    names = {str(parse_requirement(text).name) for text in texts}
    person = replace(caller, publisher_module=None)  # who let the job publish it
    private = select(Module.name).where(Module.name.in_(names), Module.is_private.is_(True))
    for name in sorted(db.scalars(private)):
        if roles_of(db, person, name):
            raise PublishError("M448", module=line.name, name=name)
