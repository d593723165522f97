"""The difference of two locks: any set that is closed under its units' needs resolves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.bisect.lock_diff import LockDiff
from modpkg.core.errors import ModpkgError
from modpkg.environment.plan import VersionChange
from modpkg.manifest.schema import Strategy
from modpkg.resolve.lock import Lock, lock_of
from modpkg.resolve.need import Need
from modpkg.resolve.policy import Policy, VersionRange
from modpkg.resolve.resolve import resolve
from tests.raising import raises
from tests.resolve.graphs import (
    DIGEST,
    EXPECTS_LARGE,
    EXPECTS_SMALL,
    LARGE,
    SMALL,
    Graph,
    line,
    plain,
    random_graph,
)


def locked(graph: Graph, strategy: Strategy) -> Lock | None:
    """Return a lock of a graph; None where nothing fits."""
    try:
        found = resolve(graph.needs(), graph.catalog(), policy=Policy(strategy=strategy))
    except ModpkgError:
        return None
    return lock_of(graph.roots, found)


def diff_of(graph: Graph, old: Lock, new: Lock) -> LockDiff:
    roots: dict[str, tuple[list[Need], list[Need]]] = {}
    for need in graph.needs():
        for side in roots.setdefault(need.name, ([], [])):
            side.append(need)
    return LockDiff(old, new, graph.catalog(), roots)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.data())
def test_every_closed_set_of_changes_is_a_resolution(seed: int, data: st.DataObject) -> None:
    graph = random_graph(random.Random(seed), names=8, versions=5, tightness=0.5)
    old, new = locked(graph, "lowest"), locked(graph, "highest")
    if old is None or new is None:
        return
    diff = diff_of(graph, old, new)
    assert sorted(name for unit in diff.units for name in unit) == sorted(diff.names)
    for unit, needed in enumerate(diff.needs):
        assert all(other < unit and diff.needs[other] <= needed for other in needed)
    chosen = data.draw(st.sets(st.integers(0, max(len(diff.units) - 1, 0))))
    units = {unit for unit in chosen if unit < len(diff.units)}
    closed = units.union(*(diff.needs[unit] for unit in units))
    pins = diff.versions(diff.names_of(closed))
    bounds = {name: VersionRange(SpecifierSet(f"==={version}")) for name, version in pins.items()}
    try:
        found = resolve(graph.needs(), graph.catalog(), policy=Policy(constraints=bounds))
    except ModpkgError:
        # One change requests an extra, and another has it: what both together need is not seen
        # from either. Such a mix is skipped, at the cost of no run.
        assert any("[" in text for line in graph.lines for text in line.requires)
        return
    for name, module in found.modules.items():
        assert module.release.version == pins[name]


def test_units_are_no_larger_than_they_have_to_be() -> None:
    """a and b go in step, d needs the newer a, c is free; what is added comes with who needs it."""
    graph = plain(
        "a 1 -> b==1; a 2 -> b==2; b 1; b 2; c 1; c 2 -> e; d 1; d 2 -> a>=2; e 1",
        "a",
        "c",
        "d",
    )
    old, new = locked(graph, "lowest"), locked(graph, "highest")
    assert old is not None
    assert new is not None
    diff = diff_of(graph, old, new)
    assert diff.units == [("c",), ("a", "b"), ("d",)]
    assert diff.needs == [frozenset(), frozenset(), frozenset({1})]


def between(lines: Graph, old_roots: list[str], new_roots: list[str]) -> LockDiff:
    """Return the difference that other requirements of the project make."""
    sides = [Graph(old_roots, lines.lines), Graph(new_roots, lines.lines)]
    old, new = (locked(side, "highest") for side in sides)
    assert old is not None
    assert new is not None
    roots: dict[str, tuple[list[Need], list[Need]]] = {}
    for number, side in enumerate(sides):
        for need in side.needs():
            roots.setdefault(need.name, ([], []))[number].append(need)
    return LockDiff(old, new, lines.catalog(), roots)


def stepped(graph: Graph) -> LockDiff:
    """Return the difference of all modules at their lowest and at their highest version."""
    old, new = locked(graph, "lowest"), locked(graph, "highest")
    assert old is not None
    assert new is not None
    return diff_of(graph, old, new)


def test_changes_of_versions_and_of_requirements() -> None:
    """a is updated, c is added, b is removed, and d stays."""
    graph = plain("a 1; a 2; b 1; c 1; d 1")
    diff = between(graph, ["a==1", "b", "d"], ["a", "c", "d"])
    assert diff.names == ["a", "c", "b"]
    assert diff.units == [("a",), ("c",), ("b",)]
    assert diff.needs == [frozenset()] * 3
    assert [diff.change(name) for name in diff.names] == [
        VersionChange("a", "1", "2"),
        VersionChange("c", None, "1"),
        VersionChange("b", "1", None),
    ]
    assert diff.version("a", moved=False) == Version("1")
    assert diff.version("a", moved=True) == Version("2")
    assert diff.version("b", moved=True) == diff.version("c", moved=False) == Version("1")
    one, two = Version("1"), Version("2")
    assert diff.versions(()) == {"a": one, "b": one, "c": one, "d": one}
    assert diff.versions(["a"]) == {"a": two, "b": one, "c": one, "d": one}
    assert diff.names_of([0, 2]) == {"a", "b"}
    assert diff.names_of([]) == set()


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("a", "a", []),
        ("a", "a>=1", ["a"]),
        ("a>=1", "a", ["a"]),
        ("a", "a[x]", ["a"]),
        ("a[x]", "a", ["a"]),
    ],
)
def test_requirement_that_differs_is_a_change_of_its_own(
    old: str, new: str, names: list[str]
) -> None:
    diff = between(Graph([], [line("a", "1", extras={"x": []})]), [old], [new])
    assert diff.names == names
    assert [diff.change(name) for name in names] == [VersionChange("a", "1", "1")] * len(names)


def test_module_that_comes_with_another_is_no_change() -> None:
    diff = stepped(plain("a 1; a 2 -> b; b 1", "a"))
    assert diff.names == ["a"]
    assert diff.versions(()) == {"a": Version("1"), "b": Version("1")}
    assert diff.change("b") == VersionChange("b", "1", "1")


UNITS = [
    # a and b exclude each other's other version; the newer b needs the newer c.
    (
        "a 1 -> b<2; a 2 -> b>=2; b 1; b 2 -> c>=2; c 1; c 2",
        "abc",
        [("c",), ("a", "b")],
        [set(), {0}],
    ),
    # What only the newer r needs requires the newer t.
    ("r 1; r 2 -> m; m 1 -> t>=2; t 1; t 2", "rt", [("t",), ("r",)], [set(), {0}]),
    # What only the older r needs, at one remove or two, excludes the newer t.
    (
        "r 1 -> m; r 2; m 1 -> t<2; t 1; t 2; u 1; u 2",
        "rtu",
        [("r",), ("u",), ("t",)],
        [set(), set(), {0}],
    ),
    (
        "r 1 -> m; r 2; m 1 -> n; n 1 -> t<2; t 1; t 2; u 1; u 2",
        "rtu",
        [("r",), ("u",), ("t",)],
        [set(), set(), {0}],
    ),
    # What is required twice is looked at once, and the rest after it.
    ("a 1 -> c; b 1; b 2 -> t>=2; c 1; t 1; t 2", "acbt", [("t",), ("b",)], [set(), {0}]),
    # Units are in the order of their first names.
    (
        "a 1 -> d==1; a 2 -> d==2; b 1 -> c==1; b 2 -> c==2; c 1; c 2; d 1; d 2",
        "abcd",
        [("a", "d"), ("b", "c")],
        [set(), set()],
    ),
    # Cycles end.
    ("a 1 -> b; a 2 -> b; b 1 -> a; b 2 -> a", "ab", [("a",), ("b",)], [set(), set()]),
    ("a 1 -> b<2; a 2 -> b; b 1 -> a; b 2 -> a>=2", "ab", [("a",), ("b",)], [set(), {0}]),
    # Each needs the one before it, all the way.
    (
        "a 1; a 2 -> b>=2; b 1; b 2 -> c>=2; c 1; c 2 -> d>=2; d 1; d 2",
        "abcd",
        [("d",), ("c",), ("b",), ("a",)],
        [set(), {0}, {0, 1}, {0, 1, 2}],
    ),
]


@pytest.mark.parametrize(("table", "roots", "units", "needs"), UNITS)
def test_units_and_what_they_need(
    table: str, roots: str, units: list[tuple[str, ...]], needs: list[set[int]]
) -> None:
    diff = stepped(plain(table, *roots))
    assert diff.units == units
    assert diff.needs == needs


def test_locked_pre_release_meets_a_range_that_names_none() -> None:
    """The project asks for pre-releases of b, so that those of the newer a are met by one."""
    diff = stepped(plain("a 1; a 2 -> b>1; b 1; b 2rc1; u 1; u 2", "a", "b>=1a1", "u"))
    assert diff.units == [("b",), ("u",), ("a",)]
    assert diff.needs == [set(), set(), {0}]


def test_modules_whose_interfaces_fit_only_each_other_move_together() -> None:
    lines = [
        line("h", "1", "b", expects={"b": EXPECTS_SMALL}),
        line("h", "2", "b", expects={"b": EXPECTS_LARGE}),
        line("b", "1", provides=SMALL),
        line("b", "2", provides=LARGE),
    ]
    assert stepped(Graph(["h", "b"], lines)).units == [("h", "b")]


def test_extra_that_needs_what_neither_lock_has_moves_with_everything() -> None:
    """The older a requests an extra that only the newer b has: what it adds is in no lock."""
    lines = [
        line("a", "1", "b[x]"),
        line("a", "2", "b"),
        line("b", "1"),
        line("b", "2", extras={"x": ["z"]}),
        line("z", "1"),
    ]
    diff = stepped(Graph(["a", "b"], lines))
    assert diff.units == [("a",), ("b",)]
    assert diff.needs == [set(), {0}]


def test_downgraded_module_is_a_change() -> None:
    diff = between(plain("r 1 -> t; r 2 -> t<2; t 1; t 2"), ["r==1"], ["r"])
    assert diff.change("t") == VersionChange("t", "2", "1")
    assert diff.units == [("t",), ("r",)]
    assert diff.needs == [set(), {0}]


OTHER = "sha256:" + "9" * 64


@pytest.mark.parametrize("there", [["1"], ["2"], ["1", "2 republished"], ["2", "1 republished"]])
@pytest.mark.parametrize("turned", [False, True])
def test_release_that_the_registry_no_longer_has_is_an_error(
    there: list[str], turned: bool
) -> None:
    """Nor may another release have its version, whichever has the lower digest."""
    first, second = (DIGEST, OTHER) if not turned else (OTHER, DIGEST)
    graph = Graph(["a"], [line("a", version) for version in ("1", "2")])
    graph.lines = [replace(one, release=first) for one in graph.lines]
    old, new = locked(graph, "lowest"), locked(graph, "highest")
    assert old is not None
    assert new is not None
    lines = [
        replace(line("a", text.split()[0]), release=second if "republished" in text else first)
        for text in there
    ]
    with raises("M795", match="memory"):
        LockDiff(old, new, Graph([], lines).catalog(), {})
