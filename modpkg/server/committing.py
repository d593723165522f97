"""Committing a session: all that `modpkg publish` checks, from the bytes that are here.

The order is that of any writer, with the right to a new name before it: the release is verified;
a new name gets its row and its owner, in one transaction, so that of two one is first; blobs and
record are added, and the index line last; then the session is done, with its event. Whoever is
killed between leaves a session that can be committed again, or a release that is published whole,
which a second commit finds.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError as DatabaseRefused
from sqlalchemy.orm import Session

from modpkg.community.semver.version_check import check_version
from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.errors import AccessRefused, ModpkgError, PublishError
from modpkg.core.filenames import MANIFEST
from modpkg.core.records import IndexLine, ReleaseRecord, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.candidate_writer import CandidateWriter
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.place import Place, bare_place, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.session_records import CommitAnswer, DeclaredBlob
from modpkg.registry.writer import RegistryWriter
from modpkg.server.callers import Caller
from modpkg.server.clock import now
from modpkg.server.declaring import (
    check_declared_record,
    check_may_publish,
    is_private_session,
    is_taken,
    line_of,
    missing_blobs,
    own_session,
    release_there,
)
from modpkg.server.events import log_event
from modpkg.server.new_names import check_free_name, needed_names
from modpkg.server.private_publishing import (
    add_readable,
    check_public_needs,
    note_release,
)
from modpkg.server.role_invitations import end_role_offers
from modpkg.server.spool import busy, spool_of
from modpkg.server.state import Server
from modpkg.server.tables import Account, Membership, Module, PublishingSession, Role, SessionBlob

AT_WORK = datetime.timedelta(hours=6)
"""How long a session stays from when somebody has begun to commit it."""
_under_way: set[str] = set()
_turn = threading.Lock()


def commit(server: Server, caller: Caller, session: str) -> CommitAnswer:
    """Publish the release of a session, or make it a candidate; once it is, only tell so.

    Raises:
        NotFound: The caller has no such session.
        PublishError: Blobs are missing, it is being committed, or the release is refused.
        What `RegistryWriter.publish` raises for a release that is damaged.
    """
    with _turn:
        if session in _under_way:
            raise busy(f"session {session}")
        _under_way.add(session)
    try:
        return _commit(server, caller, session)
    finally:
        _under_way.discard(session)


def _commit(server: Server, caller: Caller, session: str) -> CommitAnswer:
    with server.database.begin() as db:
        row = own_session(db, caller, session)
        if row.state == "committed":
            return CommitAnswer(line=line_of(row), candidate=row.number)
        check_may_publish(db, caller, row.module, candidate=row.is_candidate)
        private = is_private_session(db, row)
        if not private:
            check_public_needs(db, caller, line_of(row))
        row.expires = max(row.expires, now() + AT_WORK)
        rows = list(db.scalars(select(SessionBlob).where(SessionBlob.session_id == session)))
    blobs = [DeclaredBlob(blob.digest, blob.size) for blob in rows]
    spool, line = spool_of(server.place, session), line_of(row)
    place = server.place_of(private=private)
    registry = registry_at(place)
    published = release_there(registry, line)
    if published is None:
        lacking = missing_blobs(server, caller, spool, blobs, private=private)
        if lacking:
            raise PublishError("M456", count=len(lacking), digest=lacking[0].digest)
    if published is not None and row.is_candidate:
        raise PublishError(
            "M470", name=line.name, version=line.version, registry=registry.url, manifest=MANIFEST
        )
    number = None
    if published is None:
        here = [(parse_digest(blob.digest), blob.size) for blob in blobs]
        with spool.gathered(here) as folder:
            published, number = _publish(server, caller, row, folder, blobs, place)
    line = published
    if private:
        note_release(server, registry_at(place), line)
    _finish(server, caller, row, line, number)
    spool.remove()
    if not private:
        server.changed.add(row.module)
    return CommitAnswer(line=line, candidate=number)


def _publish(
    server: Server,
    caller: Caller,
    row: PublishingSession,
    folder: Path,
    blobs: list[DeclaredBlob],
    place: Place,
) -> tuple[IndexLine, int | None]:
    """Verify a release and publish it; return its line, and the number of a candidate."""
    line = line_of(row)
    tree, built = BlobTree(folder), Registry(str(folder))
    own = parse_digest(line.release)
    if not tree.has(own):  # it is in the registry: of a candidate, or of a publisher who was killed
        has_it = place.size(blob_path(own)) is not None
        tree.add(registry_at(place if has_it else server.place).blob(own, "the release record"))
    check_declared_record(tree.read(own, "the release record"), line, blobs)
    if place is server.private:
        add_readable(server, caller, built.record(line), tree)
    else:
        _add_registered(place, built.record(line), tree)
    if row.is_candidate:
        return _submit(place, caller, row, built)
    writer = RegistryWriter(place)
    writer.preview(built, line)
    check_version(place, built, line)
    is_new = claim_name(server, caller, row)
    try:
        bundle = row.options.get("bundle")
        published = writer.publish(
            built, line, now=now(), bundle=None if bundle is None else bundle.encode()
        )
    except ModpkgError:
        if is_new:
            disclaim(server, row.module)
        raise
    return published, None


def _add_registered(place: Place, record: ReleaseRecord, tree: BlobTree) -> None:
    """Add the files and interfaces that were not uploaded, since the registry has them."""
    for digest, what in blobs_of(record):
        if digest in record.packs or tree.has(digest):
            continue
        if isinstance(folder := bare_place(place), FolderPlace):
            tree.add_shared(folder.blobs, digest, what)
        else:
            tree.add_stream(place.source.stream(blob_path(digest)), digest, what, place.url)


def _submit(
    place: Place, caller: Caller, row: PublishingSession, built: Registry
) -> tuple[IndexLine, int]:
    """Make a release a candidate; return its line and number.

    Whether its version is high enough is for its reviewers to see, and for acceptance to check.
    """
    writer = CandidateWriter(place)
    bundle = row.options.get("bundle")
    one = writer.submit(
        built,
        line_of(row),
        by=caller.name,
        message=row.message,
        now=now(),
        bundle=None if bundle is None else bundle.encode(),
    )
    return one.line, one.number


def claim_name(server: Server, caller: Caller, row: PublishingSession) -> bool:
    """Give a new name to its publisher; return whether it was new.

    Raises:
        What `claim` raises.
    """
    popular = needed_names(server)
    try:
        with server.database.begin() as db:
            return claim(db, caller, server, row, popular)
    except (DatabaseRefused, PublishError):  # somebody else was first, at the same moment
        with server.database.begin() as db:
            return claim(db, caller, server, row, popular)


def claim(
    db: Session, caller: Caller, server: Server, row: PublishingSession, popular: Sequence[str]
) -> bool:
    """Give a new name to its publisher, or to his organisation; return whether it was new.

    ``popular`` are names that many modules need.

    Raises:
        AccessRefused, PublishError: It is not new any more, and not his; or the organisation is
            not his.
    """
    name = row.module
    private = is_private_session(db, row)
    if check_may_publish(db, caller, name, candidate=row.is_candidate) is not None:
        return False
    if is_taken(server, name):
        raise PublishError("M457", module=name)
    check_free_name(db, name, bool(row.options.get("confirm_name")), popular)
    owner = caller.account_id
    if wanted := row.options.get("owner"):
        owner = db.scalar(
            select(Account.id)
            .join(Membership, Membership.organisation_id == Account.id)
            .where(Account.name == wanted, Membership.person_id == caller.account_id)
        )
        if owner is None:
            raise AccessRefused(
                "M432", name=caller.name, action=f"publish as {wanted}", module=name
            )
    db.add(Module(name=name, is_private=private, created=now()))
    db.flush()
    db.add(Role(module=name, account_id=owner, role="owner"))
    return True


def disclaim(server: Server, name: str) -> None:
    """Take a name back that was given for a release which was not published after all."""
    if is_taken(server, name):
        return
    with suppress(DatabaseRefused), server.database.begin() as db:  # others refer to it by now
        module = db.get(Module, name)
        if module is None:
            return
        for role in db.scalars(select(Role).where(Role.module == name)):
            db.delete(role)
        end_role_offers(db, name)
        db.flush()
        db.delete(module)


def _finish(
    server: Server,
    caller: Caller,
    row: PublishingSession,
    line: IndexLine,
    number: int | None,
) -> None:
    """Note that a session is committed, and its event, once."""
    with server.database.begin() as db:
        done = db.execute(
            update(PublishingSession)
            .where(PublishingSession.id == row.id, PublishingSession.state == "open")
            .values(state="committed", line=canonical_json(line).decode(), number=number)
        )
        if done.rowcount:  # type: ignore[attr-defined]
            action = "submit" if row.is_candidate else "publish"
            details = {"release": line.release} | ({} if number is None else {"number": number})
            log_event(db, caller.name, action, row.module, row.version, **details)
            for blob in db.scalars(select(SessionBlob).where(SessionBlob.session_id == row.id)):
                db.delete(blob)
