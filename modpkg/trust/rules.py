"""The rules of a project's ``[trust]``: which of them is about a name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from modpkg.manifest.schema import TrustRule

NOBODY = ""
"""Who signed what nobody has signed."""


def rule_of(rules: Sequence[TrustRule], name: str) -> TrustRule | None:
    """Return the first rule whose pattern a name fits."""
    return next((rule for rule in rules if fnmatchcase(name, rule.pattern)), None)


def rules_before(rules: Sequence[TrustRule], pattern: str) -> list[str]:
    """Return the patterns that stand before one, and hold for some of the names that it fits.

    >>> rules = [TrustRule(pattern, (), "") for pattern in ("words", "b-*", "*-x", "w*")]
    >>> rules_before(rules, "w*")
    ['words', '*-x']
    """
    earlier = [rule.pattern for rule in rules]
    return [one for one in earlier[: earlier.index(pattern)] if _overlap(one, pattern)]


def _overlap(one: str, other: str) -> bool:
    """Return whether a name fits two patterns."""
    reached = {(0, 0)}
    pending = [(0, 0)]
    while pending:
        at, also = pending.pop()
        a, b = one[at : at + 1], other[also : also + 1]
        steps = []
        if a == "*":
            steps += [(at + 1, also)]
        if b == "*":
            steps += [(at, also + 1)]
        if a and b and "*" not in (a, b) and a == b:
            steps += [(at + 1, also + 1)]
        elif a == "*" and b not in ("", "*"):
            steps += [(at, also + 1)]
        elif b == "*" and a not in ("", "*"):
            steps += [(at + 1, also)]
        pending += [step for step in steps if step not in reached]
        reached.update(steps)
    return (len(one), len(other)) in reached
