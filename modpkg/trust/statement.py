"""What is signed: an in-toto Statement that names a release by its digest.

The form is that of https://in-toto.io/Statement/v1, and the predicate of a release has the shape of
SLSA's provenance (https://slsa.dev/provenance/v1): what it was built from, and by which version.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from modpkg.core.digests import Digest
from modpkg.core.errors import TrustError
from modpkg.core.oidc_identity import OidcIdentity
from modpkg.core.records import ReleaseRecord, canonical_json
from modpkg.trust.public_key import PublicKey

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SUCCESSION = "urn:modpkg:succession:v1"
"""The predicate by which a key names the one that signs in its place."""
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
    predicate: dict[str, Any] = {}


_DECODER = msgspec.json.Decoder(InTotoStatement)
"""Made before threads use it, as that of bundles is."""


def parse_statement(payload: bytes) -> InTotoStatement:
    """Return the statement in the payload of an envelope.

    Raises:
        TrustError: It is none.
    """
    try:
        statement = _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError("M541", reason=f"its statement is malformed: {error}") from None
    if statement.type != STATEMENT:
        raise TrustError("M541", reason=f"its statement is of the type {statement.type!r}")
    return statement


def release_name(name: str, version: str) -> str:
    """Return the subject of a release, as package URLs write it.

    >>> release_name("words", "1.0")
    'pkg:modpkg/words@1.0'
    """
    return f"pkg:modpkg/{name}@{version}"


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
    subject = InTotoSubject(
        release_name(record.name, record.version), {"sha256": release.removeprefix("sha256:")}
    )
    return canonical_json(
        InTotoStatement(subject=[subject], predicate_type=PROVENANCE, predicate=predicate)
    )


def is_about(statement: InTotoStatement, name: str, version: str, release: Digest) -> bool:
    """Return whether a statement is about a release: by name, version and digest."""
    wanted = InTotoSubject(release_name(name, version), {"sha256": release.removeprefix("sha256:")})
    return statement.predicate_type == PROVENANCE and statement.subject == [wanted]


def keys_of_module(name: str) -> str:
    """Return the subject of a succession of the keys that sign a module."""
    return f"pkg:modpkg/{name}"


def keys_of_log(origin: str) -> str:
    """Return the subject of a succession of the keys that sign a log."""
    return f"urn:modpkg:log:{origin}"


def succession_statement(subject: str, old: PublicKey, new: PublicKey | OidcIdentity) -> bytes:
    """Return the statement by which a key names its successor."""
    return canonical_json(
        InTotoStatement(
            subject=[InTotoSubject(subject, {"key": str(new)})],
            predicate_type=SUCCESSION,
            predicate={"successorOf": str(old)},
        )
    )


def successor_in(
    statement: InTotoStatement, subject: str, old: PublicKey | OidcIdentity
) -> str | None:
    """Return the signer that a statement of ``old`` names as the next one."""
    if statement.predicate_type != SUCCESSION or len(statement.subject) != 1:
        return None
    (named,) = statement.subject
    if named.name != subject or statement.predicate.get("successorOf") != str(old):
        return None
    return named.digest.get("key")
