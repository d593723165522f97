"""What a person can change so that there is an answer. Nothing is suggested that was not tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from resolvelib.resolvers import ResolutionImpossible as Impossible

from modpkg.core.errors import ModpkgError
from modpkg.core.names import ModuleName, specifier_text
from modpkg.resolve.budget import BudgetExceeded
from modpkg.resolve.need import Need
from modpkg.resolve.policy import Policy, VersionRange
from modpkg.resolve.unsat_core import Cause

MOST = 2

QUESTION = "Your question"
"""Where a root stands that was added to ask what forbids it: no change of it is an answer."""


class ResolutionInputs(Struct, frozen=True):
    """What the manifest asks for: all that a person can change."""

    roots: Sequence[Need]
    """As they are written, whatever an override makes of them."""
    policy: Policy
    overrides: Mapping[str, VersionRange]


class Suggestion(Struct, frozen=True):
    """One edit of what is asked for."""

    asked: ResolutionInputs
    name: ModuleName
    text: str
    """What to do, as an imperative."""


class TrialResolver(Protocol):
    """Resolving something else, within a budget for all attempts together."""

    def versions(self, asked: ResolutionInputs) -> Mapping[str, Version]:
        """Return what is chosen.

        Raises:
            resolvelib.ResolutionImpossible: there is no answer.
            BudgetExceeded: the budget does not reach for it.
        """
        ...

    def holding(self, asked: ResolutionInputs) -> list[Need]:
        """Return roots that can hold together, the first ones rather than the last ones.

        Raises:
            BudgetExceeded: the budget does not reach for it.
        """
        ...

    def refusals(self, asked: ResolutionInputs, name: str) -> Mapping[Version, str | None]:
        """Return the versions of a name, newest first, and why each may not be chosen."""
        ...


def suggestions(
    asked: ResolutionInputs, causes: Sequence[Cause], attempt: TrialResolver
) -> list[str]:
    """Return changes after which there is an answer, the smallest first.

    There is none where the budget of the attempts is spent before one is found, and where only
    what was asked beside the manifest is at fault.
    """
    guilty = _guilty(asked, causes)
    names = list(dict.fromkeys(cause.requirement.name for cause in causes))
    found: list[str] = []
    try:
        for change in _changes(asked, guilty, names, attempt):
            text = _worked(change, attempt)
            if text is not None and text not in found:
                found.append(text)
            if len(found) == MOST:
                break
        if not found and guilty:
            found = [*_leaving_out(asked, attempt)]
    except BudgetExceeded:
        pass
    return found


def _guilty(asked: ResolutionInputs, causes: Sequence[Cause]) -> list[Need]:
    """Return the roots of the manifest that have a part in a conflict."""
    needs = [cause.requirement for cause in causes if cause.parent is None]
    parts = {(need.name, need.extra) for need in needs}
    return [
        root for root in asked.roots if root.where != QUESTION and (root.name, root.extra) in parts
    ]


# Changes to try ---------------------------------------------------------------------------


class _Range(Struct, frozen=True):
    """A range that the manifest writes for a name."""

    kind: Literal["root", "constraint", "override"]
    name: ModuleName
    specifier: SpecifierSet
    where: str

    def replaced(self, asked: ResolutionInputs, specifier: SpecifierSet) -> ResolutionInputs:
        """Return what is asked for with another range here; with an empty one, with none."""
        if self.kind == "root":
            roots = [
                msgspec.structs.replace(root, specifier=specifier) if self._is(root) else root
                for root in asked.roots
            ]
            return msgspec.structs.replace(asked, roots=roots)
        constraint = self.kind == "constraint"
        bounds = dict(asked.policy.constraints if constraint else asked.overrides)
        del bounds[self.name]
        if specifier:
            bounds[self.name] = VersionRange(specifier, self.where)
        if constraint:
            policy = msgspec.structs.replace(asked.policy, constraints=bounds)
            return msgspec.structs.replace(asked, policy=policy)
        return msgspec.structs.replace(asked, overrides=bounds)

    def dropping(self, part: str) -> str:
        kind = {"root": "", "constraint": "the constraint on ", "override": "the override of "}
        return f"drop `{part}` from {kind[self.kind]}{_shown(self)}"

    def dropping_all(self) -> str:
        text = specifier_text(self.specifier)
        if self.kind == "root":
            return self.dropping(text)
        return f"leave out the {self.kind} `{self.name}{text}`{_at(self)}"

    def _is(self, root: Need) -> bool:
        return (root.name, root.where) == (self.name, self.where)


def _changes(
    asked: ResolutionInputs,
    guilty: Sequence[Need],
    names: Sequence[ModuleName],
    attempt: TrialResolver,
) -> Iterator[Suggestion]:
    """Yield what may help: dropping one bound, all bounds, admitting a release, dropping a root."""
    # An override stands for more than the root; a change of the root would change nothing.
    own = [need for need in guilty if need.name not in asked.overrides]
    ranges = [_Range("root", need.name, need.specifier, need.where) for need in own]
    ranges += [
        _Range(kind, name, bounds[name].specifier, bounds[name].where)
        for kind, bounds in _bounds(asked)
        for name in names
        if name in bounds
    ]
    for item in ranges:
        parts = sorted(item.specifier, key=str)
        for part in parts if len(parts) > 1 else []:
            rest = SpecifierSet(",".join(str(other) for other in parts if other is not part))
            yield Suggestion(item.replaced(asked, rest), item.name, item.dropping(str(part)))
    for item in ranges:
        if item.specifier:
            yield Suggestion(item.replaced(asked, SpecifierSet()), item.name, item.dropping_all())
    for item in ranges[: len(own)]:
        yield from _pinned(item, asked, attempt)
    for name in names:
        yield from _admitted(asked, name, attempt)
    questions = {root.name for root in asked.roots if root.where == QUESTION}
    for need in guilty:
        if need.name not in questions:
            yield Suggestion(_without(asked, [need]), need.name, f"leave out {_shown(need)}")


def _bounds(
    asked: ResolutionInputs,
) -> list[tuple[Literal["constraint", "override"], Mapping[str, VersionRange]]]:
    return [("constraint", asked.policy.constraints), ("override", asked.overrides)]


def _pinned(item: _Range, asked: ResolutionInputs, attempt: TrialResolver) -> Iterator[Suggestion]:
    """Yield the pin that admits the newest release that is not admitted, if any does."""
    for version, refused in attempt.refusals(asked, item.name).items():
        if refused is None:
            continue
        pin = f"=={version}"
        change = item.replaced(asked, SpecifierSet(pin))
        if attempt.refusals(change, item.name)[version] is None:
            yield Suggestion(change, item.name, f"write `{pin}` for {_shown(item)}")
            break


def _admitted(
    asked: ResolutionInputs, name: ModuleName, attempt: TrialResolver
) -> Iterator[Suggestion]:
    """Yield entries of ``[resolution]`` that admit more releases of a name."""
    before = attempt.refusals(asked, name)
    for text, policy in (
        (
            f'add "{name}" to prereleases under [resolution]',
            msgspec.structs.replace(asked.policy, prereleases=asked.policy.prereleases | {name}),
        ),
        (
            f"write `{name} = false` in exclude-newer-package under [resolution]",
            msgspec.structs.replace(asked.policy, cutoffs={**asked.policy.cutoffs, name: None}),
        ),
    ):
        change = msgspec.structs.replace(asked, policy=policy)
        after = attempt.refusals(change, name)
        if any(refused and not after[version] for version, refused in before.items()):
            yield Suggestion(change, name, text)


def _without(asked: ResolutionInputs, needs: Sequence[Need]) -> ResolutionInputs:
    gone = {(need.name, need.where) for need in needs}
    left = [root for root in asked.roots if (root.name, root.where) not in gone]
    return msgspec.structs.replace(asked, roots=left)


def _at(item: _Range | Need) -> str:
    return f" in {item.where}" if item.where else ""


def _shown(item: _Range | Need) -> str:
    return item.name + _at(item)


# Trying them ------------------------------------------------------------------------------


def _worked(change: Suggestion, attempt: TrialResolver) -> str | None:
    try:
        chosen = attempt.versions(change.asked)
    except (Impossible, ModpkgError):
        return None  # what can be read only after the change may be unreadable: no answer either
    if change.name not in chosen:
        return change.text
    return f"allow {change.name} {chosen[change.name]}: {change.text}"


def _leaving_out(asked: ResolutionInputs, attempt: TrialResolver) -> Iterator[str]:
    """Yield which roots to leave out together, no more of them than is needed."""
    ordered = sorted(asked.roots, key=lambda root: root.where != QUESTION)
    held = attempt.holding(msgspec.structs.replace(asked, roots=ordered))
    kept = {(root.name, root.extra, root.where) for root in held}
    gone = [root for root in ordered if (root.name, root.extra, root.where) not in kept]
    if gone and all(root.where != QUESTION for root in gone):
        *others, last = dict.fromkeys(map(_shown, gone))
        text = "leave out " + (", ".join(others) + " and ") * bool(others) + last
        if _worked(Suggestion(_without(asked, gone), gone[0].name, text), attempt) is not None:
            yield text
