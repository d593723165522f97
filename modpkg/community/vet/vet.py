"""Vetting: a candidate beside the release before it, with its tests and its dependants'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from modpkg.community.evaluate.report import TestRun
from modpkg.community.evaluate.subject import (
    Pin,
    Release,
    Runnable,
    built_release,
    release_model,
    trial_registries,
)
from modpkg.community.evaluate.suite import SuiteTest, all_tests
from modpkg.community.evaluate.test_runner import TestRunner
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
from modpkg.core.digests import Digest
from modpkg.core.errors import MissingExtra, ModpkgError, TestAborted, TestError
from modpkg.core.filenames import REGISTRY_INFO, REPORT
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.core.records import IndexLine
from modpkg.core.report import parse_report
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.manifest.find import find_manifest
from modpkg.manifest.read import read_manifest
from modpkg.manifest.schema import Manifest
from modpkg.registry.reader import Registry
from modpkg.registry.select import earlier_release


class Bureau(msgspec.Struct, frozen=True):
    """What vetting works with."""

    workspace: Workspace
    runner: TestRunner


@contextmanager
def candidate_of(text: str, around: Manifest, bureau: Bureau) -> Iterator[Release]:
    """Yield what a person named: a module project, a built release, or ``NAME==VERSION``.

    Raises:
        TestError: it is none of these. What building and reading registries raise.
    """
    path = Path(text)
    if (path / REGISTRY_INFO).is_file():
        yield _built(path.absolute(), around)
    elif path.is_dir():
        found = find_manifest(path.absolute())
        if found is None:
            raise TestError(
                "M721", what=text, reason="there is neither a modpkg.toml nor a release"
            )
        manifest = read_manifest(found)
        with built_release(bureau.workspace, manifest) as release:
            yield release
    else:
        name, separator, version = text.partition("==")
        if not separator:
            raise TestError(
                "M721", what=text, reason="it is neither a folder nor a release (NAME==VERSION)"
            )
        yield published(module_name(name), version, around, bureau)


def _built(tree: Path, around: Manifest) -> Release:
    registry = Registry(str(tree))
    lines = [line for name in registry.names() or [] for line in registry.index(name)]
    if len(lines) != 1:
        raise TestError("M721", what=tree, reason=f"it holds {len(lines)} releases, and not one")
    pin = Pin(module_name(lines[0].name), lines[0].version, str(tree))
    return Release(pin=pin, record=registry.record(lines[0]), around=around)


def published(name: ModuleName, version: str, around: Manifest, bureau: Bureau) -> Release:
    """Return a release of a registry.

    Raises:
        NotFound. What reading a registry raises.
    """
    registry = _registries(around, (), bureau).of(name)
    line = registry.line(name, str(parse_version(version)))
    return Release(pin=Pin(name, line.version), record=registry.record(line), around=around)


def _registries(around: Manifest, pins: Sequence[Pin], bureau: Bureau) -> Registries:
    return trial_registries(bureau.workspace, around, pins)


def release_before(candidate: Release, against: str | None, bureau: Bureau) -> Release | None:
    """Return the release to compare a candidate with; None where there is none before it.

    ``against`` is ``NAME==VERSION`` or a version; by default it is `earlier_release`.

    Raises:
        NotFound. What reading a registry raises.
    """
    name = candidate.pin.name
    if against is not None:
        named, separator, version = against.partition("==")
        if separator:
            return published(module_name(named), version, candidate.around, bureau)
        return published(name, against, candidate.around, bureau)
    registry = _registries(candidate.around, (), bureau).of(name)
    line = earlier_release(registry.index(name), parse_version(candidate.pin.version))
    return None if line is None else published(name, line.version, candidate.around, bureau)


def vet(
    candidate: Release, against: Release | None, bureau: Bureau, *, most: int | None = 10
) -> VetReport:
    """Return what the tests say of a candidate and of what depends on it.

    Tests are the candidate's, and those of ``against`` that it lacks or has otherwise: taking a
    test out hides nothing. ``most`` dependants are tested, None for all. Outcomes that the store
    has are not computed again.

    Raises:
        TestAborted, TestError: of its own tests.
        What resolving, fetching and composing raise.
    """
    store, runner = bureau.workspace.store, bureau.runner
    with store.lock():
        registries = _registries(candidate.around, [candidate.pin], bureau)
        tests = all_tests(candidate.record, registries, store)
        own = {item.key for item in tests}
        if against is not None:
            before_registries = _registries(against.around, [against.pin], bureau)
            tests += [
                item
                for item in all_tests(against.record, before_registries, store)
                if item.key not in own
            ]
        current = [item.key in own for item in tests]
        after = runner.run(_model(candidate, bureau), tests)
        before = after if against is None else runner.run(_model(against, bureau), tests)
        changes = compare_runs(runner, tests, before, after, current)
        claim, mismatch = _check_claim(candidate, registries, after)
        dependants, count = _dependants(candidate, against, bureau, most)
    word, reason = verdict(
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
        verdict=word,
        reason=reason,
        claim=claim,
        changes=changes,
        dependants=dependants,
        dependants_found=count,
    )


def compare_runs(
    runner: TestRunner,
    tests: Sequence[SuiteTest],
    before: TestRun,
    after: TestRun,
    current: Sequence[bool],
) -> list[TestChange]:
    """Return how the results of tests changed; both models ran on the same tests."""
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


def _model(release: Release, bureau: Bureau, others: Sequence[Pin] = ()) -> Runnable:
    return release_model(bureau.workspace, release, others=others)


def _check_claim(
    candidate: Release, registries: Registries, after: TestRun
) -> tuple[ReportClaim, str]:
    """Return whether the candidate's own report agrees with a run, and where it does not."""
    if (entry := candidate.record.files.get(REPORT)) is None:
        return "none", ""
    what = f"{REPORT} of {candidate.record.name} {candidate.record.version}"
    registry = registries.of(candidate.record.name)
    reported = parse_report(registry.blob(Digest(entry.digest), what), what)
    if reported.composition != after.report.composition:
        return "other composition", ""
    mismatch = report_mismatch(reported, after.report)
    return ("does not hold", mismatch) if mismatch else ("holds", "")


