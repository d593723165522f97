"""One graph through both steps, the oracles and the checker."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import patch

from packaging.version import Version
from resolvelib import BaseReporter
from resolvelib import ResolutionImpossible as Impossible

from modpkg.resolve import search
from modpkg.resolve.admission import Admission
from modpkg.resolve.catalog import Release
from modpkg.resolve.frontier import Conflict
from modpkg.resolve.provider import ModuleProvider
from modpkg.resolve.search import SatSearch
from modpkg.resolve.space import Space
from modpkg.resolve.walk import Walk
from tests.resolve.graphs import Graph
from tests.resolve.oracles import Rules, assignments, brute_force, satisfiable

BRUTE = 400
"""Most assignments that brute force looks at."""


def space_of(graph: Graph) -> Space:
    roots = graph.needs()
    locked = {name: Version(version) for name, version in graph.locked.items()}
    return Space(ModuleProvider(graph.catalog(), Admission(roots, locked, graph.policy), roots))


def chosen(mapping: Mapping[tuple[str, str | None], object]) -> dict[str, str]:
    return {name: str(item.release.version) for (name, _), item in mapping.items()}


def walked(graph: Graph) -> dict[str, str] | None:
    """Return the walk's answer; None where it would have to go back."""
    try:
        return chosen(Walk(space_of(graph), BaseReporter()).resolve(graph.needs()).mapping)
    except Conflict:
        return None


def searched(graph: Graph, horizon: int = search.HORIZON) -> dict[str, str] | None:
    """Return the search's answer; None if it finds no solution."""
    try:
        with patch.object(search, "HORIZON", horizon):
            return chosen(SatSearch(space_of(graph), BaseReporter()).resolve(graph.needs()).mapping)
    except Impossible as error:
        return None if error.causes else {}


def compare(graph: Graph) -> str:
    """Assert that everything agrees on a graph, and say what kind of graph it was."""
    rules = Rules(graph)
    found = searched(graph)
    assert (found is not None) == satisfiable(rules), f"wrong verdict\n{graph}"
    near = searched(graph, horizon=1)
    assert near == found, f"with a horizon {near}, without {found}\n{graph}"
    quick = walked(graph)
    if found is None:
        assert quick is None, f"the walk answered what cannot be\n{graph}"
        return "impossible"
    picked = {name: release_of(rules, name, version) for name, version in found.items()}
    closure = rules.closure(picked)
    assert closure is not None, f"invalid answer {found}\n{graph}"
    assert set(closure) == found.keys(), f"surplus: {found}\n{graph}"
    assert [*rules.visited(picked)] == [*found], f"order: {found}\n{graph}"
    if quick is not None:
        assert quick == found, f"walk {quick}, search {found}\n{graph}"
    if assignments(rules) <= BRUTE:
        best = brute_force(rules)
        assert best is not None
        wanted = {name: str(release.version) for name, release in best.items()}
        assert found == wanted, f"found {found}, preferred {wanted}\n{graph}"
        return "walked, brute force" if quick is not None else "searched, brute force"
    return "walked" if quick is not None else "searched"


def release_of(rules: Rules, name: str, version: str) -> Release:
    return next(release for release in rules.releases(name) if str(release.version) == version)
