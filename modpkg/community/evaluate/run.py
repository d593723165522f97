"""Running the tests of a project: which tests on which models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from modpkg.community.evaluate.report import TestRun
from modpkg.community.evaluate.subject import (
    Pin,
    Release,
    Runnable,
    built_release,
    plan_trial,
    release_model,
    runnable,
    trial_registries,
)
from modpkg.community.evaluate.suite import SuiteTest, all_tests, tests_of_project
from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.core.digests import Digest
from modpkg.core.errors import TestError
from modpkg.core.filenames import REPORT
from modpkg.core.names import ModuleName, module_name
from modpkg.core.records import ReleaseRecord
from modpkg.core.report import parse_report
from modpkg.environment.plan import InstallPlan, InstallRequest, plan_install
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest
from modpkg.resolve.lock import Lock


class ModelTests(Struct, frozen=True):
    """A model and its tests."""

    model: Runnable
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
        TestError: there are no tests, or one cannot be run.
        LockError: an app has no current lock.
        ModpkgError: building, resolving, fetching or composing fails.
    """
    manifest = workspace.manifest
    module = manifest.module
    with workspace.store.lock():
        if name is None and module is not None and module.kind != "suite":
            with built_release(workspace, manifest) as release:
                return [_run_release(workspace, release, runner)]
        if module is None or name is not None:
            plan = plan_install(workspace, InstallRequest(frozen=True))
        else:
            plan = plan_trial(workspace, manifest)
        models = _models_of(workspace, plan, name)
        return _run(models, runner, manifest)


def run_lock_tests(workspace: Workspace, lock: Lock, runner: TestRunner) -> list[TestRun]:
    """Run an app's tests on the models of a lock; raises like `run_project_tests`."""
    with workspace.store.lock():
        plan = plan_trial(workspace, workspace.manifest, lock)
        return _run(_models_of(workspace, plan, None), runner, workspace.manifest)


def _run_release(workspace: Workspace, release: Release, runner: TestRunner) -> TestRun:
    registries = trial_registries(workspace, release.around, [release.pin])
    tests = all_tests(release.record, registries, workspace.store)
    if not tests:
        raise TestError(
            "M719",
            reason=f"{release.record.name} has no [[tests]] and no [suites]; docs/testing.md "
            "shows how to write them",
        )
    return runner.run(release_model(workspace, release), tests)


def _run(models: Iterator[ModelTests], runner: TestRunner, manifest: Manifest) -> list[TestRun]:
    runs = [runner.run(item.model, item.tests) for item in models if item.tests]
    if not runs:
        owner = manifest.app or (manifest.module.name if manifest.module else "")
        raise TestError("M719", reason=f"{owner} has no model with [[tests]]")
    return runs


def _models_of(workspace: Workspace, plan: InstallPlan, name: str | None) -> Iterator[ModelTests]:
    """Yield the models of a plan with their tests; ``name`` selects one, with its module's own."""
    manifest = workspace.manifest
    selected = None if name is None else module_name(name)
    owner = manifest.app or (manifest.module.name if manifest.module else "")
    kind = "app" if manifest.module is None else manifest.module.kind
    own = tests_of_project(manifest, owner) if kind in ("app", "suite") else []
    names: Sequence[str] = (
        [recipe.name for recipe in plan.recipes] if selected is None else [selected]
    )
    for model in names:
        locked = plan.lock.find(model)
        target = runnable(plan, model, locked.kind if locked is not None else kind)
        tests = [item for item in own if item.test.model in (None, model)]
        if selected is not None and locked is not None:
            registries = trial_registries(workspace, manifest, ())
            tests = [*all_tests(plan.transfer.records[model], registries, workspace.store), *tests]
        yield ModelTests(target, tests)


def check_report(
    workspace: Workspace, tree: Path, record: ReleaseRecord, manifest: Manifest
) -> None:
    """Check that the report in a built release, if any, is about that release and its tests.

    ``tree`` is the built registry tree. Values are not measured again: `modpkg vet` does that.

    Raises:
        TestError: the report is malformed, or about another composition or other tests.
    """
    if (entry := record.files.get(REPORT)) is None:
        return
    path = manifest.folder / REPORT
    release = Release(
        pin=Pin(ModuleName(record.name), record.version, str(tree.absolute())),
        record=record,
        around=manifest,
    )
    registries = trial_registries(workspace, manifest, [release.pin])
    data = registries.of(record.name).blob(Digest(entry.digest), f"{REPORT} of {record.name}")
    report = parse_report(data, str(path))
    model = release_model(workspace, release)
    if report.composition != model.digest:
        raise TestError(
            "M711", path=path, what="composition", reported=report.composition, actual=model.digest
        )
    reported = [(result.suite, result.test, result.digest) for result in report.results]
    tests = all_tests(record, registries, workspace.store)
    actual = [item.key for item in tests]
    if reported != actual:
        other = next(
            (key for key in (*reported, *actual) if key not in reported or key not in actual),
            actual[0],
        )
        raise TestError(
            "M711",
            path=path,
            what="suite",
            reported=_describe(reported, other),
            actual=_describe(actual, other),
        )


def _describe(tests: Sequence[tuple[str, str, str]], key: tuple[str, str, str]) -> str:
    suite, name, _ = key
    for digest in (test[2] for test in tests if test[:2] == (suite, name)):
        return f"test {name!r} of {suite} with digest {digest}"
    return f"no test {name!r} of {suite}"
