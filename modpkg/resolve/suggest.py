"""Suggests changes of the manifest that make a solution possible; each of them was tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import Struct
from packaging.specifiers import Specifier, SpecifierSet
from packaging.version import Version
from resolvelib.resolvers import ResolutionImpossible as Impossible

from modpkg.core.errors import ModpkgError
from modpkg.core.names import ModuleName, listed, specifier_text
from modpkg.manifest.schema import COMMAND_LINE
from modpkg.resolve.admission import NOT_BY_A_PIN
from modpkg.resolve.budget import BudgetExceeded
from modpkg.resolve.catalog import Release
from modpkg.resolve.inputs import ResolutionInputs
from modpkg.resolve.need import Need
from modpkg.resolve.policy import VersionRange
from modpkg.resolve.unsat_core import Cause

MOST = 2
"""Most suggestions."""

QUESTION = "Your question"
"""``where`` of a root that `modpkg why-not` adds: changing it is never suggested."""


class Suggestion(Struct, frozen=True):
    """One edit of a manifest."""

    inputs: ResolutionInputs
    """After the edit."""
    name: ModuleName
    text: str
    """The edit, as an imperative; ``{}`` stands for what it is done to."""
    object: str = ""
    """What it is done to."""


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
    inputs: ResolutionInputs, conflicts: Sequence[Sequence[Cause]], resolver: TrialResolver
) -> list[str]:
    """Return edits after which there is a solution, the smallest first.

    Where no single edit mends all conflicts, there is one for each of them, given together.

    There are none if the resolver's budget is spent before one is found, or if only a question
    beside the manifest is in conflict.
    """
    texts: list[str] = []
    try:
        # What mends all of several conflicts is part of each.
        for change in _changes(inputs, conflicts[0], resolver):
            text = _tried(change, resolver)
            if text is not None and text not in texts:
                texts.append(text)
            if len(texts) == MOST:
                break
        if not texts and len(conflicts) > 1:
            texts = [*_one_each(inputs, conflicts, resolver)]
        if not texts and any(_involved(inputs, causes) for causes in conflicts):
            texts = [*_removals(inputs, resolver)]
    except BudgetExceeded:
        pass
    return texts


def _one_each(
    inputs: ResolutionInputs, conflicts: Sequence[Sequence[Cause]], resolver: TrialResolver
) -> Iterator[str]:
    """Yield the edits that mend each conflict by itself, if they mend all together."""
    edits: list[tuple[str, Suggestion]] = []
    for causes in conflicts:
        names = {root.name for root in _involved(inputs, causes)}
        for change in _changes(inputs, causes, resolver) if names else ():
            roots = [
                root for root in change.inputs.roots if root.name in names or root.where == QUESTION
            ]
            alone = msgspec.structs.replace(change.inputs, roots=roots)
            allowed = _allowed(msgspec.structs.replace(change, inputs=alone), resolver)
            if allowed is not None:
                edits.append((allowed, change))
                inputs = change.inputs
                break
    if edits and _allowed(Suggestion(inputs, edits[0][1].name, ""), resolver) is not None:
        yield _together(edits)


def _together(edits: Sequence[tuple[str, Suggestion]]) -> str:
    """Return several edits as one imperative; edits of one kind share a verb."""
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for allowed, change in edits:
        releases, objects = groups.setdefault(change.text, ([], []))
        releases += [allowed] if allowed and allowed not in releases else []
        objects += [change.object] if change.object not in objects else []
    parts = []
    for text, (releases, objects) in groups.items():
        allow = f"allow {_and(releases)}: " if releases else ""
        parts.append(allow + text.format(_and(objects)))
    return "; and ".join(parts)


def _and(items: Sequence[str]) -> str:
    *others, last = items
    return ", ".join(others) + " and " * bool(others) + last


def _bases(causes: Sequence[Cause]) -> list[ModuleName]:
    """Return the names of which a conflict's modules expect something."""
    return list(
        dict.fromkeys(
            need.name
            for need in (cause.requirement for cause in causes)
            if need.parent is not None and need.name in need.parent.line.expects
        )
    )


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

    def without(self, inputs: ResolutionInputs, part: Specifier) -> Suggestion:
        """Return the edit that drops one clause."""
        rest = [str(other) for other in self.specifier if other is not part]
        return self._dropped(inputs, SpecifierSet(",".join(rest)), str(part))

    def without_all(self, inputs: ResolutionInputs) -> Suggestion:
        """Return the edit that drops all clauses."""
        text, nothing = specifier_text(self.specifier), SpecifierSet()
        if self.kind == "root":
            return self._dropped(inputs, nothing, text)
        what = f"the {self.kind} `{self.name}{text}`{_at(self)}"
        return Suggestion(self.replaced(inputs, nothing), self.name, "remove {}", what)

    def _dropped(self, inputs: ResolutionInputs, rest: SpecifierSet, text: str) -> Suggestion:
        kind = {"root": "", "constraint": "the constraint on ", "override": "the override of "}
        what = kind[self.kind] + _shown(self)
        return Suggestion(self.replaced(inputs, rest), self.name, f"drop `{text}` from {{}}", what)

    def _is(self, root: Need) -> bool:
        return (root.name, root.where) == (self.name, self.where)


