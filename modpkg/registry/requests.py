"""Requests run in threads of their own, so that whoever waits for one can stop waiting.

A request that the library has begun cannot be stopped from outside, and while a thread is in it,
no signal reaches Python. So nobody else is ever in one: who needs an answer waits for a thread
that does the work, and `abandon` ends every wait at once. What is abandoned owns nothing: files
are written by those who wait.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")


class Abandoned(Exception):
    """The command was interrupted, and nobody waits for the answer any more."""


class TooLate(Exception):
    """What was waited for has not come in time; nobody waits for it any more."""


class _Work(Protocol):
    """What a thread is given to do; it raises nothing."""

    def do(self) -> None: ...

    def end(self) -> None:
        """Say that it is done; the thread waits for other work by then."""
        ...


class _Threads:
    """The threads that do requests: as many as there were requests at the same time.

    They stay for the next ones: to start a thread takes longer than a request does.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin without threads, as a forked process does."""
        self.started = 0
        self.idle: list[SimpleQueue[_Work]] = []
        self.waiting: set[_Awaited[Any]] = set()

    def give(self, work: _Work) -> None:
        try:
            jobs = self.idle.pop()
        except IndexError:
            jobs = SimpleQueue()
            self.started += 1
            threading.Thread(
                target=self._run, args=(jobs,), name="modpkg-request", daemon=True
            ).start()
        jobs.put(work)

    def _run(self, jobs: SimpleQueue[_Work]) -> None:
        while True:
            work = jobs.get()
            work.do()
            self.idle.append(jobs)
            work.end()
            del work


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.forget)


class _Awaited(Generic[T]):
    """What a request answers. A future would do, and take as long as all else that is done here."""

    result: T

    def __init__(self, work: Callable[[], T]) -> None:
        self.failure: BaseException | None = None
        self._work = work
        self._is_settled = threading.Lock()  # by whoever acquires it
        self._is_here = threading.Lock()
        self._is_here.acquire()

    def do(self) -> None:
        result, failure = None, None
        try:
            result = self._work()
        except BaseException as error:  # a panic of the library is none of Exception
            failure = error
        self._settle(result, failure)
        del failure

    def end(self) -> None:
        with contextlib.suppress(RuntimeError):  # abandoned
            self._is_here.release()

    def abandon(self) -> None:
        """Let who waits for it raise `Abandoned`, unless it has come."""
        if self._settle(None, Abandoned()):
            self.end()

    def has_come(self, seconds: float | None) -> bool:
        """Wait for it, for so long at most, and return whether it has come."""
        return self._is_here.acquire(timeout=-1 if seconds is None else seconds)

    def _settle(self, result: T | None, failure: BaseException | None) -> bool:
        if not self._is_settled.acquire(blocking=False):
            return False
        self.failure = failure
        if failure is None:
            self.result = cast(T, result)
        return True


def wait_for(work: Callable[[], T], seconds: float | None = None) -> T:
    """Return what ``work`` returns, in another thread; signals are handled meanwhile.

    Args:
        work: What is done.
        seconds: How long it may take; None if that does not matter.

    Raises:
        Abandoned: `abandon` was called.
        TooLate: It takes longer.
        BaseException: What ``work`` raises.
    """
    answer = _Awaited(work)
    _threads.waiting.add(answer)
    try:
        _threads.give(answer)
        if not answer.has_come(seconds):
            raise TooLate
        if answer.failure is not None:
            raise answer.failure
        return answer.result
    finally:
        _threads.waiting.discard(answer)
        del answer  # which has the error, whose traceback has this frame


class RequestPool(Executor):
    """Does work that waits for requests in their threads, so much of it at the same time.

    Work may make pools of its own: a thread is started wherever none is idle.
    """

    def __init__(self, at_once: int) -> None:
        """No thread is started yet."""
        self._at_once = at_once
        self._pending: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._change = threading.Condition()
        self._running = 0
        self._is_open = True

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Return what will have the result of ``fn``.

        Raises:
            RuntimeError: The pool was shut down.
        """
        future: Future[T] = Future()
        with self._change:
            if not self._is_open:
                raise RuntimeError("the pool was shut down")
            self._pending.append((future, partial(fn, *args, **kwargs)))
            if self._running == self._at_once:
                return future
            self._running += 1
        _threads.give(self)
        return future

    def do(self) -> None:
        """Do what is pending until nothing is."""
        while True:
            with self._change:
                if not self._pending:
                    self._running -= 1
                    self._change.notify_all()
                    return
                future, work = self._pending.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del future, work

    def end(self) -> None:
        """Whoever waits for the work learns it from its future."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, and wait for what was taken; what has not begun may be left out."""
        with self._change:
            self._is_open = False
            while cancel_futures and self._pending:
                self._pending.popleft()[0].cancel()
            while wait and self._running:
                self._change.wait()


def abandon() -> None:
    """End all waits for requests, in every thread: each raises `Abandoned`."""
    for answer in [*_threads.waiting]:
        answer.abandon()


def any_abandoned() -> bool:
    """Return whether a request still runs.

    The interpreter must not be torn down then: a thread that comes back from the library would end
    the process with a signal.
    """
    return len(_threads.idle) < _threads.started


def sum_at_once(
    work: Callable[[T], int], items: Sequence[T], at_once: int, stop: threading.Event
) -> int:
    """Return the sum of what ``work`` returns for each item; after an error, ``stop`` is set."""
    if not items:
        return 0
    pool = ThreadPoolExecutor(min(at_once, len(items)), "modpkg-send")
    try:
        return sum(pool.map(work, items))
    except (KeyboardInterrupt, SystemExit):
        stop.set()
        abandon()  # or the pool would wait for the store
        raise
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
