"""The process that runs models on tests, as its parent sees it: started, asked, stopped in time."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import msgspec

from modpkg.community.evaluate.protocol import (
    Comparison,
    Measurement,
    TestOutcome,
    ValueChange,
    WorkerAnswer,
    WorkerFailure,
    WorkerRequest,
)
from modpkg.core.bounds import TEST_SECONDS, WORKER_START_SECONDS
from modpkg.core.errors import CLASSES, ModpkgError, TestAborted
from modpkg.core.extras import require_torch
from modpkg.core.progress import Progress

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from modpkg.community.evaluate.worker import main; main()"
)


class WorkerProcess:
    """The process; started when it is first needed, and again after it was stopped."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[WorkerAnswer | None] = queue.SimpleQueue()
        self._listener: threading.Thread | None = None
        self._ready = False

    @property
    def started(self) -> bool:
        """Whether the process runs."""
        return self._process is not None

    def measure(
        self, request: Measurement, *, suite: str, model: str, limit: float = TEST_SECONDS
    ) -> TestOutcome:
        """Return the outcome of a test on a model.

        Raises:
            TestAborted: It took more than `limit` seconds and was stopped, or the process ended.
            ModpkgError: Whatever `modpkg.community.evaluate.measure.measure` raises.
        """
        where = {"test": request.test, "suite": suite, "name": model}
        for answer in self._ask(WorkerRequest(measure=request), limit, where):
            if answer.outcome is not None:
                return answer.outcome
        raise AssertionError("the last answer has an outcome")

    def compare(
        self, request: Comparison, *, suite: str, model: str, limit: float = TEST_SECONDS
    ) -> ValueChange:
        """Return how far a test's value moved; raises like `measure`."""
        where = {"test": request.test, "suite": suite, "name": model}
        for answer in self._ask(WorkerRequest(compare=request), limit, where):
            if answer.difference is not None:
                return answer.difference
        raise AssertionError("the last answer has a difference")

    def _ask(
        self, request: WorkerRequest, limit: float, where: dict[str, str]
    ) -> Iterator[WorkerAnswer]:
        process = self._started(where)
        assert process.stdin is not None  # noqa: S101
        too_slow = TestAborted("M717", **where, limit=limit)
        deadline = time.monotonic() + limit
        try:
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._crash(where) from None
        while True:
            answer = self._next(deadline, too_slow, where)
            if answer.total is not None:
                self._progress.total(answer.total)
            self._progress.advance(answer.done)
            if answer.failure is not None:
                raise _error_of(answer.failure, where)
            yield answer

    def _next(self, deadline: float, too_slow: ModpkgError, where: dict[str, str]) -> WorkerAnswer:
        try:
            answer = self._answers.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            self.close()
            raise too_slow from None
        if answer is None:
            raise self._crash(where)
        return answer

    def start(self) -> None:
        """Start the process, which imports what it needs while the caller goes on.

        Raises:
            MissingExtra: torch is not installed.
        """
        if self._process is not None:
            return
        require_torch("Running a test")
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._process = process
        answers: queue.SimpleQueue[WorkerAnswer | None] = queue.SimpleQueue()
        self._answers = answers

        def listen() -> None:
            assert process.stdout is not None  # noqa: S101
            decoder = msgspec.json.Decoder(WorkerAnswer)
            try:
                for line in process.stdout:
                    answers.put(decoder.decode(line))
            except (ValueError, msgspec.MsgspecError):
                pass  # closed, or cut off in the middle of a line
            answers.put(None)

        self._listener = threading.Thread(target=listen, daemon=True)
        self._listener.start()
        self._ready = False

    def _started(self, where: dict[str, str]) -> subprocess.Popen[bytes]:
        self.start()
        assert self._process is not None  # noqa: S101
        process = self._process
        if not self._ready:
            too_slow = TestAborted(
                "M718", **where, reason="importing torch and transformers took too long"
            )
            self._next(time.monotonic() + WORKER_START_SECONDS, too_slow, where)
            self._ready = True
        return process

    def _crash(self, where: dict[str, str]) -> TestAborted:
        process = self._process
        self.close()
        status = process.returncode if process is not None else None
        reason = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        return TestAborted("M718", **where, reason=reason)

    def close(self) -> None:
        """Kill the process, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        if self._listener is not None:
            self._listener.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _error_of(failure: WorkerFailure, where: dict[str, str]) -> ModpkgError:
    """Return the error that the process reported."""
    if failure.code in CLASSES:
        return CLASSES[failure.code](failure.code, **failure.values)
    return TestAborted("M718", **where, reason=failure.values.get("reason", "unknown reason"))
