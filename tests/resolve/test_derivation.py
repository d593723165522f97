"""The branches of a conflict: what is concluded, in which order, and from what."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping

import pytest
from resolvelib import BaseReporter

from modpkg.core.names import requirement_text
from modpkg.resolve.derivation import Conclusion, ConflictBranch, SharedNeed, branches
from modpkg.resolve.order import bits
from modpkg.resolve.search import SatSearch
from modpkg.resolve.space import Space
from modpkg.resolve.unsat_core import NoSolution
from tests.resolve.agree import space_of
from tests.resolve.graphs import Graph, line, plain

Told = tuple[list[str], str, tuple[int, ...]]
"""The needs of a branch; what it concludes; the numbers of the branches that it follows from."""


def conflict(graph: Graph) -> tuple[Space, NoSolution] | None:
    space = space_of(graph)
    try:
        SatSearch(space, BaseReporter()).resolve(graph.needs())
    except NoSolution as error:
        return space, error
    return None


def story(graph: Graph) -> list[Told]:
    found = conflict(graph)
    assert found is not None
    space, error = found
    (causes,) = error.conflicts
    return [told(branch, space) for branch in branches(causes, space) or ()]


def told(branch: ConflictBranch, space: Space) -> Told:
    needs = [
        f"{cause.parent.release if cause.parent else 'root'} -> "
        + requirement_text(
            cause.requirement.name,
            {cause.requirement.extra} if cause.requirement.extra else set(),
            cause.requirement.specifier,
        )
        for cause in branch.causes
    ]
    conclusion = branch.conclusion
    name, extra = conclusion.subject
    subject = name if extra is None else f"{name}[{extra}]"
    left = ", ".join(str(space.domain(name).ascending[at].version) for at in bits(conclusion.left))
    with_cases = "".join(
        f", with {case.subject[0]} {case.left:b}" for case in sorted(conclusion.cases, key=str)
    )
    verb = "needs" if conclusion.needed else "leaves"
    return needs, f"{verb} {subject} {left or 'none'}{with_cases}", branch.by


MEET = "c 1; c 2"


@pytest.mark.parametrize(
    ("graph", "wanted"),
    [
        pytest.param(
            plain(f"a 1 -> a2; a2 1 -> c>=2; b 1 -> b2; b2 1 -> c<2; {MEET}", "a", "b"),
            [
                (["root -> a", "a 1 -> a2", "a2 1 -> c>=2"], "needs c 2", ()),
                (["root -> b", "b 1 -> b2", "b2 1 -> c<2"], "needs c 1", ()),
                ([], "needs c none", (1, 2)),
            ],
            id="two roots",
        ),
        pytest.param(
            plain(
                "foo 1 -> a>=1, b<2; foo 2 -> x, y<2;a 1 -> b>=2; b 1; b 2; x 1 -> y>=2; y 1; y 2",
                "foo",
            ),
            [
                (["foo 1 -> b<2", "foo 1 -> a>=1", "a 1 -> b>=2"], "leaves foo 2", ()),
                (["foo 2 -> y<2", "foo 2 -> x", "x 1 -> y>=2"], "leaves foo 1", ()),
                (["root -> foo"], "needs foo none", (1, 2)),
            ],
            id="versions of one module, as in the documentation of pub's solver",
        ),
        pytest.param(
            plain(
                "top 1 -> l, r; l 1 -> p, q; p 1 -> c>=2; q 1 -> d>=2, c;"
                f"r 1 -> s; s 1 -> t; t 1 -> c<2; d 1; d 2; {MEET}",
                "top",
            ),
            [
                (["root -> top", "top 1 -> l", "l 1 -> p", "p 1 -> c>=2"], "needs c 2", ()),
                (["top 1 -> r", "r 1 -> s", "s 1 -> t", "t 1 -> c<2"], "needs c 1", ()),
                ([], "needs c none", (1, 2)),
            ],
            id="below one root",
        ),
        pytest.param(
            Graph(
                ["a[x]", "k"],
                [
                    line("a", "1", extras={"x": ["b>=2"]}),
                    line("k", "1", "b<2"),
                    line("b", "1"),
                    line("b", "2"),
                ],
            ),
            [
                (["root -> a[x]", "a 1 -> b>=2"], "needs b 2", ()),
                (["root -> k", "k 1 -> b<2"], "needs b 1", ()),
                ([], "needs b none", (1, 2)),
            ],
            id="an extra",
        ),
    ],
)
def test_where_branches_meet_each_has_a_conclusion(graph: Graph, wanted: list[Told]) -> None:
    assert story(graph) == wanted


def test_one_line_of_needs_has_no_conclusions() -> None:
    assert story(plain("lora 1 -> smol>=2; lora 2 -> smol>=2; smol 1", "lora", "smol<2")) == []
    assert story(plain("a 1 -> b; b 1 -> c; c 1 -> d>=2; d 1", "a")) == []
    assert story(plain("a 1 -> none", "a")) == []


def test_versions_that_need_the_same_are_one_case() -> None:
    lines = [line("hub", str(k), "x>=2" if k < 9 else "y>=2", "z") for k in range(1, 20)]
    lines += [line("z", "1", "x<2", "y<2"), line("z", "2", "x<2", "y<2")]
    lines += [line(name, version) for name in "xy" for version in "12"]
    found = story(Graph(["hub"], lines))
    assert found[-1][1] in ("needs hub none", "needs x none", "needs y none")
    assert len(found) <= 4


def test_what_would_be_too_long_is_left_to_the_list() -> None:
    lines = [line("hub", str(k), f"m{k}") for k in range(1, 40)]
    lines += [line(f"m{k}", "1", f"base=={k}") for k in range(1, 40)]
    lines += [line("base", str(k)) for k in range(1, 50)]
    assert story(Graph(["hub", "base>40"], lines)) == []


def small(rng: random.Random) -> Graph:
    names = [f"n{number}" for number in range(5)]
    bounds = ["", "<2", ">=2", "==1", ">=3", "!=2"]
    lines = [
        line(
            name,
            version,
            *(f"{other}{rng.choice(bounds)}" for other in rng.sample(names, rng.randint(0, 3))),
            extras={"x": [f"{rng.choice(names)}{rng.choice(bounds)}"]}
            if rng.random() < 0.3
            else {},
        )
        for name in names
        for version in ("1", "2", "3")
    ]
    roots = [
        f"{name}{rng.choice(['', '', '[x]'])}{rng.choice(bounds)}" for name in rng.sample(names, 2)
    ]
    return Graph(roots, lines)


def behind(conclusion: Conclusion) -> Iterator[SharedNeed]:
    yield from conclusion.facts
    for other in conclusion.behind:
        yield from behind(other)


def test_each_conclusion_follows_from_the_needs_behind_it() -> None:
    """Every choice of versions that meets those needs agrees with the conclusion."""
    rng = random.Random(7)
    conflicts = concluded = 0
    while conflicts < 40:
        found = conflict(small(rng))
        if found is None:
            continue
        conflicts += 1
        space, error = found
        for causes in error.conflicts:
            for branch in branches(causes, space) or ():
                concluded += 1
                facts = [*dict.fromkeys(behind(branch.conclusion))]
                assert all(
                    agrees(branch.conclusion, chosen)
                    for chosen in choices(facts, branch.conclusion, space)
                )
    assert concluded > 40


Chosen = Mapping[tuple[str, str | None], int]
"""By name the position, and by extra that of its name; what is not chosen is missing."""


def choices(facts: list[SharedNeed], conclusion: Conclusion, space: Space) -> Iterator[Chosen]:
    """Yield every choice of versions and extras that meets facts."""
    parts = [part for fact in facts for part in (fact.owner, fact.target) if part is not None]
    parts += [conclusion.subject, *(case.subject for case in conclusion.cases)]
    names = [*dict.fromkeys(name for name, _ in parts)]
    extras = [*dict.fromkeys(part for part in parts if part[1] is not None)]
    for versions in itertools.product(*([None, *range(len(space.domain(n)))] for n in names)):
        of = {(name, None): at for name, at in zip(names, versions, strict=True) if at is not None}
        possible = [part for part in extras if (part[0], None) in of]
        for wanted in itertools.product((False, True), repeat=len(possible)):
            chosen = {
                **of,
                **{
                    part: of[part[0], None]
                    for part, taken in zip(possible, wanted, strict=True)
                    if taken
                },
            }
            if all(meets(fact, chosen) for fact in facts):
                yield chosen


def meets(fact: SharedNeed, chosen: Chosen) -> bool:
    if fact.owner is not None:
        at = chosen.get(fact.owner)
        if at is None or not fact.positions >> at & 1:
            return True
    target = chosen.get(fact.target)
    return target is not None and bool(fact.allowed >> target & 1)


def agrees(conclusion: Conclusion, chosen: Chosen) -> bool:
    for case in conclusion.cases:
        at = chosen.get(case.subject)
        if at is None or not case.left >> at & 1:
            return True
    at = chosen.get(conclusion.subject)
    if at is None:
        return not conclusion.needed
    return bool(conclusion.left >> at & 1)
