"""What was seen of registries' logs: the last checkpoint of each, in modpkg's home.

A log's key is believed the first time that it is seen, and from then on a checkpoint has to be
signed by it and to continue the one before. If it does not, both are kept, as evidence: the log has
signed two things of which only one can be true.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.file_lock import file_lock
from modpkg.core.files import write_atomically
from modpkg.core.home import home
from modpkg.core.records import LogInfo
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import seal, unseal
from modpkg.trust.log.log_checkpoint import LogCheckpoint, parse_checkpoint


class SeenLog(Struct, frozen=True):
    """The log of a registry, as it was when it was read last."""

    registry: str
    """Its address, as it is shown."""
    log: LogInfo
    checkpoint: str

    @property
    def last(self) -> LogCheckpoint:
        """The checkpoint.

        Raises:
            TrustError: It is malformed.
        """
        return parse_checkpoint(self.checkpoint.encode(), self.registry)


class LogMemory:
    """What was seen of the log of one registry."""

    def __init__(self, registry: str, folder: Path | None = None) -> None:
        """``registry`` is its address as it is shown; ``folder`` that of all logs."""
        self._registry = registry
        folder = home() / "logs" if folder is None else folder
        self.path = folder / f"{digest_bytes(registry.encode())[7:23]}.json"

    def read(self) -> SeenLog | None:
        """Return what was seen last; None if nothing was, or the file is damaged."""
        try:
            data = read_file(self.path, 2 * bounds.CHECKPOINT_BYTES)
            return unseal(data, SeenLog)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def keep(self, log: LogInfo, checkpoint: LogCheckpoint) -> None:
        """Remember a checkpoint, if none of more entries was seen meanwhile."""
        with file_lock(self.path.with_suffix(".lock"), exclusive=True):
            seen = self.read()
            if seen is None or seen.log != log or seen.last.size < checkpoint.size:
                found = SeenLog(self._registry, log, bytes(checkpoint).decode())
                write_atomically(self.path, seal(found))

    def keep_evidence(self, before: LogCheckpoint, now: LogCheckpoint) -> Path:
        """Keep two checkpoints that cannot both be true, and return the file."""
        data = bytes(before) + b"\n" + bytes(now)
        digest = digest_bytes(data)[7:15]
        path = self.path.with_name(f"{self.path.stem}-{digest}.txt")
        write_atomically(path, data)
        return path
