"""Where two candidates change the same weights: how many, and how many of them apart."""

from __future__ import annotations

from collections.abc import Sequence

from modpkg.community.modules.reference import parse_reference
from modpkg.community.modules.view import view_of_release
from modpkg.community.patch.conflicts import find_overlaps
from modpkg.community.review.overlap import (
    CandidateConflict,
    CandidateOverlap,
    base_of_candidate,
)
from modpkg.core.candidates import CandidateLine
from modpkg.environment.workspace import Workspace


def measured(
    workspace: Workspace,
    one: CandidateLine,
    candidates: Sequence[CandidateLine],
    overlaps: Sequence[CandidateOverlap],
) -> list[CandidateConflict]:
    """Return overlaps with their values; the weights that they need are fetched.

    Raises:
        What fetching can raise.
    """
    registry = workspace.registries.of(one.line.name)
    line = base_of_candidate(registry.index(one.line.name), one)
    by_number = {other.number: other for other in candidates}
    found = []
    for overlap in overlaps if line is not None else ():
        if line is None:
            break
        number = parse_reference(overlap.other).candidate
        other = by_number[number or 0]
        names = set(overlap.tensors)
        base, own, theirs = (
            view.locate(names & view.tensors.keys())
            for view in (view_of_release(each, workspace) for each in (line, one.line, other.line))
        )
        tensors = find_overlaps(base, [own, theirs]).tensors
        found.append(
            CandidateConflict(
                other=overlap.other,
                base=overlap.base,
                tensors=overlap.tensors,
                values=sum(tensor.different for tensor in tensors),
                opposite=sum(tensor.opposite for tensor in tensors),
            )
        )
    return found
