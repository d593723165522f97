"""Witnesses: who sees a log from elsewhere, and signs what he was shown.

A log that shows two people different things has to show the witness one of them; then the other has
no checkpoint that he has signed.
"""

from __future__ import annotations

from modpkg.core import bounds
from modpkg.core.errors import TrustError
from modpkg.registry.place import Place, RegistryChange
from modpkg.registry.reader import Registry
from modpkg.trust.bundle import Signer
from modpkg.trust.log.checking import (
    CHECKPOINT,
    check_history,
    earlier_states,
    known_log,
    read_checkpoint,
)
from modpkg.trust.log.log_checkpoint import LogCheckpoint, parse_checkpoint, with_cosignatures
from modpkg.trust.log.memory import LogMemory, LogState


def witnessed(
    registry: Registry,
    memory: LogMemory,
    signer: Signer,
    name: str,
    at: int,
    locked: LogState | None = None,
) -> LogCheckpoint:
    """Return the checkpoint of a log with the signature of a witness, if it continues the last.

    Args:
        registry: The registry.
        memory: What the witness has seen of its log.
        signer: The key of the witness, an Ed25519 one.
        name: What the witness calls himself.
        at: The time, in seconds of Unix time.
        locked: What a lock has seen of the log.

    Raises:
        TrustError: There is no log, or it does not continue what was seen; the key is another kind.
        RegistryUnreachable, RegistryError: It cannot be read.
    """
    if signer.public.algorithm != "ed25519":
        raise TrustError("M547", what=str(signer.public), reason="a witness has an Ed25519 key")
    while True:
        seen = memory.read()
        earlier = earlier_states(seen, memory, locked)
        if (info := known_log(registry, earlier)) is None:
            raise TrustError("M558", registry=registry.url)
        checkpoint = read_checkpoint(registry, info)
        check_history(registry, earlier, checkpoint, memory)
        if memory.keep(LogState(info, checkpoint), seen, locked):  # else it has been seen elsewhere
            return checkpoint.cosigned_by(name, signer, at)


def write_witnessed(place: Place, signed: LogCheckpoint) -> LogCheckpoint:
    """Put the signatures of witnesses under the checkpoint of a registry; return that.

    Raises:
        TrustError: The log has another one by now.
        PublishError, OSError: It cannot be written.
    """

    def edit(change: RegistryChange) -> LogCheckpoint:
        data = change.read(CHECKPOINT, bounds.CHECKPOINT_BYTES) or b""
        now = parse_checkpoint(data, place.url)
        if now.text != signed.text:
            raise TrustError("M559", registry=place.url)
        both = with_cosignatures(signed, now.signatures)
        change.replace(CHECKPOINT, bytes(both))
        return both

    return place.change(edit)
