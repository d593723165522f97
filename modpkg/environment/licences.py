"""The licences of a resolution: what a policy refuses, and what does not go together."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, reduce
from typing import Literal

from msgspec import Struct

from modpkg.core.errors import InvalidValue, LicenseError
from modpkg.core.names import parse_requirement
from modpkg.core.records import ReleaseRecord
from modpkg.environment.licence_facts import ANY, UNKNOWN, Terms, is_known, terms_of
from modpkg.environment.models import ModelRecipe
from modpkg.manifest.schema import LicensePolicy, Manifest
from modpkg.manifest.spdx import Expression, accepted, fold, parse_expression
from modpkg.resolve.lock import Lock


class ModuleLicense(Struct, frozen=True):
    """One module of a resolution, and whether the policy takes it."""

    name: str
    version: str
    license: str
    verdict: Literal["accepted", "excepted", "refused"]
    reason: str = ""
    """Why it is refused: a clause."""


class Combination(Struct, frozen=True):
    """Modules that one model is composed of, and whose licences do not (surely) go together."""

    model: str
    status: Literal["incompatible", "unknown"]
    modules: tuple[str, ...]
    """The fewest that show it."""
    text: str
    """A clause that names each with its licence."""


class Licences(Struct, frozen=True):
    """What is to be said of the licences of a resolution."""

    modules: tuple[ModuleLicense, ...]
    combinations: tuple[Combination, ...]

    def warnings(self) -> list[str]:
        """Return a sentence for each combination."""
        return [f"{one.model}: {one.text}." for one in self.combinations]


def licences_of(
    manifest: Manifest,
    records: Mapping[str, ReleaseRecord],
    models: Iterable[ModelRecipe],
) -> Licences:
    """Return what a manifest's policy says of the modules of a resolution, and what is composed.

    Only what one model is made of is taken together: models that lie side by side are not one work.
    """
    policy = manifest.licenses
    modules = tuple(_judged(record, policy) for record in records.values())
    excepted = {module.name for module in modules if module.verdict == "excepted"}
    found = []
    for model in models:
        parts = dict.fromkeys([model.name, *model.modules()])
        taken = [name for name in parts if name in records and name not in excepted]
        if len(taken) > 1:
            found += _combined(model.name, [records[name] for name in taken])
    return Licences(modules, tuple(found))


def require_accepted(found: Licences, manifest: Manifest, lock: Lock) -> None:
    """Refuse what the policy of a manifest does not take.

    Raises:
        LicenseError: name the modules, and where they are asked for.
    """
    policy = manifest.licenses
    for module in found.modules:
        if module.verdict == "refused":
            raise LicenseError(
                "M770",
                where=asked_by(module.name, manifest, lock) or manifest.path.name,
                name=module.name,
                version=module.version,
                license=module.license,
                reason=module.reason,
                policy=policy.where,
            )
    for one in found.combinations:
        manner = policy.conflicts if one.status == "incompatible" else policy.unknown
        if manner == "refuse":
            raise LicenseError(
                "M771",
                where=asked_by(one.model, manifest, lock) or manifest.path.name,
                model=one.model,
                text=one.text,
                policy=policy.where,
                names=", ".join(one.modules),
            )


def asked_by(name: str, manifest: Manifest, lock: Lock) -> str:
    """Return the line of the manifest that leads to a module, and the way from there."""
    known = {module.name: module for module in lock.module}
    pending = deque((dependency, [str(dependency.name)]) for dependency in manifest.dependencies)
    seen: set[str] = set()
    while pending:
        root, path = pending.popleft()
        if path[-1] == name:
            way = f" ({' -> '.join(path)})" if len(path) > 1 else ""
            return f"{root.where or manifest.path.name}{way}"
        if path[-1] in seen or path[-1] not in known:
            continue
        seen.add(path[-1])
        for text in known[path[-1]].requires:
            pending.append((root, [*path, parse_requirement(text).name]))
    return ""


@cache
def _parsed(text: str) -> Expression | None:
    """Return a release's licence; None where it is no SPDX expression (nobody checked it)."""
    try:
        return parse_expression(text)
    except InvalidValue:
        return None


def _judged(record: ReleaseRecord, policy: LicensePolicy) -> ModuleLicense:
    """Return whether the policy takes a module: some way to choose among its licences does."""

    def takes(license: str) -> bool:
        listed = policy.allow is None or license in policy.allow
        return listed and license not in policy.deny

    special = policy.exceptions.get(record.name, ())  # type: ignore[call-overload]

    def judged(verdict: Literal["accepted", "excepted", "refused"], why: str = "") -> ModuleLicense:
        return ModuleLicense(record.name, record.version, record.license, verdict, why)

    if policy.allow is None and not policy.deny and not special:
        return judged("accepted")
    tree = _parsed(record.license)
    if tree is None:
        return judged("refused", "it is no SPDX expression")
    if special and accepted(tree, lambda license: license in special):
        return judged("excepted")
    if accepted(tree, takes):
        return judged("accepted")
    denied = sorted(name for name in _leaves(tree) if name in policy.deny)
    if denied:
        return judged("refused", f"{', '.join(denied)} is denied")
    outside = sorted(name for name in _leaves(tree) if not takes(name))
    return judged("refused", f"{', '.join(outside)} is not among those allowed")


def _leaves(tree: Expression) -> frozenset[str]:
    return fold(tree, lambda name: frozenset({name}), lambda a, b: a | b, lambda a, b: a | b)


def _terms(tree: Expression | None) -> Terms:
    if tree is None:
        return UNKNOWN
    return fold(tree, terms_of, Terms.__and__, Terms.__or__)


def _together(terms: Iterable[Terms]) -> Terms:
    return reduce(Terms.__and__, terms, ANY)


def _combined(model: str, parts: Sequence[ReleaseRecord]) -> list[Combination]:
    """Return what is to be said of the parts of one model: nothing, where they go together."""
    terms = {part.name: _terms(_parsed(part.license)) for part in parts}
    whole = _together(terms.values())
    if whole.known:
        return []
    license_of = {part.name: part.license for part in parts}

    def shown(names: Iterable[str]) -> str:
        return ", ".join(f"{name} ({license_of[name]})" for name in names)

    if not whole.possible:
        fewest = _fewest(terms)
        said = f"the licences of {shown(fewest)} do not go together in one work"
        if len(fewest) == 1:
            said = f"{shown(fewest)} may not be given on once it is composed with others"
        return [Combination(model, "incompatible", tuple(fewest), said)]
    odd = [name for name, text in license_of.items() if not _all_known(_parsed(text))]
    said = f"whether the licences of {shown(license_of)} go together is not known"
    if odd:
        said += f": there are no facts on {', '.join(sorted({license_of[n] for n in odd}))}"
    return [Combination(model, "unknown", tuple(odd or license_of), said)]


def _all_known(tree: Expression | None) -> bool:
    return tree is not None and all(map(is_known, _leaves(tree)))


def _fewest(terms: Mapping[str, Terms]) -> list[str]:
    """Return the fewest modules that have no terms in common."""
    for count in (1, 2):
        for chosen in itertools.combinations(terms, count):
            whole = _together(terms[name] for name in chosen)
            if not whole.possible:
                return list(chosen)
    left = list(terms)
    for name in terms:
        fewer = [other for other in left if other != name]
        whole = _together(terms[other] for other in fewer)
        if not whole.possible:
            left = fewer
    return left
