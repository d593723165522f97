"""SPDX expressions: read, written, and asked who may take what has them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modpkg.manifest.spdx import (
    Both,
    Either,
    Expression,
    Leaf,
    accepted,
    parse_expression,
    permits_all_of,
    str_of,
)
from tests.manifest.strategies import steady
from tests.raising import raises

NAMES = ["MIT", "ISC", "Apache-2.0", "GPL-2.0-or-later", "LicenseRef-x"]
leaves = st.sampled_from([*NAMES, "GPL-2.0-only WITH Classpath-exception-2.0"]).map(Leaf)


def _joined(kind: type[Both] | type[Either], terms: list[Expression]) -> Expression:
    flat: dict[Expression, None] = {}
    for term in terms:
        flat.update(dict.fromkeys(term.terms if isinstance(term, kind) else (term,)))
    return next(iter(flat)) if len(flat) == 1 else kind(tuple(flat))


trees: st.SearchStrategy[Expression] = st.recursive(
    leaves,
    lambda inner: st.builds(
        _joined, st.sampled_from([Both, Either]), st.lists(inner, min_size=2, max_size=3)
    ),
    max_leaves=8,
)


@given(trees)
@steady
def test_what_is_written_is_read_back(tree: Expression) -> None:
    assert parse_expression(str_of(tree)) == tree


@given(trees, st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
@steady
def test_who_accepts_more_can_take_more(tree: Expression, names: set[str], more: str) -> None:
    if accepted(tree, names.__contains__):
        assert accepted(tree, {*names, more}.__contains__)


@given(trees, trees)
@steady
def test_permits_all_of_agrees_with_trying_every_set(old: Expression, new: Expression) -> None:
    every = sorted({*NAMES, "GPL-2.0-only WITH Classpath-exception-2.0"})
    sets = [
        {name for number, name in enumerate(every) if bits >> number & 1}
        for bits in range(1 << len(every))
    ]
    tried = all(
        accepted(new, names.__contains__) for names in sets if accepted(old, names.__contains__)
    )
    assert permits_all_of(new, old) in (tried, None)


def test_and_binds_closer_than_or() -> None:
    tree = parse_expression("mit or apache-2.0 and (isc or gpl-2.0+)")
    either = Either((Leaf("ISC"), Leaf("GPL-2.0+")))
    assert tree == Either((Leaf("MIT"), Both((Leaf("Apache-2.0"), either))))
    with raises("M106"):
        parse_expression("MIT OR")


def test_a_choice_of_very_many_is_not_worked_out() -> None:
    text = " AND ".join(f"(LicenseRef-a{n} OR LicenseRef-b{n})" for n in range(40))
    assert permits_all_of(parse_expression("MIT"), parse_expression(text)) is None
    assert not accepted(parse_expression(text), {"MIT"}.__contains__)
