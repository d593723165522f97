"""Why there is no answer: the smallest set of needs, in sentences, and changes that help."""

from __future__ import annotations

import random
import re
import time
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resolvelib import BaseReporter
from resolvelib import ResolutionImpossible as Impossible

from modpkg.core.names import parse_requirement, requirement_text
from modpkg.resolve.need import root_needs
from modpkg.resolve.policy import Policy
from modpkg.resolve.resolve import resolve
from modpkg.resolve.search import SatSearch
from modpkg.resolve.suggest import QUESTION
from tests.raising import raises
from tests.resolve.agree import searched, space_of
from tests.resolve.graphs import DIGEST, EXPECTS_SMALL, OTHER, SMALL, Graph, line, plain
from tests.resolve.oracles import Rules, brute_force
from tests.resolve.universe import bound


def explanation(graph: Graph, overrides: dict[str, str] | None = None, **policy: object) -> str:
    bounds = {name: bound(text) for name, text in (overrides or {}).items()}
    with raises("M401") as caught:
        resolve(graph.needs(), graph.catalog().overriding(bounds), policy=Policy(**policy))  # type: ignore[arg-type]
    return str(caught.value)


def test_a_bound_of_a_root_is_named_with_its_line_and_what_dropping_it_allows() -> None:
    text = explanation(
        plain("smol 1; smol 2; lora 1 -> smol>=2; lora 2 -> smol>=2", "lora", "smol>=1,<2")
    )
    assert "modpkg.toml:2 needs smol>=1,<2." in text
    assert "Every version of lora needs smol>=2." in text
    assert "Hint: allow smol 2: drop `<2` from smol in modpkg.toml:2." in text


def test_unrelated_requirements_are_not_shown() -> None:
    text = explanation(
        plain("a 1 -> c<2; b 1 -> c>=2; c 1; c 2; d 1 -> c; e 1 -> d", "e", "a", "d", "b")
    )
    assert "d 1" not in text
    assert "e 1" not in text
    assert "remove a in modpkg.toml:2" in text


def test_two_conflicts_take_two_changes() -> None:
    text = explanation(plain("a 1 -> b>=2; b 1; y 1 -> z>=2; z 1", "a", "y"))
    assert "Hint: remove a in modpkg.toml:1 and y in modpkg.toml:2." in text


def test_suggestions_remove_as_little_as_possible() -> None:
    text = explanation(
        plain("a 1 -> b>=2; b 1; c 1; x 1 -> c; y 1 -> z>=2; z 1", "x", "a[e]", "c", "y")
    )
    assert "remove a in modpkg.toml:2 and y in modpkg.toml:4." in text


def test_a_constraint_is_loosened_or_left_out() -> None:
    graph = plain("top 1 -> lib>=2; lib 1; lib 2; lib 3", "top")
    text = explanation(graph, constraints={"lib": bound("<2,!=3"), "other": bound("<1")})
    assert "allow lib 2: drop `<2` from the constraint on lib in modpkg.toml:9." in text
    assert "allow lib 3: remove the constraint `lib<2,!=3` in modpkg.toml:9." in text
    assert "other" not in text


def test_an_override_is_loosened_or_left_out() -> None:
    graph = plain("top 1 -> lib<2; lib 1; lib 3", "top")
    assert "allow lib 1: remove the override `lib==7` in modpkg.toml:9." in explanation(
        graph, {"lib": "==7"}
    )
    text = explanation(graph, {"lib": ">2,<3"})
    assert "allow lib 3: drop `<3` from the override of lib in modpkg.toml:9." in text


def test_an_overridden_root_is_removed_if_nothing_else_helps() -> None:
    text = explanation(plain("lib 1 -> nope", "lib<3"), {"lib": "<2"})
    assert "remove lib in modpkg.toml:1." in text


