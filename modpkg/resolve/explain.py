"""Explains, in sentences, which requirements conflict when there is no solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modpkg.core.names import requirement_text
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.need import Candidate, Need
from modpkg.resolve.unsat_core import Cause

SHOWN = 24
"""Most sentences at either end of a list; the middle of a longer one is omitted."""
FEW = 12
"""Most names whose versions are all listed; of more, only excluded versions are."""

_NOT_MINIMAL = (
    "These requirements conflict, but some of them may be irrelevant: the search for a minimal set "
    "was abandoned."
)
_NOT_ALL_TRIED = (
    "No solution was found before the search for one was abandoned; try again without some of the "
    "requirements above."
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
    """Return the sentences for needs that conflict, followed by suggestions.

    Args:
        smallest: Whether the needs are a minimal set; the text mentions it if not.
        tried: Whether all suggestions were tried; the text mentions it if not.
    """
    versions_by_need: dict[tuple[str, ...], list[str]] = {}
    names: dict[str, list[Need]] = {}
    for cause in causes:
        need = cause.requirement
        names.setdefault(need.name, []).append(need)
        who, version = _who(cause.parent, need)
        versions = versions_by_need.setdefault((*who, _what(need)), [])
        if version and version not in versions:
            versions.append(version)
    sentences = [
        f"  {' '.join(filter(None, (name, _in_words(versions))))}{extra} "
        f"{'need' if len(versions) > 1 else 'needs'} {what}."
        for (name, extra, what), versions in versions_by_need.items()
    ]
    lines = _shorten(sentences)
    listed = len(names) <= FEW
    relevant = [name for name in names if _is_relevant(name, names, catalog)]
    lines += _shorten(
        [
            sentence
            for name in relevant or names
            for sentence in _releases(name, names[name], catalog, admission, listed=listed)
        ]
    )
    if not smallest:
        lines.append(_NOT_MINIMAL)
    lines += [f"Hint: {suggestion}." for suggestion in suggestions]
    if not suggestions and not tried:
        lines.append(_NOT_ALL_TRIED)
    return "\n".join(lines)


def _who(parent: Candidate | None, need: Need) -> tuple[tuple[str, str], str]:
    """Return the name and extra that has a need, and its version."""
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


def _shorten(sentences: list[str]) -> list[str]:
    """Return sentences, without the middle if there are very many."""
    if len(sentences) <= 2 * SHOWN:
        return sentences
    omitted = len(sentences) - 2 * SHOWN
    return [*sentences[:SHOWN], f"  … and {omitted} more like these …", *sentences[-SHOWN:]]


def _is_relevant(name: str, names: Mapping[str, Sequence[Need]], catalog: Catalog) -> bool:
    """Return whether a name is limited to some of its versions, and not only part of a chain."""
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
            f"  Every requirement on {name} is replaced by {what}, "
            f"an override in {overridden.where}.",
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
        sentences.append(f"  No release of {name} is available.")
    elif listed:
        sentences.append(f"  {name} is available in {shown}{more}.")
    for release in catalog.releases(name):
        refusal = admission.refusal(catalog, release)
        if refusal is not None:
            sentences.append(f"  {name} {release.version} {refusal}.")
        elif (reason := _unfit(release, needs, catalog, admission)) is not None:
            sentences.append(f"  {name} {release.version} does not fit: {reason}.")
    return sentences


def _unfit(
    release: Release, needs: Sequence[Need], catalog: Catalog, admission: Admission
) -> str | None:
    for need in needs:
        parent = need.parent
        if parent is not None and need.specifier.contains(release.version, prereleases=True):
            reason = admission.unfit(catalog, parent, release)
            if reason is not None:
                return reason
    return None
