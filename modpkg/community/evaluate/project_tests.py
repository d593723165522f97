"""Running the tests of a project: which tests on which models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from modpkg.community.evaluate.assembly import pin_of, release_target
from modpkg.community.evaluate.builds import built_release
from modpkg.community.evaluate.report import TestRun
from modpkg.community.evaluate.suite import SuiteTest, all_tests, check_packages, tests_of_project
from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.community.evaluate.test_target import TestTarget, find_target
from modpkg.community.modules.trial import plan_trial, trial_registries
from modpkg.community.modules.view import ModuleView
from modpkg.core.errors import TestError
from modpkg.core.filenames import REPORT
from modpkg.core.names import module_name
from modpkg.core.report import parse_report
from modpkg.environment.plan import InstallPlan, InstallRequest, plan_install
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest
from modpkg.resolve.lock import Lock


class ModelTests(Struct, frozen=True):
    """A model and its tests."""

    model: TestTarget
    tests: list[SuiteTest]


def run_project_tests(
    workspace: Workspace, runner: TestRunner, *, name: str | None = None
) -> list[TestRun]:
    """Run a project's tests; only the store is written to.

    A module is built into a temporary folder, composed with the newest versions that resolve, and
    run on its own tests and those of its suites. A suite's tests run on each model among its
    dependencies, an app's on the models of its lock. With ``name``, an installed model is run on
    its module's own tests and those that the project has for it.

    Raises:
        TestError: There are no tests, or one cannot be run.
        LockError: An app has no current lock.
        ModpkgError: Building, resolving, fetching or composing fails.
    """
    module = workspace.manifest.module
    with workspace.store.lock():
        if name is None and module is not None and module.kind != "suite":
            check_packages(workspace.manifest.tests)
            with built_release(workspace) as release:
                return [_run_release(workspace, runner, release)]
        if module is None or name is not None:
            plan = plan_install(workspace, InstallRequest(frozen=True))
        else:
            plan = plan_trial(workspace, workspace.manifest)
        return _run(workspace, runner, _models_of(workspace, plan, name))


def run_lock_tests(workspace: Workspace, lock: Lock, runner: TestRunner) -> list[TestRun]:
    """Run an app's tests on the models of a lock; raises like `run_project_tests`."""
    with workspace.store.lock():
        plan = plan_trial(workspace, workspace.manifest, lock)
        return _run(workspace, runner, _models_of(workspace, plan, None))


def _run_release(workspace: Workspace, runner: TestRunner, release: ModuleView) -> TestRun:
    registries = trial_registries(workspace, [pin_of(release)])
    tests = all_tests(release.released, registries, workspace.store)
    if not tests:
        reason = f"{release.name} has no [[tests]] and no [suites]; see docs/testing.md"
        raise TestError("M719", reason=reason)
    return runner.run(release_target(workspace, release), tests)


def _run(workspace: Workspace, runner: TestRunner, models: Iterator[ModelTests]) -> list[TestRun]:
    items = [item for item in models if item.tests]
    for item in items:
        runner.check(item.model, item.tests)
    runs = [runner.run(item.model, item.tests) for item in items]
    if not runs:
        reason = f"{_owner(workspace.manifest)} has no model with [[tests]]"
        raise TestError("M719", reason=reason)
    return runs


def _models_of(workspace: Workspace, plan: InstallPlan, name: str | None) -> Iterator[ModelTests]:
    """Yield the models of a plan with their tests; ``name`` selects one, with its module's own."""
    manifest = workspace.manifest
    kind = "app" if manifest.module is None else manifest.module.kind
    own = tests_of_project(manifest, _owner(manifest)) if kind in ("app", "suite") else []
    names: Sequence[str] = [recipe.name for recipe in plan.recipes if not recipe.implied]
    if name is not None:
        names = [module_name(name)]
    for model in names:
        locked = plan.lock.find(model)
        target = find_target(plan, model, kind if locked is None else locked.kind)
        tests = [item for item in own if item.test.model in (None, model)]
        if name is not None and locked is not None:
            record = plan.transfer.records[model]
            tests = [*all_tests(record, workspace.registries, workspace.store), *tests]
        yield ModelTests(target, tests)


def _owner(manifest: Manifest) -> str:
    return manifest.app or (manifest.module.name if manifest.module else "")


def check_report(workspace: Workspace, release: ModuleView) -> None:
    """Check that the report in a build of the workspace's module, if any, is about that build.

    Values are not measured again: `modpkg vet` does that.

    Raises:
        TestError: The report is malformed, or about another composition or other tests.
    """
    if REPORT not in release.files:
        return
    path = workspace.manifest.folder / REPORT
    report = parse_report(release.read(REPORT), str(path))
    model = release_target(workspace, release)
    if report.composition != model.digest:
        raise TestError(
            "M711", path=path, what="composition", reported=report.composition, actual=model.digest
        )
    registries = trial_registries(workspace, [pin_of(release)])
    tests = all_tests(release.released, registries, workspace.store)
    reported = [(result.suite, result.test, result.digest) for result in report.results]
    actual = [item.key for item in tests]
    if reported != actual:
        either = (*reported, *actual)
        differing = (key for key in either if key not in reported or key not in actual)
        key = next(differing, actual[0])
        raise TestError(
            "M711",
            path=path,
            what="suite",
            reported=_describe(reported, key),
            actual=_describe(actual, key),
        )


def _describe(tests: Sequence[tuple[str, str, str]], key: tuple[str, str, str]) -> str:
    """Return which definition of a test a list has."""
    suite, name, _ = key
    for digest in (test[2] for test in tests if test[:2] == (suite, name)):
        return f"test {name!r} of {suite} with digest {digest}"
    return f"no test {name!r} of {suite}"
