"""Running tests in a process of their own, which is stopped when its time is up."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import msgspec

from modpkg.community.evaluate.protocol import (
    Answer,
    Comparison,
    Difference,
    Failure,
    Measurement,
    Outcome,
    Request,
)
from modpkg.core.errors import CLASSES, ModpkgError, TestAborted
from modpkg.core.progress import Progress

LIMIT = 1800.0
"""Seconds that a test may take on one model, unless a person says otherwise."""
_START = 600.0
"""Seconds that the process may take to import torch and transformers."""
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from modpkg.community.evaluate.worker import main; main()"
)


class Runner:
    """The process, started when it is first needed and again after it was stopped."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._listener: threading.Thread | None = None
        self._ready = False

    @property
    def started(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def measure(
        self, asked: Measurement, *, suite: str, model: str, limit: float = LIMIT
    ) -> Outcome:
        """Return what a test gives on a model.

        Raises:
            TestAborted: it took more than ``limit`` seconds, and its process was ended.
            TestAborted: the process ended. What `modpkg.community.evaluate.measure.measure` raises.
        """
        stopped = TestAborted("M717", test=asked.test, suite=suite, name=model, limit=limit)
        crashed = {"test": asked.test, "suite": suite, "name": model}
        for answer in self._ask(Request(measure=asked), limit, stopped, crashed):
            if answer.outcome is not None:
                return answer.outcome
        raise AssertionError("answers end with one of the last three")

    def compare(
        self, asked: Comparison, *, suite: str, model: str, limit: float = LIMIT
    ) -> Difference:
        """Return how far a test's value moved; raises like `measure`."""
        stopped = TestAborted("M717", test=asked.test, suite=suite, name=model, limit=limit)
        crashed = {"test": asked.test, "suite": suite, "name": model}
        for answer in self._ask(Request(compare=asked), limit, stopped, crashed):
            if answer.difference is not None:
                return answer.difference
        raise AssertionError("answers end with one of the last three")

    def _ask(
        self, request: Request, limit: float, stopped: ModpkgError, crashed: dict[str, str]
    ) -> Iterator[Answer]:
        process = self._started(crashed)
        assert process.stdin is not None  # noqa: S101
        deadline = time.monotonic() + limit
        try:
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._crash(crashed) from None
        while True:
            answer = self._next(deadline, stopped, crashed)
            if answer.total is not None:
                self._progress.total(answer.total)
            self._progress.advance(answer.done)
            if answer.failure is not None:
                raise _raised(answer.failure, crashed)
            yield answer

    def _next(self, deadline: float, stopped: ModpkgError, crashed: dict[str, str]) -> Answer:
        try:
            answer = self._answers.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            self.close()
            raise stopped from None
        if answer is None:
            raise self._crash(crashed)
        return answer

    def start(self) -> None:
        """Start the process and let it import what it needs, while other work goes on."""
        if self._process is not None:
            return
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._process = process
        answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._answers = answers

        def listen() -> None:
            assert process.stdout is not None  # noqa: S101
            decoder = msgspec.json.Decoder(Answer)
            try:
                for line in process.stdout:
                    answers.put(decoder.decode(line))
            except (ValueError, msgspec.MsgspecError):
                pass  # closed, or cut off in the middle of a line
            answers.put(None)

        self._listener = threading.Thread(target=listen, daemon=True)
        self._listener.start()
        self._ready = False

    def _started(self, crashed: dict[str, str]) -> subprocess.Popen[bytes]:
        self.start()
        assert self._process is not None  # noqa: S101
        process = self._process
        if not self._ready:
            stopped = TestAborted(
                "M718", **crashed, reason="torch and transformers were not imported"
            )
            self._next(time.monotonic() + _START, stopped, crashed)
            self._ready = True
        return process

    def _crash(self, crashed: dict[str, str]) -> TestAborted:
        process = self._process
        self.close()
        status = process.returncode if process is not None else None
        reason = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        return TestAborted("M718", **crashed, reason=reason)

    def close(self) -> None:
        """End the process."""
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

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _raised(failure: Failure, crashed: dict[str, str]) -> ModpkgError:
    if failure.code in CLASSES:
        return CLASSES[failure.code](failure.code, **failure.values)
    return TestAborted("M718", **crashed, reason=failure.values.get("reason", "no reason given"))
