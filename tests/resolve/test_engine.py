"""The engine against its oracles, and the graphs that other engines stumble over."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from benchmarks import universe
from benchmarks.resolver_fuzz import run
from modpkg.resolve.clauses import Clauses
from modpkg.resolve.need import Identifier
from modpkg.resolve.order import Order, intersect, runs_of, within
from modpkg.resolve.resolve import resolve
from modpkg.resolve.solver import Solver
from tests.resolve.agree import compare, searched, walked
from tests.resolve.graphs import Graph, line, plain, random_graph

ROOT = Path(__file__).parents[2]
GRAPHS = int(os.environ.get("MODPKG_FUZZ_GRAPHS", "500"))
"""`python -m benchmarks.resolver_fuzz` tries 20,000."""
EXAMPLES = max(60, GRAPHS // 10)


def test_random_graphs_agree_with_the_oracles() -> None:
    kinds = run(GRAPHS, seed=7)
    assert sum(kinds.values()) == GRAPHS
    assert {kind.split(",")[0] for kind in kinds} == {"impossible", "searched", "walked"}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False))
def test_hypothesis_finds_no_graph_that_disagrees(rng: random.Random) -> None:
    compare(random_graph(rng, names=5, versions=3, tightness=0.8))


def test_a_graph_that_the_stock_engine_may_deny() -> None:
    graph = plain(
        "p0 2 -> p4==3; p1 1 -> p3==3; p1 2 -> p5==1; p1 3 -> p4<=2; p3 3 -> p6==1;"
        "p4 3 -> p5>=2,<=3; p5 2; p5 3 -> p6==3; p6 1; p6 3",
        "p0",
        "p1",
    )
    assert searched(graph) == {"p0": "2", "p1": "1", "p4": "3", "p3": "3", "p5": "2", "p6": "1"}
    assert walked(graph) in (None, searched(graph))
    assert compare(graph).endswith("brute force")


@pytest.mark.parametrize(
    ("ahead", "tried", "patience"), [(1, 64, 20), (256, 1, 0), (7, 2, 3), (256, 64, 10_000)]
)
def test_how_far_it_looks_ahead_changes_no_choice(
    ahead: int, tried: int, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = [
        random_graph(random.Random(f"ahead{seed}"), names=30, versions=8, tightness=0.5)
        for seed in range(12)
    ]
    expected = [searched(graph) for graph in graphs]
    assert sum(found is not None for found in expected) > 6
    monkeypatch.setattr("modpkg.resolve.search.MOST_AHEAD", ahead)
    monkeypatch.setattr("modpkg.resolve.search.MOST_TRIED", tried)
    monkeypatch.setattr("modpkg.resolve.search.PATIENCE", patience)
    assert [searched(graph) for graph in graphs] == expected


def test_names_are_settled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bool] = []
    solve = Solver.solve

    def counted(self: Solver, assumed: Sequence[int] = ()) -> bool:
        answers.append(solve(self, assumed))
        return answers[-1]

    monkeypatch.setattr(Solver, "solve", counted)
    table = universe.tight(300, 10, 3, 0.1, 1)
    lines = [line(name, number, *needs) for name in table for number, needs in table[name]]
    found = searched(Graph(universe.roots(table), lines))
    assert found is not None
    assert len(found) > 80
    assert sum(answers) < len(found) / 5, "a model decides about every variable"


def chain(length: int) -> Graph:
    lines = [line(f"n{k}", "1", f"n{k + 1}>=1") for k in range(length - 1)]
    return Graph(["n0"], [*lines, line(f"n{length - 1}", "1")])


@pytest.mark.parametrize("step", [walked, searched])
def test_a_chain_of_5000_names(step: object) -> None:
    found = step(chain(5000))
    assert len(found) == 5000


def test_a_chain_that_ends_in_a_conflict_is_explained() -> None:
    graph = chain(1000)
    graph.lines += [line("n999", "2"), line("top", "1", "n0", "n999>=2")]
    graph.lines[998] = line("n998", "1", "n999<2")
    graph.roots = ["top"]
    assert searched(graph) is None
    assert walked(graph) is None


@pytest.mark.parametrize("step", [walked, searched])
def test_a_ring_of_500_names(step: object) -> None:
    lines = [
        line(f"n{k}", version, f"n{(k + 1) % 500}>={version}")
        for k in range(500)
        for version in ("1", "2")
    ]
    assert set(step(Graph(["n7"], lines)).values()) == {"2"}
    # Where the last link goes back, the first name has to be old, and no other.
    lines[-1] = line("n499", "2", "n0<2")
    found = searched(Graph(["n0"], lines))
    assert found is not None
    assert [name for name, version in found.items() if version == "1"] == ["n0"]


def test_what_is_beyond_the_horizon_is_seen_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    ahead = Clauses.ahead

    def counted(self: Clauses, wanted: Identifier, horizon: int) -> Iterator[tuple[int, ...]]:
        if not told or told[-1] != horizon:
            told.append(horizon)
        return ahead(self, wanted, horizon)

    monkeypatch.setattr(Clauses, "ahead", counted)
    table = universe.tight(200, 10, 3, 0.1, 1)
    lines = [line(name, number, *needs) for name in table for number, needs in table[name]]
    graph = Graph(universe.roots(table), lines)
    expected = searched(graph)
    told.clear()
    assert searched(graph, horizon=700) == expected
    assert told == [700], "some names ahead are enough"
    lines = [line(f"n{k}", v, f"n{(k + 1) % 50}>={v}") for k in range(50) for v in ("1", "2")]
    lines[-1] = line("n49", "2", "n0<2")
    told.clear()
    found = searched(Graph(["n0"], lines), horizon=10)
    assert found is not None
    assert [name for name, version in found.items() if version == "1"] == ["n0"]
    assert told == [10, sys.maxsize], "what was chosen first is ruled out by the last"


def test_the_order_of_rows_and_the_hash_seed_change_nothing() -> None:
    code = (
        "import random\n"
        "from modpkg.core.errors import ResolutionImpossible\n"
        "from modpkg.resolve.resolve import resolve\n"
        "from tests.resolve.agree import searched\n"
        "from tests.resolve.graphs import random_graph\n"
        "for seed in range(25):\n"
        "    graph = random_graph(random.Random(seed), names=12, versions=5, tightness=0.8)\n"
        "    random.shuffle(graph.lines)\n"
        "    print(searched(graph))\n"
        "    try:\n"
        "        resolve(graph.needs(), graph.catalog())\n"
        "    except ResolutionImpossible as error:\n"
        "        print(error)\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    assert "Hint: " in answers.pop(), "neither the answer nor the explanation depends on them"


@settings(max_examples=EXAMPLES // 4, deadline=None, derandomize=True, database=None)
@given(st.randoms(use_true_random=False), st.data())
def test_shuffled_rows_give_the_same_answer(rng: random.Random, data: st.DataObject) -> None:
    graph = random_graph(rng, names=6, versions=4, tightness=0.7)
    other = replace(graph, lines=data.draw(st.permutations(graph.lines)))
    assert searched(other) == searched(graph)
    assert walked(other) == walked(graph)


@pytest.mark.parametrize("engine", ["walk", "search", "resolvelib", ""])
def test_each_engine_can_be_forced(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODPKG_SOLVER", engine)
    graph = plain("a 1; a 2 -> b<2, c; b 1; b 2; c 1 -> a", "a", "b<2")
    found = resolve(graph.needs(), graph.catalog())
    assert {name: str(one.release.version) for name, one in found.modules.items()} == {
        "a": "2",
        "b": "1",
        "c": "1",
    }


VERSIONS = [
    epoch + release + suffix
    for epoch in ("", "1!")
    for release in ("0", "1", "1.0", "1.0.1", "1.1", "1.10", "2", "2.0.0", "2.1")
    for suffix in ("", ".dev0", "a1", "a1.dev2", "rc1", ".post0", ".post1", "rc1.post2")
]


@st.composite
def specifiers(draw: st.DrawFn) -> SpecifierSet:
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        operator = draw(st.sampled_from([">=", "<=", ">", "<", "==", "!=", "~=", "==="]))
        version = draw(st.sampled_from(VERSIONS))
        if operator in ("==", "!=") and draw(st.booleans()):
            version = f"{Version(version).base_version}.*"
        parts.append(operator + version)
    try:
        return SpecifierSet(",".join(parts))
    except InvalidSpecifier:
        return SpecifierSet()


@settings(max_examples=3 * EXAMPLES, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(VERSIONS), max_size=25), specifiers())
@example(["2.0a1", "2"], SpecifierSet("<2"))
@example(["1.0.post1", "1.1"], SpecifierSet(">1.0"))
@example(["1a1", "1.0.post1", "2"], SpecifierSet(">1a1"))
def test_ranges_agree_with_packaging(texts: list[str], specifier: SpecifierSet) -> None:
    versions = sorted({Version(text) for text in texts})
    expected = [
        at for at, version in enumerate(versions) if specifier.contains(version, prereleases=True)
    ]
    runs = Order(versions).runs(specifier)
    assert runs == runs_of(expected)
    assert [at for at in range(len(versions)) if within(at, runs)] == expected


@given(st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)))
def test_runs_intersect_as_sets_do(one: set[int], other: set[int]) -> None:
    assert intersect(runs_of(sorted(one)), runs_of(sorted(other))) == runs_of(sorted(one & other))
