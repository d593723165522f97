"""What a person can change so that there is an answer. Nothing is suggested that was not tried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet
from resolvelib.resolvers import ResolutionImpossible as Impossible

from modpkg.names import ModuleName, specifier_text
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.core import Cause
from modpkg.resolve.provider import Candidate, Identifier, Need

SECONDS = 5.0
"""Longest time for looking; the change that is sure to help is looked for however long it takes."""
MOST = 2

QUESTION = "Your question"
"""Where a root stands that was added to ask what forbids it: no change of it is an answer."""

Attempt = Callable[[Sequence[Need]], Mapping[Identifier, Candidate]]
"""Resolves other roots; raises `resolvelib.ResolutionImpossible` where there is no answer."""


class Change(Struct, frozen=True):
    """One edit of the roots."""

    roots: list[Need]
    name: ModuleName
    text: str
    """What to do, as an imperative."""


def suggestions(
    roots: Sequence[Need],
    causes: Sequence[Cause],
    catalog: Catalog,
    admission: Admission,
    attempt: Attempt,
) -> list[str]:
    """Return changes of the roots after which there is an answer, the smallest first."""
    guilty = [cause.requirement for cause in causes if cause.parent is None]
    guilty = [need for need in guilty if need.where != QUESTION]
    if not guilty:
        return []
    deadline = time.monotonic() + SECONDS
    found: list[str] = []
    for change in _changes(roots, guilty, catalog, admission):
        if len(found) == MOST or time.monotonic() > deadline:
            break
        text = _worked(change, attempt)
        if text is not None and text not in found:
            found.append(text)
    return found or [_leaving_out(list(roots), attempt)]


def _changes(
    roots: Sequence[Need], guilty: Sequence[Need], catalog: Catalog, admission: Admission
) -> Iterator[Change]:
    """Yield what may help: dropping one bound, all bounds, admitting a release, dropping a root."""
    # An override stands for more than the root; a change of it is not tried as a change of a root.
    own = [need for need in guilty if need.name not in catalog.overrides]
    for need in own:
        items = sorted(need.specifier, key=str)
        for item in items if len(items) > 1 else []:
            rest = SpecifierSet(",".join(str(other) for other in items if other is not item))
            yield _changed(roots, need, rest, f"drop `{item}` {_place(need)}")
    for need in own:
        if need.specifier:
            yield _changed(
                roots,
                need,
                SpecifierSet(),
                f"drop `{specifier_text(need.specifier)}` {_place(need)}",
            )
    for need in own:
        for release in catalog.releases(need.name):
            if admission.refusal(catalog, release) is not None:
                pin = f"=={release.version}"
                yield _changed(roots, need, SpecifierSet(pin), f"write `{pin}` for {_shown(need)}")
                break
    for need in guilty:
        left = [root for root in roots if not _together(root, need)]
        yield Change(left, need.name, f"leave out {_shown(need)}")


def _changed(roots: Sequence[Need], need: Need, specifier: SpecifierSet, text: str) -> Change:
    edited = [
        msgspec.structs.replace(root, specifier=specifier) if _together(root, need) else root
        for root in roots
    ]
    return Change(edited, need.name, text)


def _together(one: Need, other: Need) -> bool:
    """Say whether two roots stand for one requirement: a name and its extras."""
    return (one.name, one.where) == (other.name, other.where)


def _place(need: Need) -> str:
    return f"from {need.name}" + (f" in {need.where}" if need.where else "")


def _shown(need: Need) -> str:
    return need.name + (f" in {need.where}" if need.where else "")


def _worked(change: Change, attempt: Attempt) -> str | None:
    try:
        mapping = attempt(change.roots)
    except Impossible:
        return None
    chosen = next(
        (item.release for (name, _), item in mapping.items() if name == change.name), None
    )
    if chosen is None:
        return change.text
    return f"allow {chosen.name} {chosen.version}: {change.text}"


def _leaving_out(roots: list[Need], attempt: Attempt) -> str:
    """Return roots to leave out, one conflict after the other, until there is an answer."""
    gone: list[Need] = []
    while (need := _still_guilty(roots, attempt)) is not None:
        gone.append(need)
        roots = [root for root in roots if not _together(root, need)]
    return "leave out " + " and ".join(_shown(need) for need in gone)


def _still_guilty(roots: Sequence[Need], attempt: Attempt) -> Need | None:
    """Return a root that has a part in a conflict; None where there is an answer."""
    try:
        attempt(roots)
    except Impossible as error:
        guilty: list[Need] = [c.requirement for c in error.causes if c.parent is None]
        return guilty[-1]
    return None
