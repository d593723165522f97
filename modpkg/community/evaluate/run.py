"""Which tests a project has, and on which models they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from modpkg.community.evaluate.cases import read_cases
from modpkg.community.evaluate.metrics import find_metric
from modpkg.community.evaluate.report import parse_report
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
from modpkg.community.evaluate.test_runner import (
    Bench,
    SuiteTest,
    Tried,
    all_tests,
    tests_of_project,
)
from modpkg.core.digests import Digest
from modpkg.core.errors import TestError
from modpkg.core.filenames import REPORT
from modpkg.core.names import ModuleName, module_name
from modpkg.core.progress import Progress
from modpkg.core.records import ReleaseRecord
from modpkg.environment.plan import InstallPlan, Request, plan_install
from modpkg.environment.project import Project
from modpkg.environment.workspace import NO_OPTIONS as NO_WISHES
from modpkg.environment.workspace import RegistryOptions as Wishes
from modpkg.manifest.schema import Manifest
from modpkg.resolve.lock import Lock
from modpkg.store.store import Store


class Planned(Struct, frozen=True):
    """A model, and the tests that it is to pass."""

    model: Runnable
    tests: list[SuiteTest]


def try_project(
    project: Project,
    store: Store,
    progress: Progress,
    bench: Bench,
    *,
    name: str | None = None,
    wishes: Wishes = NO_WISHES,
) -> list[Tried]:
    """Run the tests of the project in a folder; the store holds what is fetched and composed.

    A module is built aside, composed with the newest that resolves, and gets its own tests and
    those of its suites. A suite's tests run on each model among its dependencies. An app's run on
    the models that its lock gives. ``name`` is one installed model: its module's own tests run, and
    those that the project has for it. No project, lock or environment is changed.

    Raises:
        TestError: there is no test. TestAborted, TestError …
        LockError: of an app. Everything that resolving and composing can raise.
    """
    manifest = project.parse()
    module = manifest.module
    with store.used():
        if name is None and module is not None and module.kind != "suite":
            with built_release(manifest, store, progress, wishes) as release:
                return [_run_release(release, store, progress, bench, wishes)]
        if module is None or name is not None:
            request = Request(registry=wishes.registry, offline=wishes.offline, frozen=True)
            plan = plan_install(project, request, store, progress)
        else:
            plan = plan_trial(manifest, None, store, progress, wishes)
        found = _of_plan(manifest, plan, name, store, progress, wishes)
        return _run(found, bench, manifest)


def try_lock(
    manifest: Manifest,
    lock: Lock,
    store: Store,
    progress: Progress,
    bench: Bench,
    *,
    wishes: Wishes = NO_WISHES,
) -> list[Tried]:
    """Run an app's tests on the models that a lock gives, whatever its project has now.

    Raises:
        As `try_project`.
    """
    with store.used():
        plan = plan_trial(manifest, lock, store, progress, wishes)
        return _run(_of_plan(manifest, plan, None, store, progress, wishes), bench, manifest)


def _run_release(
    release: Release, store: Store, progress: Progress, bench: Bench, wishes: Wishes
) -> Tried:
    registries = trial_registries(release.around, [release.pin], store, progress, wishes)
    tests = all_tests(release.record, registries, store)
    if not tests:
        raise TestError(
            "M719",
            reason=f"{release.record.name} has no [[tests]] and no [suites]; docs/testing.md "
            "shows how to write them",
        )
    return bench.run(release_model(release, store, progress, wishes), tests)


def _run(found: Iterator[Planned], bench: Bench, manifest: Manifest) -> list[Tried]:
    tried = [bench.run(item.model, item.tests) for item in found if item.tests]
    if not tried:
        owner = manifest.app or (manifest.module.name if manifest.module else "")
        raise TestError("M719", reason=f"{owner} has no model with [[tests]]")
    return tried


def _of_plan(
    manifest: Manifest,
    plan: InstallPlan,
    name: str | None,
    store: Store,
    progress: Progress,
    wishes: Wishes,
) -> Iterator[Planned]:
    """Yield the models of a plan with their tests; ``name`` chooses one, with its module's own."""
    wanted = None if name is None else module_name(name)
    owner = manifest.app or (manifest.module.name if manifest.module else "")
    kind = "app" if manifest.module is None else manifest.module.kind
    own = tests_of_project(manifest, owner) if kind in ("app", "suite") else []
    names: Sequence[str] = [recipe.name for recipe in plan.recipes] if wanted is None else [wanted]
    for model in names:
        locked = plan.lock.find(model)
        what = runnable(plan, model, locked.kind if locked is not None else kind)
        tests = [item for item in own if item.test.model in (None, model)]
        if wanted is not None and locked is not None:
            registries = trial_registries(manifest, (), store, progress, wishes)
            tests = [*all_tests(plan.transfer.records[model], registries, store), *tests]
        yield Planned(what, tests)


def check_suite(manifest: Manifest) -> int:
    """Check a project's tests without a model, and return how many cases they have.

    Raises:
        TestError, MissingExtra.
    """
    count = 0
    for item in tests_of_project(manifest, ""):
        metric = find_metric(item.test.metric, f"test {item.test.name!r}")
        count += len(read_cases(item.cases.read_bytes(), item.test.cases, metric.columns))
    return count


def check_claim(
    tree: Path,
    record: ReleaseRecord,
    manifest: Manifest,
    store: Store,
    progress: Progress,
    wishes: Wishes,
) -> None:
    """Check that the report of a release that was built is one of it; if it has one.

    ``tree`` is the built registry tree. Its values are not measured again: `modpkg vet` does that.

    Raises:
        TestError: it is of another composition, or of other tests. TestError.
    """
    if (entry := record.files.get(REPORT)) is None:
        return
    path = manifest.folder / REPORT
    release = Release(
        pin=Pin(ModuleName(record.name), record.version, str(tree.absolute())),
        record=record,
        around=manifest,
    )
    registries = trial_registries(manifest, [release.pin], store, progress, wishes)
    data = registries.of(record.name).blob(Digest(entry.digest), f"{REPORT} of {record.name}")
    report = parse_report(data, str(path))
    model = release_model(release, store, progress, wishes)
    if report.composition != model.digest:
        raise TestError(
            "M711", path=path, what="composition", said=report.composition, actual=model.digest
        )
    said = [(result.suite, result.test, str(result.digest)) for result in report.results]
    tests = all_tests(record, registries, store)
    actual = [(item.suite, item.test.name, str(item.digest)) for item in tests]
    if said != actual:
        other = next(
            (name for name in (*said, *actual) if name not in said or name not in actual),
            actual[0] if actual else said[0],
        )
        raise TestError(
            "M711",
            path=path,
            what="suite",
            said=_shown(said, other),
            actual=_shown(actual, other),
        )


def _shown(tests: list[tuple[str, str, str]], about: tuple[str, str, str]) -> str:
    for suite, name, digest in tests:
        if (suite, name) == about[:2]:
            return f"test {name!r} of {suite} is {digest}"
    return f"there is no test {about[1]!r} of {about[0]}"
