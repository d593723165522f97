"""Suites: the tests of a model, run or found in the store, and the report on them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.community.evaluate.cases import definition_digest
from modpkg.community.evaluate.metrics import check_metric, metric_version
from modpkg.community.evaluate.protocol import Comparison, Difference, Measurement, Outcome
from modpkg.community.evaluate.report import Better, Report, Result, within
from modpkg.community.evaluate.runner import LIMIT, Runner
from modpkg.community.evaluate.subject import Runnable
from modpkg.compose.executor import compose
from modpkg.compose.plan import COMPOSE_ENGINE
from modpkg.core.digests import Digest, digest_bytes, digest_file
from modpkg.core.errors import TestError
from modpkg.core.files import write_atomically
from modpkg.core.progress import Progress
from modpkg.core.records import ReleaseRecord, canonical_json
from modpkg.core.sealed import seal, unseal
from modpkg.environment.install import counted, fetch_plan
from modpkg.environment.models import lay_out_model, manifest_of
from modpkg.environment.registries import Registries
from modpkg.manifest.schema import Dependency, Manifest, Test
from modpkg.store.contents import TESTED
from modpkg.store.store import Store

TEST_ENGINE = "1"
"""Raised whenever the same model and test would give another outcome."""


class SuiteTest(Struct, frozen=True, kw_only=True):
    """One test, and whose it is."""

    suite: str
    test: Test
    cases: Path
    """The file of cases."""
    digest: Digest
    """Of the definition and the cases' bytes."""
    measured: Digest
    """Of what of it decides an outcome: not its bounds, tolerance or time."""


class Kept(Struct, frozen=True, omit_defaults=True):
    """``tested/<aa>/<hex>``, sealed: an outcome or a difference of two, under what it is of."""

    key: Digest
    outcome: Outcome | None = None
    difference: Difference | None = None


class Tried(Struct, frozen=True):
    """A report, with what it is short for."""

    report: Report
    outcomes: list[Outcome]
    """Of the report's results, in their order."""
    seconds: list[float]
    """What each took; 0 for those that were in the store."""


