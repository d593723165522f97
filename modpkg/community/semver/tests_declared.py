"""Tests that a module declares: promises made, kept, loosened or taken back."""

from __future__ import annotations

from collections import Counter

from modpkg.community.modules.view import ModuleView
from modpkg.community.semver.levels import Fact, Level
from modpkg.manifest.schema import Test

_BOUNDS = ("at_least", "at_most", "tolerance")
_LINES = (".jsonl", ".csv")


def promise_facts(before: ModuleView, after: ModuleView) -> list[Fact]:
    """Return what changed of the tests that two editions declare.

    Of a suite, whose tests are what it is, a stricter one is an extension: a model that passed
    may fail. Any other module makes a promise the more, which takes nothing from anybody.
    """
    stricter: Level = "minor" if after.module.kind == "suite" else "patch"
    old = {test.name: test for test in before.declared.tests}
    new = {test.name: test for test in after.declared.tests}
    found = [Fact("tests", f"test {name!r} is gone", "major") for name in old if name not in new]
    found += [Fact("tests", f"test {name!r} is new", stricter) for name in new if name not in old]
    for name in old.keys() & new.keys():
        found += _changed(name, old[name], new[name], stricter)
        found += _cases(name, before, old[name], after, new[name], stricter)
    had, has = ({str(suite.name) for suite in side.declared.suites} for side in (before, after))
    found += [Fact("suites", f"{name} is gone", "major") for name in had - has]
    found += [Fact("suites", f"{name} is new", "patch") for name in has - had]
    return sorted(found, key=lambda fact: fact.text)


def _changed(name: str, old: Test, new: Test, stricter: Level) -> list[Fact]:
    others = [
        key
        for key in old.__struct_fields__
        if key not in ("name", "cases", *_BOUNDS) and getattr(old, key) != getattr(new, key)
    ]
    if others:
        return [Fact("tests", f"test {name!r} has another {', '.join(others)}", "major")]
    found = []
    for key in _BOUNDS:
        one, two = getattr(old, key, None), getattr(new, key, None)
        if one == two:
            continue
        level = stricter if _is_stricter(key, one, two) else "major"
        word = "loosened" if level == "major" else "stricter"
        found.append(Fact("tests", f"test {name!r} is {word}: {key} {_was(one)} {_is(two)}", level))
    return found


def _is_stricter(key: str, old: float | None, new: float | None) -> bool:
    if key == "tolerance":
        return (new or 0.0) < (old or 0.0)
    if old is None or new is None:
        return old is None
    return new > old if key == "at_least" else new < old


def _was(value: float | None) -> str:
    return "was not there" if value is None else f"was {value:g}"


def _is(value: float | None) -> str:
    return "and is gone" if value is None else f"and is {value:g}"


def _cases(
    name: str, before: ModuleView, old: Test, after: ModuleView, new: Test, stricter: Level
) -> list[Fact]:
    one, two = before.files.get(old.cases), after.files.get(new.cases)
    if one == two:
        return []
    if one is None or two is None:
        return [Fact("tests", f"the cases of test {name!r} cannot be compared", "major")]
    if old.cases.endswith(_LINES) and new.cases.endswith(_LINES):
        had, has = (
            Counter(side.read(test.cases).splitlines())
            for side, test in ((before, old), (after, new))
        )
        gone, more = sum((had - has).values()), sum((has - had).values())
        if not gone:
            return [Fact("tests", f"test {name!r} has {more} more cases", stricter)]
        return [Fact("tests", f"test {name!r} has lost {gone} of its cases", "major")]
    return [Fact("tests", f"test {name!r} has other cases", "major")]


def cases_of(*editions: ModuleView) -> frozenset[str]:
    """Return the paths of the files of cases."""
    return frozenset(test.cases for edition in editions for test in edition.declared.tests)
