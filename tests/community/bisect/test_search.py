"""The search between two locks, over mixes and trials without any install."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

from modpkg.community.bisect.lock_mixes import Mix, Unresolvable
from modpkg.community.bisect.minimize import Smallest, Units, Verdict
from modpkg.community.bisect.search import (
    Culprit,
    CulpritSearch,
    check_good,
    held_below,
    try_end,
)
from modpkg.community.bisect.trials import TrialResult
from modpkg.environment.plan import VersionChange
from modpkg.resolve.lock import Lock, LockedModule
from tests.raising import raises

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.UNKNOWN
At = dict[str, str]
SUM = "sha256:" + "0" * 64


class FakeMixes:
    """Mixes of independent names, each going from its first version to its last."""

    def __init__(
        self,
        versions: Mapping[str, list[str]],
        added: Iterable[str] = (),
        *,
        units: Sequence[tuple[str, ...]] = (),
        needs: Sequence[Units] = (),
    ) -> None:
        """Each name is a unit that needs no other, unless ``units`` and ``needs`` say more."""
        self.versions = dict(versions)
        names = [*versions, *added]
        sides: dict[str, tuple[str | None, str | None]] = {
            name: (own[0], own[-1]) for name, own in versions.items()
        }
        sides |= dict.fromkeys(added, (None, "1"))
        self.sides = sides
        self.diff: Any = SimpleNamespace(
            names=names,
            units=list(units) or [(name,) for name in names],
            needs=list(needs) or [frozenset[int]()] * len(names),
            version=lambda name, moved: Version(sides[name][moved] or "0"),
            change=lambda name: VersionChange(name, *sides[name]),
        )
        self.diff.names_of = lambda chosen: frozenset(
            name for unit in chosen for name in self.diff.units[unit]
        )

    def _mix(self, at: At) -> Mix:
        modules = [
            LockedModule(name=name, version=version, kind="base", registry="r", release=SUM)
            for name, version in at.items()
        ]
        return Mix("", Lock(requirements=[], module=modules))

    def _old(self) -> At:
        return {name: old for name, (old, _) in self.sides.items() if old is not None}

    def mix(self, moved: Iterable[str]) -> Mix:
        return self._mix(self._old() | {name: self.sides[name][1] or "0" for name in moved})

    def mix_at(self, at: Mapping[str, Version], moved: Iterable[str] = ()) -> Mix:
        new = {name: self.sides[name][1] or "0" for name in moved}
        return self._mix(self._old() | new | {name: str(version) for name, version in at.items()})

    def between(self, name: str) -> list[Version]:
        return list(map(Version, self.versions[name]))


class FakeTrials:
    """Trials by a function of the versions in a mix."""

    command = SimpleNamespace(shown="check")

    def __init__(self, judge: Callable[[At], Verdict]) -> None:
        self.judge = judge
        self.labels: list[str] = []
        self.statuses = [0]

    def result(self, mix: Mix | Unresolvable, label: str) -> TrialResult:
        self.labels.append(label)
        if isinstance(mix, Unresolvable):
            return TrialResult(verdict=UNKNOWN, reason=mix.reason, ran=False)
        verdict = self.judge({module.name: module.version for module in mix.lock.module})
        return TrialResult(verdict=verdict, reason="ends\nsomehow", ran=verdict is not UNKNOWN)

    def exits(self, mix: Mix) -> list[int]:
        return self.statuses


def culprits(*units: int) -> Smallest:
    """Return a smallest set of units that need no others."""
    return Smallest(frozenset(units), frozenset(units), frozenset())


TEN = [str(number) for number in range(1, 11)]


def search(
    mixes: FakeMixes, judge: Callable[[At], bool | Verdict]
) -> tuple[CulpritSearch, FakeTrials, list[str]]:
    def verdict(at: At) -> Verdict:
        bad = judge(at)
        return bad if isinstance(bad, Verdict) else BAD if bad else GOOD

    trials, lines = FakeTrials(verdict), list[str]()
    return CulpritSearch(mixes, trials, lines.append), trials, lines  # type: ignore[arg-type]


def from_version(name: str, first: int) -> Callable[[At], bool]:
    return lambda at: int(at[name]) >= first


def test_one_culprit_is_narrowed_to_its_first_bad_version() -> None:
    one, trials, _ = search(FakeMixes(dict.fromkeys("abcde", TEN)), from_version("c", 7))
    smallest = one.smallest()
    [culprit] = one.narrowed(smallest)
    assert culprit == Culprit(name="c", old="1", new="10", good="6", bad="7")
    assert one.skipped == []
    assert "2 of 5 changes (a, b)" in trials.labels
    assert len(trials.labels) == len(set(trials.labels)), "nothing is tried twice"


def test_label_names_three_changes_at_most() -> None:
    one, trials, _ = search(FakeMixes(dict.fromkeys("abcdefgh", TEN)), from_version("h", 2))
    one.smallest()
    assert "4 of 8 changes" in trials.labels
    assert "1 of 8 changes (h)" in trials.labels
    pair, trials, _ = search(FakeMixes(dict.fromkeys("abcdef", TEN)), from_version("f", 2))
    pair.smallest()
    assert "3 of 6 changes (a, b, c)" in trials.labels


def test_two_culprits_are_narrowed_last_visited_first() -> None:
    def judge(at: At) -> bool:
        return int(at["a"]) >= 4 and int(at["c"]) >= 8

    one, trials, _ = search(FakeMixes(dict.fromkeys("abc", TEN)), judge)
    smallest = one.smallest()
    assert one.leaders(smallest) == ["c", "a"]
    assert [(c.name, c.good, c.bad) for c in one.narrowed(smallest)] == [
        ("c", "7", "8"),
        ("a", "3", "4"),
    ]
    assert "a 10, c 5" in trials.labels  # a as in the new lock
    assert "a 5, c 8" in trials.labels  # c at its first bad version
    assert [c.name for c in one.narrowed(smallest, only_first=True)] == ["c"]


def test_culprit_that_is_not_needed_at_other_bad_versions_is_dropped() -> None:
    """c from 8 on needs a to fail; c 5 fails by itself."""

    def judge(at: At) -> bool:
        c = int(at["c"])
        return 5 <= c < 8 or (c >= 8 and int(at["a"]) >= 4)

    one, _, _ = search(FakeMixes(dict.fromkeys("ac", TEN)), judge)
    assert [(c.name, c.good, c.bad) for c in one.narrowed(one.smallest())] == [("c", "4", "5")]


def test_versions_that_cannot_be_tried_are_reported_once() -> None:
    def judge(at: At) -> bool | Verdict:
        return UNKNOWN if at["a"] in ("5", "6") else int(at["a"]) >= 6

    one, _, lines = search(FakeMixes({"a": TEN}), judge)
    [culprit] = one.narrowed(one.smallest())
    assert (culprit.good, culprit.bad, culprit.untested) == ("4", "7", ["5", "6"])
    assert [(skipped.mix, skipped.reason) for skipped in one.skipped] == [
        ("a 5", "ends\nsomehow"),
        ("a 6", "ends\nsomehow"),
    ]
    assert lines == ["Skipped: a 5: ends", "Skipped: a 6: ends"]
    one.narrowed(one.smallest())
    assert len(one.skipped) == len(lines) == 2


def test_added_module_has_no_good_version() -> None:
    mixes = FakeMixes({"a": TEN}, added=["new"])
    one, _, _ = search(mixes, lambda at: "new" in at and int(at["a"]) >= 3)
    found = {culprit.name: culprit for culprit in one.narrowed(one.smallest())}
    assert found["new"] == Culprit(name="new", old=None, new="1", good=None, bad=None)
    assert (found["a"].good, found["a"].bad) == ("2", "3")


def test_unchanged_version_has_no_good_version() -> None:
    mixes = FakeMixes({"a": ["1", "1"]})
    one, _, _ = search(mixes, lambda at: False)
    [culprit] = one.narrowed(culprits(0))
    assert (culprit.old, culprit.new, culprit.good, culprit.bad) == ("1", "1", None, None)


def test_first_culprit_is_never_dropped() -> None:
    """Its first version passed, with the other culprits as in the new lock: it is not run again."""
    one, trials, _ = search(FakeMixes({"a": TEN}), lambda at: True)
    [culprit] = one.narrowed(culprits(0))
    assert (culprit.good, culprit.bad) == ("1", "2")
    assert "a 1" not in trials.labels


def test_culprit_may_be_bad_from_its_second_version_on() -> None:
    def judge(at: At) -> bool:
        return int(at["a"]) >= 2 and int(at["c"]) >= 8

    one, trials, _ = search(FakeMixes(dict.fromkeys("ac", TEN)), judge)
    found = [(c.name, c.good, c.bad) for c in one.narrowed(one.smallest())]
    assert found == [("c", "7", "8"), ("a", "1", "2")]
    assert trials.labels[-1] == "a 1, c 8"


def test_culprit_may_be_bad_at_its_last_version_only() -> None:
    one, _, _ = search(FakeMixes(dict.fromkeys("ac", TEN)), from_version("a", 10))
    [culprit] = one.narrowed(one.smallest())
    assert (culprit.good, culprit.bad) == ("9", "10")


def test_culprit_with_a_good_version_stays_even_if_its_first_is_bad_with_the_others() -> None:
    """With c from 5 to 9, a fails at 1 too, and passes from 2 to 6."""

    def judge(at: At) -> bool:
        a, c = int(at["a"]), int(at["c"])
        return a >= 7 if c in (1, 10) else c >= 5 and (a == 1 or a >= 7)

    def verdict(at: At) -> bool:
        return int(at["c"]) >= 5 and judge(at)

    one, _, _ = search(FakeMixes(dict.fromkeys("ac", TEN)), verdict)
    found = [(c.name, c.good, c.bad) for c in one.narrowed(one.smallest())]
    assert found == [("c", "4", "5"), ("a", "6", "7")]


def test_culprits_after_a_dropped_one_are_narrowed_with_it_at_its_old_version() -> None:
    """b is needed with c at 10 only, where the set of culprits was found; a is always needed."""

    def judge(at: At) -> bool:
        a, b, c = (int(at[name]) for name in "abc")
        return a >= 4 and c >= 8 and (b >= 6 or c < 10)

    one, trials, _ = search(FakeMixes(dict.fromkeys("abc", TEN)), judge)
    smallest = one.smallest()
    assert one.leaders(smallest) == ["c", "b", "a"]
    assert [(c.name, c.good, c.bad) for c in one.narrowed(smallest)] == [
        ("c", "7", "8"),
        ("a", "3", "4"),
    ]
    assert "a 5, b 1, c 8" in trials.labels


def test_downgraded_module_has_versions_too() -> None:
    one, _, _ = search(FakeMixes({"a": ["3", "2", "1"]}), lambda at: at["a"] == "1")
    [culprit] = one.narrowed(one.smallest())
    assert (culprit.old, culprit.new, culprit.good, culprit.bad) == ("3", "1", "2", "1")


def test_unit_is_led_by_its_last_name_and_lists_what_changes_along() -> None:
    """A unit needs the one before: its names are listed too, unless they are as they were."""
    mixes = FakeMixes(
        {"same": TEN, "down": ["3", "2"], "a": TEN, "b": TEN, "c": TEN},
        added=["gone", "new"],
        units=[("same", "down", "gone", "new"), ("a", "b", "c")],
        needs=[frozenset(), frozenset({0})],
    )
    smallest = Smallest(frozenset({0, 1}), frozenset({1}), frozenset())

    def mix_at(at: Mapping[str, Version], moved: Iterable[str] = ()) -> Mix:
        chosen = {name: str(version) for name, version in at.items()}
        return mixes._mix({"same": "1", "down": "2", "new": "1", "a": "4", "b": "1"} | chosen)

    mixes.mix_at = mix_at  # type: ignore[method-assign]
    one, _, _ = search(mixes, from_version("c", 7))
    assert one.leaders(smallest) == ["c"]
    [culprit] = one.narrowed(smallest)
    assert (culprit.name, culprit.good, culprit.bad) == ("c", "6", "7")
    assert culprit.along == [
        VersionChange("a", "1", "4"),
        VersionChange("down", "3", "2"),
        VersionChange("new", None, "1"),
    ]


def test_module_that_the_new_mix_lacks_is_listed_as_removed() -> None:
    mixes = FakeMixes({"gone": ["2", "3"], "a": TEN}, units=[("gone", "a")], needs=[frozenset()])
    mixes.mix_at = lambda at, moved=(): mixes._mix({n: str(v) for n, v in at.items()})  # type: ignore[method-assign]
    one, _, _ = search(mixes, from_version("a", 3))
    [culprit] = one.narrowed(culprits(0))
    assert culprit.along == [VersionChange("gone", "2", None)]


def test_added_module_lists_what_comes_along_as_in_the_new_lock() -> None:
    mixes = FakeMixes(
        {"b": TEN, "c": TEN, "other": TEN},
        added=["new"],
        units=[("b",), ("c", "new"), ("other",)],
        needs=[frozenset(), frozenset({0}), frozenset()],
    )
    one, _, _ = search(mixes, lambda at: True)
    [culprit] = one.narrowed(Smallest(frozenset({0, 1}), frozenset({1}), frozenset()))
    assert (culprit.name, culprit.good, culprit.bad) == ("new", None, None)
    assert culprit.along == [VersionChange("b", "1", "10"), VersionChange("c", "1", "10")]


def test_version_search_of_a_culprit_beside_an_added_one_keeps_that_as_it_is() -> None:
    mixes = FakeMixes({"a": TEN}, added=["new"])
    seen: list[list[str]] = []
    plain = mixes.mix_at

    def mix_at(at: Mapping[str, Version], moved: Iterable[str] = ()) -> Mix:
        seen.append(sorted(moved))
        return plain(at, moved)

    mixes.mix_at = mix_at  # type: ignore[method-assign]
    one, trials, _ = search(mixes, lambda at: "new" in at and int(at["a"]) >= 3)
    one.narrowed(culprits(0, 1))
    assert set(map(tuple, seen)) == {("new",)}
    assert trials.labels[0] == "a 5"


# Remedy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "untested", "expected"),
    [
        (["1", "2", "3"], [], "<3"),
        (["1", "2", "3"], ["2.5"], "<=2"),
        (["3", "2", "1"], [], "==2"),
        (["3", "2", "1"], ["1.5"], "==2"),
        (["2", "1"], [], "==2"),
        (["2", "3"], [], "<3"),
    ],
)
def test_remedy_excludes_the_bad_versions(
    versions: list[str], untested: list[str], expected: str
) -> None:
    culprit = Culprit(name="a", old="1", new="3", good="2", bad="3", untested=untested)
    mixes: Any = FakeMixes({"a": versions})
    assert str(held_below(mixes, culprit)) == expected


# Ends ------------------------------------------------------------------------------------------


def test_end_that_cannot_be_tried_is_an_error() -> None:
    trials: Any = FakeTrials(lambda at: UNKNOWN)
    with raises("M793", match="new"):
        try_end(trials, FakeMixes({}).mix(()), "new.lock")
    with raises("M793", match="why"):
        try_end(trials, Unresolvable("why"), "new.lock")


def test_good_end_has_to_pass() -> None:
    trials: Any = FakeTrials(lambda at: GOOD)
    mix = FakeMixes({}).mix(())
    check_good(trials, mix, "old.lock", "choose")
    trials.judge = lambda at: BAD
    trials.statuses = [1]
    with raises("M791", match="choose"):
        check_good(trials, mix, "old.lock", "choose")


def test_good_end_that_passes_sometimes_is_flaky() -> None:
    trials: Any = FakeTrials(lambda at: BAD)
    trials.statuses = [0, 1]
    with raises("M796"):
        check_good(trials, FakeMixes({}).mix(()), "old.lock", "choose")
