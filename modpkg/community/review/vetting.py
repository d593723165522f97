"""What vetting a candidate found out, for its thread."""

from __future__ import annotations

from typing import Any

import msgspec

from modpkg.community.vet.verdict import VetReport
from modpkg.core import bounds
from modpkg.core.candidates import CandidateReport
from modpkg.core.printable import one_line
from modpkg.core.records import canonical_json
from modpkg.core.this_machine import machine_line

_MOST = 2000


def report_of_vet(report: VetReport) -> CandidateReport:
    """Return a report with the machine that it was made on; all of it, unless that is too large."""
    data = canonical_json(report)
    document: dict[str, Any] = msgspec.json.decode(data)
    earlier = report.against
    return CandidateReport(
        tool="vet",
        verdict=report.verdict,
        reason=one_line(report.reason)[:_MOST],
        machine=machine_line(),
        against=f"{earlier.name} {earlier.version}" if earlier is not None else "",
        document=document if len(data) < bounds.CANDIDATE_REPORT_BYTES // 2 else msgspec.UNSET,
    )