def _changes(
    inputs: ResolutionInputs, causes: Sequence[Cause], resolver: TrialResolver
) -> Iterator[Suggestion]:
    """Yield edits of what is in a conflict.

    They drop one clause, or all, or an extra; admit a release; allow drift; or remove a root.
    """
    involved = _involved(inputs, causes)
    names = list(dict.fromkeys(cause.requirement.name for cause in causes))
    # An override replaces the root, so that editing the root would change nothing.
    own = [need for need in involved if need.name not in inputs.overrides]
    places = {(need.name, need.where): need for need in own}
    ranges = [_Range("root", n.name, n.specifier, n.where) for n in places.values()]
    ranges += [
        _Range(kind, name, bounds[name].specifier, bounds[name].where)
        for kind, bounds in _bounds(inputs)
        for name in names
        if name in bounds
    ]
    for item in ranges:
        parts = sorted(item.specifier, key=str)
        for part in parts if len(parts) > 1 else []:
            yield item.without(inputs, part)
    for item in ranges:
        if item.specifier:
            yield item.without_all(inputs)
    for need in involved:
        if need.extra is not None:
            left = [root for root in inputs.roots if root is not need]
            change = msgspec.structs.replace(inputs, roots=left)
            what = f"the extra {need.extra!r} of {_shown(need)}"
            yield Suggestion(change, need.name, "leave out {}", what)
    for item in ranges[: len(places)]:
        yield from _pinned(item, inputs, resolver)
    for name in names:
        yield from _admitted(inputs, name, resolver)
    if inputs.policy.strict:
        policy = msgspec.structs.replace(inputs.policy, strict=False)
        loose = msgspec.structs.replace(inputs, policy=policy)
        for name in _bases(causes):
            yield Suggestion(loose, name, "leave out strict (--strict, or under [resolution])")
    questions = {root.name for root in inputs.roots if root.where == QUESTION}
    for need in {(need.name, need.where): need for need in involved}.values():
        if need.name not in questions:
            yield Suggestion(_without(inputs, [need]), need.name, "remove {}", _removed(need))


def _bounds(
    inputs: ResolutionInputs,
) -> list[tuple[Literal["constraint", "override"], Mapping[str, VersionRange]]]:
    return [("constraint", inputs.policy.constraints), ("override", inputs.overrides)]


def _pinned(
    item: _Range, inputs: ResolutionInputs, resolver: TrialResolver
) -> Iterator[Suggestion]:
    """Yield the pin that admits the newest excluded release, if any does."""
    for version, refused in resolver.refusals(inputs, item.name).items():
        if refused is None or refused.startswith(NOT_BY_A_PIN):
            continue
        pin = f"=={version}"
        change = item.replaced(inputs, SpecifierSet(pin))
        if resolver.refusals(change, item.name)[version] is None:
            yield Suggestion(change, item.name, f"write `{pin}` for {{}}", _shown(item))
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
        text = "write {} in exclude-newer-package under [resolution]"
        yield Suggestion(change, name, text, f"`{name} = false`")


def _without(inputs: ResolutionInputs, needs: Sequence[Need]) -> ResolutionInputs:
    gone = {(need.name, need.where) for need in needs}
    left = [root for root in inputs.roots if (root.name, root.where) not in gone]
    return msgspec.structs.replace(inputs, roots=left)


def _at(item: _Range | Need) -> str:
    if item.where == COMMAND_LINE:
        return f" on {COMMAND_LINE}"
    return f" in {item.where}" if item.where else ""


def _shown(item: _Range | Need) -> str:
    return item.name + _at(item)


def _removed(root: Need) -> str:
    """Return a root to remove, and what has to go with it."""
    uses = "use" if len(root.users) > 1 else "uses"
    more = f" (and {_and(root.users)}, which {uses} it)" if root.users else ""
    return _shown(root) + more


# Trying them ------------------------------------------------------------------------------


def _tried(change: Suggestion, resolver: TrialResolver) -> str | None:
    """Return an edit as an imperative, with what it allows; None if it does not help."""
    allowed = _allowed(change, resolver)
    return None if allowed is None else _together([(allowed, change)])


def _allowed(change: Suggestion, resolver: TrialResolver) -> str | None:
    """Return the release that an edit allows, "" if none; None if there is no solution with it."""
    try:
        chosen = resolver.chosen(change.inputs)
        release = chosen.get(change.name)
        fit = "" if release is None else _fit(release, chosen, resolver)
    except (Impossible, ModpkgError):
        return None  # a file that is needed only after the edit may be unreadable
    return "" if release is None else f"{release}{fit}"


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
        change = Suggestion(_without(inputs, gone), gone[0].name, "")
        if _allowed(change, resolver) is not None:
            yield f"remove {_and([*dict.fromkeys(map(_removed, gone))])}"
