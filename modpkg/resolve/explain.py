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
FEW = 200
"""Most needs of one name that are looked at to see whether they limit it."""
ALIKE = 12
"""Most sentences on the ranges of one module that versions of another need."""

_NOT_MINIMAL = (
    "These requirements conflict, but some of them may be irrelevant: the search for a minimal set "
    "was abandoned."
)
_NOT_ALL_TRIED = (
    "No solution was found before the search for one was abandoned; try again without some of the "
    "requirements above."
)


def explain(
    conflicts: Sequence[Sequence[Cause]],
    catalog: Catalog,
    admission: Admission,
    suggestions: Sequence[str] = (),
    *,
    smallest: bool = True,
    tried: bool = True,
) -> str:
    """Return the sentences for needs that conflict, followed by suggestions.

    Args:
        conflicts: The needs of each conflict; none has to do with another.
        smallest: Whether the needs are minimal sets; the text mentions it if not.
        tried: Whether all suggestions were tried; the text mentions it if not.
    """
    lines: list[str] = []
    for number, causes in enumerate(conflicts):
        if number:
            lines.append("Besides:")
        lines += _conflict(causes, catalog, admission)
    if not smallest:
        lines.append(_NOT_MINIMAL)
    lines += [f"Hint: {suggestion}." for suggestion in suggestions]
    if not suggestions and not tried:
        lines.append(_NOT_ALL_TRIED)
    return "\n".join(lines)


def _conflict(causes: Sequence[Cause], catalog: Catalog, admission: Admission) -> list[str]:
    needs: dict[tuple[str, ...], dict[str, None]] = {}
    targets: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {}
    names: dict[str, list[Need]] = {}
    for cause in causes:
        need = cause.requirement
        names.setdefault(need.name, []).append(need)
        who, version = _who(cause.parent, need)
        fact = (*who, _what(need))
        versions = needs.setdefault(fact, {})
        if version:
            versions[version] = None
        targets.setdefault((*who, need.name), {})[fact] = None
    sentences: list[str] = []
    for (owner, _, target), facts in targets.items():
        lines = [_fact(fact, list(needs[fact]), catalog, admission) for fact in facts]
        if len(lines) > ALIKE:
            left = len(lines) - ALIKE
            lines = [
                *lines[: ALIKE - 1],
                f"  … and {left} more versions of {owner} need other ranges of {target} …",
                lines[-1],
            ]
        sentences += lines
    about = [
        sentence
        for name in _relevant(names, catalog, admission)
        for sentence in _releases(name, names[name], catalog, admission)
    ]
    return _shorten(sentences) + about


def _fact(
    fact: tuple[str, ...], versions: list[str], catalog: Catalog, admission: Admission
) -> str:
    owner, extra, what = fact
    if len(versions) > 1:
        admitted = admission.releases(catalog, owner)
        if len(versions) == len(admitted):
            return f"  Every version of {owner}{extra} needs {what}."
        return f"  {owner} {_in_words(versions)}{extra} need {what}."
    return f"  {' '.join([owner, *versions])}{extra} needs {what}."


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


def _shorten(sentences: list[str], what: str = "") -> list[str]:
    """Return sentences, without the middle if there are very many."""
    if len(sentences) <= 2 * SHOWN:
        return sentences
    omitted = len(sentences) - 2 * SHOWN
    return [*sentences[:SHOWN], f"  … and {omitted} more {what}like these …", *sentences[-SHOWN:]]


def _relevant(
    names: Mapping[str, Sequence[Need]], catalog: Catalog, admission: Admission
) -> list[str]:
    """Return the names that decide: those limited to some of their versions, or without any.

    All others are steps of a chain. Names without any version come first.
    """
    missing, limited = [], []
    for name, needs in names.items():
        admitted = admission.releases(catalog, name)
        if not admitted:
            missing.append(name)
        elif any(
            need.exact is not None
            or (need.parent is not None and name in need.parent.line.expects)
            or not all(need.specifier.contains(r.version, prereleases=True) for r in admitted)
            for need in needs[:FEW]
        ):
            limited.append(name)
    found = missing + limited or list(names)
    return found[: 2 * SHOWN]


def _releases(
    name: str, needs: Sequence[Need], catalog: Catalog, admission: Admission
) -> list[str]:
    unknown = catalog.unknown(name)
    if unknown is not None:
        return [f"  {unknown}"]
    overridden = catalog.overrides.get(name)
    if overridden is None:
        return _available(name, needs, catalog, admission)
    what = requirement_text(name, set(), overridden.specifier)
    return [
        f"  Every requirement on {name} is replaced by {what}, an override in {overridden.where}.",
        *_available(name, needs, catalog, admission),
    ]


def _available(
    name: str, needs: Sequence[Need], catalog: Catalog, admission: Admission
) -> list[str]:
    admitted = admission.releases(catalog, name)
    shown = ", ".join(str(release.version) for release in admitted[:8])
    more = f" and {len(admitted) - 8} others" if len(admitted) > 8 else ""
    sentences = [
        f"  {name} is available in {shown}{more}."
        if admitted
        else f"  No release of {name} is available."
    ]
    expecting = _expecting(name, needs)
    reasons: dict[str, list[str]] = {}
    for release in catalog.releases(name):
        refusal = admission.refusal(catalog, release)
        if refusal is None and (unfit := _unfit(release, expecting, catalog, admission)):
            refusal = f"does not fit: {unfit}"
        if refusal is not None:
            reasons.setdefault(refusal, []).append(str(release.version))
    refusals = [
        f"  {name} {_in_words(versions)} {_of_several(reason, len(versions))}."
        for reason, versions in reasons.items()
    ]
    return sentences + _shorten(refusals, what=f"of {name}, ")


def _of_several(reason: str, count: int) -> str:
    """Return the rest of a sentence about one release as one about several."""
    if count == 1:
        return reason
    for one, several in (("was ", "were "), ("is ", "are "), ("requires ", "require ")):
        if reason.startswith(one):
            return several + reason.removeprefix(one)
    for one, several in (("has ", "have "), ("does ", "do ")):
        if reason.startswith(one):
            return several + reason.removeprefix(one)
    return reason


def _expecting(name: str, needs: Sequence[Need]) -> list[Need]:
    """Return the needs whose parents expect something of a name, each interface and range once."""
    found: dict[tuple[str, str], Need] = {}
    for need in needs:
        if need.parent is not None and (digest := need.parent.line.expects.get(name)):
            found.setdefault((digest, str(need.specifier)), need)
    return list(found.values())


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
