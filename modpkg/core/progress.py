"""Progress: what long work tells to whoever shows it."""

from __future__ import annotations


class Progress:
    """What happens, for whoever shows it; this one shows nothing. Any thread may call it."""

    def stage(self, text: str) -> None:
        """A stage begins."""

    def total(self, count: int) -> None:
        """The stage has so many bytes or tensors."""

    def advance(self, count: int) -> None:
        """So many more are done."""

    def fetched(self, name: str, version: str, size: int) -> None:
        """A module has been fetched: so many bytes of it were missing."""

    def warn(self, message: str) -> None:
        """Something a person should know."""
