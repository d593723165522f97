"""Checkpoints: the size and the root of a log, signed by the log and by its witnesses.

A checkpoint is a note of C2SP (https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note): the
log's origin, its size and its root, then an empty line, and a line for each signature. A witness
signs the same text with the time at which it saw it (https://c2sp.org/tlog-cosignature). Only
Ed25519 is used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.errors import TrustError
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.trust.log.tiles import HASH_BYTES
from modpkg.trust.public_key import PublicKey

if TYPE_CHECKING:
    from modpkg.trust.bundle import Signer

ED25519, COSIGNATURE = 1, 4
"""The kinds of signatures, as the notes' key IDs have them."""
_ID_BYTES, _TIME_BYTES, _SIGNATURE_BYTES = 4, 8, 64
_SIZE = lazy_pattern(r"0|[1-9][0-9]{0,15}")
_NAME = lazy_pattern(r"[!-*,-~]{1,200}")  # neither spaces nor a plus
_MARK = "\N{EM DASH} "


class NoteSignature(Struct, frozen=True):
    """A signature under a note."""

    name: str
    """What the key calls itself."""
    key_id: bytes
    data: bytes
    """Of a witness, the time and the signature."""

    def line(self) -> str:
        return f"{_MARK}{self.name} {base64.b64encode(self.key_id + self.data).decode()}\n"


class LogCheckpoint(Struct, frozen=True):
    """A checkpoint, as it was read or made."""

    origin: str
    size: int
    root: bytes
    signatures: tuple[NoteSignature, ...] = ()

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def __bytes__(self) -> bytes:
        """Return the file."""
        return f"{self.text}\n{''.join(one.line() for one in self.signatures)}".encode()

    def is_signed(self, name: str, key: PublicKey) -> bool:
        """Return whether a log has signed it."""
        own = key_id(name, key, ED25519)
        return any(
            one.name == name and one.key_id == own and key.verifies(one.data, self.text.encode())
            for one in self.signatures
        )

    def cosigned_at(self, name: str, key: PublicKey) -> int | None:
        """Return when a witness signed it, in seconds of Unix time; None if it has not."""
        own = key_id(name, key, COSIGNATURE)
        for one in self.signatures:
            if one.name == name and one.key_id == own:
                at = int.from_bytes(one.data[:_TIME_BYTES], "big")
                if key.verifies(one.data[_TIME_BYTES:], self._seen(at)):
                    return at
        return None

    def _seen(self, at: int) -> bytes:
        return f"cosignature/v1\ntime {at}\n{self.text}".encode()

    def signed_by(self, name: str, signer: Signer) -> LogCheckpoint:
        """Return it with the signature of a log, in the place of one that it has."""
        data = signer.sign(self.text.encode())
        return self._with(NoteSignature(name, key_id(name, signer.public, ED25519), data))

    def cosigned_by(self, name: str, signer: Signer, at: int) -> LogCheckpoint:
        """Return it with the signature of a witness, in the place of an earlier one of it.

        ``at`` is the time, in seconds of Unix time.
        """
        data = at.to_bytes(_TIME_BYTES, "big") + signer.sign(self._seen(at))
        return self._with(NoteSignature(name, key_id(name, signer.public, COSIGNATURE), data))

    def without(self, name: str, key: PublicKey) -> LogCheckpoint:
        """Return it without the signature of a log."""
        own = (name, key_id(name, key, ED25519))
        kept = tuple(one for one in self.signatures if (one.name, one.key_id) != own)
        return replace(self, signatures=kept)

    def _with(self, new: NoteSignature) -> LogCheckpoint:
        others = [
            one for one in self.signatures if (one.name, one.key_id) != (new.name, new.key_id)
        ]
        return replace(self, signatures=(*others, new))


def key_id(name: str, key: PublicKey, kind: int) -> bytes:
    """Return by what a signature line names its key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key.data).digest()[:_ID_BYTES]


def is_note_name(text: str) -> bool:
    """Return whether a text can be the name of a key, or the origin of a log.

    >>> is_note_name("models.example/log"), is_note_name("a b")
    (True, False)
    """
    return _NAME.fullmatch(text) is not None


def parse_checkpoint(data: bytes, registry: str) -> LogCheckpoint:
    """Return the checkpoint of a file, of which no signature is verified yet.

    Raises:
        TrustError: It is malformed, or has too many signatures.
    """
    try:
        if len(data) > bounds.CHECKPOINT_BYTES:
            raise ValueError(f"it is longer than {bounds.CHECKPOINT_BYTES} bytes")
        text, _, rest = data.decode().partition("\n\n")
        origin, size, root, *others = text.split("\n")
        if others or not is_note_name(origin) or _SIZE.fullmatch(size) is None:
            raise ValueError("it does not begin with an origin, a size and a root alone")
        hashed = base64.b64decode(root, validate=True)
        if len(hashed) != HASH_BYTES or base64.b64encode(hashed).decode() != root:
            raise ValueError("its root is none")
        lines = rest.split("\n")
        if lines.pop() != "" or len(lines) > bounds.CHECKPOINT_SIGNATURES:
            raise ValueError("its signatures are cut short, or too many")
        if int(size) > bounds.LOG_ENTRIES:
            raise ValueError(f"it has {int(size):,} entries")
        return LogCheckpoint(origin, int(size), hashed, tuple(map(_signature, lines)))
    except UnicodeDecodeError:
        reason = "it is no text"
    except binascii.Error:
        reason = "its root, or a signature, is not in Base64"
    except ValueError as error:
        reason = str(error)
    raise TrustError("M550", registry=registry, reason=reason)


def _signature(line: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_MARK).partition(" ")
    data = base64.b64decode(encoded, validate=True)
    if not line.startswith(_MARK) or not is_note_name(name) or len(data) <= _ID_BYTES:
        raise ValueError("a line under it is no signature")
    return NoteSignature(name, data[:_ID_BYTES], data[_ID_BYTES:])


def verified_checkpoint(data: bytes, origin: str, key: PublicKey, registry: str) -> LogCheckpoint:
    """Return the checkpoint of a file, if the log itself has signed it.

    Raises:
        TrustError: It is malformed, of another log, or not signed by this one.
    """
    found = parse_checkpoint(data, registry)
    if found.origin != origin:
        reason = f"it is that of the log {found.origin}, and not of {origin}"
        raise TrustError("M550", registry=registry, reason=reason)
    if not found.is_signed(origin, key):
        raise TrustError("M550", registry=registry, reason=f"it is not signed by {key}")
    return found


def with_cosignatures(found: LogCheckpoint, others: Sequence[NoteSignature]) -> LogCheckpoint:
    """Return a checkpoint with signatures of witnesses under the same text, as many as fit."""
    known = {(one.name, one.key_id) for one in found.signatures}
    new = [one for one in others if (one.name, one.key_id) not in known]
    kept = (*found.signatures, *new)[: bounds.CHECKPOINT_SIGNATURES]
    return replace(found, signatures=kept)