def test_admitting_an_excluded_release_is_suggested_if_it_helps() -> None:
    graph = Graph(["top"], [])
    old = "2025-01-01T00:00:00Z"
    graph.lines.append(line("top", "1", "lib>=2", published=old))
    graph.lines.append(line("lib", "1", published=old))
    graph.lines.append(line("lib", "2", published="2026-02-01T00:00:00Z"))
    text = explanation(graph, cutoff=datetime(2026, 1, 1, tzinfo=timezone.utc))
    assert "allow lib 2: write `lib = false` in exclude-newer-package under [resolution]." in text


def test_a_requirement_under_question_is_never_removed() -> None:
    graph = plain("a 1 -> b<2; c 1 -> b<2; b 1; b 2", "a", "c")
    question = root_needs("b", (), parse_requirement("b==2").specifier, QUESTION)
    with raises("M401") as caught:
        resolve([*graph.needs(), *question], graph.catalog())
    text = str(caught.value)
    assert "remove a in modpkg.toml:1 and c in modpkg.toml:2." in text
    nothing = root_needs("b", (), parse_requirement("b==7").specifier, QUESTION)
    with raises("M401") as caught:
        resolve([*graph.needs(), *nothing], graph.catalog())
    assert "Hint" not in str(caught.value)


@pytest.mark.parametrize("core", [0, 30, 100_000])
@pytest.mark.parametrize("helps", [0, 100_000])
def test_an_abandoned_explanation_is_marked(
    core: int, helps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modpkg.resolve.resolve.CORE_BUDGET", core)
    monkeypatch.setattr("modpkg.resolve.resolve.SUGGESTION_BUDGET", helps)
    graph = plain("a 1 -> b>=2; b 1; d 1; y 1 -> z>=2; z 1", "d", "a", "y")
    text = explanation(graph)
    assert text == explanation(graph), "what is cut does not depend on the machine"
    assert ("the search for a minimal set was abandoned" in text) == (core < 100_000)
    assert ("No solution was found before" in text) == (helps < 100_000)
    assert ("remove a in modpkg.toml:2 and y in modpkg.toml:3" in text) == (helps == 100_000)


def test_a_tangle_ends_within_its_budget() -> None:
    """Ten modules need a slot each, and there are nine: hard for every solver."""
    slots = 9
    lines = []
    for number in range(slots + 1):
        for slot in range(1, slots + 1):
            needs = [f"s{slot}=={number + 1}"]
            lines.append(line(f"p{number}", str(slot), *needs))
    for slot in range(1, slots + 1):
        lines += [line(f"s{slot}", str(number + 1)) for number in range(slots + 1)]
    graph = Graph([f"p{number}" for number in range(slots + 1)], lines)
    text = explanation(graph)
    assert "p0" in text
    assert "Hint: remove" in text or "No solution was found" in text


def test_a_yanked_release_that_would_do_is_suggested_by_its_pin() -> None:
    graph = Graph(["a>1"], [line("a", "1"), line("a", "2", yanked="")])
    assert "allow a 2: write `==2` for a in modpkg.toml:1" in explanation(graph)


def on_bases(*roots: str) -> Graph:
    """Return a graph of one base with the weights that a module was made for, then with others."""
    lines = [
        line("base", "1", provides=SMALL, release=DIGEST),
        line("base", "2", provides=SMALL, release=OTHER),
        line("lora", "1", "base", expects={"base": EXPECTS_SMALL}),
    ]
    return Graph(list(roots), lines)


def test_a_conflict_names_the_base_that_a_module_fits_exactly() -> None:
    text = explanation(on_bases("base>=2", "lora"), strict=True)
    assert "base 2 does not fit: lora 1 was made for other weights (1 of the 1 tensors" in text
    assert "allow base 1, which lora 1 fits exactly: drop `>=2` from base in modpkg.toml:1." in text
    assert "allow base 2, on which lora 1 drifts: leave out strict (--strict" in text


def test_a_missing_dependency_is_skipped_or_shown() -> None:
    assert searched(plain("a 1; a 2 -> nope", "a")) == {"a": "1"}
    text = explanation(plain("a 1 -> noope; nope 1", "a"))
    assert "a 1 needs any version of noope." in text
    assert "did you mean 'nope'" in text


def simple(rng: random.Random) -> Graph:
    names = [f"n{number}" for number in range(6)]
    bounds = ["", "<2", ">=2", "==1", ">=3", "<3"]
    lines = [
        line(
            name,
            version,
            *(f"{other}{rng.choice(bounds)}" for other in rng.sample(names, rng.randint(0, 3))),
        )
        for name in names
        for version in ("1", "2", "3")
    ]
    return Graph([f"{name}{rng.choice(bounds)}" for name in names[:3]], lines)


def test_cores_cannot_hold_together_and_are_minimal() -> None:
    rng = random.Random(3)
    seen = 0
    while seen < 30:
        graph = simple(rng)
        try:
            SatSearch(space_of(graph), BaseReporter()).resolve(graph.needs())
        except Impossible as error:
            causes = cause_pairs(error)
            seen += 1
        else:
            continue
        assert searched(only(graph, causes)) is None
        for left_out in causes:
            rest = [cause for cause in causes if cause is not left_out]
            assert searched(only(graph, rest)) is not None


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.randoms(use_true_random=False))
def test_brute_force_finds_the_core_impossible_and_minimal(rng: random.Random) -> None:
    """Extras and interfaces are left out here; which needs are left is all that differs."""
    names = [f"n{number}" for number in range(4)]
    bounds = ["", "<2", ">=2", "==1", ">1", "!=1", "<1"]
    lines = [
        line(
            name,
            version,
            *(f"{other}{rng.choice(bounds)}" for other in rng.sample(names, rng.randint(0, 3))),
        )
        for name in names
        for version in ("1", "2")
    ]
    graph = Graph([f"{name}{rng.choice(bounds)}" for name in rng.sample(names, 2)], lines)
    possible = brute_force(Rules(graph)) is not None
    try:
        SatSearch(space_of(graph), BaseReporter()).resolve(graph.needs())
    except Impossible as error:
        assert not possible
        causes = cause_pairs(error)
    else:
        assert possible
        return
    assert brute_force(Rules(only(graph, causes))) is None
    for left_out in causes:
        rest = [cause for cause in causes if cause is not left_out]
        assert brute_force(Rules(only(graph, rest))) is not None


