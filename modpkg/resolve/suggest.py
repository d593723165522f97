"""Suggests changes of the manifest that make a solution possible; each of them was tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from resolvelib.resolvers import ResolutionImpossible as Impossible

from modpkg.core.errors import ModpkgError
from modpkg.core.names import ModuleName, listed, specifier_text
from modpkg.resolve.budget import BudgetExceeded
from modpkg.resolve.catalog import Release
from modpkg.resolve.need import Need
from modpkg.resolve.policy import Policy, VersionRange
from modpkg.resolve.unsat_core import Cause

MOST = 2
"""Most suggestions."""

QUESTION = "Your question"
"""``where`` of a root that `modpkg why-not` adds: changing it is never suggested."""


class ResolutionInputs(Struct, frozen=True):
    """Everything in a manifest that decides a resolution."""

    roots: Sequence[Need]
    """As written, before overrides."""
    policy: Policy
    overrides: Mapping[str, VersionRange]


class Suggestion(Struct, frozen=True):
    """One edit of a manifest."""

    inputs: ResolutionInputs
    """After the edit."""
    name: ModuleName
    text: str
    """The edit, as an imperative."""


class TrialResolver(Protocol):
    """Resolves edited inputs, with one budget for all of them."""

    def chosen(self, inputs: ResolutionInputs) -> Mapping[str, Release]:
        """Return the chosen release of each name.

        Raises:
            resolvelib.ResolutionImpossible: There is no solution.
            BudgetExceeded: The budget is spent.
        """
        ...

    def drift(self, parent: Release, release: Release) -> str | None:
        """Return how ``release`` differs from what ``parent`` was made for; None if it does not."""
        ...

    def holding(self, inputs: ResolutionInputs) -> list[Need]:
        """Return a maximal set of roots that have a solution, preferring the first ones.

        Raises:
            BudgetExceeded: The budget is spent.
        """
        ...

    def refusals(self, inputs: ResolutionInputs, name: str) -> Mapping[Version, str | None]:
        """Return the versions of a name, newest first, each with why it is excluded, if it is."""
        ...


def suggestions(
    inputs: ResolutionInputs, causes: Sequence[Cause], resolver: TrialResolver
) -> list[str]:
    """Return edits after which there is a solution, the smallest first.

    There are none if the resolver's budget is spent before one is found, or if only a question
    beside the manifest is in conflict.
    """
    involved = _involved(inputs, causes)
    names = list(dict.fromkeys(cause.requirement.name for cause in causes))
    bases = [
        name
        for name in names
        if any(
            cause.requirement.parent is not None and name in cause.requirement.parent.line.expects
            for cause in causes
        )
    ]
    texts: list[str] = []
    try:
        for change in _changes(inputs, involved, names, bases, resolver):
            text = _tried(change, resolver)
            if text is not None and text not in texts:
                texts.append(text)
            if len(texts) == MOST:
                break
        if not texts and involved:
            texts = [*_removals(inputs, resolver)]
    except BudgetExceeded:
        pass
    return texts


def _involved(inputs: ResolutionInputs, causes: Sequence[Cause]) -> list[Need]:
    """Return the roots of the manifest that are part of the conflict."""
    needs = [cause.requirement for cause in causes if cause.parent is None]
    parts = {(need.name, need.extra) for need in needs}
    return [
        root for root in inputs.roots if root.where != QUESTION and (root.name, root.extra) in parts
    ]


# Changes to try ---------------------------------------------------------------------------


class _Range(Struct, frozen=True):
    """A range that the manifest has for a name."""

    kind: Literal["root", "constraint", "override"]
    name: ModuleName
    specifier: SpecifierSet
    where: str

    def replaced(self, inputs: ResolutionInputs, specifier: SpecifierSet) -> ResolutionInputs:
        """Return the inputs with another range here, or none if it is empty."""
        if self.kind == "root":
            roots = [
                msgspec.structs.replace(root, specifier=specifier) if self._is(root) else root
                for root in inputs.roots
            ]
            return msgspec.structs.replace(inputs, roots=roots)
        constraint = self.kind == "constraint"
        bounds = dict(inputs.policy.constraints if constraint else inputs.overrides)
        del bounds[self.name]
        if specifier:
            bounds[self.name] = VersionRange(specifier, self.where)
        if constraint:
            policy = msgspec.structs.replace(inputs.policy, constraints=bounds)
            return msgspec.structs.replace(inputs, policy=policy)
        return msgspec.structs.replace(inputs, overrides=bounds)

    def dropping(self, part: str) -> str:
        kind = {"root": "", "constraint": "the constraint on ", "override": "the override of "}
        return f"drop `{part}` from {kind[self.kind]}{_shown(self)}"

    def dropping_all(self) -> str:
        text = specifier_text(self.specifier)
        if self.kind == "root":
            return self.dropping(text)
        return f"remove the {self.kind} `{self.name}{text}`{_at(self)}"

    def _is(self, root: Need) -> bool:
        return (root.name, root.where) == (self.name, self.where)


def _changes(
    inputs: ResolutionInputs,
    involved: Sequence[Need],
    names: Sequence[ModuleName],
    bases: Sequence[ModuleName],
    resolver: TrialResolver,
) -> Iterator[Suggestion]:
    """Yield edits: drop one clause, drop all, admit a release, allow drift, remove a root."""
    # An override replaces the root, so that editing the root would change nothing.
    own = [need for need in involved if need.name not in inputs.overrides]
    ranges = [_Range("root", need.name, need.specifier, need.where) for need in own]
    ranges += [
        _Range(kind, name, bounds[name].specifier, bounds[name].where)
        for kind, bounds in _bounds(inputs)
        for name in names
        if name in bounds
    ]
    for item in ranges:
        parts = sorted(item.specifier, key=str)
        for part in parts if len(parts) > 1 else []:
            rest = SpecifierSet(",".join(str(other) for other in parts if other is not part))
            yield Suggestion(item.replaced(inputs, rest), item.name, item.dropping(str(part)))
    for item in ranges:
        if item.specifier:
            yield Suggestion(item.replaced(inputs, SpecifierSet()), item.name, item.dropping_all())
    for item in ranges[: len(own)]:
        yield from _pinned(item, inputs, resolver)
    for name in names:
        yield from _admitted(inputs, name, resolver)
    if inputs.policy.strict:
        policy = msgspec.structs.replace(inputs.policy, strict=False)
        loose = msgspec.structs.replace(inputs, policy=policy)
        for name in bases:
            yield Suggestion(loose, name, "leave out strict (--strict, or under [resolution])")
    questions = {root.name for root in inputs.roots if root.where == QUESTION}
    for need in involved:
        if need.name not in questions:
            yield Suggestion(_without(inputs, [need]), need.name, f"remove {_shown(need)}")


def _bounds(
    inputs: ResolutionInputs,
) -> list[tuple[Literal["constraint", "override"], Mapping[str, VersionRange]]]:
    return [("constraint", inputs.policy.constraints), ("override", inputs.overrides)]


def _pinned(
    item: _Range, inputs: ResolutionInputs, resolver: TrialResolver
) -> Iterator[Suggestion]:
    """Yield the pin that admits the newest excluded release, if any does."""
    for version, refused in resolver.refusals(inputs, item.name).items():
        if refused is None:
            continue
        pin = f"=={version}"
        change = item.replaced(inputs, SpecifierSet(pin))
        if resolver.refusals(change, item.name)[version] is None:
            yield Suggestion(change, item.name, f"write `{pin}` for {_shown(item)}")
            break


def _admitted(
    inputs: ResolutionInputs, name: ModuleName, resolver: TrialResolver
) -> Iterator[Suggestion]:
    """Yield the edit of ``[resolution]`` that admits releases after the cut-off of a name."""
    before = resolver.refusals(inputs, name)
    cutoffs = {**inputs.policy.cutoffs, name: None}
    policy = msgspec.structs.replace(inputs.policy, cutoffs=cutoffs)
    change = msgspec.structs.replace(inputs, policy=policy)
    after = resolver.refusals(change, name)
    if any(refused and not after[version] for version, refused in before.items()):
        text = f"write `{name} = false` in exclude-newer-package under [resolution]"
        yield Suggestion(change, name, text)


def _without(inputs: ResolutionInputs, needs: Sequence[Need]) -> ResolutionInputs:
    gone = {(need.name, need.where) for need in needs}
    left = [root for root in inputs.roots if (root.name, root.where) not in gone]
    return msgspec.structs.replace(inputs, roots=left)


def _at(item: _Range | Need) -> str:
    return f" in {item.where}" if item.where else ""


def _shown(item: _Range | Need) -> str:
    return item.name + _at(item)


# Trying them ------------------------------------------------------------------------------


def _tried(change: Suggestion, resolver: TrialResolver) -> str | None:
    try:
        chosen = resolver.chosen(change.inputs)
        release = chosen.get(change.name)
        fit = "" if release is None else _fit(release, chosen, resolver)
    except (Impossible, ModpkgError):
        return None  # a file that is needed only after the edit may be unreadable
    return change.text if release is None else f"allow {release}{fit}: {change.text}"


def _fit(base: Release, chosen: Mapping[str, Release], resolver: TrialResolver) -> str:
    """Return which of the chosen modules fit a base exactly, or drift on it, as a clause."""
    acting = [module for module in chosen.values() if base.name in module.line.expects]
    drifting = [module for module in acting if resolver.drift(module, base) is not None]
    if drifting:
        return f", on which {listed([*map(str, drifting)])} drift{'s' * (len(drifting) == 1)}"
    fit = "fits" if len(acting) == 1 else "fit"
    return f", which {listed([*map(str, acting)])} {fit} exactly" if acting else ""


def _removals(inputs: ResolutionInputs, resolver: TrialResolver) -> Iterator[str]:
    """Yield a minimal set of roots to remove together."""
    ordered = sorted(inputs.roots, key=lambda root: root.where != QUESTION)
    held = resolver.holding(msgspec.structs.replace(inputs, roots=ordered))
    kept = {(root.name, root.extra, root.where) for root in held}
    gone = [root for root in ordered if (root.name, root.extra, root.where) not in kept]
    if gone and all(root.where != QUESTION for root in gone):
        *others, last = dict.fromkeys(map(_shown, gone))
        text = "remove " + (", ".join(others) + " and ") * bool(others) + last
        if _tried(Suggestion(_without(inputs, gone), gone[0].name, text), resolver) is not None:
            yield text
