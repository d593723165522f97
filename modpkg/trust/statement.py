"""What is signed: an in-toto Statement that names a release by its digest.

The form is that of https://in-toto.io/Statement/v1, and the predicate of a release has the shape of
SLSA's provenance (https://slsa.dev/provenance/v1): what it was built from, and by which version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta, Struct, field

from modpkg.core import bounds
from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import TrustError
from modpkg.core.oidc_identity import OidcIdentity
from modpkg.core.records import Line, ReleaseRecord, canonical_json
from modpkg.trust.public_key import PublicKey

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SUCCESSION = "urn:modpkg:succession:v1"
"""The predicate by which a signer names the one that signs in its place."""
YANK = "urn:modpkg:yank:v1"
"""The predicate by which a signer yanks a release, or undoes that."""
BUILD = "urn:modpkg:build:v1"
_SUBJECTS = 16


class InTotoSubject(Struct, frozen=True):
    """What a statement is about."""

    name: Annotated[str, Meta(max_length=300)]
    digest: dict[str, Annotated[str, Meta(max_length=200)]]


class InTotoStatement(Struct, frozen=True, kw_only=True):
    """An in-toto Statement; other fields that it may have are ignored."""

    type: str = field(name="_type", default=STATEMENT)
    subject: Annotated[list[InTotoSubject], Meta(min_length=1, max_length=_SUBJECTS)]
    predicate_type: str = field(name="predicateType")
    predicate: dict[str, Any] | msgspec.Raw = {}
    """Its JSON where it was read: strangers write it, and of most kinds nothing in it is needed."""


class _ReadStatement(InTotoStatement, frozen=True, kw_only=True):
    """The same as it is read."""

    predicate: msgspec.Raw = msgspec.Raw(b"{}")


class _Succession(Struct, frozen=True):
    """What a signer says of who signs in its place."""

    successor: str
    releases: msgspec.Raw = msgspec.Raw(b"[]")


_Releases = Annotated[list[InTotoSubject], Meta(max_length=bounds.SUCCEEDED_RELEASES)]


class SaidYank(Struct, frozen=True):
    """What a signer says of whether a release is yanked."""

    number: Annotated[int, Meta(ge=1, le=bounds.SIGNATURES)]
    """The largest one of a release counts."""
    yanked: Line | None
    """The reason; None for not, or not any more."""


_DECODER = msgspec.json.Decoder(_ReadStatement)
"""Made before threads use it, as that of bundles is; so are the next ones."""
_SAID_YANK = msgspec.json.Decoder(SaidYank)
_SUCCESSIONS = msgspec.json.Decoder(_Succession)
_RELEASES = msgspec.json.Decoder(_Releases)
T = TypeVar("T")


def parse_statement(payload: bytes) -> InTotoStatement:
    """Return the statement in the payload of an envelope.

    Raises:
        TrustError: It is none.
    """
    try:
        statement = _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(
            "M541", reason=f"its statement is malformed: {decoding_reason(error)}"
        ) from None
    if statement.type != STATEMENT:
        raise TrustError("M541", reason=f"its statement is of the type {statement.type!r}")
    if not bytes(statement.predicate).startswith(b"{"):
        raise TrustError("M541", reason="its statement is malformed: its predicate is no object")
    return statement


def _predicate(statement: InTotoStatement, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Return what the predicate of a statement that was read says; None if it is malformed."""
    try:
        return decoder.decode(cast(msgspec.Raw, statement.predicate))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def release_name(name: str, version: str) -> str:
    """Return the subject of a release, as package URLs write it.

    >>> release_name("words", "1.0")
    'pkg:modpkg/words@1.0'
    """
    return f"pkg:modpkg/{name}@{version}"


def release_subject(name: str, version: str, release: Digest) -> InTotoSubject:
    """Return a release as a statement names it."""
    return InTotoSubject(release_name(name, version), {"sha256": release.removeprefix("sha256:")})


def release_statement(record: ReleaseRecord, release: Digest, modpkg: str) -> bytes:
    """Return the statement about a release that whoever publishes it signs.

    Args:
        record: The release's record.
        release: The digest of the record.
        modpkg: The version of modpkg that makes it.
    """
    provenance = msgspec.to_builtins(record.provenance)
    predicate = {
        "buildDefinition": {
            "buildType": BUILD,
            "externalParameters": {"manifest": record.manifest},
            "internalParameters": {"provenance": provenance},
            "resolvedDependencies": [
                {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
                for name, digest in sorted(record.expects.items())
            ],
        },
        "runDetails": {"builder": {"id": BUILD, "version": {"modpkg": modpkg}}},
    }
    subject = release_subject(record.name, record.version, release)
    return canonical_json(
        InTotoStatement(subject=[subject], predicate_type=PROVENANCE, predicate=predicate)
    )


def is_about(statement: InTotoStatement, name: str, version: str, release: Digest) -> bool:
    """Return whether a statement is about a release: by name, version and digest."""
    wanted = [release_subject(name, version, release)]
    return statement.predicate_type == PROVENANCE and statement.subject == wanted


def keys_of_module(name: str) -> str:
    """Return the subject of a succession of the keys that sign a module."""
    return f"pkg:modpkg/{name}"


def keys_of_log(origin: str) -> str:
    """Return the subject of a succession of the keys that sign a log."""
    return f"urn:modpkg:log:{origin}"


def succession_statement(
    subject: str, new: PublicKey | OidcIdentity, releases: Iterable[InTotoSubject] = ()
) -> bytes:
    """Return the statement by which a signer names its successor.

    ``releases`` are those of a module that it has signed so far: it signs no other ones.
    """
    return canonical_json(
        InTotoStatement(
            subject=[_successor_subject(subject, str(new))],
            predicate_type=SUCCESSION,
            predicate={"successor": str(new), "releases": msgspec.to_builtins([*releases])},
        )
    )


def _successor_subject(subject: str, new: str) -> InTotoSubject:
    """Return the subject of such a statement: other readers of statements allow hashes alone."""
    return InTotoSubject(subject, {"sha256": digest_bytes(new.encode()).removeprefix("sha256:")})


def successor_in(statement: InTotoStatement, subject: str) -> str | None:
    """Return the signer that a statement names as the next one."""
    if statement.predicate_type != SUCCESSION:
        return None
    said = _predicate(statement, _SUCCESSIONS)
    if said is None or statement.subject != [_successor_subject(subject, said.successor)]:
        return None
    return said.successor


def releases_in(statement: InTotoStatement) -> list[InTotoSubject]:
    """Return the releases that a statement about a successor names; a malformed list has none."""
    said = _predicate(statement, _SUCCESSIONS)
    try:
        return [] if said is None else _RELEASES.decode(said.releases)
    except msgspec.MsgspecError:
        return []


def yank_statement(
    name: str, version: str, release: Digest, reason: str | None, number: int
) -> bytes:
    """Return the statement that a release is yanked with a reason, or with None that it is not.

    ``number`` is larger than that of any statement before it.
    """
    return canonical_json(
        InTotoStatement(
            subject=[release_subject(name, version, release)],
            predicate_type=YANK,
            predicate=msgspec.to_builtins(SaidYank(number, reason)),
        )
    )


def yank_in(
    statement: InTotoStatement, name: str, version: str, release: Digest
) -> SaidYank | None:
    """Return what a statement says of whether a release is yanked; None if it does not."""
    wanted = [release_subject(name, version, release)]
    if statement.predicate_type != YANK or statement.subject != wanted:
        return None
    return _predicate(statement, _SAID_YANK)
