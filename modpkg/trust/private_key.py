"""Private keys in files: PKCS #8 in PEM, which other tools read too, with a passphrase or without.

They lie in the folder ``keys`` of modpkg's home, readable by their owner alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modpkg.core import system
from modpkg.core.errors import TrustError
from modpkg.core.files import shown, write_atomically
from modpkg.core.home import home
from modpkg.core.ownership import check_owner
from modpkg.core.regular_file import read_file
from modpkg.trust.public_key import Algorithm, PublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSPHRASE = "MODPKG_KEY_PASSPHRASE"  # noqa: S105 (the name of a variable)
_KEY_BYTES = 64 << 10
_PUBLIC = (
    b"ssh-",
    b"ecdsa-sha2-",
    b"sk-",
    b"key:",
    b"-----BEGIN PUBLIC KEY",
    b"---- BEGIN SSH2 PUBLIC",
)
"""How the files of public keys begin."""


class PrivateKey:
    """A private key, to sign with."""

    def __init__(self, key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> None:
        self._key = key

    @property
    def public(self) -> PublicKey:
        return public_key_of(self._key.public_key())

    def sign(self, message: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256

        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, ECDSA(SHA256()))


def public_key_of(key: object) -> PublicKey:
    """Return a public key of `cryptography`.

    Raises:
        TrustError: It is of another kind than Ed25519 and ECDSA on P-256.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(key, Ed25519PublicKey):
        return PublicKey("ed25519", key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        return PublicKey("ecdsa-p256", point)
    raise TrustError("M547", what="a public key", reason="it is neither Ed25519 nor ECDSA P-256")


def keys_folder() -> Path:
    """Return the folder of this user's keys."""
    return home() / "keys"


def key_path(name: str) -> Path:
    """Return the path of a key: a name in `keys_folder`, or the path of a file.

    >>> key_path("release").name
    'release.pem'
    """
    return Path(name) if os.sep in name or name.endswith(".pem") else keys_folder() / f"{name}.pem"


def no_key(path: Path) -> TrustError:
    """Return the error for a key that is not there: one of this user's, or a file."""
    name = path.stem if path.parent == keys_folder() else str(path)
    remedy = "if it is lost, put its back-up there"
    if path.parent == keys_folder() or path.suffix == ".pem":
        remedy += f", make a new one (modpkg key new {system.shell_word(name)})"
    return TrustError("M549", path=shown(path), remedy=remedy)


def new_key(path: Path, algorithm: Algorithm, passphrase: str | None) -> PublicKey:
    """Write a new private key, and return its public one.

    Raises:
        TrustError: There is a key already.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    if path.exists():
        raise TrustError("M548", path=shown(path))
    key = (
        ed25519.Ed25519PrivateKey.generate()
        if algorithm == "ed25519"
        else ec.generate_private_key(ec.SECP256R1())
    )
    how = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, data, mode=0o600)
    return PrivateKey(key).public


def read_key(path: Path, passphrase: Callable[[], str]) -> PrivateKey:
    """Return the private key in a file.

    Args:
        path: The file.
        passphrase: Returns its passphrase; asked only if it has one.

    Raises:
        TrustError: There is none, it is of another kind, or the passphrase is wrong.
        InstallError: It belongs to somebody else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        load_pem_private_key,
        load_ssh_private_key,
    )

    try:
        data = read_file(path, _KEY_BYTES)
    except FileNotFoundError:
        raise no_key(path) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise TrustError("M547", what=shown(path), reason=reason) from None
    if data.startswith(_PUBLIC):
        reason = "it is a public key; name the file of the private one"
        raise TrustError("M547", what=shown(path), reason=reason)
    check_owner(path)
    if system.others_can_read(path.stat().st_mode):
        reason = f"others can read it; run: chmod 600 {system.shell_word(str(path))}"
        raise TrustError("M547", what=shown(path), reason=reason)
    load = load_ssh_private_key if b"BEGIN OPENSSH" in data else load_pem_private_key
    reason = "it is no private key (PKCS #8, or OpenSSH's form), or was damaged"
    try:
        try:
            key = load(data, None)
        except TypeError:  # it has a passphrase
            reason = "its passphrase is another, or it was damaged"
            key = load(data, passphrase().encode())
    except (ValueError, TypeError) as error:
        raise TrustError("M547", what=shown(path), reason=reason) from error
    except UnsupportedAlgorithm as error:
        reason = "it is encrypted, or of a kind, as modpkg does not read"
        raise TrustError("M547", what=shown(path), reason=reason) from error
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        reason = "it is neither Ed25519 nor ECDSA P-256"
        raise TrustError("M547", what=shown(path), reason=reason)
    public_key_of(key.public_key())
    return PrivateKey(key)
