"""SPDX licence expressions as trees: what one asks of those who use a module. Pure.

``AND`` binds closer than ``OR`` (SPDX 2.3, annex D). Identifiers are checked and brought into
their normal spelling by `packaging.licenses`; a licence with an exception is one leaf.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from modpkg.manifest.values import parse_license

MOST_ALTERNATIVES = 64
_TOKEN = re.compile(r"\(|\)|[^\s()]+")
T = TypeVar("T")


class Leaf(Struct, frozen=True):
    """One licence: ``MIT``, ``GPL-2.0-only WITH Classpath-exception-2.0``, ``LicenseRef-x``."""

    license: str


class Both(Struct, frozen=True):
    """``AND``: all of the terms hold."""

    terms: tuple[Expression, ...]


class Either(Struct, frozen=True):
    """``OR``: one of the terms may be chosen."""

    terms: tuple[Expression, ...]


Expression = Leaf | Both | Either


def parse_expression(text: str) -> Expression:
    """Return a licence expression as a tree.

    >>> str_of(parse_expression("mit or (apache-2.0 and isc)"))
    'MIT OR Apache-2.0 AND ISC'

    Raises:
        InvalidValue: it is none.
    """
    tokens = _TOKEN.findall(parse_license(text))
    tree, rest = _any(tokens)
    if rest:
        raise AssertionError(f"{text!r} goes on after its end")  # packaging would have refused it
    return tree


def _any(tokens: list[str]) -> tuple[Expression, list[str]]:
    terms, rest = _list(tokens, "OR", _all)
    return _joined(Either, terms), rest


def _all(tokens: list[str]) -> tuple[Expression, list[str]]:
    terms, rest = _list(tokens, "AND", _one)
    return _joined(Both, terms), rest


def _list(
    tokens: list[str], word: str, term: Callable[[list[str]], tuple[Expression, list[str]]]
) -> tuple[list[Expression], list[str]]:
    first, rest = term(tokens)
    terms = [first]
    while rest[:1] == [word]:
        another, rest = term(rest[1:])
        terms.append(another)
    return terms, rest


def _one(tokens: list[str]) -> tuple[Expression, list[str]]:
    if tokens[0] == "(":
        tree, rest = _any(tokens[1:])
        return tree, rest[1:]
    if tokens[1:2] == ["WITH"]:
        return Leaf(" ".join(tokens[:3])), tokens[3:]
    return Leaf(tokens[0]), tokens[1:]


def _joined(kind: type[Both] | type[Either], terms: list[Expression]) -> Expression:
    """Return terms as one: those of the same kind flat, and each once."""
    flat: dict[Expression, None] = {}
    for term in terms:
        flat.update(dict.fromkeys(term.terms if isinstance(term, kind) else (term,)))
    return next(iter(flat)) if len(flat) == 1 else kind(tuple(flat))


def str_of(tree: Expression) -> str:
    """Return a tree as an expression with no more brackets than it needs."""
    if isinstance(tree, Leaf):
        return tree.license
    if isinstance(tree, Either):
        return " OR ".join(map(str_of, tree.terms))
    shown = (f"({str_of(t)})" if isinstance(t, Either) else str_of(t) for t in tree.terms)
    return " AND ".join(shown)


def fold(
    tree: Expression,
    leaf: Callable[[str], T],
    both: Callable[[T, T], T],
    either: Callable[[T, T], T],
) -> T:
    """Return what a tree comes to: ``leaf`` of each licence, joined from the bottom up."""
    if isinstance(tree, Leaf):
        return leaf(tree.license)
    join = both if isinstance(tree, Both) else either
    found = [fold(term, leaf, both, either) for term in tree.terms]
    result = found[0]
    for term in found[1:]:
        result = join(result, term)
    return result


def accepted(tree: Expression, is_accepted: Callable[[str], bool]) -> bool:
    """Say whether somebody who accepts these licences can take what has this expression."""
    return fold(tree, is_accepted, lambda a, b: a and b, lambda a, b: a or b)


def permits_all_of(new: Expression, old: Expression) -> bool | None:
    """Say whether all who could take what had ``old`` can take what has ``new``.

    None where ``old`` has more than `MOST_ALTERNATIVES` ways to be taken.
    """
    ways = fold(old, lambda leaf: [frozenset({leaf})], _each_with_each, _both_lists)
    if not ways:
        return None
    return all(accepted(new, way.__contains__) for way in ways)


def _each_with_each(one: list[frozenset[str]], two: list[frozenset[str]]) -> list[frozenset[str]]:
    return _bounded({a | b for a in one for b in two}, one, two)


def _both_lists(one: list[frozenset[str]], two: list[frozenset[str]]) -> list[frozenset[str]]:
    return _bounded({*one, *two}, one, two)


def _bounded(
    ways: set[frozenset[str]], one: list[frozenset[str]], two: list[frozenset[str]]
) -> list[frozenset[str]]:
    """Return the ways; none where there were too many on one side, or are together."""
    return list(ways) if one and two and len(ways) <= MOST_ALTERNATIVES else []
