"""Public keys: who signed. A signer is written as its whole key, so no key has to be looked up.

`key:ed25519:` or `key:ecdsa-p256:`, and the key in base64: 32 bytes, or the 33 of a compressed
point (SEC 1, section 2.3.3).
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from modpkg.core.errors import TrustError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Algorithm = Literal["ed25519", "ecdsa-p256"]
SIZES: dict[str, int] = {"ed25519": 32, "ecdsa-p256": 33}
_SCHEME = "key"


class PublicKey(Struct, frozen=True):
    """A public key.

    >>> str(PublicKey("ed25519", bytes(32)))
    'key:ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='
    """

    algorithm: Algorithm
    data: bytes
    """As long as `SIZES` says."""

    def __str__(self) -> str:
        return f"{_SCHEME}:{self.algorithm}:{base64.b64encode(self.data).decode()}"

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether this key made a signature of a message.

        ECDSA is over SHA-256, and its signature in DER.
        """
        from cryptography.exceptions import InvalidSignature

        try:
            if self.algorithm == "ed25519":
                _ed25519(self).verify(signature, message)
            else:
                from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # slow to import
                from cryptography.hazmat.primitives.hashes import SHA256

                self._ecdsa().verify(signature, message, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    def pem(self) -> bytes:
        """Return the key in PEM, as other tools read it.

        Raises:
            TrustError: The bytes are no key.
        """
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self.opened().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def opened(self) -> Ed25519PublicKey | EllipticCurvePublicKey:
        """Return the key as `cryptography` has it.

        Raises:
            TrustError: The bytes are no key.
        """
        return _ed25519(self) if self.algorithm == "ed25519" else self._ecdsa()

    def _ecdsa(self) -> EllipticCurvePublicKey:
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

        try:
            return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), self.data)
        except ValueError:
            raise TrustError("M540", text=str(self)) from None


@lru_cache(maxsize=64)
def _ed25519(key: PublicKey) -> Ed25519PublicKey:
    """Return a key as `cryptography` has it: mostly, one key has signed all that is verified.

    Raises:
        TrustError: The bytes are no key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return Ed25519PublicKey.from_public_bytes(key.data)
    except ValueError:
        raise TrustError("M540", text=str(key)) from None


def parse_key(text: str) -> PublicKey:
    """Return the key that a text writes.

    Raises:
        TrustError: It writes none.
    """
    scheme, _, rest = text.partition(":")
    algorithm, _, encoded = rest.partition(":")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        data = b""
    known: dict[str, Algorithm] = {"ed25519": "ed25519", "ecdsa-p256": "ecdsa-p256"}
    if scheme != _SCHEME or algorithm not in known or len(data) != SIZES[algorithm]:
        raise TrustError("M540", text=text)
    key = PublicKey(known[algorithm], data)
    if str(key) != text:  # base64 can end in bits that say nothing
        raise TrustError("M540", text=text)
    return key
