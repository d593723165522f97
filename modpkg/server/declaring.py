"""Declaring a release: what can be refused before its bytes are here is refused then."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes, parse_digest
from modpkg.core.errors import (
    AccessRefused,
    NotFound,
    PublishError,
    RecordError,
)
from modpkg.core.filenames import MANIFEST
from modpkg.core.names import check_requirements, module_name, parse_version
from modpkg.core.records import (
    SHARED_FIELDS,
    IndexLine,
    ReleaseRecord,
    canonical_json,
    decode_record,
)
from modpkg.core.tensors import byte_length
from modpkg.registry.candidates import read_candidates
from modpkg.registry.missing import no_such_module
from modpkg.registry.place import registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.session_records import (
    DeclaredBlob,
    MissingBlob,
    SessionAnswer,
    SessionRequest,
    blob_upload_path,
)
from modpkg.registry.standing import check_free
from modpkg.registry.writer import RegistryWriter
from modpkg.release.places import labelled_entries
from modpkg.release.verify import check_record
from modpkg.server.account_bytes import check_account, check_limit
from modpkg.server.callers import Caller
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.new_names import check_free_name, needed_names
from modpkg.server.owners import check_owner
from modpkg.server.private_publishing import (
    blobs_there,
    check_public_needs,
    is_private_release,
)
from modpkg.server.rights import check_right
from modpkg.server.sent_bundles import check_bundle
from modpkg.server.spool import DIRECT_BYTES, Spool, spool_of
from modpkg.server.state import Server
from modpkg.server.tables import Module, PublishingSession, SessionBlob

_AT_ONCE = 16
"""Blobs that an object store is asked for at the same time."""


def declare(server: Server, caller: Caller, request: SessionRequest) -> SessionAnswer:
    """Begin a publishing session, or return the one that there is for the same release.

    Raises:
        AccessRefused: The caller may not publish this module.
        InvalidValue, RecordError, IntegrityError: What is declared is malformed.
        PublishError: It would not be published in the end.
        NotFound: A candidate is of no module that is known.
    """
    line = plain_line(request.line)
    check_declared(server, caller, request, line)
    with server.database.begin() as db:
        known = check_may_publish(db, caller, line.name, candidate=request.candidate)
        if known is not None and request.owner:
            check_owner(db, line.name, request.owner)
        private = is_private_release(db, line.name, wanted=request.private)
        if not private:
            check_public_needs(db, caller, line)
    registry = registry_at(server.place_of(private=private))
    if (published := release_there(registry, line)) is not None and not request.candidate:
        if request.bundle is not None:
            published = add_signature(server, caller, published, request.bundle, private=private)
        return SessionAnswer(id="", state="committed", line=published)
    if request.candidate:
        check_open_candidates(server, caller, registry, line)
    popular = needed_names(server) if known is None else ()
    with server.database.begin() as db:
        check_name(db, server, line.name, request, popular)
        row = _open_session(db, caller, line, candidate=request.candidate)
        if row is None:
            row = _begin(db, server, caller, request, line)
        elif request.bundle is not None:
            row.options = {**row.options, "bundle": request.bundle}
        session = row.id
    if request.record is not None:
        spool_of(server.place, session).add(request.record.encode())
    return answer_of(server, caller, session)


def check_open_candidates(
    server: Server, caller: Caller, registry: Registry, line: IndexLine
) -> None:
    """Check that an account has not too many open candidates of a module, beside this one.

    Raises:
        PublishError: It has.
    """
    count = 1 + sum(
        one.by == caller.name and one.status == "open" and one.line.release != line.release
        for one in read_candidates(registry, line.name)
    )
    most = server.settings.limits.open_candidates
    if count > most:
        what = f"what {caller.name} proposes of {line.name}"
        raise PublishError("M451", what=what, count=count, unit="open candidates", most=most)


def plain_line(line: IndexLine) -> IndexLine:
    """Return an index line without what a registry says in it."""
    fields = {name: getattr(line, name) for name in (*SHARED_FIELDS, "release")}
    return IndexLine(**fields)


def check_declared(
    server: Server, caller: Caller, request: SessionRequest, line: IndexLine
) -> None:
    """Check what is declared by itself, and against the limits.

    Raises:
        What `declare` raises for it.
    """
    if module_name(line.name) != line.name:
        raise RecordError(
            "M209",
            what="the declared line",
            kind="index line",
            reason=f"{line.name!r} is not in normal form",
            remedy="build it again",
        )
    parse_version(line.version)
    check_requirements(line.requires)
    for group in line.extras.values():
        check_requirements(group)
    limits, blobs = server.settings.limits, request.blobs
    check_limit("the release", "blobs", len(blobs), limits.release_blobs)
    total = sum(blob.size for blob in blobs)
    check_limit("the release", "bytes", total, limits.release_bytes)
    names = {blob.digest for blob in blobs}
    if len(names) < len(blobs):
        raise PublishError("M452", module=line.name, version=line.version, reason="a blob is twice")
    if line.release not in names and request.record is None:
        raise PublishError(
            "M452", module=line.name, version=line.version, reason="its record is not among them"
        )
    if request.record is not None:
        check_declared_record(request.record.encode(), line, blobs)
    if request.bundle is not None:
        check_bundle(request.bundle, line)


def check_declared_record(data: bytes, line: IndexLine, blobs: Iterable[DeclaredBlob]) -> None:
    """Check that a record is the one of the line, and names the declared blobs.

    Raises:
        PublishError, RecordError: It is not.
    """

    def refuse(reason: str) -> PublishError:
        return PublishError("M452", module=line.name, version=line.version, reason=reason)

    if digest_bytes(data) != line.release:
        raise refuse("the record has another digest than the line names")
    record = decode_record(data, ReleaseRecord, f"the release record of {line.name}")
    check_record(record)
    check_decoding(record)
    for field in SHARED_FIELDS:
        if getattr(record, field) != getattr(line, field):
            raise refuse(f"record and line differ in {field!r}")
    sizes = {entry.digest: entry.size for entry in record.files.values()} | record.packs
    named = {digest for digest, _ in blobs_of(record)} | {line.release}
    for blob in blobs:
        if blob.digest not in named:
            raise refuse(f"the record does not name the blob {blob.digest}")
        if sizes.get(blob.digest, blob.size) != blob.size:
            raise refuse(f"the record gives the blob {blob.digest} another size")


def add_signature(
    server: Server, caller: Caller, line: IndexLine, bundle: str, *, private: bool
) -> IndexLine:
    """Add a signature to a release that is published, and return its line.

    Raises:
        PublishError: It has as many as it may have.
    """
    place = server.place_of(private=private)
    signed = RegistryWriter(place).sign(line, [bundle.encode()])
    with server.database.begin() as db:
        log_event(db, caller.name, "sign", line.name, line.version, release=line.release)
    return signed


def check_decoding(record: ReleaseRecord) -> None:
    """Check how large the tensors are that an upload has as changes: each is decoded in memory.

    Raises:
        PublishError: One is too large.
    """
    entries = [entry for _, entry in labelled_entries(record)]
    sizes = [byte_length(entry) for entry in entries if entry.encoding is not None]
    largest, most = max(sizes, default=0), bounds.DECODED_TENSOR_BYTES
    check_limit("the largest change of a tensor", "bytes", largest, most)


def check_may_publish(db: Session, caller: Caller, name: str, *, candidate: bool) -> Module | None:
    """Check that a caller may publish a module, or submit a candidate of it; return its row.

    Raises:
        AccessRefused: He may not.
        PublishError: It is archived.
    """
    action = "submit" if candidate else "publish"
    module = db.get(Module, name)
    if module is not None:
        check_right(db, caller, action, name)
        if module.archived is not None:
            raise PublishError("M453", module=name, reason=module.archived or "no reason given")
        return module
    if not caller.is_known:
        raise AccessRefused("M431", action=action, module=name)
    if not caller.reaches(action, name):
        raise AccessRefused("M432", name=caller.name, action=action, module=name)
    return None


def check_name(
    db: Session, server: Server, name: str, request: SessionRequest, popular: Sequence[str]
) -> None:
    """Check a name that nobody has a right to yet.

    Raises:
        PublishError: It has releases, of which it is not known whose they are; or it looks like
            another name.
        NotFound: It has none, so that there can be no candidate of it.
    """
    if db.get(Module, name) is not None:
        return
    if is_taken(server, name):
        raise PublishError("M457", module=name)
    if request.candidate:
        raise no_such_module(name, server.registry())
    check_free_name(db, name, request.confirm_name, popular)


def is_taken(server: Server, name: str) -> bool:
    """Return whether the storage has releases of a name, public or private ones."""
    places = [place for place in (server.place, server.private) if place is not None]
    return any(has_index(registry_at(place), name) for place in places)


def has_index(registry: Registry, name: str) -> bool:
    """Return whether the storage has releases of a name."""
    try:
        return bool(registry.index(name)) or registry.knows(name)
    except NotFound:
        return False


def release_there(registry: Registry, line: IndexLine) -> IndexLine | None:
    """Return the index line of a release that is published.

    Raises:
        PublishError: Another release of the version is, or it was removed.
    """
    try:
        lines = registry.index(line.name)
    except NotFound:
        return None
    check_free(line, lines, registry.url)
    for existing in lines:
        if parse_version(existing.version) == parse_version(line.version):
            if existing.release == line.release:
                return existing
            raise PublishError(
                "M307",
                name=line.name,
                version=line.version,
                registry=registry.url,
                manifest=MANIFEST,
            )
    return None


def _open_session(
    db: Session, caller: Caller, line: IndexLine, *, candidate: bool
) -> PublishingSession | None:
    rows = select(PublishingSession).where(
        PublishingSession.account_id == caller.account_id,
        PublishingSession.release == line.release,
        PublishingSession.line == canonical_json(line).decode(),
        PublishingSession.is_candidate == candidate,
        PublishingSession.state == "open",
        PublishingSession.expires > now(),
    )
    return db.scalar(rows.limit(1))


def _begin(
    db: Session, server: Server, caller: Caller, request: SessionRequest, line: IndexLine
) -> PublishingSession:
    limits, total = server.settings.limits, sum(blob.size for blob in request.blobs)
    check_account(db, caller, limits, total)
    moment = now()
    row = PublishingSession(
        id=secrets.token_urlsafe(24),
        account_id=caller.account_id,
        module=line.name,
        version=line.version,
        release=line.release,
        line=canonical_json(line).decode(),
        size=total,
        is_candidate=request.candidate,
        message=request.message,
        options={
            "bundle": request.bundle,
            "private": request.private,
            "owner": request.owner,
            "confirm_name": request.confirm_name,
        },
        created=moment,
        expires=moment + datetime.timedelta(seconds=limits.session_seconds),
        state="open",
    )
    db.add(row)
    db.flush()
    blobs = {blob.digest: blob.size for blob in request.blobs}
    if request.record is not None:
        blobs[line.release] = len(request.record.encode())
    db.add_all(SessionBlob(session_id=row.id, digest=d, size=size) for d, size in blobs.items())
    return row


def own_session(db: Session, caller: Caller, session: str) -> PublishingSession:
    """Return a session of the caller.

    Raises:
        NotFound: He has none of this id, or none any more.
    """
    row = db.get(PublishingSession, session) if session.isascii() else None
    gone = row is None or row.account_id != caller.account_id or not _reaches(caller, row)
    if row is None or gone or (row.state == "open" and row.expires <= now()):
        raise NotFound("M450", id=session)
    return row


def _reaches(caller: Caller, row: PublishingSession) -> bool:
    """Return whether the token of whoever asks is for a session of his."""
    return caller.reaches("submit" if row.is_candidate else "publish", row.module)


def line_of(row: PublishingSession) -> IndexLine:
    """Return the index line that a session declares."""
    return msgspec.json.decode(row.line, type=IndexLine)


def answer_of(server: Server, caller: Caller, session: str) -> SessionAnswer:
    """Return a session as it is now.

    Raises:
        NotFound: The caller has none of this id.
    """
    with server.database.begin() as db:
        row = own_session(db, caller, session)
        private = is_private_session(db, row)
        blobs = list(db.scalars(select(SessionBlob).where(SessionBlob.session_id == session)))
    expires = row.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
    if row.state == "committed":
        return SessionAnswer(id=session, state="committed", line=line_of(row), candidate=row.number)
    declared = [DeclaredBlob(blob.digest, blob.size) for blob in blobs]
    spool = spool_of(server.place, session)
    missing = [
        MissingBlob(
            digest=blob.digest,
            size=blob.size,
            url=address or server.settings.api + blob_upload_path(session, digest),
            offset=spool.size(digest),
            direct=address is not None,
        )
        for blob in missing_blobs(server, caller, spool, declared, private=private)
        for digest in [parse_digest(blob.digest)]
        for address in [spool.address(digest) if blob.size <= DIRECT_BYTES else None]
    ]
    return SessionAnswer(id=session, state="open", expires=expires, missing=missing)


def is_private_session(db: Session, row: PublishingSession) -> bool:
    """Return whether a session is of a private module; see `is_private_release`."""
    return is_private_release(db, row.module, wanted=bool(row.options.get("private")))


def missing_blobs(
    server: Server,
    caller: Caller,
    spool: Spool,
    declared: Iterable[DeclaredBlob],
    *,
    private: bool,
) -> list[DeclaredBlob]:
    """Return the blobs that the session lacks and the registry too, for this release."""
    blobs = list(declared)
    find = blobs_there(server, caller, [blob.digest for blob in blobs], private=private)

    def is_missing(blob: DeclaredBlob) -> bool:
        digest = parse_digest(blob.digest)
        return find(digest, blob.size) is None and not spool.has(digest, blob.size)

    if server.place.folder is not None or len(blobs) < 2:
        return [blob for blob in blobs if is_missing(blob)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [
            blob for blob, lacks in zip(blobs, pool.map(is_missing, blobs), strict=True) if lacks
        ]
