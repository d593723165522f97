"""Processes that compose: each does tasks from a pipe, and answers through another.

The first one imports what is needed, and then becomes as many as are wanted: they share what it
has in memory, and none imports anything again. It stays to tell how each of them ends.

Each message is its length (8 bytes) and MessagePack, see `modpkg.compose.work`. Results do not
come this way: they are written into the packs.
"""

from __future__ import annotations

import gc
import os
import queue
import struct
import threading
from collections.abc import Sequence
from typing import BinaryIO

from modpkg.core.system_processes import forked

END = struct.Struct("<Ii")
"""Tells that the process of this number ended with this status; negative is a signal's number."""


def main(pipes: Sequence[str]) -> None:
    """Become a process for each pair of pipes, and tell on standard output how they end.

    Args:
        pipes: For each process, the two descriptors of tasks and answers, as ``3,4``.
    """
    import modpkg.compose.work  # noqa: F401 - before there are several processes

    gc.freeze()  # else a collection writes to all pages, and they are shared no more
    pairs = [tuple(int(number) for number in pair.split(",")) for pair in pipes]

    def work(number: int) -> None:
        for other in pairs[number + 1 :]:  # else their ends would not be seen
            _close(other)
        _work(*pairs[number])

    for number, status in forked(len(pairs), work, lambda number: _close(pairs[number])):
        os.write(1, END.pack(number, status))


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _work(tasks: int, answers: int) -> None:
    """Do tasks until the pipe with them is closed; then end at once, whatever is under way."""
    from modpkg.compose.work import Answer, decoded_task, encoded, failure_of, perform
    from modpkg.core.system_blas import one_blas_thread

    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        with os.fdopen(tasks, "rb") as source:
            while message := read_message(source):
                messages.put(message)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    with one_blas_thread(), os.fdopen(answers, "wb") as sink:
        while True:
            try:
                answer = Answer(perform(decoded_task(messages.get())))
            except Exception as error:  # the process that asked raises it
                answer = Answer(failure=failure_of(error))
            write_message(sink, encoded(answer))


def write_message(sink: BinaryIO, message: bytes) -> None:
    """Send a message that is not empty."""
    sink.write(struct.pack("<Q", len(message)) + message)
    sink.flush()


def read_message(source: BinaryIO) -> bytes:
    """Return a message; empty if the other side has ended."""
    head = source.read(8)
    if len(head) < 8:
        return b""
    (length,) = struct.unpack("<Q", head)
    message = source.read(length)
    return message if len(message) == length else b""
