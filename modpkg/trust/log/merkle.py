"""The Merkle tree of RFC 6962: hashes, proofs, and what verifies them.

A tree of n leaves is made of perfect subtrees, one for each bit of n. A node is such a subtree,
``(level, index)``: the leaves from ``index·2^level`` on, ``2^level`` of them. Nodes never change
once they are there, so that all proofs are made from them. Proofs and their verification are those
of RFC 9162, sections 2.1.3 and 2.1.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

Node = tuple[int, int]
"""The level and the index of a perfect subtree."""
NodeHash = Callable[[Node], bytes]
"""Returns the hash of a node, 32 bytes."""
EMPTY_ROOT = hashlib.sha256().digest()
"""The root of a tree without leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf.

    >>> leaf_hash(b"").hex()[:16]
    '6e340b9cffb37a98'
    """
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node by those of its two halves."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def nodes_between(begin: int, end: int) -> Iterator[Node]:
    """Yield the nodes that leaves are made of, from left to right.

    ``begin`` is a multiple of the greatest power of two below ``end - begin``, as in all subtrees
    of a tree.

    >>> [*nodes_between(0, 7)], [*nodes_between(4, 7)]
    ([(2, 0), (1, 2), (0, 6)], [(1, 2), (0, 6)])
    """
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield level, begin >> level
        begin += 1 << level


def subtree_hash(begin: int, end: int, node: NodeHash) -> bytes:
    """Return the hash of a subtree, or of the whole tree if ``begin`` is 0."""
    hashes = [node(one) for one in nodes_between(begin, end)]
    if not hashes:
        return EMPTY_ROOT
    result = hashes.pop()
    while hashes:
        result = node_hash(hashes.pop(), result)
    return result


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Return the leaves under each hash of the proof that a leaf is in a tree, the lowest first.

    >>> inclusion_ranges(4, 7)
    [(5, 6), (6, 7), (0, 4)]
    """
    begin, end, found = 0, size, []
    while end - begin > 1:
        middle = begin + _half(end - begin)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin = middle
    return found[::-1]


def consistency_ranges(before: int, size: int) -> list[tuple[int, int]]:
    """Return the leaves under each hash of the proof that a tree begins with an earlier one.

    >>> consistency_ranges(3, 7)
    [(2, 3), (3, 4), (0, 2), (4, 7)]
    """
    if not 0 < before < size:
        return []
    begin, end, found = 0, size, []
    while before != end:
        middle = begin + _half(end - begin)
        if before <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin = middle
    if begin:
        found.append((begin, end))
    return found[::-1]


def nodes_of(ranges: Iterable[tuple[int, int]]) -> set[Node]:
    """Return the nodes of which hashes over these leaves are made."""
    return {node for begin, end in ranges for node in nodes_between(begin, end)}


def proof_over(ranges: Iterable[tuple[int, int]], node: NodeHash) -> list[bytes]:
    """Return the hashes of a proof."""
    return [subtree_hash(begin, end, node) for begin, end in ranges]


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether a proof shows that a leaf, by its hash, is in a tree.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    at, last, result = index, size - 1, leaf
    for part in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            result = node_hash(part, result)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            result = node_hash(result, part)
        at, last = at >> 1, last >> 1
    return last == 0 and result == root


def is_consistent(
    before: int, before_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> bool:
    """Return whether a proof shows that a tree begins with all leaves of an earlier one.

    RFC 9162, section 2.1.4.2.
    """
    if before == size:
        return not proof and before_root == root
    if before == 0:
        return not proof and before_root == EMPTY_ROOT
    if not 0 < before < size or not proof:
        return False
    path = [before_root, *proof] if before & (before - 1) == 0 else [*proof]
    at, last = before - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for part in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(part, first), node_hash(part, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, part)
        at, last = at >> 1, last >> 1
    return last == 0 and first == before_root and second == root


def _half(count: int) -> int:
    """Return the greatest power of two below a number that is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


class GrowingTree:
    """The root of a tree to which leaves are added, in the memory of its perfect subtrees."""

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Add a leaf, by its hash."""
        self._nodes.append(leaf)
        self.size += 1
        size = self.size
        while not size & 1:
            right = self._nodes.pop()
            self._nodes.append(node_hash(self._nodes.pop(), right))
            size >>= 1

    @property
    def root(self) -> bytes:
        """The hash of all leaves so far."""
        if not self._nodes:
            return EMPTY_ROOT
        result = self._nodes[-1]
        for left in reversed(self._nodes[:-1]):
            result = node_hash(left, result)
        return result
