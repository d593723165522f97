"""What was seen of registries' logs: the last checkpoint of each, in modpkg's home.

A log's key is believed the first time that it is seen, and from then on a checkpoint has to be
signed by it, or by one that it has named as its successor, and to continue the one before. If it
does not, both are kept, as evidence: the log has signed two things of which only one can be true.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.file_lock import file_lock
from modpkg.core.files import write_atomically
from modpkg.core.home import home
from modpkg.core.records import LogInfo
from modpkg.core.redacted import redacted
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import seal, unseal
from modpkg.manifest.normal_address import site_name
from modpkg.trust.log.log_checkpoint import LogCheckpoint, parse_checkpoint

EARLIER = 100
"""How many earlier states of a log are remembered."""


class LogState(Struct, frozen=True):
    """How far a log had come when somebody saw it: this machine, or the one that wrote a lock."""

    log: LogInfo
    checkpoint: LogCheckpoint
    """As a lock has it, without a signature."""

    @property
    def text(self) -> str:
        """It in one line, by which it is known again."""
        return f"{self.checkpoint.size} {self.checkpoint.root.hex()}"


class SeenLog(Struct, frozen=True):
    """The log of a registry, as it was when it was read last."""

    registry: str
    """Its address, as it is shown."""
    log: LogInfo
    checkpoint: str
    earlier: list[str] = []
    """States that it is known to continue: those it had here, and those that locks have."""

    @property
    def last(self) -> LogCheckpoint:
        """The checkpoint.

        Raises:
            TrustError: It is malformed.
        """
        return parse_checkpoint(self.checkpoint.encode(), self.registry)

    @property
    def state(self) -> LogState:
        """How far it had come."""
        return LogState(self.log, self.last)

    def is_as(self, other: SeenLog | None) -> bool:
        """Return whether this is the same log, come as far."""
        return other is not None and (self.log, self.state.text) == (other.log, other.state.text)

    def knows(self, state: LogState) -> bool:
        """Return whether a state is known to be one that the log had."""
        return self.log.origin == state.log.origin and (
            state.text == self.state.text or state.text in self.earlier
        )


class LogMemory:
    """What was seen of the log of one registry."""

    def __init__(self, registry: str, folder: Path | None = None) -> None:
        """``registry`` is its address; ``folder`` that of all logs."""
        self._registry = redacted(registry)
        folder = home() / "logs" if folder is None else folder
        self.path = folder / f"{site_name(registry)}.json"

    @property
    def is_there(self) -> bool:
        """Whether anything was seen, be it damaged by now."""
        return self.path.exists()

    def read(self) -> SeenLog | None:
        """Return what was seen last; None if nothing was, or the file is damaged."""
        try:
            data = read_file(self.path, 2 * bounds.CHECKPOINT_BYTES)
            return unseal(data, SeenLog)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def keep(self, now: LogState, seen: SeenLog | None, locked: LogState | None = None) -> bool:
        """Remember how far a log has come, unless another command has seen it elsewhere meanwhile.

        Args:
            now: How far it has come, with a signature; it continues the other two.
            seen: What `read` returned before the log was asked.
            locked: What a lock has of it.

        Returns:
            Whether it is remembered, or was known already. If not, nobody has compared it with
            what is remembered by now.
        """
        with file_lock(self.path.with_suffix(".lock"), exclusive=True):
            current = self.read()
            found = SeenLog(self._registry, now.log, bytes(now.checkpoint).decode())
            states = [one for one in (now, locked) if one is not None]
            if current is not None:
                states.append(current.state)
                is_same = current.log == now.log and current.state.text == now.text
                if is_same or not current.is_as(seen):
                    if not current.knows(now):
                        return False
                    found = current
            earlier = [] if current is None else [*current.earlier]
            known = {*earlier, found.state.text}
            earlier += dict.fromkeys(one.text for one in states if one.text not in known)
            found = replace(found, earlier=earlier[-EARLIER:])
            if found != current:
                write_atomically(self.path, seal(found))
        return True

    def forget(self) -> bool:
        """Forget what was seen; return whether anything was."""
        with file_lock(self.path.with_suffix(".lock"), exclusive=True):
            known = self.path.exists()
            self.path.unlink(missing_ok=True)
        return known

    def keep_evidence(self, before: LogCheckpoint, now: LogCheckpoint) -> Path:
        """Keep two checkpoints that cannot both be true, and return the file."""
        data = bytes(before) + b"\n" + bytes(now)
        digest = digest_bytes(data)[7:15]
        path = self.path.with_name(f"{self.path.stem}-{digest}.txt")
        write_atomically(path, data)
        return path
