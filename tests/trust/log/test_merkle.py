"""The Merkle tree: against the definitions of RFC 6962, written down as they stand there."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.trust.log.merkle import (
    EMPTY_ROOT,
    GrowingTree,
    Node,
    consistency_ranges,
    inclusion_ranges,
    is_consistent,
    is_included,
    leaf_hash,
    proof_over,
    subtree_hash,
)

LEAVES = [leaf_hash(str(number).encode()) for number in range(300)]


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    half = naive_half(len(leaves))
    halves = naive_root(leaves[:half]) + naive_root(leaves[half:])
    return hashlib.sha256(b"\x01" + halves).digest()


def naive_half(count: int) -> int:
    half = 1
    while half * 2 < count:
        half *= 2
    return half


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    half = naive_half(len(leaves))
    if index < half:
        return [*naive_path(index, leaves[:half]), naive_root(leaves[half:])]
    return [*naive_path(index - half, leaves[half:]), naive_root(leaves[:half])]


def naive_consistency(before: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    """RFC 6962, section 2.1.2."""
    if before == len(leaves):
        return [] if whole else [naive_root(leaves)]
    half = naive_half(len(leaves))
    if before <= half:
        left = naive_consistency(before, leaves[:half], whole=whole)
        return [*left, naive_root(leaves[half:])]
    right = naive_consistency(before - half, leaves[half:], whole=False)
    return [*right, naive_root(leaves[:half])]


def node(one: Node) -> bytes:
    level, index = one
    return naive_root(LEAVES[index << level : (index + 1) << level])


sizes = st.integers(1, len(LEAVES))


@given(sizes, st.data())
@settings(max_examples=150, deadline=None)
def test_inclusion_is_that_of_the_rfc(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root = subtree_hash(0, size, node)
    assert root == naive_root(LEAVES[:size])
    proof = proof_over(inclusion_ranges(index, size), node)
    assert proof == naive_path(index, LEAVES[:size])
    assert is_included(LEAVES[index], index, size, proof, root)
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        assert not is_included(LEAVES[other], index, size, proof, root)
        assert not is_included(LEAVES[index], other, size, proof, root)
    assert not is_included(LEAVES[index], index, size, [*proof, LEAVES[0]], root)
    if proof:
        assert not is_included(LEAVES[index], index, size, proof[:-1], root)
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert not is_included(LEAVES[index], index, size, wrong, root)


@given(sizes, st.data())
@settings(max_examples=150, deadline=None)
def test_consistency_is_that_of_the_rfc(size: int, data: st.DataObject) -> None:
    before = data.draw(st.integers(1, size))
    old, new = naive_root(LEAVES[:before]), naive_root(LEAVES[:size])
    proof = proof_over(consistency_ranges(before, size), node)
    assert proof == (naive_consistency(before, LEAVES[:size]) if before < size else [])
    assert is_consistent(before, old, size, new, proof)
    assert not is_consistent(before, bytes(32), size, new, proof)
    assert not is_consistent(before, old, size, bytes(32), proof)
    assert not is_consistent(before, old, size, new, [*proof, LEAVES[0]])
    if proof:
        assert not is_consistent(before, old, size, new, proof[:-1])
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert not is_consistent(before, old, size, new, wrong)


def test_ends() -> None:
    assert is_consistent(0, EMPTY_ROOT, 5, naive_root(LEAVES[:5]), [])
    assert not is_consistent(0, bytes(32), 5, naive_root(LEAVES[:5]), [])
    assert not is_consistent(6, naive_root(LEAVES[:6]), 5, naive_root(LEAVES[:5]), [LEAVES[0]])
    assert not is_included(LEAVES[0], 0, 0, [], EMPTY_ROOT)
    assert not is_included(LEAVES[0], -1, 1, [], LEAVES[0])


def test_a_tree_that_grows_has_the_same_root() -> None:
    tree = GrowingTree()
    for size, leaf in enumerate(LEAVES):
        assert tree.root == naive_root(LEAVES[:size])
        tree.add(leaf)