def engine() -> str:
    """Return the versions that decide a value: of composing, testing, torch and transformers."""
    parts = [f"compose {COMPOSE_ENGINE}", f"tests {TEST_ENGINE}"]
    for package in ("torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            parts.append(f"{package} {version(package)}")
    return ", ".join(parts)


def suite_test(suite: str, test: Test, cases: Path, digest: Digest) -> SuiteTest:
    """Return a test whose cases lie in a file, checked as far as that needs no model.

    Raises:
        TestError.
    """
    check_metric(test.metric, f"test {test.name!r} of {suite}")
    ending = test.cases.rsplit(".", 1)[-1].lower()
    told = [digest, ending, test.metric, metric_version(test.metric), test.seed]
    return SuiteTest(
        suite=suite,
        test=test,
        cases=cases,
        digest=definition_digest(test, digest),
        measured=digest_bytes(canonical_json(told)),
    )


def tests_of_project(manifest: Manifest, owner: str) -> list[SuiteTest]:
    """Return the tests of a manifest whose cases lie beside it.

    Raises:
        TestError: a file is missing. TestError.
    """
    found = []
    for test in manifest.tests:
        path = manifest.folder / test.cases
        if not path.is_file():
            raise TestError(
                "M712", where=f"test {test.name!r}", reason=f"there is no file {test.cases}"
            )
        found.append(suite_test(owner, test, path, digest_file(path)))
    return found


def tests_of_release(record: ReleaseRecord, store: Store) -> list[SuiteTest]:
    """Return the tests that a release declares; their cases may still have to be fetched.

    Raises:
        TestError: the release lacks a file that it names. TestError.
    """
    found = []
    for test in manifest_of(record).tests:
        entry = record.files.get(test.cases)
        if entry is None:
            raise TestError(
                "M712",
                where=f"test {test.name!r} of {record.name} {record.version}",
                reason=f"the release has no file {test.cases}",
            )
        digest = Digest(entry.digest)
        found.append(suite_test(record.name, test, store.blobs.path(digest), digest))
    return found


def all_tests(record: ReleaseRecord, registries: Registries, store: Store) -> list[SuiteTest]:
    """Return a release's own tests, then those of the newest of each suite that it names.

    Raises:
        TestError, NotFound. What reading a registry raises.
    """
    found = tests_of_release(record, store)
    for suite in manifest_of(record).suites:
        found += tests_of_suite(suite, registries, store)
    for test in found:
        path = f"the cases {test.test.cases} of {test.suite}"
        owner = registries.of(test.suite)
        owner.blob(Digest(f"sha256:{test.cases.name}"), path)  # brings it into the store
    return found


def tests_of_suite(suite: Dependency, registries: Registries, store: Store) -> list[SuiteTest]:
    """Return the tests of the newest release of a suite that a module allows."""
    registry = registries.of(suite.name)
    line = registry.newest(suite.name, suite.requirement.specifier)
    if line.kind != "suite":
        raise TestError("M720", name=line.name, version=line.version, kind=line.kind)
    return tests_of_release(registry.record(line), store)


class Bench:
    """Where tests are run: what the store has of them is not run again."""

    def __init__(
        self, store: Store, progress: Progress, *, limit: float = LIMIT, fresh: bool = False
    ) -> None:
        self._store = store
        self._progress = progress
        self._limit = limit
        self._fresh = fresh
        self._runner = Runner(progress)
        self._folders = tempfile.TemporaryDirectory(prefix="modpkg-test-")
        self._laid_out: dict[Digest, Path] = {}
        self._engine = engine()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.close()
        self._folders.cleanup()

    @property
    def idle(self) -> bool:
        """Whether everything so far was in the store."""
        return not self._runner.started

    def run(self, what: Runnable, tests: Sequence[SuiteTest]) -> Tried:
        """Run tests on a model, as far as the store has not what they give.

        Raises:
            TestAborted: one took longer than its time. TestAborted.
            What fetching and composing raise, and `modpkg.community.evaluate.measure.measure`.
        """
        results, outcomes, seconds = [], [], []
        for test in tests:
            begun = time.monotonic()
            outcome, ran = self._outcome(what, test)
            outcomes.append(outcome)
            seconds.append(time.monotonic() - begun if ran else 0.0)
            results.append(_result(test, outcome))
        report = Report(
            subject=what.subject, composition=what.digest, engine=self._engine, results=results
        )
        return Tried(report, outcomes, seconds)

    def compare(self, test: SuiteTest, model: str, before: Outcome, after: Outcome) -> Difference:
        """Return how far a test's value moved between two outcomes of it."""
        if before.rows == after.rows:
            return Difference(0.0, 0.0, 0.0)
        told = [before.digest, after.digest, test.test.metric, test.measured, test.test.seed]
        kept = self._kept(key := digest_bytes(canonical_json(told)))
        if kept is not None and kept.difference is not None:
            return kept.difference
        asked = Comparison(
            metric=test.test.metric,
            test=test.test.name,
            before=before.rows,
            after=after.rows,
            seed=test.test.seed,
        )
        limit = self._limit_of(test)
        found = self._runner.compare(asked, suite=test.suite, model=model, limit=limit)
        self._keep(Kept(key, difference=found))
        return found

    def _limit_of(self, test: SuiteTest) -> float:
        return min(test.test.time_limit or self._limit, self._limit)

    def _outcome(self, what: Runnable, test: SuiteTest) -> tuple[Outcome, bool]:
        told = [what.digest, test.measured, self._engine]
        kept = self._kept(key := digest_bytes(canonical_json(told)))
        if kept is not None and kept.outcome is not None:
            return kept.outcome, False
        self._runner.start()
        folder = self._laid_out_model(what)
        self._progress.stage(f"Testing {what.subject.name}: {test.test.name}")
        asked = Measurement(
            folder=str(folder),
            metric=test.test.metric,
            test=test.test.name,
            cases=str(test.cases.absolute()),
            label=test.test.cases,
            seed=test.test.seed,
        )
        outcome = self._runner.measure(
            asked, suite=test.suite, model=what.subject.name, limit=self._limit_of(test)
        )
        self._keep(Kept(key, outcome=outcome))
        return outcome, True

    def _kept(self, key: Digest) -> Kept | None:
        if self._fresh:
            return None
        try:
            kept = unseal(self._path(key).read_bytes(), Kept)
        except (OSError, msgspec.MsgspecError):
            return None  # not there, or damaged: it is measured anew
        return kept if kept.key == key else None

    def _keep(self, kept: Kept) -> None:
        write_atomically(self._path(kept.key), seal(kept))

    def _path(self, key: Digest) -> Path:
        return self._store.root / TESTED / key[7:9] / key[7:]

    def _laid_out_model(self, what: Runnable) -> Path:
        """Return the model's folder; it is fetched, composed and laid out when first needed."""
        if what.digest not in self._laid_out:
            fetch_plan(what.plan, self._store, self._progress)
            self._progress.stage(f"Composing {what.subject.name}")
            composed = compose(
                what.composition, self._store.root.absolute(), progress=counted(self._progress)
            )
            folder = Path(self._folders.name) / str(len(self._laid_out))
            records = what.plan.transfer.records
            modules = {name: records[name].version for name in what.recipe.modules()}
            lay_out_model(folder, composed, what.recipe, modules, composed.tensors, composed.prompt)
            self._laid_out[what.digest] = folder
        return self._laid_out[what.digest]


def _result(item: SuiteTest, outcome: Outcome) -> Result:
    test = item.test
    return Result(
        test=test.name,
        suite=item.suite,
        digest=item.digest,
        metric=test.metric,
        better=_better(test, outcome),
        value=outcome.value,
        low=outcome.low,
        high=outcome.high,
        cases=len(outcome.rows),
        at_least=test.at_least,
        at_most=test.at_most,
        tolerance=test.tolerance,
        passed=within(outcome.value, test.at_least, test.at_most),
        outcomes=outcome.digest,
    )


def _better(test: Test, outcome: Outcome) -> Better:
    if test.at_least is not None and test.at_most is None:
        return "higher"
    if test.at_most is not None and test.at_least is None:
        return "lower"
    return outcome.better
