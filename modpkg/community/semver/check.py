"""``modpkg check``: which version a change requires, computed from facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.structs import force_setattr
from packaging.version import Version

from modpkg.community.evaluate.report import Regression, regressions
from modpkg.community.modules.view import ModuleView
from modpkg.community.semver.config import config_facts, file_facts
from modpkg.community.semver.levels import Fact, Level, is_legal, level_of, lowest_version
from modpkg.community.semver.manifest import manifest_facts
from modpkg.community.semver.tests_declared import case_files, test_facts
from modpkg.community.semver.weights import Weights, compare_weights, weight_facts


class TestsComparison(Struct, frozen=True):
    """The test reports of two releases, compared."""

    compared: int
    """Tests that both reports have a result of."""
    worse: tuple[Regression, ...]
    note: str
    """Why they were not compared; empty if they were."""


class Check(Struct, frozen=True, kw_only=True):
    """A module compared with an earlier release of it."""

    name: str
    version: str
    against: str | None
    """The earlier version; None for a first release."""
    level: Level
    lowest: str | None
    """The lowest allowed version; None if any is."""
    legal: bool
    facts: tuple[Fact, ...]
    weights: Weights | None
    tests: TestsComparison | None
    sentence: str = ""
    """The verdict."""

    def __post_init__(self) -> None:
        force_setattr(self, "sentence", self._sentence())

    @property
    def change(self) -> str:
        """The change with the highest level, as a clause."""
        reasons = [fact for fact in self.facts if fact.level == self.level != "none"]
        because = "nothing that runs changed"
        if reasons:
            because = f"{reasons[0].about}: {reasons[0].text}"
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        change = f"a {self.level} change" if self.level != "none" else "no change"
        return f"{self.name} {self.against} to {self.version} is {change}: {because}{more}"

    def _sentence(self) -> str:
        if self.against is None:
            return "First release; any version is allowed."
        if self.level == "none" and self.version == self.against:
            return f"Identical to the published {self.name} {self.against}."
        if self.legal:
            return f"{self.change}; {self.version} is allowed."
        return f"{self.change}; the lowest allowed version is {self.lowest}."


def check(
    before: ModuleView | None,
    after: ModuleView,
    *,
    published: Callable[[str], Iterable[Version]],
    count: bool = True,
    progress: Callable[[int], None] | None = None,
    stale: str = "",
) -> Check:
    """Return what changed from one version of a module to another, and the version this requires.

    Args:
        before: The earlier release; None for a first release.
        after: The project or build that is to be released.
        published: Returns the published versions of a dependency.
        count: Whether to count changed values even if the level does not depend on their number.
        progress: Called with the bytes that were compared.
        stale: Why the test report of ``after`` is out of date; "" if it is not.

    Raises:
        TestError: A report is malformed. What reading and fetching the earlier release can raise.
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
    tests = compare_tests(before, after) if not stale else TestsComparison(0, (), stale)
    weights = compare_weights(before, after, count=count, progress=progress)
    tests_hold = not tests.worse if tests.compared else None
    facts = [
        *weight_facts(weights, after.module.kind, tests_hold=tests_hold),
        *config_facts(before, after),
        *manifest_facts(
            before.declared,
            after.declared,
            published=published,
            tests_hold=not tests.note and not tests.worse,
        ),
        *test_facts(before, after),
        *(Fact("tests", f"{w.test!r} got worse: {w.reason}", "major") for w in tests.worse),
        *file_facts(before, after, case_files(before, after)),
    ]
    level = level_of(facts)
    earlier = before.module.version
    same = version == earlier and level == "none"
    return Check(
        name=name,
        version=str(version),
        against=str(earlier),
        level=level,
        lowest=str(lowest_version(earlier, level)),
        legal=same or is_legal(version, earlier, level),
        facts=tuple(facts),
        weights=weights,
        tests=tests,
    )


def compare_tests(before: ModuleView, after: ModuleView) -> TestsComparison:
    """Return which tests got worse, according to the reports in two releases.

    Raises:
        TestError: A report is malformed.
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
        return TestsComparison(
            0, (), f"{note}. Only weights, interface and manifest were compared."
        )
    shared = {(r.suite, r.test) for r in old.results} & {(r.suite, r.test) for r in new.results}
    return TestsComparison(len(shared), tuple(regressions(old, new)), "")
