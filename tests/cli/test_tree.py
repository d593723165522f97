"""``tree``: each module's requirements once, whatever the shape of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from msgspec import UNSET

from modpkg.cli.tree import DEEPEST, Branch, Trees
from modpkg.core.names import Requirement, parse_requirement


class Shape:
    """What a tree asks of a graph."""

    def __init__(self, edges: Mapping[str, Sequence[str]]) -> None:
        self._edges = edges
        self.modules = {
            name: SimpleNamespace(version="1", kind="collection", fits={}) for name in edges
        }

    def requirements(self, name: str) -> list[Requirement]:
        return [parse_requirement(other) for other in self._edges[name]]


def drawn(edges: Mapping[str, Sequence[str]], top: str) -> tuple[Branch, list[Branch]]:
    shape: Any = Shape(edges)
    trees = Trees(shape)
    return trees.branch(top), [*trees.further()]


def flat(branch: Branch) -> Iterator[Branch]:
    yield branch
    for below in branch.requires or []:
        yield from flat(below)


def test_requirements_are_shown_once() -> None:
    top, further = drawn({"a": ["b", "c"], "b": ["c"], "c": ["d"], "d": []}, "a")
    assert [(branch.name, branch.again) for branch in flat(top)] == [
        ("a", UNSET),
        ("b", UNSET),
        ("c", UNSET),
        ("d", UNSET),
        ("c", True),
    ]
    assert further == []


def test_a_tree_of_many_ways_stays_small() -> None:
    edges = {f"m{at}": [f"m{at + 1}", f"n{at + 1}"] for at in range(39)}
    edges |= {f"n{at}": [f"m{at + 1}", f"n{at + 1}"] for at in range(39)}
    top, further = drawn(edges | {"m39": [], "n39": []}, "m0")
    assert len([*flat(top)]) == 1 + 2 * (39 + 38)
    assert further == []


def test_a_long_chain_goes_on_in_trees_of_their_own() -> None:
    chain = [f"m{at}" for at in range(1500)]
    edges = {name: chain[at + 1 : at + 2] for at, name in enumerate(chain)}
    top, further = drawn(edges, "m0")
    trees = [top, *further]
    assert all(len([*flat(tree)]) <= DEEPEST + 1 for tree in trees)
    full = [b.name for tree in trees for b in flat(tree) if b.again is UNSET]
    assert full == chain
