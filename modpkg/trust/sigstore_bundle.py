"""Bundles with a certificate: signed by an OpenID Connect identity, and in a transparency log.

Sigstore's own client verifies them (https://docs.sigstore.dev/about/security/): the certificate is
one of a trusted authority, and in a certificate log; the log's entry is of this envelope, is proved
to be in the log, and was made while the certificate was valid. The authorities are those of the
public Sigstore, as its client has them (its cache, else the copy that it is installed with, without
any request), or those of a file that ``[sigstore] trust-config`` in config.toml names.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.errors import ModpkgError, TrustError
from modpkg.core.extras import import_extra
from modpkg.core.files import shown
from modpkg.core.home import config_path
from modpkg.core.oidc_identity import OidcIdentity
from modpkg.core.regular_file import read_file
from modpkg.manifest.config import read_settings
from modpkg.trust.certificate import identity_in

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import ClientTrustConfig
    from sigstore.verify import Verifier

PUBLIC_SIGSTORE = b""
"""In the place of a file's content: the public Sigstore."""
WHAT = "A signature of an OpenID Connect identity"
_ROOT_TYPE = "application/vnd.dev.sigstore.trustedroot"
_LOADING = Lock()
"""Threads that import Sigstore's client at once could see half of it."""
_REASONS = (
    ("failed to build timestamp certificate chain", "its certificate is of no trusted authority, "
     "or was not valid when the log took its entry"),
    ("failed to verify SCT", "its certificate is in no trusted certificate log"),
    ("invalid log entry", "its entry is not one of a trusted transparency log"),
    ("invalid signing cert", "its certificate was not valid when the log took its entry"),
    ("log entry", "its entry in the transparency log is of something else"),
    ("transparency log entry", "its entry in the transparency log is of something else"),
    ("DSSE: ", "its signature is not one of its certificate's key"),
)  # fmt: skip
"""What Sigstore's client says of a bundle, by how it begins, and what that means."""


class CertifiedPayload(Struct, frozen=True):
    """What a verified bundle has: signed bytes, and who signed them."""

    payload_type: str
    payload: bytes
    identity: OidcIdentity


class _AnyIdentity:
    """A policy of Sigstore's client that holds for all: who may sign is decided later, by name."""

    def verify(self, cert: Certificate) -> None:
        pass


def verify_certified(data: bytes) -> CertifiedPayload:
    """Return what a bundle with a certificate signs, and who has signed it.

    Raises:
        MissingExtra: Sigstore's client is not installed.
        TrustError: The bundle counts for nothing, or ``trust-config`` cannot be read.
        ManifestError: config.toml is invalid.
    """
    with _LOADING:
        verifier = _verifier(trust_config())
    from sigstore.models import Bundle

    try:
        bundle = Bundle.from_json(data)
        payload_type, payload = verifier.verify_dsse(bundle, _AnyIdentity())
        identity = identity_in(bundle.signing_certificate)
    except ModpkgError:
        raise
    except Exception as error:  # what a stranger wrote can make its parsers fail in any way
        raise TrustError("M541", reason=_reason(error)) from None
    return CertifiedPayload(payload_type, payload, identity)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    for beginning, reason in _REASONS:
        if text.startswith(beginning):
            return reason
    return f"Sigstore's client refuses it ({text[:200] or type(error).__name__})"


def trust_config() -> bytes:
    """Return the content of the user's ``trust-config``; `PUBLIC_SIGSTORE` if there is none.

    Raises:
        TrustError: It cannot be read.
        ManifestError: config.toml is invalid.
    """
    path = read_settings().trust_config
    if path is None:
        return PUBLIC_SIGSTORE
    try:
        return read_file(path, bounds.TRUST_CONFIG_BYTES) or b" "
    except OSError as error:
        raise _unusable(error.strerror or str(error)) from None


@lru_cache(maxsize=4)
def _verifier(content: bytes) -> Verifier:
    """Return Sigstore's verifier, which is made once for a command.

    Raises:
        MissingExtra: Its client is not installed.
        TrustError: There is nothing in the file that it can use.
    """
    import_extra("sigstore", what=WHAT, extra="sigstore")
    from sigstore.errors import MetadataError
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier
    from sigstore_models.trustroot.v1 import TrustedRoot as RootRecord

    if content != PUBLIC_SIGSTORE and _media_type(content).startswith(_ROOT_TYPE):
        try:
            root = TrustedRoot(RootRecord.from_json(content))
        except Exception as error:  # as above
            raise _unusable(str(error)) from None
    else:
        root = client_config(content, offline=True).trusted_root
    try:
        return Verifier(trusted_root=root)
    except MetadataError:
        reason = "no authority in it is valid yet by the clock of this machine"
        raise _unusable(reason) from None
    except Exception as error:  # as above
        raise _unusable(str(error)) from None


def client_config(content: bytes, *, offline: bool) -> ClientTrustConfig:
    """Return what Sigstore's client trusts and signs with.

    Args:
        content: Of the file that ``trust-config`` names, or `PUBLIC_SIGSTORE`.
        offline: Whether the public one's is taken as it is here, and not asked for again.

    Raises:
        MissingExtra: Its client is not installed.
        TrustError: There is nothing in the file that it can use.
    """
    import_extra("sigstore", what=WHAT, extra="sigstore")
    from sigstore.models import ClientTrustConfig

    # It logs a warning whenever it asks nobody, which nobody could do anything about.
    logging.getLogger("sigstore").addHandler(logging.NullHandler())
    if content == PUBLIC_SIGSTORE:
        try:
            return ClientTrustConfig.production(offline=offline)
        except OSError as error:  # its cache is in the user's folders, which may be read-only
            raise _unusable(str(error)) from None
    if _media_type(content).startswith(_ROOT_TYPE):
        raise _unusable("it has a trusted root only, and signing needs a client trust config")
    try:
        return ClientTrustConfig.from_json(content.decode())
    except Exception as error:  # as above
        raise _unusable(str(error)) from None


def _media_type(content: bytes) -> str:
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _unusable(str(error)) from None
    return str(document.get("mediaType", "")) if isinstance(document, dict) else ""


def _unusable(reason: str) -> TrustError:
    path = read_settings().trust_config
    return TrustError(
        "M591",
        path="Sigstore's own trust config" if path is None else shown(path),
        reason=" ".join(reason.split())[:300],
        config=shown(config_path()),
    )
