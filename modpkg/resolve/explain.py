"""Explains, in sentences, which requirements conflict when there is no solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modpkg.core.names import requirement_text
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Catalog, Release
from modpkg.resolve.derivation import ConflictBranch, branches
from modpkg.resolve.need import Candidate, Identifier, Need
from modpkg.resolve.order import bits, runs_of
from modpkg.resolve.policy import VersionRange
from modpkg.resolve.space import Space
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
    space: Space,
    suggestions: Sequence[str] = (),
    *,
    smallest: bool = True,
    tried: bool = True,
) -> str:
    """Return the sentences for needs that conflict, followed by suggestions.

    Args:
        conflicts: The needs of each conflict; none has to do with another.
        space: Where they conflict.
        suggestions: What would help, as imperatives.
        smallest: Whether the needs are minimal sets; the text mentions it if not.
        tried: Whether all suggestions were tried; the text mentions it if not.
    """
    lines: list[str] = []
    for number, causes in enumerate(conflicts):
        if number:
            lines.append("Besides:")
        lines += _conflict(causes, space)
    if not smallest:
        lines.append(_NOT_MINIMAL)
    lines += [f"Hint: {suggestion}." for suggestion in suggestions]
    if not suggestions and not tried:
        lines.append(_NOT_ALL_TRIED)
    return "\n".join(lines)


def _conflict(causes: Sequence[Cause], space: Space) -> list[str]:
    catalog, admission = space.provider.catalog, space.provider.admission
    names: dict[str, list[Need]] = {}
    for cause in causes:
        names.setdefault(cause.requirement.name, []).append(cause.requirement)
    about = [
        sentence
        for name in _relevant(names, catalog, admission)
        for sentence in _releases(name, names[name], catalog, admission)
    ]
    found = branches(causes, space)
    if found is None:
        return _shorten(_needs(causes, catalog, admission)) + about
    *steps, last = found
    lines: list[str] = []
    for number, branch in enumerate(steps, 1):
        lines += _shorten(_needs(branch.causes, catalog, admission))
        lines.append(f"  So{_by(branch)} {_concluded(branch, space)} ({number}).")
    lines += _shorten(_needs(last.causes, catalog, admission))
    return [*lines, *about, f"  So{_by(last)} no version of {_labelled(last)} is left."]


def _by(branch: ConflictBranch) -> str:
    """Return the earlier branches that a conclusion follows from, as the middle of its sentence."""
    return f", by {_in_words([f'({number})' for number in branch.by])}," if branch.by else ""


def _labelled(branch: ConflictBranch) -> str:
    name, extra = branch.conclusion.subject
    return name if extra is None else f"{name}[{extra}]"


def _concluded(branch: ConflictBranch, space: Space) -> str:
    """Return the conclusion of a branch, as the rest of a sentence."""
    conclusion = branch.conclusion
    cases = [
        f"{case.subject[0]} {_versions(case.subject, case.left, space)}"
        for case in sorted(conclusion.cases, key=lambda case: case.subject[0])
    ]
    given = f"with {_in_words(cases)}, " if cases else ""
    if not conclusion.needed:
        everything = (1 << len(space.domain(conclusion.subject[0]))) - 1
        excluded = everything & ~conclusion.left
        if excluded == everything:
            return f"{given}no version of {_labelled(branch)} can be chosen"
        versions = _versions(conclusion.subject, excluded, space)
        return f"{given}{_labelled(branch)} {versions} cannot be chosen"
    what = _what(branch.single) if branch.single is not None else _range(branch, space)
    if branch.root is not None and not branch.by:
        return f"{branch.root.where or 'the request'} needs {what}"
    return f"{given}{what} is needed"


def _versions(subject: Identifier, mask: int, space: Space) -> str:
    ascending = space.domain(subject[0]).ascending
    return _in_words([str(ascending[at].version) for at in bits(mask)])


def _range(branch: ConflictBranch, space: Space) -> str:
    """Return what a conclusion leaves of a name, as a requirement if it is one range."""
    conclusion = branch.conclusion
    ascending = space.domain(conclusion.subject[0]).ascending
    runs = runs_of(bits(conclusion.left))
    if len(runs) != 1:
        return f"{_labelled(branch)} {_versions(conclusion.subject, conclusion.left, space)}"
    ((low, high),) = runs
    lower = f">={ascending[low].version}" if low else ""
    upper = f"<{ascending[high].version}" if high < len(ascending) else ""
    bounds = ",".join(filter(None, (lower, upper)))
    return _labelled(branch) + bounds if bounds else f"any version of {_labelled(branch)}"


def _needs(causes: Sequence[Cause], catalog: Catalog, admission: Admission) -> list[str]:
    """Return a sentence for each range that something needs of a name, in order."""
    needs: dict[tuple[str, ...], dict[str, None]] = {}
    targets: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {}
    for cause in causes:
        need = cause.requirement
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
    return sentences


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
        where = need.where or "the request"
        return (where[0].upper() + where[1:] if where.startswith("the ") else where, ""), ""
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
    return [
        f"  {replacement(name, overridden)}",
        *_available(name, needs, catalog, admission),
    ]


def replacement(name: str, override: VersionRange) -> str:
    """Return the sentence that an override replaces all requirements on a name."""
    what = requirement_text(name, set(), override.specifier)
    return f"Every requirement on {name} is replaced by {what}, an override in {override.where}."


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
