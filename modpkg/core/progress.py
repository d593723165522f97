"""Progress reports of long-running work."""

from __future__ import annotations


class Progress:
    """Receives progress reports; this base class shows nothing. Thread-safe."""

    def stage(self, text: str) -> None:
        """Begin a stage."""

    def total(self, count: int) -> None:
        """Set how many bytes or tensors the stage has."""

    def advance(self, count: int) -> None:
        """Advance by ``count`` bytes or tensors."""

    def fetched(self, name: str, version: str, size: int) -> None:
        """Report a fetched module, of which ``size`` bytes were missing."""

    def detail(self, text: str) -> None:
        """Report one step of the stage, for those who watch."""

    def warn(self, message: str) -> None:
        """Show a warning."""
