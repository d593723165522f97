"""Facts about declared tests: added, removed, stricter or looser."""

from __future__ import annotations

from collections import Counter

from modpkg.community.modules.view import ModuleView
from modpkg.community.semver.levels import Fact, Level
from modpkg.manifest.schema import Test

_BOUNDS = ("at_least", "at_most", "tolerance")
_LINES = (".jsonl", ".csv")


def test_facts(before: ModuleView, after: ModuleView) -> list[Fact]:
    """Return what changed in the tests that two versions declare.

    A removed or looser test is a major change. A new or stricter one is a minor change of a
    suite, because a model that passed may fail now, and compatible (a patch) for any other kind.
    """
    stricter: Level = "minor" if after.module.kind == "suite" else "patch"
    old = {test.name: test for test in before.declared.tests}
    new = {test.name: test for test in after.declared.tests}
    facts = [
        Fact("tests", f"test {name!r} was removed", "major") for name in old if name not in new
    ]
    facts += [
        Fact("tests", f"test {name!r} was added", stricter) for name in new if name not in old
    ]
    for name in old.keys() & new.keys():
        facts += _changed(name, old[name], new[name], stricter)
        facts += _cases(name, before, old[name], after, new[name], stricter)
    had, has = ({str(suite.name) for suite in view.declared.suites} for view in (before, after))
    facts += [Fact("suites", f"{name} was removed", "major") for name in had - has]
    facts += [Fact("suites", f"{name} was added", "patch") for name in has - had]
    return sorted(facts, key=lambda fact: fact.text)


def _changed(name: str, old: Test, new: Test, stricter: Level) -> list[Fact]:
    others = [
        key
        for key in old.__struct_fields__
        if key not in ("name", "cases", *_BOUNDS) and getattr(old, key) != getattr(new, key)
    ]
    if others:
        return [Fact("tests", f"test {name!r} has another {', '.join(others)}", "major")]
    facts = []
    for key in _BOUNDS:
        one, two = getattr(old, key, None), getattr(new, key, None)
        if one == two:
            continue
        level = stricter if _is_stricter(key, one, two) else "major"
        word = "looser" if level == "major" else "stricter"
        facts.append(Fact("tests", f"test {name!r} is {word}: {key} {_was(one)} {_is(two)}", level))
    return facts


def _is_stricter(key: str, old: float | None, new: float | None) -> bool:
    if key == "tolerance":
        return (new or 0.0) < (old or 0.0)
    if old is None or new is None:
        return old is None
    return new > old if key == "at_least" else new < old


def _was(value: float | None) -> str:
    return "was not set" if value is None else f"was {value:g}"


def _is(value: float | None) -> str:
    return "and was removed" if value is None else f"and is {value:g}"


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
            Counter(view.read(test.cases).splitlines())
            for view, test in ((before, old), (after, new))
        )
        gone, more = sum((had - has).values()), sum((has - had).values())
        if not gone:
            return [Fact("tests", f"test {name!r} has {more} more cases", stricter)]
        return [Fact("tests", f"test {name!r} has lost {gone} of its cases", "major")]
    return [Fact("tests", f"test {name!r} has other cases", "major")]


def case_files(*views: ModuleView) -> frozenset[str]:
    """Return the paths of the files with test cases."""
    return frozenset(test.cases for view in views for test in view.declared.tests)
