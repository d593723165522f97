"""Candidates: releases that are proposed, and what is said about them until one decides.

The formats of ``candidates/<name>.jsonl`` and ``candidates/<name>/<number>.jsonl``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from modpkg.core.bounds import CANDIDATES, COMMENT_CHARACTERS
from modpkg.core.printable import SEVERAL_LINES
from modpkg.core.records import SPEC, IndexLine, Line

CandidateStatus = Literal["open", "accepted", "rejected", "withdrawn"]
CandidateVerdict = Literal["accept", "reject", "needs-a-person"]
EntryKind = Literal["comment", "approval", "report"]

Lines = Annotated[str, Meta(pattern=SEVERAL_LINES, max_length=COMMENT_CHARACTERS)]
"""Text that is shown to people, of several lines."""
CandidateNumber = Annotated[int, Meta(ge=1, le=CANDIDATES)]


class CandidateLine(Struct, kw_only=True, omit_defaults=True):
    """One line of ``candidates/<name>.jsonl``: a release that is proposed."""

    number: CandidateNumber
    """1, 2, … within the module; never used again."""
    line: IndexLine
    """The line that the index gets on acceptance, but for ``published``; its blobs are in the
    registry as those of a release are."""
    status: CandidateStatus = "open"
    by: Line
    """Who submitted it: an account of the server, or a user of the publisher's machine."""
    at: Line
    """When, in UTC."""
    message: Lines = ""
    """What it is for."""
    decided_by: Line = ""
    decided_at: Line = ""
    reason: Lines = ""
    """Why it was decided so."""
    spec: int = SPEC

    @property
    def label(self) -> str:
        """How people name it: ``NAME#7``."""
        return f"{self.line.name}#{self.number}"


class CandidateReport(Struct, kw_only=True, omit_defaults=True):
    """What a command found out about a candidate, on a reviewer's machine."""

    tool: Literal["check", "vet"]
    verdict: CandidateVerdict
    reason: Line = ""
    """One sentence."""
    machine: Line = ""
    """What it ran on."""
    against: Line = ""
    """The release that it was compared with, as ``NAME VERSION``."""
    document: dict[str, Any] | UnsetType = UNSET
    """All of it, as the command prints it with ``--json``."""


class ThreadEntry(Struct, kw_only=True, omit_defaults=True):
    """One line of ``candidates/<name>/<number>.jsonl``; the file is only added to."""

    kind: EntryKind
    by: Line
    at: Line
    text: Lines = ""
    report: CandidateReport | None = None
    """Of a report."""
    spec: int = SPEC