def _dependants(
    candidate: Release, against: Release | None, bureau: Bureau, most: int | None
) -> tuple[list[DependantResult], int | None]:
    """Return what became of the dependants, and how many there are."""
    name = candidate.pin.name
    registry = _registries(candidate.around, (), bureau).of(name)
    tensors = {key: entry.digest for key, entry in candidate.record.tensors.items()}
    found = dependants_of(name, candidate.pin.version, registry, tensors)
    if found is None:
        return [], None if most != 0 else 0
    tested = []
    left = len(found) if most is None else most
    for dependant in found:
        if not dependant.allows:
            reason = f"it asks for {dependant.asks}"
            tested.append(_dependant_result(dependant.line, "not allowed", reason))
        elif left > 0 and against is not None:
            left -= 1
            tested.append(_try_dependant(dependant, candidate, against, bureau))
    return tested, len(found)


def _dependant_result(
    line: IndexLine, state: DependantState, reason: str = "", changes: Sequence[TestChange] = ()
) -> DependantResult:
    return DependantResult(
        name=line.name,
        version=line.version,
        kind=line.kind,
        state=state,
        reason=reason,
        changes=list(changes),
    )


def _try_dependant(
    dependant: Dependant, candidate: Release, against: Release, bureau: Bureau
) -> DependantResult:
    """Run a dependant's tests with the release before and with the candidate."""
    line = dependant.line
    around = candidate.around
    try:
        release = published(module_name(line.name), line.version, around, bureau)
        registries = _registries(around, (), bureau)
        tests = all_tests(release.record, registries, bureau.workspace.store)
        model = _model(release, bureau, [against.pin])
        before = bureau.runner.run(model, tests)
    except ModpkgError as error:
        return _dependant_result(line, "not tested", f"before: {_clause(error)}")
    try:
        after = bureau.runner.run(_model(release, bureau, [candidate.pin]), tests)
    except (TestAborted, MissingExtra) as error:
        return _dependant_result(line, "not tested", _clause(error))
    except ModpkgError as error:
        return _dependant_result(line, "broken", f"cannot run with it ({_clause(error)})")
    if not tests:
        return _dependant_result(line, "no tests")
    changes = compare_runs(bureau.runner, tests, before, after, [True] * len(tests))
    return _dependant_result(line, "tested", "", changes)


def _clause(error: ModpkgError) -> str:
    return " ".join(str(error).split()).rstrip(".")
