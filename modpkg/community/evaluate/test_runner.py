"""Running tests on models; outcomes are cached in the store."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.community.evaluate.protocol import Comparison, Measurement, TestOutcome, ValueChange
from modpkg.community.evaluate.report import TestRun
from modpkg.community.evaluate.suite import SuiteTest, check_packages
from modpkg.community.evaluate.test_target import TestTarget
from modpkg.community.evaluate.worker_process import WorkerProcess
from modpkg.compose.executor import compose
from modpkg.compose.plan import COMPOSE_ENGINE
from modpkg.core.bounds import TEST_SECONDS
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.files import write_atomically
from modpkg.core.progress import Progress
from modpkg.core.records import canonical_json
from modpkg.core.regular_file import read_file
from modpkg.core.report import Better, Report, TestResult, within_bounds
from modpkg.core.sealed import seal, unseal
from modpkg.environment.install import counted, fetch_plan
from modpkg.environment.models import lay_out_model
from modpkg.manifest.schema import Test
from modpkg.store.contents import TESTED
from modpkg.store.store import Store

TEST_ENGINE = "1"
"""Raised whenever the same model and test would have another outcome."""


class CachedResult(Struct, frozen=True, omit_defaults=True):
    """``tested/<aa>/<hex>``, sealed: an outcome or a difference, by its inputs' digest."""

    key: Digest
    outcome: TestOutcome | None = None
    difference: ValueChange | None = None


def engine() -> str:
    """Return the versions that a value depends on: composing, testing, torch, transformers."""
    parts = [f"compose {COMPOSE_ENGINE}", f"tests {TEST_ENGINE}"]
    for package in ("torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            parts.append(f"{package} {version(package)}")
    return ", ".join(parts)


class TestRunner:
    """Runs tests on models; what the store has the outcome of is not run again."""

    def __init__(
        self, store: Store, progress: Progress, *, limit: float = TEST_SECONDS, fresh: bool = False
    ) -> None:
        """``limit`` is in seconds, of one test on one model; ``fresh`` ignores cached outcomes."""
        self._store = store
        self._progress = progress
        self._limit = limit
        self._fresh = fresh
        self._worker = WorkerProcess(progress)
        self._folders = tempfile.TemporaryDirectory(prefix="modpkg-test-")
        self._laid_out: dict[Digest, Path] = {}
        self._engine = engine()

    def __enter__(self) -> TestRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self._worker.close()
        self._folders.cleanup()

    @property
    def idle(self) -> bool:
        """Whether all outcomes so far were cached."""
        return not self._worker.started

    def check(self, model: TestTarget, tests: Sequence[SuiteTest]) -> None:
        """Check that the packages are installed that tests need, as far as they have to be run.

        Raises:
            MissingExtra: One is not.
        """
        check_packages(test.test for test in tests if not self._is_cached(model, test))

    def run(self, model: TestTarget, tests: Sequence[SuiteTest]) -> TestRun:
        """Run tests on a model, as far as their outcomes are not cached.

        Raises:
            TestAborted: A test took too long, or ended its process.
            ModpkgError: The model cannot be fetched or composed, or see
                `modpkg.community.evaluate.measure.measure`.
        """
        self.check(model, tests)
        results, outcomes, seconds = [], [], []
        for test in tests:
            begun = time.monotonic()
            outcome, ran = self._outcome(model, test)
            outcomes.append(outcome)
            seconds.append(time.monotonic() - begun if ran else 0.0)
            results.append(_result(test, outcome))
        report = Report(
            subject=model.subject, composition=model.digest, engine=self._engine, results=results
        )
        return TestRun(report, outcomes, seconds)

    def compare(
        self, test: SuiteTest, model: str, before: TestOutcome, after: TestOutcome
    ) -> ValueChange:
        """Return how far a test's value moved between two of its outcomes."""
        if before.rows == after.rows:
            return ValueChange(0.0, 0.0, 0.0)
        inputs = [before.digest, after.digest, test.test.metric, test.measured, test.test.seed]
        cached = self._read_cache(key := digest_bytes(canonical_json(inputs)))
        if cached is not None and cached.difference is not None:
            return cached.difference
        request = Comparison(
            metric=test.test.metric,
            test=test.test.name,
            before=before.rows,
            after=after.rows,
            seed=test.test.seed,
        )
        limit = self._limit_of(test)
        difference = self._worker.compare(request, suite=test.suite, model=model, limit=limit)
        self._write_cache(CachedResult(key, difference=difference))
        return difference

    def _limit_of(self, test: SuiteTest) -> float:
        return min(test.test.time_limit or self._limit, self._limit)

    def _key(self, model: TestTarget, test: SuiteTest) -> Digest:
        return digest_bytes(canonical_json([model.digest, test.measured, self._engine]))

    def _is_cached(self, model: TestTarget, test: SuiteTest) -> bool:
        cached = self._read_cache(self._key(model, test))
        return cached is not None and cached.outcome is not None

    def _outcome(self, model: TestTarget, test: SuiteTest) -> tuple[TestOutcome, bool]:
        """Return the outcome of a test, and whether it was run for it."""
        key = self._key(model, test)
        cached = self._read_cache(key)
        if cached is not None and cached.outcome is not None:
            return cached.outcome, False
        self._worker.start()
        folder = self._laid_out_model(model)
        self._progress.stage(f"Testing {model.subject.name}: {test.test.name}")
        request = Measurement(
            folder=str(folder),
            metric=test.test.metric,
            test=test.test.name,
            cases=str(test.cases.absolute()),
            label=test.test.cases,
            seed=test.test.seed,
        )
        outcome = self._worker.measure(
            request, suite=test.suite, model=model.subject.name, limit=self._limit_of(test)
        )
        self._write_cache(CachedResult(key, outcome=outcome))
        return outcome, True

    def _read_cache(self, key: Digest) -> CachedResult | None:
        if self._fresh:
            return None
        try:
            cached = unseal(read_file(self._cache_path(key)), CachedResult)
        except (OSError, msgspec.MsgspecError):
            return None  # missing or damaged: measure again
        return cached if cached.key == key else None

    def _write_cache(self, result: CachedResult) -> None:
        write_atomically(self._cache_path(result.key), seal(result))

    def _cache_path(self, key: Digest) -> Path:
        return self._store.root / TESTED / key[7:9] / key[7:]

    def _laid_out_model(self, model: TestTarget) -> Path:
        """Return the model's folder; fetches, composes and lays it out when first called."""
        if model.digest not in self._laid_out:
            fetch_plan(model.plan)
            self._progress.stage(f"Composing {model.subject.name}")
            composed = compose(
                model.composition,
                self._store.root.absolute(),
                progress=counted(self._progress),
                verified=self._store.verified,
            )
            folder = Path(self._folders.name) / str(len(self._laid_out))
            records = model.plan.transfer.records
            modules = {name: records[name].version for name in model.recipe.modules()}
            lay_out_model(
                folder, composed, model.recipe, modules, composed.tensors, composed.prompt
            )
            self._laid_out[model.digest] = folder
        return self._laid_out[model.digest]


def _result(item: SuiteTest, outcome: TestOutcome) -> TestResult:
    test = item.test
    return TestResult(
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
        passed=within_bounds(outcome.value, test.at_least, test.at_most),
        outcomes=outcome.digest,
    )


def _better(test: Test, outcome: TestOutcome) -> Better:
    """Return which values are better: by a single bound if there is one, else by the metric."""
    if test.at_least is not None and test.at_most is None:
        return "higher"
    if test.at_most is not None and test.at_least is None:
        return "lower"
    return outcome.better
