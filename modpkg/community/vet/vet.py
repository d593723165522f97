"""Vetting: a candidate is compared with the release before it, on its tests and its dependants'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modpkg.community.evaluate.assembly import pin_of, release_target
from modpkg.community.evaluate.builds import built_release, view_of_tree
from modpkg.community.evaluate.report import TestRun
from modpkg.community.evaluate.suite import SuiteTest, all_tests, check_packages
from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.community.modules.reference import parse_reference
from modpkg.community.modules.trial import trial_registries
from modpkg.community.modules.view import ModuleView, view_of_release
from modpkg.community.vet.dependants import Dependant, dependants_of
from modpkg.community.vet.verdict import (
    DependantResult,
    DependantState,
    ReportClaim,
    TestChange,
    VetReport,
    correct_cases,
    count_flips,
    report_mismatch,
    verdict,
)
from modpkg.core.errors import MissingExtra, ModpkgError, TestAborted, TestError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.names import module_name, parse_version
from modpkg.core.records import IndexLine
from modpkg.environment.project import Project
from modpkg.environment.tried_candidates import with_candidate
from modpkg.environment.workspace import Workspace
from modpkg.manifest.find import find_manifest
from modpkg.registry.candidates import read_candidate
from modpkg.registry.select import earlier_release


@contextmanager
def find_candidate(workspace: Workspace, text: str) -> Iterator[tuple[Workspace, ModuleView]]:
    """Yield the release that a text names, and the workspace whose manifest applies to it.

    ``text`` is the folder of a module project, which is built, the folder of a built release,
    ``NAME==VERSION`` or ``NAME#7``. A candidate is the release of its version from then on.

    Raises:
        TestError: ``text`` names neither a project, nor a built release, nor a published one.
        ModpkgError: Building, or reading a registry, failed.
    """
    path = Path(text)
    if (path / REGISTRY_INFO).is_file():
        yield workspace, view_of_tree(workspace, path.absolute())
    elif path.is_dir():
        manifest_path = find_manifest(path.absolute())
        if manifest_path is None:
            raise TestError(
                "M721", what=text, reason="the folder has neither a modpkg.toml nor a built release"
            )
        own = workspace.for_project(Project(manifest_path))
        check_packages(own.manifest.tests)
        with built_release(own) as release:
            yield own, release
    else:
        reference = parse_reference(text)
        if reference.candidate is not None:
            registry = workspace.registries.of(reference.name)
            one = read_candidate(registry, reference.name, reference.candidate)
            with_candidate(registry, one)
            yield workspace, _view(workspace, one.line)
            return
        if reference.version is None:
            reason = "it is neither a folder, a release (NAME==VERSION) nor a candidate (NAME#7)"
            raise TestError("M721", what=text, reason=reason)
        yield workspace, _published(workspace, reference.name, reference.version)


def compared_release(
    workspace: Workspace, candidate: ModuleView, against: str | None
) -> ModuleView | None:
    """Return the release to compare a candidate with; None for a first release.

    ``against`` is ``NAME==VERSION`` or a version; the default is `earlier_release`.

    Raises:
        NotFound: There is no such release.
        ModpkgError: Reading a registry fails.
    """
    record = candidate.released
    if against is None:
        lines = workspace.registries.of(record.name).index(record.name)
        line = earlier_release(lines, parse_version(record.version))
        return None if line is None else _view(workspace, line)
    reference = parse_reference(against)
    if reference.version is None:
        return _published(workspace, record.name, against)
    return _published(workspace, reference.name, reference.version)


def _published(workspace: Workspace, name: str, version: str) -> ModuleView:
    registry = workspace.registries.of(module_name(name))
    return _view(workspace, registry.line(name, str(parse_version(version))))


def _view(workspace: Workspace, line: IndexLine) -> ModuleView:
    return view_of_release(line, workspace)


def vet(
    workspace: Workspace,
    runner: TestRunner,
    candidate: ModuleView,
    against: ModuleView | None,
    *,
    most: int | None = 10,
) -> VetReport:
    """Return the verdict on a candidate, with the results of its tests and its dependants'.

    Its tests are those that it declares, and those that ``against`` declares differently, so that
    removing or easing a test hides nothing. At most ``most`` dependants are tested; None: all.

    Raises:
        TestError: One of the candidate's own tests cannot be run.
        ModpkgError: Resolving, fetching or composing the candidate failed.
    """
    with workspace.store.lock():
        tests = _tests_of(workspace, candidate)
        own = {item.key for item in tests}
        if against is not None:
            tests += [item for item in _tests_of(workspace, against) if item.key not in own]
        after = runner.run(release_target(workspace, candidate), tests)
        before = after
        if against is not None:
            before = runner.run(release_target(workspace, against), tests)
        current = [item.key in own for item in tests]
        changes = compare_runs(runner, tests, before, after, current)
        claim, mismatch = _check_claim(candidate, after)
        dependants, count = _dependants(workspace, runner, candidate, against, most)
    decision, reason = verdict(
        changes,
        dependants,
        earlier=against is not None,
        mismatch=mismatch,
        listed=count is not None,
    )
    return VetReport(
        candidate=after.report.subject,
        composition=after.report.composition,
        against=None if against is None else before.report.subject,
        against_composition=None if against is None else before.report.composition,
        engine=after.report.engine,
        verdict=decision,
        reason=reason,
        claim=claim,
        changes=changes,
        dependants=dependants,
        dependants_found=count,
    )


def _tests_of(workspace: Workspace, release: ModuleView) -> list[SuiteTest]:
    registries = trial_registries(workspace, [pin_of(release)])
    return all_tests(release.released, registries, workspace.store)


def compare_runs(
    runner: TestRunner,
    tests: Sequence[SuiteTest],
    before: TestRun,
    after: TestRun,
    current: Sequence[bool],
) -> list[TestChange]:
    """Return how the results of tests changed between two runs of the same tests."""
    changes = []
    for number, test in enumerate(tests):
        old, new = before.outcomes[number], after.outcomes[number]
        result = after.report.results[number]
        flips = count_flips(correct_cases(old, result), correct_cases(new, result))
        negative, positive = flips or (0, 0)
        changes.append(
            TestChange(
                before=before.report.results[number],
                after=result,
                difference=runner.compare(test, after.report.subject.name, old, new),
                judged=flips is not None,
                negative=negative,
                positive=positive,
                current=current[number],
            )
        )
    return changes


def _check_claim(candidate: ModuleView, after: TestRun) -> tuple[ReportClaim, str]:
    """Return whether the report inside a candidate agrees with a run, and where it does not."""
    reported = candidate.report()
    if reported is None:
        return "none", ""
    if reported.composition != after.report.composition:
        return "other composition", ""
    mismatch = report_mismatch(reported, after.report)
    return ("does not hold", mismatch) if mismatch else ("holds", "")


# Dependants ------------------------------------------------------------------------------------


def _dependants(
    workspace: Workspace,
    runner: TestRunner,
    candidate: ModuleView,
    against: ModuleView | None,
    most: int | None,
) -> tuple[list[DependantResult], int | None]:
    """Return the results of the dependants, and how many there are."""
    record = candidate.released
    registry = workspace.registries.of(record.name)
    tensors = {name: entry.digest for name, entry in record.tensors.items()}
    dependants = dependants_of(record.name, record.version, registry, tensors)
    if dependants is None:
        return [], None if most != 0 else 0
    results = []
    left = len(dependants) if most is None else most
    for dependant in dependants:
        if not dependant.allows:
            reason = f"it requires {dependant.specifier}"
            results.append(_result(dependant, "not allowed", reason))
        elif left > 0 and against is not None:
            left -= 1
            results.append(_try_dependant(workspace, runner, dependant, candidate, against))
    return results, len(dependants)


def _try_dependant(
    workspace: Workspace,
    runner: TestRunner,
    dependant: Dependant,
    candidate: ModuleView,
    against: ModuleView,
) -> DependantResult:
    """Run a dependant's tests with the earlier release and with the candidate."""
    try:
        release = _view(workspace, dependant.line)
        tests = all_tests(release.released, workspace.registries, workspace.store)
        before = runner.run(release_target(workspace, release, [against]), tests)
    except ModpkgError as error:
        return _result(dependant, "not tested", f"with the earlier release: {_clause(error)}")
    try:
        after = runner.run(release_target(workspace, release, [candidate]), tests)
    except (TestAborted, MissingExtra) as error:
        return _result(dependant, "not tested", _clause(error))
    except ModpkgError as error:
        return _result(dependant, "broken", f"cannot run with it ({_clause(error)})")
    if not tests:
        return _result(dependant, "no tests")
    changes = compare_runs(runner, tests, before, after, [True] * len(tests))
    return _result(dependant, "tested", changes=changes)


def _result(
    dependant: Dependant,
    state: DependantState,
    reason: str = "",
    changes: Sequence[TestChange] = (),
) -> DependantResult:
    line = dependant.line
    return DependantResult(
        name=line.name,
        version=line.version,
        kind=line.kind,
        state=state,
        reason=reason,
        changes=list(changes),
    )


def _clause(error: ModpkgError) -> str:
    """Return an error's message as a clause within a sentence."""
    return " ".join(str(error).split()).rstrip(".")
