"""An app's own ``[[tests]]`` as the judge of mixes."""

from __future__ import annotations

from typing import IO

from modpkg.community.bisect.lock_mixes import Mix
from modpkg.community.evaluate.junit import told
from modpkg.community.evaluate.run import try_lock
from modpkg.community.evaluate.test_runner import Bench
from modpkg.core.errors import TestError
from modpkg.core.progress import Progress
from modpkg.environment.workspace import NO_OPTIONS as NO_WISHES
from modpkg.environment.workspace import RegistryOptions as Wishes
from modpkg.manifest.schema import Manifest
from modpkg.store.store import Store

_FAILED = ("M716", "M717", "M718")
"""Errors of a test that count as its failure: no finite output, no end in time, no end at all."""


class TestsJudge:
    """Runs ``[[tests]]`` on the models that a mix gives; the store keeps what they give.

    A test that never ends, crashes or finds NaN is one that fails.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        progress: Progress,
        bench: Bench,
        wishes: Wishes = NO_WISHES,
    ) -> None:
        """``manifest`` is the project's own: its cases lie beside it."""
        self._manifest = manifest
        self._store = store
        self._progress = progress
        self._bench = bench
        self._wishes = wishes
        self._lines: list[str] = []
        self._passed = False

    def prepare(self, mix: Mix) -> None:
        """Compose a mix's models and run the tests; see `Judge`."""
        self._lines, self._passed = [], False
        try:
            tried = try_lock(
                self._manifest,
                mix.lock,
                self._store,
                self._progress,
                self._bench,
                wishes=self._wishes,
            )
        except TestError as error:
            if error.code not in _FAILED:
                raise
            self._lines.append(str(error))
            return
        self._passed = all(one.report.passed for one in tried)
        for one in tried:
            self._lines.append(f"{one.report.subject.name} {one.report.subject.version}")
            for result in one.report.results:
                mark = "passed" if result.passed else "FAILED"
                self._lines.append(f"  {mark}  {result.test}: {told(result)}")

    def judge(self, output: IO[bytes]) -> int:
        """Say whether all tests passed; see `Judge`."""
        output.write("".join(f"{line}\n" for line in self._lines).encode())
        return 0 if self._passed else 1

    def clear(self) -> None:
        """Nothing was installed."""
