"""Progress: how long-running work reports to whoever shows it."""

from __future__ import annotations


class Progress:
    """Reports of progress. This one shows nothing; any thread may call it."""

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
        """Warn of something."""
