"""The identity in a certificate of Fulcio: its issuer, and what that said of a job or a person.

The extensions are those of https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md. A
certificate is verified before it is read here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modpkg.core.errors import TrustError
from modpkg.core.oidc_identity import OidcIdentity, is_bounded, is_issuer, relative_repository

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_ARC = "1.3.6.1.4.1.57264.1"
_OLD_ISSUER, _OTHER_NAME, _ISSUER = 1, 7, 8
_REPOSITORY, _REF, _OWNER_ID, _BUILD_CONFIG = 12, 14, 17, 18


def identity_in(certificate: Certificate) -> OidcIdentity:
    """Return whom a certificate names.

    Raises:
        TrustError: It names nobody that a signer can be written for.
    """
    issuer = _text(certificate, _ISSUER) or _raw(certificate, _OLD_ISSUER).decode(
        "utf-8", "replace"
    )
    address, ref = _text(certificate, _REPOSITORY), _text(certificate, _REF)
    identity = OidcIdentity(
        issuer,
        repo=relative_repository(issuer, address),
        owner_id=_text(certificate, _OWNER_ID) if address else "",
        workflow=_workflow(address, ref, _text(certificate, _BUILD_CONFIG)),
        ref=ref,
        subject=_subject(certificate),
    )
    if not is_issuer(issuer) or not is_bounded(identity):
        raise TrustError("M541", reason="its certificate names an issuer or identity out of bounds")
    return identity


def _workflow(address: str, ref: str, build: str) -> str:
    """Return the path of a job's file in its repository; empty if it is not there, or not clear.

    GitHub writes ``ADDRESS/PATH@REF``, and GitLab two slashes. A ref and a path may have an ``@``,
    so that only the one before the job's own ref is sure to be between them.
    """
    start, end = f"{address}/", f"@{ref}"
    if not address or not ref or not build.startswith(start) or not build.endswith(end):
        return ""
    return build[len(start) : -len(end)].lstrip("/")


def _subject(certificate: Certificate) -> str:
    from cryptography.x509 import (
        OtherName,
        RFC822Name,
        SubjectAlternativeName,
        UniformResourceIdentifier,
    )

    names = [*certificate.extensions.get_extension_for_class(SubjectAlternativeName).value]
    if len(names) == 1:
        (name,) = names
        if isinstance(name, RFC822Name | UniformResourceIdentifier):
            return name.value
        if isinstance(name, OtherName) and name.type_id.dotted_string == f"{_ARC}.{_OTHER_NAME}":
            return _decoded(name.value)
    raise TrustError(
        "M541", reason="its certificate has none, several or other names than Fulcio's"
    )


def _text(certificate: Certificate, number: int) -> str:
    data = _raw(certificate, number)
    return _decoded(data) if data else ""


def _raw(certificate: Certificate, number: int) -> bytes:
    """Return the content of one of Fulcio's extensions; empty if there is none."""
    from cryptography.x509 import ExtensionNotFound, ObjectIdentifier, UnrecognizedExtension

    try:
        found = certificate.extensions.get_extension_for_oid(ObjectIdentifier(f"{_ARC}.{number}"))
    except ExtensionNotFound:
        return b""
    return found.value.value if isinstance(found.value, UnrecognizedExtension) else b""


def _decoded(data: bytes) -> str:
    """Return a UTF8String of DER."""
    from cryptography.hazmat import asn1

    return asn1.decode_der(str, data)
