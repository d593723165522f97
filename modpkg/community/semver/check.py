"""``modpkg check``: which version a change may have, worked out from facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct
from packaging.version import Version

from modpkg.community.evaluate.report import Regression, regressions
from modpkg.community.modules.view import ModuleView
from modpkg.community.semver.config import config_facts, file_facts
from modpkg.community.semver.levels import Fact, Level, is_legal, level_of, lowest
from modpkg.community.semver.manifest import manifest_facts
from modpkg.community.semver.tests_declared import cases_of, promise_facts
from modpkg.community.semver.weights import Weights, compare_weights, weight_facts


class Tests(Struct, frozen=True):
    """What the reports of two editions say."""

    compared: int
    """Tests that both have a result of."""
    worse: tuple[Regression, ...]
    note: str
    """Why they were not compared; empty where they were."""


class Check(Struct, frozen=True, kw_only=True):
    """A module beside the release before it."""

    name: str
    version: str
    against: str | None
    """The earlier version; None for a first release."""
    level: Level
    lowest: str | None
    """The lowest legal version; None where any will do."""
    legal: bool
    facts: tuple[Fact, ...]
    weights: Weights | None
    tests: Tests | None

    @property
    def change(self) -> str:
        """What changed most, in a clause."""
        reasons = [fact for fact in self.facts if fact.level == self.level != "none"]
        because = f"{reasons[0].about}: {reasons[0].text}" if reasons else "nothing runs otherwise"
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        change = f"a {self.level} change" if self.level != "none" else "no change"
        return f"{self.name} {self.against} to {self.version} is {change}: {because}{more}"

    @property
    def sentence(self) -> str:
        """The verdict."""
        if self.against is None:
            return f"{self.name} has no earlier release, so {self.version} is as good as any."
        if self.level == "none" and self.version == self.against:
            return f"This is {self.name} {self.against} as it is published."
        if self.legal:
            return f"{self.change}; {self.version} is legal."
        return f"{self.change}; the lowest legal version is {self.lowest}."


def check(
    before: ModuleView | None,
    after: ModuleView,
    *,
    published: Callable[[str], Iterable[Version]],
    count: bool = True,
    progress: Callable[[int], None] | None = None,
    stale: str = "",
) -> Check:
    """Work out what changed from one edition to another, and which version that asks for.

    ``published`` gives the versions that there are of a dependency. Without ``count``, changed
    values are counted only where the verdict hangs on their number. ``stale`` says why the later
    edition's report is not one of it, where it is not.

    Raises:
        What reading and fetching the earlier release can raise; TestError.
    """
    name, version = str(after.module.name), after.module.version
    if before is None:
        return Check(
            name=name,
            version=str(version),
            against=None,
            level="none",
            lowest=None,
            legal=True,
            facts=(),
            weights=None,
            tests=None,
        )
    tests = compare_tests(before, after) if not stale else Tests(0, (), stale)
    weights = compare_weights(before, after, count=count, progress=progress)
    facts = [
        *weight_facts(weights),
        *config_facts(before, after),
        *manifest_facts(
            before.declared,
            after.declared,
            published=published,
            tests_hold=not tests.note and not tests.worse,
        ),
        *promise_facts(before, after),
        *(Fact("tests", f"{w.test!r} got worse: {w.reason}", "major") for w in tests.worse),
        *file_facts(before, after, cases_of(before, after)),
    ]
    level = level_of(facts)
    earlier = before.module.version
    same = version == earlier and level == "none"
    return Check(
        name=name,
        version=str(version),
        against=str(earlier),
        level=level,
        lowest=str(lowest(earlier, level)),
        legal=same or is_legal(version, earlier, level),
        facts=tuple(facts),
        weights=weights,
        tests=tests,
    )


def compare_tests(before: ModuleView, after: ModuleView) -> Tests:
    """Return which tests got worse, by the reports that two editions carry.

    Raises:
        TestError: a report is none.
    """
    old, new = before.report(), after.report()
    without = [side.label for side, report in ((before, old), (after, new)) if report is None]
    if old is None or new is None:
        declared = bool(before.declared.tests or after.declared.tests)
        which = " and ".join(without)
        verb = "have" if len(without) > 1 else "has"
        note = f"tests were not compared: {which} {verb} no report.json"
        if declared:
            note += "; run 'modpkg test' before each release"
        return Tests(0, (), f"{note}. The verdict is about weights, interface and manifest alone.")
    shared = {(r.suite, r.test) for r in old.results} & {(r.suite, r.test) for r in new.results}
    return Tests(len(shared), tuple(regressions(old, new)), "")
