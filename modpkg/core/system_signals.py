"""A signal ends a command within a second, whatever it is in.

Python handles a signal between two of its own steps. A command that is in a long one of a library
(a product of two large matrices), or waits for threads that are, would come to its end much later.
The system tells the signal to a thread of its own at once; that one leaves the command a moment to
end by itself, and then ends the process: unfinished files are removed, and all else is as after a
kill, which every command survives.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from modpkg.core.leftovers import discard_own

MOMENT = 0.7
"""Seconds that a command has to end by itself."""
_SENTENCES = {
    signal.SIGINT: "Interrupted; no partial results are left behind.",
    signal.SIGTERM: "Terminated; no partial results are left behind.",
}


class _State:
    """What is known of a signal that came."""

    pending: int | None = None
    reported = False


def tell(status: int) -> None:
    """Print that a signal ends the command, by the exit status; once."""
    if not _State.reported:
        _State.reported = True
        with contextlib.suppress(OSError, ValueError):
            print(_SENTENCES[signal.Signals(status - 128)], file=sys.stderr, flush=True)  # noqa: T201


def handled() -> None:
    """Let the command go on: the interruption was for a part of it, such as an answer."""
    _State.pending = None


def _forget() -> None:
    """Let a forked process get its signals alone: the pipe is the parent's."""
    signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def ended_in_time() -> Iterator[None]:
    """End the process soon after SIGINT or SIGTERM, unless the signal is `handled`.

    Only in the main thread, and where the system tells a signal to a pipe.
    """
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.pending, _State.reported = None, False
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reading,), name="modpkg-signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        if _State.pending is None:  # else the process ends, and threads may hold it
            os.close(writing)
            watch.join()
            os.close(reading)


@contextlib.contextmanager
def left_to_handlers() -> Iterator[None]:
    """Leave signals to whoever handles them by now: a server that ends what is under way first."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


def _watch(reading: int) -> None:
    while received := os.read(reading, 64):
        number = next((number for number in received if number in _SENTENCES), None)
        if number is None or signal.getsignal(number) in (signal.SIG_IGN, signal.SIG_DFL):
            continue
        _State.pending = number
        time.sleep(MOMENT)
        if _State.pending is not None:
            _end(number)


def _end(number: int) -> None:
    tell(128 + number)
    discard_own()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # temporary folders
    os._exit(128 + number)
