"""Patterns of PEFT's configurations, matched as Python's `re` does, in bounded work.

They are regular expressions from an untrusted file. A pattern without repeated groups and with few
repetitions takes polynomial time in `re` and is matched by it. Any other is matched here: `re`
parses it and tests single characters, and a walk over its tree computes at which places each part
can end. That is all there is to whether it matches: `re` tries every way too. As every place of a
part is visited once, the work is a polynomial as well, and it is counted: the same pattern and text
are refused on every machine or on none. What depends on the order of trying is refused: references
to groups, atomic groups and possessive repetitions.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from modpkg.core.bounds import (
    PATTERN_CHARACTERS,
    PATTERN_DEPTH,
    PATTERN_GROUPS,
    PATTERN_RANGE,
    PATTERN_STEPS,
    PATTERN_WORK,
)

try:
    from re import _compiler, _constants, _parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_compile as _compiler
    import sre_constants as _constants
    import sre_parse as _parser

_PLAIN_STEPS_PER_PLACE = 1000
_PLACES_PER_PATTERN, _PLACES_PER_CHARACTER = 100, 8
"""What it takes to compile a pattern, compared with a place."""
_REPEATED_GROUP = re.compile(r"\)[*+?{]|\\[1-9]|\(\?")
_REFERENCES = ("GROUPREF", "GROUPREF_EXISTS")


class UnsafePattern(Exception):
    """A pattern is not one, or cannot be matched within the bound; its text says why."""

    def __init__(self, reason: str, pattern: str = "") -> None:
        """``pattern`` is which one, where there are several."""
        super().__init__(reason)
        self.pattern = pattern


class Work:
    """How many places the matches for one adapter have looked at."""

    def __init__(self) -> None:
        self._spent = 0

    def spend(self, places: int) -> None:
        """Count places.

        Raises:
            UnsafePattern: They are more than the bound.
        """
        self._spent += places
        if self._spent > PATTERN_WORK:
            raise UnsafePattern("matching it takes too long")

    def read(self, pattern: str) -> None:
        """Count what it takes to compile a pattern, in places.

        Raises:
            UnsafePattern: It is one of too many.
        """
        self._spent += _PLACES_PER_PATTERN + _PLACES_PER_CHARACTER * len(pattern)
        if self._spent > PATTERN_WORK:
            raise UnsafePattern("with those before it, it takes too long to read")


def check(pattern: str) -> None:
    """Check a pattern before it is matched.

    Raises:
        UnsafePattern: It is not a regular expression, or not one of those that are matched.
    """
    _compiled(pattern)


def matches_whole(pattern: str, text: str, work: Work) -> bool:
    """Return whether ``re.fullmatch(pattern, text)`` finds a match: PEFT's rule for modules.

    Raises:
        UnsafePattern: See `check`, or the work exceeds the bound.
    """
    return _compiled(pattern).matches(text, work, whole=True)


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Pattern:
    return Pattern(pattern)


class _PlainBound:
    """How many steps `re` takes at worst: a power of the text's length, doubled by each choice."""

    def __init__(self, power: int, choices: int) -> None:
        self._power, self._choices = power, choices

    @classmethod
    def of(cls, pattern: str, free: int = 0) -> _PlainBound:
        """Return the bound for a pattern; with a repeated group there is none.

        ``free`` is how many parts of what is around it match any number of characters.
        """
        if _REPEATED_GROUP.search(pattern):
            return cls(100, 100)
        power = len(re.findall(r"[*+?{]", pattern)) + free
        return cls(min(power, 100), min(pattern.count("|"), 100))

    def steps(self, length: int) -> int:
        """Return the most steps for a text of some length."""
        return int((max(length, 2) ** self._power) * 2**self._choices)