CausePair = tuple[tuple[str, str] | None, str]
"""The release that requires it, None for a root, and the requirement."""


def cause_pairs(error: Impossible) -> list[CausePair]:
    return [
        (
            cause.parent and (cause.parent.release.name, str(cause.parent.release.version)),
            requirement_text(cause.requirement.name, set(), cause.requirement.specifier),
        )
        for cause in error.causes
    ]


def only(graph: Graph, causes: list[CausePair]) -> Graph:
    """Return the graph with these needs and no others."""
    lines = [
        line(
            row.name,
            row.version,
            *(need for parent, need in causes if parent == (row.name, row.version)),
        )
        for row in graph.lines
    ]
    return Graph([need for parent, need in causes if parent is None], lines)


def test_a_long_chain_is_shortened_to_its_ends() -> None:
    lines = [line(f"n{k}", "1", f"n{k + 1}") for k in range(300)]
    text = explanation(
        Graph(["n0", "n300>=2"], [*lines, line("n300", "1"), line("n300", "2", "n0>=2")])
    )
    assert re.search(r"and \d+ more like these", text) or len(text.splitlines()) < 20


def resolves(graph: Graph, *roots: str) -> bool:
    return searched(Graph(list(roots), graph.lines)) is not None


def test_each_mistake_is_told_and_mended() -> None:
    graph = plain("a 1 -> b>=2; b 1; b 2; x 1 -> y>=2; y 1; y 2; p 1 -> q>=9; q 1; ok 1")
    roots = "a", "b<2", "ok", "x", "y<2", "p"
    text = explanation(Graph([*roots], graph.lines))
    for fact in ("a 1 needs b>=2.", "x 1 needs y>=2.", "p 1 needs q>=9.", "q is available in 1."):
        assert fact in text
    assert text.count("Besides:") == 2
    hint = text.partition("Hint: ")[2]
    assert "drop `<2` from" in hint
    assert "b in modpkg.toml:2" in hint
    assert "y in modpkg.toml:5" in hint
    assert "remove p in modpkg.toml:6" in hint
    assert hint.count("drop") == 1
    assert "ok" not in text
    assert resolves(graph, "a", "b", "ok", "x", "y")


