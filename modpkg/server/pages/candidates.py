"""The pages of candidates: releases that are proposed, and what is said about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct

from modpkg.community.review.acceptance import approvers, failing_reports, latest_reports
from modpkg.community.review.overlap import base_of_candidate
from modpkg.core.candidates import CandidateLine, CandidateReport, ThreadEntry
from modpkg.core.errors import ModpkgError
from modpkg.core.records import IndexLine
from modpkg.server.pages.catalogue import Catalogue, ModuleReleases, no_page
from modpkg.server.pages.compare import LineDifference, line_difference
from modpkg.server.pages.release_facts import ReleaseFacts

PAGE = 60
"""Candidates on one page."""
ENTRIES = 40
"""Entries of a thread on one page: each may be long."""
_ENTRY_CHARACTERS = 1500
"""Of a comment that are shown at once; a whole page has to stay small."""
_OVERLAPS = 20
"""Other open candidates that one is compared with."""
_TENSORS = 8
"""Tensors of an overlap that are named."""


class CandidatesPage(Struct, frozen=True, kw_only=True):
    """The candidates of a module, the newest first."""

    name: str
    candidates: tuple[CandidateLine, ...]
    open: int
    total: int
    page: int
    """From 1."""
    pages: int


class ShownOverlap(Struct, frozen=True):
    """Another open candidate that changes the same tensors to other values."""

    number: int
    version: str
    count: int
    """How many tensors."""
    tensors: tuple[str, ...]
    """The first of them."""


class ShownResult(Struct, frozen=True):
    """A test's result, as a report has it."""

    test: str
    metric: str
    value: str
    passed: bool


class ShownEntry(Struct, frozen=True, kw_only=True):
    """What somebody said about a candidate."""

    kind: str
    by: str
    at: str
    text: str
    is_cut: bool
    """Whether the end of the text is left out."""
    report: CandidateReport | None
    results: tuple[ShownResult, ...]
    """Of a report."""


class CandidatePage(Struct, frozen=True, kw_only=True):
    """A candidate, and what is said about it."""

    candidate: CandidateLine
    facts: ReleaseFacts | None
    """None where its blobs are gone, which those of one that was rejected may be."""
    base: str
    """The version that it is compared with; empty for a first release."""
    difference: LineDifference | None
    overlaps: tuple[ShownOverlap, ...]
    overlaps_left: int
    """Other open candidates that it was not compared with."""
    approvers: tuple[str, ...]
    failing: int
    """Reports that advise against it."""
    entries: tuple[ShownEntry, ...]
    total: int
    page: int
    """Of the entries, from 1."""
    pages: int


def candidates_page(
    name: str, candidates: Sequence[CandidateLine], status: str, page: int
) -> CandidatesPage:
    """Return a page of a module's candidates; with a status, those that have it."""
    shown = [one for one in reversed(candidates) if status in ("", one.status)]
    pages = max(1, -(-len(shown) // PAGE))
    page = min(max(1, page), pages)
    return CandidatesPage(
        name=name,
        candidates=tuple(shown[(page - 1) * PAGE : page * PAGE]),
        open=sum(one.status == "open" for one in candidates),
        total=len(shown),
        page=page,
        pages=pages,
    )


def candidate_page(
    catalogue: Catalogue,
    releases: ModuleReleases | None,
    candidates: Sequence[CandidateLine],
    number: int,
    page: int,
) -> CandidatePage:
    """Return the page of a candidate.

    Args:
        catalogue: The registry.
        releases: The module's; None before its first one.
        candidates: All of the module's.
        number: The candidate's.
        page: Of what is said about it.

    Raises:
        NotFound: There is no such candidate.
    """
    one = next((one for one in candidates if one.number == number), None)
    if one is None:
        raise no_page(f"candidate {number}")
    lines = () if releases is None else releases.lines
    others = [line for line in lines if line.release != one.line.release]
    base = base_of_candidate(others, one)
    facts, difference = _what_it_changes(catalogue, base, one.line)
    open_ones = [other for other in candidates if other.status == "open" and other is not one]
    overlaps: tuple[ShownOverlap, ...] = ()
    if one.status == "open" and base is not None and facts is not None:
        overlaps = tuple(_overlaps(catalogue, base, one, open_ones[-_OVERLAPS:]))
    entries = catalogue.thread(one.line.name, number)
    pages = max(1, -(-len(entries) // ENTRIES))
    page = min(max(1, page), pages)
    return CandidatePage(
        candidate=one,
        facts=facts,
        base="" if base is None else base.version,
        difference=difference,
        overlaps=overlaps,
        overlaps_left=max(0, len(open_ones) - _OVERLAPS) if one.status == "open" else 0,
        approvers=tuple(approvers(entries)),
        failing=len(failing_reports(entries)),
        entries=tuple(map(_shown, entries[(page - 1) * ENTRIES : page * ENTRIES])),
        total=len(entries),
        page=page,
        pages=pages,
    )


def latest_results(entries: Sequence[ThreadEntry]) -> dict[str, ShownResult]:
    """Return the results of a release's tests that the last report on it as a candidate has."""
    found: dict[str, ShownResult] = {}
    for entry in latest_reports(entries):
        if entry.report is not None:
            found |= {result.test: result for result in _results(entry.report)}
    return found


def _what_it_changes(
    catalogue: Catalogue, base: IndexLine | None, line: IndexLine
) -> tuple[ReleaseFacts | None, LineDifference | None]:
    try:
        facts = catalogue.facts(line)
        return facts, None if base is None else line_difference(catalogue, base, line)
    except ModpkgError:
        return None, None


def _overlaps(
    catalogue: Catalogue, base: IndexLine, one: CandidateLine, others: Sequence[CandidateLine]
) -> list[ShownOverlap]:
    found = []
    for other in others:
        try:
            names = catalogue.overlap(base, one.line, other.line)
        except ModpkgError:
            continue
        if names:
            first = tuple(names[:_TENSORS])
            found.append(ShownOverlap(other.number, other.line.version, len(names), first))
    return found


def _shown(entry: ThreadEntry) -> ShownEntry:
    return ShownEntry(
        kind=entry.kind,
        by=entry.by,
        at=entry.at,
        text=entry.text[:_ENTRY_CHARACTERS],
        is_cut=len(entry.text) > _ENTRY_CHARACTERS,
        report=entry.report,
        results=() if entry.report is None else tuple(_results(entry.report)[:20]),
    )


def _results(report: CandidateReport) -> list[ShownResult]:
    """Return the results of a report of ``vet``, which somebody may have written by himself."""
    document: Any = None if report.document is UNSET else report.document
    changes = document.get("changes") if isinstance(document, dict) else None
    found = []
    for change in changes[:200] if isinstance(changes, list) else []:
        after = change.get("after") if isinstance(change, dict) else None
        if not isinstance(after, dict) or not isinstance(value := after.get("value"), (int, float)):
            continue
        shown = f"{value:.4g}"
        if all(isinstance(after.get(end), (int, float)) for end in ("low", "high")):
            shown += f" ({after['low']:.4g} to {after['high']:.4g})"
        name, metric = (str(after.get(key, ""))[:200] for key in ("test", "metric"))
        found.append(ShownResult(name, metric, shown, after.get("passed") is True))
    return found
