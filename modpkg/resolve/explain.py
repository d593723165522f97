"""Why there is no answer, in sentences that name the requirements that collide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modpkg.names import requirement_text
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.provider import Candidate, Need


def explain(causes: Sequence[Any], catalog: Catalog, admission: Admission) -> str:
    """Return sentences from the requirements that the engine could not satisfy together."""
    sentences: list[str] = []
    names: list[str] = []
    for cause in causes:
        need: Need = cause.requirement
        parent: Candidate | None = cause.parent
        sentence = f"  {_who(parent, need)} needs {_what(need)}."
        if sentence not in sentences:
            sentences.append(sentence)
        if need.name not in names:
            names.append(need.name)
    for name in names:
        needs = [cause.requirement for cause in causes if cause.requirement.name == name]
        sentences += _releases(name, needs, catalog, admission)
    return "\n".join(sentences)


def _who(parent: Candidate | None, need: Need) -> str:
    if parent is None:
        return need.where or "The request"
    return f"{parent.release.name} {parent.release.version}"


def _what(need: Need) -> str:
    extras = {need.extra} if need.extra else set()
    text = requirement_text(need.name, extras, need.specifier)
    if need.exact is not None:
        text += f"=={need.exact}"
    return text if need.specifier or need.exact else f"any version of {text}"


def _releases(
    name: str, needs: Sequence[Need], catalog: Catalog, admission: Admission
) -> list[str]:
    unknown = catalog.unknown(name)
    if unknown is not None:
        return [f"  {unknown}"]
    admitted = admission.releases(catalog, name)
    shown = ", ".join(str(release.version) for release in admitted[:8])
    more = f" and {len(admitted) - 8} older ones" if len(admitted) > 8 else ""
    sentences = [
        f"  {name} can be had in {shown}{more}." if shown else f"  No release of {name} can be had."
    ]
    for release in catalog.releases(name):
        refusal = admission.refusal(catalog, release)
        if refusal is not None:
            sentences.append(f"  {name} {release.version} {refusal}.")
        elif (reason := _unfit(release, needs, catalog)) is not None:
            sentences.append(f"  {name} {release.version} does not fit: {reason}.")
    return sentences


def _unfit(release: Release, needs: Sequence[Need], catalog: Catalog) -> str | None:
    for need in needs:
        parent = need.parent
        if parent is not None and need.specifier.contains(release.version, prereleases=True):
            reason = catalog.unfit(parent, release)
            if reason is not None:
                return reason
    return None