class Pattern:
    """A pattern that was parsed and compiled."""

    def __init__(self, pattern: str, before: str = "", after: str = "", free: int = 0) -> None:
        """Args:
            pattern: The pattern.
            before: What is put before it.
            after: What is put after it.
            free: How many parts of these match any number of characters.

        Raises:
            UnsafePattern: It is not a regular expression, or not one of those that are matched.
        """
        if len(pattern) > PATTERN_CHARACTERS or pattern.count("(") > PATTERN_GROUPS:
            raise UnsafePattern("it is too long")
        depth = deepest = 0
        for character in pattern:
            depth += (character == "(") - (character == ")")
            deepest = max(deepest, depth)
        if deepest > PATTERN_DEPTH:
            raise UnsafePattern("its groups are nested too deeply")
        self._bound = _PlainBound.of(pattern, free)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tree = _parser.parse(f"{before}{pattern}{after}")
                _check_tree(self._tree)
                self._whole: re.Pattern[str] = _compiler.compile(self._tree)
            self._flags = self._tree.state.flags
            self._leaves: dict[tuple[int, int], re.Pattern[str]] = {}
        except (re.error, OverflowError, RecursionError) as error:
            raise UnsafePattern(str(error)) from None

    def matches(self, text: str, work: Work, *, whole: bool = False) -> bool:
        """Return whether `re.match` finds a match, or with ``whole`` `re.fullmatch`.

        Raises:
            UnsafePattern: The work exceeds the bound.
        """
        if self._spends_plainly(text, work):
            match = self._whole.fullmatch if whole else self._whole.match
            return match(text) is not None
        ends = _Walk(text, self._leaves, work).sequence(self._tree, 0, self._flags)
        return len(text) in ends if whole else bool(ends)

    def match(self, text: str, work: Work) -> re.Match[str] | None:
        """Return the match of `re.match`, with its groups.

        Raises:
            UnsafePattern: `re` is not safe to match it, or the work exceeds the bound.
        """
        if self._spends_plainly(text, work):
            return self._whole.match(text)
        raise UnsafePattern("matching it takes too long")

    def _spends_plainly(self, text: str, work: Work) -> bool:
        """Return whether `re` may match a text, for which the work is counted then."""
        steps = self._bound.steps(len(text))
        if steps <= PATTERN_STEPS:
            work.spend(1 + steps // _PLAIN_STEPS_PER_PLACE)
        return steps <= PATTERN_STEPS


def _check_tree(tree: Any) -> None:
    """Refuse parts of a tree that `_Walk` does not know."""
    for operator, argument in tree:
        name = str(operator)
        if name in _REFERENCES:
            raise UnsafePattern("it refers to one of its groups")
        if name not in _Walk.LEAVES and not hasattr(_Walk, f"_{name.lower()}"):
            raise UnsafePattern(f"it has a part of the kind {name}")
        if name == "IN" and any(_is_wide(*item) for item in argument):
            raise UnsafePattern(f"it has a range of more than {PATTERN_RANGE} characters")
        for child in _children(name, argument):
            _check_tree(child)


def _is_wide(kind: Any, ends: Any) -> bool:
    """Return whether a part of a set of characters is a range that takes long to compile."""
    return str(kind) == "RANGE" and ends[1] - ends[0] > PATTERN_RANGE


def _children(name: str, argument: Any) -> Sequence[Any]:
    if name == "BRANCH":
        return list(argument[1])
    return [argument[-1]] if name in ("SUBPATTERN", "ASSERT", "ASSERT_NOT", *_REPEATS) else []


_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")
Ends = frozenset[int]
_NOWHERE: Ends = frozenset()


class _Walk:
    """One match: where the parts of a tree can end in a text, by part and place."""

    LEAVES = ("LITERAL", "NOT_LITERAL", "IN", "ANY", "AT")

    def __init__(
        self, text: str, leaves: dict[tuple[int, int], re.Pattern[str]], work: Work
    ) -> None:
        self._text = text
        self._leaves = leaves
        self._known: dict[tuple[int, int, int], Ends] = {}
        self._work = work

    def sequence(self, tree: Any, place: int, flags: int) -> Ends:
        """Return where a sequence of parts can end that begins at a place."""
        places: Ends = frozenset((place,))
        for position, (operator, argument) in enumerate(tree):
            ends: set[int] = set()
            for each in places:
                ends |= self._part(tree, position, str(operator), argument, each, flags)
            places = frozenset(ends)
        return places

    def _part(
        self, tree: Any, position: int, name: str, argument: Any, place: int, flags: int
    ) -> Ends:
        key = (id(tree), position, place)
        if (known := self._known.get(key)) is None:
            if name in self.LEAVES:
                known = self._leaf(tree, position, name, place, flags)
            else:
                known = getattr(self, f"_{name.lower()}")(argument, place, flags)
            self._known[key] = known
        self._work.spend(1 + len(known))
        return known

    def _leaf(self, tree: Any, position: int, name: str, place: int, flags: int) -> Ends:
        key = (id(tree), position)
        if (leaf := self._leaves.get(key)) is None:
            single = _parser.SubPattern(tree.state, [tree[position]])
            leaf = self._leaves[key] = _compiler.compile(single, flags)
        if leaf.match(self._text, place) is None:
            return _NOWHERE
        return frozenset((place if name == "AT" else place + 1,))

    def _branch(self, argument: Any, place: int, flags: int) -> Ends:
        return _NOWHERE.union(*(self.sequence(each, place, flags) for each in argument[1]))

    def _subpattern(self, argument: Any, place: int, flags: int) -> Ends:
        _, added, removed, tree = argument
        return self.sequence(tree, place, _compiler._combine_flags(flags, added, removed))

    def _assert(self, argument: Any, place: int, flags: int) -> Ends:
        direction, tree = argument
        start = place if direction >= 0 else place - tree.getwidth()[0]
        found = start >= 0 and self.sequence(tree, start, flags)
        return frozenset((place,)) if found else _NOWHERE

    def _assert_not(self, argument: Any, place: int, flags: int) -> Ends:
        return _NOWHERE if self._assert(argument, place, flags) else frozenset((place,))

    def _failure(self, argument: Any, place: int, flags: int) -> Ends:
        return _NOWHERE

    def _max_repeat(self, argument: Any, place: int, flags: int) -> Ends:
        least, most, tree = argument
        ends = {place} if least == 0 else set()
        seen: set[tuple[int, int]] = set()
        stack = [(place, 0)]
        while stack:
            at, count = stack.pop()
            if most is not _constants.MAXREPEAT and count == most:
                continue
            for end in self.sequence(tree, at, flags):
                self._work.spend(1)
                # From the least number on, all numbers are alike if there is no most.
                after = min(count + 1, least) if most is _constants.MAXREPEAT else count + 1
                if (end, after) not in seen:
                    seen.add((end, after))
                    stack.append((end, after))
                    if after >= least:
                        ends.add(end)
        return frozenset(ends)

    _min_repeat = _max_repeat
