"""A filter of system calls: the kernel ends a process that opens a socket."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Sequence

INTERNET = (2, 10)
"""The families of sockets of the internet, of both versions."""


def no_sockets(families: Sequence[int] = ()) -> bool:
    """Let the kernel end this process, by SIGSYS, when it opens a socket; return whether it can.

    Processes that this one starts are filtered too. It can on x86-64 Linux.

    Args:
        families: Those that it is ended for; none are all.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    load, equal, end = 0x20, 0x15, 0x06
    ends, allow = 0x80000000, 0x7FFF0000
    count = len(families)
    steps = [
        step(load, 0, 0, 4),  # the architecture
        step(equal, 0, count + 3 if count else 2, 0xC000003E),
        step(load, 0, 0, 0),  # the number of the system call
        step(equal, 0 if count else 1, count + 1 if count else 0, 41),  # socket
    ]
    if count:
        steps.append(step(load, 0, 0, 16))  # its first argument
        steps += [step(equal, count - number, 0, each) for number, each in enumerate(families)]
    steps += [step(end, 0, 0, allow), step(end, 0, 0, ends)]
    program = ctypes.create_string_buffer(b"".join(steps))
    header = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, header, 0, 0) == 0