def test_mistakes_that_share_a_root_are_both_told() -> None:
    text = explanation(plain("a 1 -> b>=2, c>=2; b 1; b 2; c 1; c 2", "a", "b<2", "c<2"))
    assert "a 1 needs b>=2." in text
    assert "a 1 needs c>=2." in text
    assert "remove a in modpkg.toml:1." in text


def test_an_extra_less_is_a_remedy() -> None:
    graph = Graph(["a[gpu]", "b<2"], [line("a", "1", extras={"gpu": ["b>=2"]}), line("b", "1")])
    text = explanation(graph)
    assert "Hint: allow a 1: leave out the extra 'gpu' of a in modpkg.toml:1." in text
    assert resolves(graph, "a", "b<2")


def test_versions_that_need_the_same_are_not_listed() -> None:
    lines = [line("a", str(number), "b>=2") for number in range(1, 60)]
    text = explanation(Graph(["a", "b<2"], [*lines, line("b", "1"), line("b", "2")]))
    assert "Every version of a needs b>=2." in text
    assert "a 1" not in text


def test_the_decisive_fact_is_told_however_many_names_there_are() -> None:
    lines = [line(f"n{k}", "1", f"n{k + 1}>=1") for k in range(60)]
    text = explanation(Graph(["n0"], [*lines, line("n60", "1", "end>=2"), line("end", "1")]))
    assert "end is available in 1." in text
    assert "n60 1 needs end>=2." in text
    assert "n7 is available" not in text
    many = [line("a", str(number), yanked="") for number in range(1, 100)]
    text = explanation(Graph(["a"], many))
    assert "92 more were yanked: no reason was given." in text


def test_thousands_of_bounds_are_explained_in_short() -> None:
    count = 2000
    lines = [line("hub", str(k), f"base>={k + count}") for k in range(1, count + 1)]
    lines += [line("base", str(k)) for k in range(1, count + 1)]
    began = time.process_time()
    text = explanation(Graph(["hub"], lines))
    assert time.process_time() - began < 60
    assert "hub" in text
    assert len(text) < 5000


def test_unknown_names_are_told_together_with_their_lines() -> None:
    graph = plain("known 1; tiny 1", "tinny", "known", "other")
    with raises("M406") as caught:
        resolve(graph.needs(), graph.catalog())
    text = str(caught.value)
    assert "modpkg.toml:1: There is no module named 'tinny'" in text
    assert "did you mean 'tiny'" in text
    assert "modpkg.toml:3: There is no module named 'other'" in text
    graph = plain("tiny 1", "tinny")
    with raises("M304", match="modpkg.toml:1 needs it"):
        resolve(graph.needs(), graph.catalog())
    graph = plain("tiny 1", *(f"no{k}" for k in range(1000)))
    with raises("M406", match="… and 980 more"):
        resolve(graph.needs(), graph.catalog())


def test_the_example_in_the_docs() -> None:
    graph = plain(
        "app 1; app 2 -> base>=1; base 1; base 2; base 3;"
        "plugin 1 -> base<2; plugin 2 -> base<2, glue; glue 1 -> base>=2",
        "app",
        "plugin",
    )
    assert searched(graph) == {"app": "2", "plugin": "1", "base": "1"}
