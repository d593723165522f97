"""The tests that a module or project declares, and those of the suites that it names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from modpkg.community.evaluate.cases import definition_digest, read_cases
from modpkg.community.evaluate.metrics import (
    check_metric,
    check_package,
    find_metric,
    metric_version,
)
from modpkg.core.bounds import CASES_BYTES
from modpkg.core.digests import Digest, digest_bytes, digest_file
from modpkg.core.errors import TestError
from modpkg.core.extras import require_extra, require_transformers
from modpkg.core.records import ReleaseRecord, canonical_json
from modpkg.core.regular_file import read_file
from modpkg.environment.models import manifest_of
from modpkg.environment.registries import Registries
from modpkg.manifest.schema import Dependency, Manifest, Test
from modpkg.store.store import Store


class SuiteTest(Struct, frozen=True, kw_only=True):
    """A declared test, with its owner and its cases."""

    suite: str
    """The module (or app) that declares it."""
    test: Test
    cases: Path
    """The file of cases."""
    digest: Digest
    """Of the definition and the cases' bytes."""
    measured: Digest
    """Of what an outcome depends on: not its bounds, tolerance or time limit."""

    @property
    def key(self) -> tuple[str, str, Digest]:
        """Owner, name and digest: equal keys are the same test."""
        return self.suite, self.test.name, self.digest


def suite_test(suite: str, test: Test, cases: Path, digest: Digest) -> SuiteTest:
    """Return a test with its file of cases, whose digest is ``digest``.

    Raises:
        TestError: There is no such metric.
    """
    check_metric(test.metric, f"test {test.name!r} of {suite}")
    suffix = test.cases.rsplit(".", 1)[-1].lower()
    inputs = [digest, suffix, test.metric, metric_version(test.metric), test.seed]
    return SuiteTest(
        suite=suite,
        test=test,
        cases=cases,
        digest=definition_digest(test, digest),
        measured=digest_bytes(canonical_json(inputs)),
    )


def check_packages(tests: Iterable[Test]) -> None:
    """Check that the packages that tests need are installed, before a model is made for them.

    Raises:
        MissingExtra: One is not.
    """
    for test in tests:
        require_transformers("Running a test")
        check_package(test.metric)
        if test.cases.endswith(".parquet"):
            require_extra("pyarrow", what="Reading Parquet", extra="parquet")


def tests_of_project(manifest: Manifest, owner: str) -> list[SuiteTest]:
    """Return the tests of a manifest whose cases are files beside it.

    Raises:
        TestError: A file of cases is missing, or a metric is unknown.
    """
    tests = []
    for test in manifest.tests:
        path = manifest.folder / test.cases
        if not path.is_file():
            raise TestError(
                "M712", where=f"test {test.name!r}", reason=f"there is no file {test.cases}"
            )
        tests.append(suite_test(owner, test, path, digest_file(path)))
    return tests


def tests_of_release(record: ReleaseRecord, store: Store) -> list[SuiteTest]:
    """Return the tests that a release declares; their cases may not be in the store yet.

    Raises:
        TestError: The release lacks a file of cases, or a metric is unknown.
    """
    tests = []
    for test in manifest_of(record).tests:
        entry = record.files.get(test.cases)
        if entry is None:
            raise TestError(
                "M712",
                where=f"test {test.name!r} of {record.name} {record.version}",
                reason=f"the release has no file {test.cases}",
            )
        digest = Digest(entry.digest)
        tests.append(suite_test(record.name, test, store.blobs.path(digest), digest))
    return tests


def all_tests(record: ReleaseRecord, registries: Registries, store: Store) -> list[SuiteTest]:
    """Return a release's own tests, then those of its suites; their cases are in the store.

    Raises:
        TestError: A test cannot be used, or [suites] names a module that is not a suite.
        NotFound: A suite has no release in its range.
        ModpkgError: A registry cannot be read.
    """
    tests = tests_of_release(record, store)
    for suite in manifest_of(record).suites:
        tests += tests_of_suite(suite, registries, store)
    for test in tests:
        what = f"the cases {test.test.cases} of {test.suite}"
        registries.of(test.suite).blob(Digest(f"sha256:{test.cases.name}"), what)
    return tests


def tests_of_suite(suite: Dependency, registries: Registries, store: Store) -> list[SuiteTest]:
    """Return the tests of the newest release of a suite in its range."""
    registry = registries.of(suite.name)
    line = registry.newest(suite.name, suite.requirement.specifier)
    if line.kind != "suite":
        raise TestError("M720", name=line.name, version=line.version, kind=line.kind)
    return tests_of_release(registry.record(line), store)


def check_cases(manifest: Manifest) -> int:
    """Check the cases of a project's tests, without a model; return how many there are.

    Raises:
        TestError: A test cannot be used.
        MissingExtra: A metric or the format of cases needs a package.
    """
    count = 0
    for item in tests_of_project(manifest, ""):
        metric = find_metric(item.test.metric, f"test {item.test.name!r}")
        data = read_file(item.cases, CASES_BYTES)
        count += len(read_cases(data, item.test.cases, metric.columns))
    return count
