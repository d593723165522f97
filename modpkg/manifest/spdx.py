"""SPDX licence expressions as trees, and what someone who accepts certain licences may take.

``AND`` binds closer than ``OR`` (SPDX 2.3, annex D). `packaging.licenses` checks identifiers and
gives them their normal spelling; it has no trees, and a licence with an exception is one licence
here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from modpkg.core.bounds import LICENSE_ALTERNATIVES
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.manifest.values import parse_license

_TOKEN = lazy_pattern(r"\(|\)|[^\s()]+")


class AllOf(Struct, frozen=True):
    """``AND``: all terms apply."""

    terms: tuple[Expression, ...]


class AnyOf(Struct, frozen=True):
    """``OR``: the user chooses one term."""

    terms: tuple[Expression, ...]


Expression = str | AllOf | AnyOf
"""A single licence (``MIT``, ``GPL-2.0-only WITH Classpath-exception-2.0``), or several."""


def parse_expression(text: str) -> Expression:
    """Return a licence expression as a tree.

    >>> parse_expression("mit or (apache-2.0 and isc)")
    AnyOf(terms=('MIT', AllOf(terms=('Apache-2.0', 'ISC'))))

    Raises:
        InvalidValue: `text` is not an SPDX licence expression.
    """
    return _any_of(deque(_TOKEN.findall(parse_license(text))))


def _any_of(tokens: deque[str]) -> Expression:
    terms = [_all_of(tokens)]
    while tokens and tokens[0] == "OR":
        tokens.popleft()
        terms.append(_all_of(tokens))
    return terms[0] if len(terms) == 1 else AnyOf(tuple(terms))


def _all_of(tokens: deque[str]) -> Expression:
    terms = [_term(tokens)]
    while tokens and tokens[0] == "AND":
        tokens.popleft()
        terms.append(_term(tokens))
    return terms[0] if len(terms) == 1 else AllOf(tuple(terms))


def _term(tokens: deque[str]) -> Expression:
    first = tokens.popleft()
    if first == "(":
        inner = _any_of(tokens)
        tokens.popleft()
        return inner
    if tokens and tokens[0] == "WITH":
        return f"{first} {tokens.popleft()} {tokens.popleft()}"
    return first


def licenses_in(tree: Expression) -> set[str]:
    """Return the single licences of an expression."""
    if isinstance(tree, str):
        return {tree}
    return set().union(*map(licenses_in, tree.terms))


def is_accepted(tree: Expression, accepts: Callable[[str], bool]) -> bool:
    """Return whether someone who accepts these licences can take what has this expression."""
    if isinstance(tree, str):
        return accepts(tree)
    terms = (is_accepted(term, accepts) for term in tree.terms)
    return all(terms) if isinstance(tree, AllOf) else any(terms)


def permits_all_of(new: Expression, old: Expression) -> bool | None:
    """Return whether everyone who could take what had `old` can take what has `new`.

    None where `old` has more than `LICENSE_ALTERNATIVES` ways to be taken.
    """
    ways = _ways(old)
    return None if ways is None else all(is_accepted(new, way.__contains__) for way in ways)


def _ways(tree: Expression) -> set[frozenset[str]] | None:
    """Return the sets of licences that each suffice to take it; None for too many."""
    if isinstance(tree, str):
        return {frozenset({tree})}
    ways: set[frozenset[str]] = set() if isinstance(tree, AnyOf) else {frozenset()}
    for term in tree.terms:
        more = _ways(term)
        if more is None:
            return None
        ways = ways | more if isinstance(tree, AnyOf) else {a | b for a in ways for b in more}
        if len(ways) > LICENSE_ALTERNATIVES:
            return None
    return ways
