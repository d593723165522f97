"""Keys of an ssh agent, which signs without giving them away.

The protocol is that of draft-miller-ssh-agent-04 and RFC 4253: two requests, to list keys and to
sign. ssh-ed25519 is plain Ed25519, and ecdsa-sha2-nistp256 is ECDSA over SHA-256, so that their
signatures are those of any other key.
"""

from __future__ import annotations

import os
import socket
import struct

from modpkg.core.errors import TrustError
from modpkg.core.system_sockets import local_socket
from modpkg.trust.public_key import PublicKey

SOCKET = "SSH_AUTH_SOCK"
AGENT = "agent"
_LIST, _LISTED = 11, 12
_SIGN, _SIGNED = 13, 14
_SECONDS = 120
"""An agent may ask its user first."""
_ANSWER_BYTES = 1 << 20
_KEYS = 100
_ED25519, _P256 = b"ssh-ed25519", b"ecdsa-sha2-nistp256"


class AgentKey:
    """A key that an ssh agent holds."""

    def __init__(self, public: PublicKey, blob: bytes) -> None:
        self._public = public
        self._blob = blob

    @property
    def public(self) -> PublicKey:
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Return a signature.

        Raises:
            TrustError: The agent does not answer, or refuses.
        """
        request = _text(self._blob) + _text(message) + struct.pack(">I", 0)
        kind, answer = _ask(bytes([_SIGN]) + request)
        if kind != _SIGNED:
            raise TrustError("M547", what="the key of the ssh agent", reason="the agent refused")
        signature, _ = _take(answer)
        _, rest = _take(signature)  # its kind, which is the key's
        raw, _ = _take(rest)
        return raw if self._public.algorithm == "ed25519" else _der(raw)


def agent_key(wanted: str | None = None) -> AgentKey:
    """Return a key of the ssh agent: the one that is ``wanted``, or the only one that can sign.

    Raises:
        TrustError: There is no agent, or it has no such key, or several.
    """
    kind, answer = _ask(bytes([_LIST]))
    keys = _listed(answer) if kind == _LISTED else []
    found = [key for key in keys if wanted in (None, str(key.public))]
    if len(found) == 1:
        return found[0]
    if not found:
        reason = "it has no such key (Ed25519 or ECDSA P-256); add it with 'ssh-add'"
    else:
        known = ", ".join(str(key.public) for key in found)
        reason = f"it has several keys; name one of them after 'agent=': {known}"
    raise TrustError("M547", what="the ssh agent", reason=reason)


def _listed(answer: bytes) -> list[AgentKey]:
    count = int.from_bytes(answer[:4], "big")
    rest = answer[4:]
    found = []
    for _ in range(min(count, _KEYS)):
        blob, rest = _take(rest)
        _, rest = _take(rest)  # a comment
        if (public := _public(blob)) is not None:
            found.append(AgentKey(public, blob))
    return found


def _public(blob: bytes) -> PublicKey | None:
    kind, rest = _take(blob)
    if kind == _ED25519:
        data, _ = _take(rest)
        return PublicKey("ed25519", data) if len(data) == 32 else None
    if kind == _P256:
        _, rest = _take(rest)  # the name of the curve
        point, _ = _take(rest)
        if len(point) == 65 and point[0] == 4:
            return PublicKey("ecdsa-p256", bytes([2 + (point[64] & 1)]) + point[1:33])
    return None


def _der(raw: bytes) -> bytes:
    """Return an ECDSA signature in DER, from the two numbers that SSH writes (RFC 5656)."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    r, rest = _take(raw)
    s, _ = _take(rest)
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def _ask(request: bytes) -> tuple[int, bytes]:
    """Return the kind and the content of the agent's answer."""
    path = os.environ.get(SOCKET)
    if not path:
        reason = f"none is running here ({SOCKET} is not set)"
        raise TrustError("M547", what="the ssh agent", reason=reason)
    try:
        with local_socket(path, _SECONDS) as connection:
            connection.sendall(_text(request))
            size = int.from_bytes(_received(connection, 4), "big")
            if not 0 < size <= _ANSWER_BYTES:
                raise OSError(f"an answer of {size} bytes")
            answer = _received(connection, size)
    except OSError as error:
        reason = f"it does not answer ({error.strerror or error})"
        raise TrustError("M547", what="the ssh agent", reason=reason) from None
    return answer[0], answer[1:]


def _received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("its answer ends early")
        data += part
    return data


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _take(data: bytes) -> tuple[bytes, bytes]:
    """Return the text at the beginning of what an agent sent, and what follows."""
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 + size:
        raise TrustError("M547", what="the ssh agent", reason="its answer is malformed")
    return data[4 : 4 + size], data[4 + size :]
