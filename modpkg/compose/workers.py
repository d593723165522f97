"""Processes that compose beside this one, for large work.

Composing takes hundreds of short calls of numpy per megabyte. Between two of them a thread holds
Python's lock, for which all others wait: a process takes more time with two threads than two
processes do, and keeps about five cores busy, however many threads it has.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from modpkg.compose.worker import END, read_message, write_message
from modpkg.core.digests import Digest
from modpkg.core.errors import ComposeError
from modpkg.core.system_processes import can_fork, group_options, kill_group

if TYPE_CHECKING:
    from modpkg.compose.work import Task

_PROGRAM = """
import sys
count = int(sys.argv[1])
pipes, sys.path[:] = sys.argv[2 : 2 + count], sys.argv[2 + count :]
from modpkg.compose.worker import main
main(pipes)
"""
_ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
"""numpy's library would start one thread per core in each process, and use none of them."""


_MOMENT = 5.0
"""Seconds that processes without a task may take to end by themselves; it takes milliseconds."""


class _Worker(NamedTuple):
    """A process as this one sees it."""

    number: int
    sink: BinaryIO
    """For tasks."""
    source: BinaryIO
    """Of answers."""


class Workers:
    """Processes that are started when they are first needed, and end with a ``with`` block.

    They outlive a composition, for the next one. They also end when this process does, however it
    ends: their pipes are closed then.
    """

    def __init__(self) -> None:
        self._first: subprocess.Popen[bytes] | None = None
        self._workers: list[_Worker] = []
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._ends: dict[int, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._close_pipes()
        if self._first is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._first.wait(_MOMENT)
        self.stop()

    def start(self, count: int) -> bool:
        """Start so many processes, unless all of them run; return whether that could be done.

        They are copies of one process, see `modpkg.core.system_processes.can_fork`.
        """
        if len(self._workers) >= count and not self._ends:
            return True
        self.stop()
        # in a program that is more than Python, that program would be started
        if not can_fork() or not sys.executable or getattr(sys, "frozen", False):
            return False
        self._idle = queue.LifoQueue()
        theirs: list[int] = []
        try:
            for number in range(count):
                source, sink = os.pipe()
                theirs.append(source)
                own_sink = os.fdopen(sink, "wb")
                source, sink = os.pipe()
                theirs.append(sink)
                worker = _Worker(number, own_sink, os.fdopen(source, "rb"))
                self._workers.append(worker)
                self._idle.put(worker)
            pairs = [f"{theirs[at]},{theirs[at + 1]}" for at in range(0, 2 * count, 2)]
            self._first = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(count), *pairs, *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
                pass_fds=theirs,
                **group_options(),
            )
        except OSError:  # too many files or processes
            self.stop()
            return False
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return True

    def perform(self, model: str, task: Task) -> tuple[Digest, ...]:
        """Let a process do a task, see `modpkg.compose.work.perform`; waits until one is idle.

        Raises:
            ComposeError: The process ended; else what `modpkg.compose.work.perform` raises.
        """
        from modpkg.compose.work import decoded_answer, encoded

        idle = self._idle
        worker = idle.get()
        try:
            try:
                write_message(worker.sink, encoded(task))
                message = read_message(worker.source)
            except (OSError, ValueError):  # a pipe is broken, or closed
                message = b""
            if not message:
                raise ComposeError("M880", model=model, reason=self._end_of(worker))
        finally:
            idle.put(worker)
        answer = decoded_answer(message)
        if answer.failure is not None:
            raise answer.failure.error(model)
        return answer.digests

    def stop(self) -> None:
        """End all processes at once, whatever they do. More can be started afterwards."""
        first, self._first = self._first, None
        if first is not None:
            kill_group(first)
        self._close_pipes()
        for worker in self._workers:
            worker.source.close()  # whoever waits for an answer has seen the end of it
        self._workers = []
        with self._lock:
            self._ends.clear()
            if first is not None and first.stdout is not None:
                first.stdout.close()

    def _close_pipes(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):  # a task was being sent
                worker.sink.close()

    def _end_of(self, worker: _Worker) -> str:
        """Return how a process ended that gives no answer."""
        with self._lock:
            first = self._first
            if first is None or first.stdout is None:
                return "it was stopped"
            while worker.number not in self._ends:
                report = first.stdout.read(END.size)
                if len(report) < END.size:
                    self._ends[worker.number] = first.wait()
                    break
                number, status = END.unpack(report)
                self._ends[number] = status
            status = self._ends[worker.number]
        return f"signal {-status} ended it" if status < 0 else f"it ended with status {status}"
