"""Why there is no answer, in sentences that name the requirements that collide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modpkg.core.names import requirement_text
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Candidate, Need
from modpkg.resolve.unsat_core import Cause

SHOWN = 24
"""Most sentences of one kind; a chain of a thousand names is told by its two ends."""
FEW = 12
"""Most names whose versions are all listed; of more, only what keeps a version out is told."""

_MORE = (
    "This cannot hold together, but part of it may have no part in the conflict: the graph is so "
    "tangled that the search for the smallest set was given up."
)
_UNTRIED = (
    "No change that helps was found before the search for one was given up; try without some of "
    "the requirements above."
)


def explain(
    causes: Sequence[Cause],
    catalog: Catalog,
    admission: Admission,
    suggestions: Sequence[str] = (),
    *,
    smallest: bool = True,
    tried: bool = True,
) -> str:
    """Return sentences from the needs that cannot hold together, and what would help.

    ``smallest`` says that none of the needs could be left out, ``tried`` that every change was
    tried; where either is not so, the text says it.
    """
    asked: dict[tuple[str, ...], list[str]] = {}
    names: dict[str, list[Need]] = {}
    for cause in causes:
        need = cause.requirement
        names.setdefault(need.name, []).append(need)
        who, version = _who(cause.parent, need)
        versions = asked.setdefault((*who, _what(need)), [])
        if version and version not in versions:
            versions.append(version)
    sentences = [
        f"  {' '.join(filter(None, (name, _in_words(versions))))}{extra} "
        f"{'need' if len(versions) > 1 else 'needs'} {what}."
        for (name, extra, what), versions in asked.items()
    ]
    told = _ends(sentences)
    listed = len(names) <= FEW
    several = [name for name in names if _telling(name, names, catalog)]
    told += _ends(
        [
            sentence
            for name in several or names
            for sentence in _releases(name, names[name], catalog, admission, listed=listed)
        ]
    )
    if not smallest:
        told.append(_MORE)
    told += [f"To go on: {suggestion}." for suggestion in suggestions]
    if not suggestions and not tried:
        told.append(_UNTRIED)
    return "\n".join(told)


def _who(parent: Candidate | None, need: Need) -> tuple[tuple[str, str], str]:
    """Return who asks, by name and extra; and its version."""
    if parent is None:
        return (need.where or "The request", ""), ""
    extra = f" with its extra {parent.extra}" if parent.extra else ""
    return (parent.release.name, extra), str(parent.release.version)


def _what(need: Need) -> str:
    extras = {need.extra} if need.extra else set()
    text = requirement_text(need.name, extras, need.specifier)
    if need.exact is not None:
        text += f"=={need.exact}"
    return text if need.specifier or need.exact else f"any version of {text}"


def _in_words(items: Sequence[str]) -> str:
    if len(items) > 8:
        return f"{', '.join(items[:7])} and {len(items) - 7} more"
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def _ends(sentences: list[str]) -> list[str]:
    """Return sentences, the middle left out where there are very many."""
    if len(sentences) <= 2 * SHOWN:
        return sentences
    left = len(sentences) - 2 * SHOWN
    return [*sentences[:SHOWN], f"  … and {left} more like these …", *sentences[-SHOWN:]]


def _telling(name: str, names: Mapping[str, Sequence[Need]], catalog: Catalog) -> bool:
    """Say whether a name does more than to pass the conflict on: not any version of it will do."""
    return (
        len(names) == 1
        or not catalog.releases(name)
        or any(
            need.specifier
            or need.exact is not None
            or (need.parent is not None and name in need.parent.line.expects)
            for need in names[name]
        )
    )


def _releases(
    name: str,
    needs: Sequence[Need],
    catalog: Catalog,
    admission: Admission,
    *,
    listed: bool,
) -> list[str]:
    unknown = catalog.unknown(name)
    if unknown is not None:
        return [f"  {unknown}"]
    overridden = catalog.overrides.get(name)
    if overridden is not None:
        what = requirement_text(name, set(), overridden.specifier)
        return [
            f"  Every requirement on {name} is {what} by the override in {overridden.where}.",
            *_available(name, needs, catalog, admission, listed=listed),
        ]
    return _available(name, needs, catalog, admission, listed=listed)


def _available(
    name: str,
    needs: Sequence[Need],
    catalog: Catalog,
    admission: Admission,
    *,
    listed: bool,
) -> list[str]:
    admitted = admission.releases(catalog, name)
    shown = ", ".join(str(release.version) for release in admitted[:8])
    more = f" and {len(admitted) - 8} others" if len(admitted) > 8 else ""
    sentences = []
    if not admitted:
        sentences.append(f"  No release of {name} can be had.")
    elif listed:
        sentences.append(f"  {name} can be had in {shown}{more}.")
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
