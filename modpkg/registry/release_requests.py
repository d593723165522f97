"""What a client and a server say to each other about what becomes of releases.

Each is sent with ``POST`` below ``modules/NAME``, or of advisories to ``advisories``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from modpkg.core import bounds
from modpkg.core.records import IndexLine, Line

VersionText = Annotated[str, Meta(min_length=1, max_length=100)]


class YankRequest(Struct, frozen=True, kw_only=True):
    """A release to yank: ``POST modules/NAME/yank``, which answers with its index line."""

    version: VersionText
    reason: Line | None
    """May be empty; None undoes it."""
    bundle: Annotated[str, Meta(max_length=bounds.SIGNATURES_BYTES)] | None = None
    """What its signer says of that, as a line of the release's signatures has it."""


class DeprecateRequest(Struct, frozen=True, kw_only=True):
    """Releases to deprecate: ``POST modules/NAME/deprecate``, which answers `ChangedLines`."""

    version: VersionText | None = None
    """None for all that the module has."""
    reason: Line | None
    """May be empty; None undoes it."""
    successor: Line = ""
    """What to use instead, as a requirement."""


class SuccessionRequest(Struct, frozen=True, kw_only=True):
    """Who signs after another one: ``POST modules/NAME/successors``; it answers `ChangedLines`."""

    bundle: Annotated[str, Meta(max_length=bounds.SIGNATURES_BYTES)]
    """What the one before has signed of that."""


class ChangedLines(Struct, frozen=True):
    """Index lines as they are now."""

    lines: list[IndexLine]


class ArchiveRequest(Struct, frozen=True, kw_only=True):
    """A module of which nothing more is published: ``POST modules/NAME/archive``."""

    reason: Line | None
    """May be empty; None undoes it."""


class RemoveRequest(Struct, frozen=True, kw_only=True):
    """Releases to remove for good, by administrators: ``POST modules/NAME/remove``."""

    version: VersionText | None = None
    """None for all that the module has, and its name."""
    reason: Annotated[Line, Meta(min_length=1)]


class RemovedAnswer(Struct, frozen=True):
    """What was removed."""

    lines: list[IndexLine]
    files: int
    freed: int
    shared: int


class AdvisoryRequest(Struct, frozen=True):
    """Advisories to publish, by administrators: ``POST advisories``."""

    documents: Annotated[
        list[Annotated[str, Meta(max_length=bounds.ADVISORY_BYTES)]], Meta(max_length=100)
    ]
    """Each in OSV form, as JSON."""


class AddedAdvisories(Struct, frozen=True):
    """The IDs of advisories that are new, or are not what they were."""

    ids: list[str]
