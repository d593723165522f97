"""Sockets of this machine, which Windows does not have."""

from __future__ import annotations

import socket


def local_socket(path: str, seconds: float) -> socket.socket:
    """Return a connection to the socket at a path, of which each step may take so long.

    Raises:
        OSError: Nobody listens there, or the system has no such sockets.
    """
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError("this system has no such sockets")
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection
