"""Signatures as they lie in a registry: Sigstore bundles, with a DSSE envelope each.

DSSE (https://github.com/secure-systems-lab/dsse) signs the payload with its type, so that bytes
signed for one purpose are worth nothing for another. The bundle is the form of Sigstore's
``bundle.v0.3+json``; the key itself is its hint, or there is a certificate in the place of a key.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Protocol, runtime_checkable

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from modpkg.core.decoding import decoding_reason
from modpkg.core.errors import TrustError
from modpkg.core.oidc_identity import OidcIdentity
from modpkg.trust.public_key import PublicKey, parse_key
from modpkg.trust.sigstore_bundle import verify_certified
from modpkg.trust.statement import InTotoStatement, parse_statement

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class EnvelopeSignature(Struct, frozen=True):
    """One signature of an envelope."""

    sig: Annotated[str, Meta(max_length=10_000)]


class Envelope(Struct, frozen=True, rename="camel"):
    """A DSSE envelope."""

    payload: str
    payload_type: str
    signatures: Annotated[list[EnvelopeSignature], Meta(min_length=1, max_length=1)]


class KeyHint(Struct, frozen=True):
    """Which key verifies an envelope."""

    hint: Annotated[str, Meta(max_length=200)]


class VerificationMaterial(Struct, frozen=True, rename="camel"):
    """What a bundle is verified with: a key, or else a certificate and a log's entry of it.

    Those two are read in `modpkg.trust.sigstore_bundle`.
    """

    public_key: KeyHint | UnsetType = UNSET
    certificate: msgspec.Raw | UnsetType = UNSET
    tlog_entries: msgspec.Raw = msgspec.Raw(b"[]")


class Bundle(Struct, frozen=True, rename="camel"):
    """A Sigstore bundle of one signed statement."""

    verification_material: VerificationMaterial
    dsse_envelope: Envelope
    media_type: str = field(name="mediaType", default=MEDIA_TYPE)


class Signer(Protocol):
    """Something that signs: a key in a file, or in an agent."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes:
        """Return a signature that `PublicKey.verifies` accepts.

        Raises:
            TrustError: It cannot sign now.
        """
        ...


@runtime_checkable
class StatementSigner(Protocol):
    """Something that signs statements without a key that lasts."""

    def sign_statement(self, payload: bytes) -> bytes:
        """Return the bundle of a signed statement, as one line of JSON.

        Raises:
            TrustError: It cannot sign now.
        """
        ...


class Signed(Struct, frozen=True):
    """A statement, and who has signed it."""

    statement: InTotoStatement
    signer: PublicKey | OidcIdentity


_DECODER = msgspec.json.Decoder(Bundle)
"""Made before threads use it: msgspec may crash where several use a record for the first time."""


def signed_bytes(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return what DSSE signs of a payload (its "pre-authentication encoding").

    >>> signed_bytes(b"hello world", "http://example.com/HelloWorld")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    return b"DSSEv1 %d %s %d %s" % (
        len(payload_type.encode()),
        payload_type.encode(),
        len(payload),
        payload,
    )


def sign_statement(
    payload: bytes, signer: Signer | StatementSigner, *, hint: str | None = None
) -> bytes:
    """Return the bundle of a signed statement, as one line of JSON.

    ``hint`` is how the bundle says which key has signed; None for the key itself.

    Raises:
        TrustError: The signer cannot sign now.
    """
    if isinstance(signer, StatementSigner):
        return signer.sign_statement(payload)
    signature = signer.sign(signed_bytes(payload))
    envelope = Envelope(
        base64.b64encode(payload).decode(),
        PAYLOAD_TYPE,
        [EnvelopeSignature(base64.b64encode(signature).decode())],
    )
    bundle = Bundle(VerificationMaterial(KeyHint(hint or str(signer.public))), envelope)
    return msgspec.json.encode(bundle)


def verify_bundle(data: bytes) -> Signed:
    """Return the statement of a bundle, and who signed it.

    Raises:
        TrustError: It is malformed, or its signature is not that of its key or certificate.
        MissingExtra: It has a certificate, and Sigstore's client is not installed.
    """
    try:
        bundle = _DECODER.decode(data)
        payload = base64.b64decode(bundle.dsse_envelope.payload, validate=True)
        signature = base64.b64decode(bundle.dsse_envelope.signatures[0].sig, validate=True)
    except (msgspec.MsgspecError, ValueError, binascii.Error, RecursionError) as error:
        raise TrustError("M541", reason=f"it is malformed: {decoding_reason(error)}") from None
    if bundle.media_type != MEDIA_TYPE:
        raise TrustError("M541", reason=f"it is of the type {bundle.media_type!r}")
    if bundle.dsse_envelope.payload_type != PAYLOAD_TYPE:
        reason = f"it signs {bundle.dsse_envelope.payload_type!r}, which is no statement"
        raise TrustError("M541", reason=reason)
    material = bundle.verification_material
    if material.public_key is UNSET:
        certified = verify_certified(data)
        if certified.payload_type != PAYLOAD_TYPE:  # as another parser than ours reads it
            raise TrustError("M541", reason=f"it signs {certified.payload_type!r}")
        return Signed(parse_statement(certified.payload), certified.identity)
    if material.certificate is not UNSET:
        raise TrustError("M541", reason="it names a key, and has a certificate too")
    key = parse_key(material.public_key.hint)
    if not key.verifies(signature, signed_bytes(payload)):
        raise TrustError("M541", reason=f"its signature is not one of {key}")
    return Signed(parse_statement(payload), key)
