"""Sockets of this machine, in which systems differ."""

from __future__ import annotations

import socket

from modpkg.core import system


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


def listening_socket(host: str, port: int, backlog: int) -> socket.socket:
    """Return a socket that listens at an address, alone.

    Raises:
        OSError: Somebody else does (``EADDRINUSE``), or it is no address of this machine.
    """
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if not system.WINDOWS:  # connections that ended a moment ago do not count
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening
