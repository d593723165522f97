"""How the needs of a conflict exclude one another: branches, and the conclusion of each.

The solver says which needs conflict (`modpkg.resolve.unsat_core`), not how. The conclusions are
drawn again here, in the steps that a person would take:

- forward: each version that is left of a module needs another module, so that one is needed;
- backward: a version needs what is ruled out, so that version is ruled out;
- by cases: with some versions of a module the other needs conflict, so those are ruled out.

Where two conclusions meet, each is explained by itself first, with a number to refer to it, as the
explanations of pub and uv do (Weizenbaum, "PubGrub: Next-Generation Version Solving", 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct, field

from modpkg.resolve.need import Identifier, Need
from modpkg.resolve.order import bits, mask_of
from modpkg.resolve.space import Space
from modpkg.resolve.unsat_core import Cause

MOST_FACTS = 150
"""Most kinds of needs that conclusions are drawn from; a conflict of more is a list of needs."""
MOST_WORK = 20_000
"""Most needs that are looked at; it is given up beyond that."""
MOST_CASES = 3
"""Most cases within one another."""
MOST_BRANCHES = 12
"""Most conclusions that are explained."""


class SharedNeed(Struct, frozen=True, eq=False):
    """What one or several versions of a module need: the same positions of the same module."""

    owner: Identifier | None
    """None for roots."""
    target: Identifier
    allowed: int
    """The positions of the target that are allowed, as bits."""
    causes: list[Cause]
    positions: int
    """Those of the owner, as bits."""


class Conclusion(Struct, frozen=True, eq=False):
    """What follows from facts and from other conclusions: a limit on one name or extra."""

    subject: Identifier
    left: int
    """The positions of the subject that it leaves, as bits."""
    needed: bool
    """Whether the subject is needed; otherwise it has one of these positions if it is needed."""
    facts: tuple[SharedNeed, ...] = ()
    others: tuple[Conclusion, ...] = ()
    asked: Conclusion | None = None
    """That what has the needs is needed, if nothing else of that conclusion matters."""
    given: frozenset[Conclusion] = frozenset()
    """The cases that it holds in, unless it is one itself."""

    @property
    def behind(self) -> tuple[Conclusion, ...]:
        """The conclusions that it follows from."""
        return self.others if self.asked is None else (self.asked, *self.others)

    @property
    def is_case(self) -> bool:
        """Whether it is assumed, and follows from nothing."""
        return not self.facts and not self.behind

    @property
    def cases(self) -> frozenset[Conclusion]:
        """The cases that it holds in."""
        return frozenset((self,)) if self.is_case else self.given


class ConflictBranch(Struct, frozen=True):
    """Needs, and what follows from them."""

    causes: list[Cause]
    conclusion: Conclusion
    """The last one of a story is that nothing is left."""
    by: tuple[int, ...]
    """The numbers of earlier branches that it follows from, too."""
    single: Need | None
    """The need that says the same as the conclusion, if it is a single one's."""
    root: Need | None
    """The root that everything in this branch follows from, if it is a single one."""


def branches(causes: Sequence[Cause], space: Space) -> list[ConflictBranch] | None:
    """Return the branches of a conflict in order; the last one says how they meet.

    None if there is only one, or if there is too much to tell.
    """
    reasoning = _Reasoning(causes, space)
    if len(reasoning.facts) > MOST_FACTS:
        return None
    try:
        conflict = reasoning.refuted()
    except _TooMuch:
        return None
    if conflict is None:
        return None
    found = _Teller(conflict).branches
    return found if 1 < len(found) <= MOST_BRANCHES + 1 else None


class _TooMuch(Exception):
    """The work is over `MOST_WORK`."""


class _Reasoning:
    """The facts of a conflict, and what follows from them."""

    def __init__(self, causes: Sequence[Cause], space: Space) -> None:
        self._space = space
        self._work = MOST_WORK
        self.facts = _facts(causes, space)
        self._needs: dict[tuple[Identifier, Identifier], list[SharedNeed]] = {}
        for fact in self.facts:
            if fact.owner is not None:
                self._needs.setdefault((fact.owner, fact.target), []).append(fact)
        named = dict.fromkeys(
            part for fact in self.facts for part in (fact.owner, fact.target) if part is not None
        )
        self._extras: dict[str, list[Identifier]] = {}
        for name, extra in named:
            if extra is not None:
                self._extras.setdefault(name, []).append((name, extra))

    def refuted(self) -> Conclusion | None:
        """Return that nothing is left of something that is needed; None if it is not found."""
        known = _Known()
        for fact in self.facts:
            if fact.owner is None:
                root = Conclusion(fact.target, fact.allowed, True, (fact,))
                if (conflict := self._learn(known, root)) is not None:
                    return conflict
        for depth in range(MOST_CASES + 1):
            if (conflict := self._refuted(known, depth)) is not None:
                return conflict
        return None

    def _refuted(self, known: _Known, cases: int) -> Conclusion | None:
        conflict = self._propagated(known)
        more = cases > 0
        while conflict is None and more:
            more = False
            for subject, groups in self._groups(known):
                excluded = []
                for group in groups:
                    case = Conclusion(subject, group, True)
                    trial = known.copy()
                    trial.needed[subject] = case
                    found = self._learn(trial, case) or self._refuted(trial, cases - 1)
                    if found is None:
                        continue
                    if case not in found.cases:
                        return found
                    without = self._all(subject) & ~group
                    excluded.append(_follows(subject, without, False, (), (found,), case=case))
                for new in excluded:
                    conflict = conflict or self._learn(known, new)
                if excluded:
                    conflict = conflict or self._propagated(known)
                    more = True
                    break
        return conflict

    def _groups(self, known: _Known) -> list[tuple[Identifier, list[int]]]:
        """Return the needed names' versions that have the same needs, the fewest groups first."""
        found: list[tuple[Identifier, list[int]]] = []
        for name, extra in known.needed:
            if extra is not None:
                continue
            own = [
                fact
                for fact in self.facts
                if fact.owner is not None and fact.owner[0] == name and fact.owner in known.needed
            ]
            groups: dict[tuple[int, ...], int] = {}
            for at in bits(self._left(known, (name, None))):
                key = tuple(n for n, fact in enumerate(own) if fact.positions >> at & 1)
                groups[key] = groups.get(key, 0) | 1 << at
            self._charge(len(own))
            if len(groups) > 1:
                found.append(((name, None), [group for key, group in groups.items() if key]))
        return sorted(found, key=lambda item: len(item[1]))

    def _propagated(self, known: _Known) -> Conclusion | None:
        """Learn what follows without cases; return the conflict if there is one."""
        while True:
            new = next(self._forward(known), None) or next(self._backward(known), None)
            if new is None:
                return None
            if (conflict := self._learn(known, new)) is not None:
                return conflict

    def _forward(self, known: _Known) -> Iterator[Conclusion]:
        for (owner, target), facts in self._needs.items():
            self._charge(len(facts))
            if owner not in known.needed:
                continue
            left = self._left(known, owner)
            of_all = [[fact] for fact in facts if not left & ~fact.positions]
            for used in of_all or [[fact for fact in facts if fact.positions & left]]:
                covered = allowed = 0
                for fact in used:
                    covered |= fact.positions
                    allowed |= fact.allowed
                new = target not in known.needed or self._left(known, target) & ~allowed
                if new and not left & ~covered:
                    why = self._why(known, owner, _inside(covered))
                    yield _follows(target, allowed, True, used, why, asked=known.needed[owner])

    def _backward(self, known: _Known) -> Iterator[Conclusion]:
        for (owner, target), facts in self._needs.items():
            self._charge(len(facts))
            left, possible = self._left(known, target), self._left(known, owner)
            used = [f for f in facts if not f.allowed & left and f.positions & possible]
            if used:
                positions = allowed = 0
                for fact in used:
                    positions |= fact.positions
                    allowed |= fact.allowed
                why = self._why(known, target, _outside(allowed))
                yield _follows(owner, self._all(owner) & ~positions, False, used, why)

    def _learn(self, known: _Known, new: Conclusion) -> Conclusion | None:
        """Add a conclusion; return the conflict if that leaves nothing of what is needed."""
        known.limits.setdefault(new.subject, []).append(new)
        if new.needed:
            known.needed.setdefault(new.subject, new)
        name, extra = new.subject
        if extra is not None and new.subject in known.needed:
            own = known.limits[new.subject]
            left = self._all(new.subject)
            for limit in own:
                left &= limit.left
            if (name, None) not in known.needed or self._left(known, (name, None)) & ~left:
                implied = _follows((name, None), left, True, (), own)
                return self._learn(known, implied)
        for subject in ((name, None), *self._extras.get(name, ())):
            if subject in known.needed and not self._left(known, subject):
                why = self._why(known, subject, _outside(-1))
                return _follows(subject, 0, True, (), why, asked=known.needed[subject])
        return None

    def _all(self, subject: Identifier) -> int:
        return (1 << len(self._space.domain(subject[0]))) - 1

    def _left(self, known: _Known, subject: Identifier) -> int:
        left = self._all(subject)
        for limit in known.of(subject):
            left &= limit.left
        return left

    def _why(
        self, known: _Known, subject: Identifier, holds: Callable[[int], bool]
    ) -> list[Conclusion]:
        """Return limits of a subject that are enough, the earliest if there is a choice."""
        used = known.of(subject)
        self._charge(len(used))
        for limit in reversed(used.copy()):
            left = self._all(subject)
            for other in used:
                if other is not limit:
                    left &= other.left
            if holds(left):
                used.remove(limit)
        return used

    def _charge(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise _TooMuch


class _Known(Struct):
    """What was concluded so far."""

    limits: dict[Identifier, list[Conclusion]] = field(default_factory=dict)
    needed: dict[Identifier, Conclusion] = field(default_factory=dict)
    """By what is needed, the first conclusion that says so."""

    def of(self, subject: Identifier) -> list[Conclusion]:
        """Return the limits of a name; of an extra, those of its name too."""
        own = list(self.limits.get(subject, ()))
        return own if subject[1] is None else own + list(self.limits.get((subject[0], None), ()))

    def copy(self) -> _Known:
        return _Known({key: [*found] for key, found in self.limits.items()}, {**self.needed})


def _inside(allowed: int) -> Callable[[int], bool]:
    return lambda left: not left & ~allowed


def _outside(allowed: int) -> Callable[[int], bool]:
    return lambda left: not left & allowed


def _follows(
    subject: Identifier,
    left: int,
    needed: bool,
    facts: Iterable[SharedNeed],
    others: Iterable[Conclusion],
    *,
    asked: Conclusion | None = None,
    case: Conclusion | None = None,
) -> Conclusion:
    """Return what follows from facts and conclusions, in their cases but for ``case``."""
    reasons = tuple(dict.fromkeys(others))
    asked = None if asked in reasons else asked
    behind = reasons if asked is None else (asked, *reasons)
    given = {each for other in behind for each in other.cases if each is not case}
    return Conclusion(subject, left, needed, tuple(facts), reasons, asked, frozenset(given))


def _facts(causes: Sequence[Cause], space: Space) -> list[SharedNeed]:
    """Return needs as facts, in the order of the first of each."""
    found: dict[tuple[Identifier | None, Identifier, int], list[Cause]] = {}
    for cause in causes:
        parent = cause.parent
        owner = None if parent is None else (parent.release.name, parent.extra)
        allowed = mask_of(space.allowed(cause.requirement))
        found.setdefault((owner, cause.requirement.identifier, allowed), []).append(cause)
    facts = []
    for (owner, target, allowed), alike in found.items():
        positions = 0
        for cause in alike:
            if cause.parent is not None:
                release = cause.parent.release
                positions |= 1 << space.domain(release.name).position[release]
        facts.append(SharedNeed(owner, target, allowed, alike, positions))
    return facts


class _Teller:
    """Puts a conflict into an order in which it can be read."""

    def __init__(self, conflict: Conclusion) -> None:
        self.branches: list[ConflictBranch] = []
        self._numbers: dict[Conclusion, int] = {}
        self._told: set[SharedNeed] = set()
        self._pending: list[SharedNeed] = []
        self._behind: dict[Conclusion, dict[SharedNeed, None]] = {}
        self._tell_branch(conflict)

    def _facts_behind(self, conclusion: Conclusion) -> dict[SharedNeed, None]:
        known = self._behind.get(conclusion)
        if known is None:
            known = self._behind[conclusion] = {}
            for other in conclusion.behind:
                known.update(self._facts_behind(other))
            known.update(dict.fromkeys(conclusion.facts))
        return known

    def _is_trivial(self, conclusion: Conclusion) -> bool:
        """Return whether it says no more than what some module needs of another."""
        behind = self._facts_behind(conclusion)
        return len({(fact.owner, fact.target) for fact in behind}) <= 1

    def _tell(self, conclusion: Conclusion) -> tuple[int, ...]:
        """Tell what a conclusion follows from; return the numbers of the branches it needs."""
        by: dict[int, None] = {}
        meeting = [other for other in conclusion.others if not self._is_trivial(other)]
        if len(meeting) > 1:
            for other in meeting:
                if other not in self._numbers:
                    self._tell_branch(other)
                by[self._numbers[other]] = None
        for reason in conclusion.behind:
            if reason in self._numbers:
                by[self._numbers[reason]] = None
            elif not reason.is_case:
                by.update(dict.fromkeys(self._tell(reason)))
        self._pending += [fact for fact in conclusion.facts if fact not in self._told]
        self._told.update(conclusion.facts)
        return tuple(by)

    def _tell_branch(self, conclusion: Conclusion) -> None:
        by = self._tell(conclusion)
        self._numbers[conclusion] = len(self.branches) + 1
        causes = [cause for fact in self._pending for cause in fact.causes]
        self._pending = []
        last = conclusion.facts[0].causes if len(conclusion.facts) == 1 else []
        roots = [
            cause.requirement
            for fact in self._facts_behind(conclusion)
            for cause in fact.causes
            if fact.owner is None
        ]
        self.branches.append(
            ConflictBranch(
                causes,
                conclusion,
                by,
                single=last[0].requirement if last and conclusion.needed else None,
                root=roots[0] if len(roots) == 1 and not conclusion.cases else None,
            )
        )
