#!/usr/bin/env -S python3 -IS
"""Python, as a process that the server of `tests/forkserver.py` forks; see there.

It imports next to nothing, since starting it is what is to be fast.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

ADDRESS = "MODPKG_TESTS_FORKSERVER"
"""Environment variable: path of the server's socket."""
INTERPRETER = "MODPKG_TESTS_PYTHON"
"""Environment variable: path of the interpreter to run where there is no server."""
LARGEST = 1 << 17
"""Bytes of a request."""


def connect(
    address: str,
    command: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    streams: Sequence[int],
) -> socket.socket:
    """Start a command; its exit status is received from the socket, and closing that kills it.

    Args:
        streams: Descriptors of its standard input, output and error.
    """
    request = json.dumps({"command": list(command), "cwd": cwd, "env": dict(env)}).encode()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(address)
        socket.send_fds(connection, [request], streams)
    except BaseException:
        connection.close()
        raise
    return connection


def main() -> None:
    """Run a command, and end as it ends."""
    command = sys.argv[1:]
    try:
        if command[:1] == ["-I"]:  # one that is to have nothing of this process
            raise OSError
        process = connect(
            os.environ[ADDRESS],
            command,
            os.getcwd(),  # noqa: PTH109 (importing pathlib takes longer than all else here)
            os.environ,
            (0, 1, 2),
        )
    except (KeyError, OSError):
        interpreter = os.environ[INTERPRETER]
        os.execv(interpreter, [interpreter, *command])
    os.close(0)
    os.close(1)
    status = int(process.recv(LARGEST) or 1)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
