"""What a client and a server say to each other about candidates.

`registry_spec/server.md` has the requests; candidates and threads themselves are files of the tree.
"""

from __future__ import annotations

from msgspec import Struct

from modpkg.core.candidates import CandidateReport, Lines


class CommentRequest(Struct, frozen=True):
    """A comment: ``POST modules/NAME/candidates/N/comments``, or with ``approvals`` an approval."""

    text: Lines = ""


class ReportRequest(Struct, frozen=True):
    """What a command found out: ``POST modules/NAME/candidates/N/reports``."""

    report: CandidateReport
    text: Lines = ""


class DecisionRequest(Struct, frozen=True):
    """Why a candidate is decided so: ``POST modules/NAME/candidates/N/accept``, ``…/reject`` or
    ``…/withdraw``."""

    reason: Lines = ""
    anyway: bool = False
    """To accept it, whether a failing report is overruled."""
