"""What an audit of a log names: differences, and releases that are void."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

DifferenceKind = Literal[
    "not-logged",
    "missing",
    "place",
    "replaced",
    "standing",
    "published",
    "void",
    "private",
    "successor",
    "entry",
    "tile",
    "root",
    "history",
]


class LogDifference(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a log and an index, or a log and itself, do not agree on."""

    kind: DifferenceKind
    message: str
    """It in one sentence."""
    name: str = ""
    version: str = ""
    release: str = ""
    """The release digest, of what is missing or void."""
    statement: str = ""
    """The digest of a statement on who signs after somebody, of a successor."""
    entry: int | None = None
    """The number of the log's entry that it is about; the first has 0."""


class VoidRelease(Struct, frozen=True, kw_only=True):
    """What was logged and, as the log says since, never written: a release, or a statement."""

    name: str
    version: str = ""
    release: str = ""
    """The release digest."""
    statement: str = ""
    """The digest of a statement by which a signer of the module names the one after it."""
    entry: int
    """The number of the entry that it was logged with."""
    void: int
    """The number of the entry that says so."""
