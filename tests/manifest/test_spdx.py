"""SPDX expressions: read as trees, and compared with the accepted licences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.manifest.spdx import (
    AllOf,
    AnyOf,
    Expression,
    is_accepted,
    licenses_in,
    parse_expression,
    permits_all_of,
)
from tests.manifest.strategies import steady
from tests.raising import raises

EXCEPTION = "GPL-2.0-only WITH Classpath-exception-2.0"
NAMES = ["MIT", "ISC", "Apache-2.0", "GPL-2.0-or-later", "LicenseRef-x", EXCEPTION]

trees: st.SearchStrategy[Expression] = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.builds(
        lambda kind, terms: kind(tuple(terms)),
        st.sampled_from([AllOf, AnyOf]),
        st.lists(inner, min_size=2, max_size=3),
    ),
    max_leaves=8,
)


def text_of(tree: Expression) -> str:
    if isinstance(tree, str):
        return tree
    word = " AND " if isinstance(tree, AllOf) else " OR "
    return f"({word.join(map(text_of, tree.terms))})"


@given(trees)
@steady
def test_a_tree_that_is_written_is_read_back(tree: Expression) -> None:
    assert parse_expression(text_of(tree)) == tree
    assert licenses_in(tree) == {name for name in NAMES if name in text_of(tree)}


@given(trees, st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
@steady
def test_accepting_more_licences_never_rejects_more(
    tree: Expression, names: set[str], more: str
) -> None:
    if is_accepted(tree, names.__contains__):
        assert is_accepted(tree, {*names, more}.__contains__)


@given(trees, trees)
@steady
def test_permits_all_of_agrees_with_brute_force(old: Expression, new: Expression) -> None:
    sets = [
        {name for number, name in enumerate(NAMES) if bits >> number & 1}
        for bits in range(1 << len(NAMES))
    ]
    tried = all(
        is_accepted(new, names.__contains__)
        for names in sets
        if is_accepted(old, names.__contains__)
    )
    assert permits_all_of(new, old) in (tried, None)


def test_and_binds_closer_than_or() -> None:
    tree = parse_expression("mit or apache-2.0 and (isc or gpl-2.0+)")
    assert tree == AnyOf(("MIT", AllOf(("Apache-2.0", AnyOf(("ISC", "GPL-2.0+"))))))
    with raises("M106"):
        parse_expression("MIT OR")


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("MIT", True),
        ("MIT AND ISC", False),
        ("MIT OR ISC", True),
        ("MIT AND (ISC OR Apache-2.0)", True),
        ("GPL-2.0-only", False),
        (EXCEPTION, True),
    ],
)
def test_an_expression_is_accepted_where_some_choice_is(text: str, accepted: bool) -> None:
    names = {"MIT", "Apache-2.0", EXCEPTION}
    assert is_accepted(parse_expression(text), names.__contains__) is accepted


def test_very_many_alternatives_are_not_compared() -> None:
    text = " AND ".join(f"(LicenseRef-a{n} OR LicenseRef-b{n})" for n in range(40))
    assert permits_all_of("MIT", parse_expression(text)) is None
    assert not is_accepted(parse_expression(text), {"MIT"}.__contains__)
