"""Running a server in this process, by granian."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from modpkg.core.errors import UsageError
from modpkg.core.system_processes import end_with_parent
from modpkg.core.system_signals import left_to_handlers
from modpkg.core.system_sockets import check_free_address
from modpkg.server.request_log import log, write_log
from modpkg.server.settings import ServerSettings

HEADER_SECONDS = 10
"""For how long a connection may take to send the headers of a request."""
STOP_SECONDS = 60
"""For how long requests that are under way may take when the server is asked to end."""
FREE_SECONDS = 3
"""For how long a server that is ending may still hold the address of one that starts."""
SWITCH_SECONDS = 0.0002
"""After which a thread lets another one run Python: granian's hands requests to the loop's, and
would wait for 5 ms while that answers others."""
_METRICS = "PROMETHEUS_MULTIPROC_DIR"


def serve(settings: ServerSettings, host: str, port: int, workers: int = 1) -> None:
    """Serve until the process is asked to end; requests that are under way are answered first."""
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings

    with contextlib.ExitStack() as held:
        if workers > 1 and _METRICS not in os.environ:  # before the library is imported
            folder = tempfile.TemporaryDirectory(prefix="modpkg-metrics-")
            os.environ[_METRICS] = held.enter_context(folder)
        from modpkg.server.app import make_app
        from modpkg.server.rsgi import RsgiApp
        from modpkg.server.state import Server

        _check_free(host, port)
        write_log()
        _prepare_apart(settings)
        parent = os.getpid()

        def load() -> Any:
            write_log()
            watch = partial(end_with_parent, parent, STOP_SECONDS)
            threading.Thread(target=watch, daemon=True).start()
            sys.setswitchinterval(SWITCH_SECONDS)
            return RsgiApp(make_app(Server(settings)))

        granian = Granian(
            "modpkg.server",
            address=host,
            port=port,
            interface=Interfaces.RSGI,
            workers=workers,
            respawn_failed_workers=workers > 1,
            workers_kill_timeout=STOP_SECONDS,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000),
            log_enabled=False,
        )
        log("started", address=f"{host}:{port}", workers=workers, url=settings.url)
        with left_to_handlers():
            granian.serve(target_loader=load, wrap_loader=False)
        log("stopped")


def _check_free(host: str, port: int) -> None:
    """Check that a server can listen at an address: granian's shares one with whoever does.

    Raises:
        UsageError: Something else listens there, or it is no address of this machine.
    """
    until = time.monotonic() + FREE_SECONDS
    while True:
        try:
            check_free_address(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(0.1)
                continue
            reason = f"{error.strerror or error}".lower()
            message = f"Nothing can listen at {host}, port {port}: {reason}; name another --port."
            raise UsageError("M901", message=message) from None
        return


def _prepare_apart(settings: ServerSettings) -> None:
    """Prepare storage and database in a process of its own: threads do not survive a fork.

    The workers are forked from this process, and the client of object stores has threads.

    Raises:
        ModpkgError: Either cannot be reached, or written to.
    """
    with ProcessPoolExecutor(1) as pool:
        pool.submit(_prepare, settings).result()


def _prepare(settings: ServerSettings) -> None:
    from modpkg.server.state import Server

    server = Server(settings)
    try:
        server.prepare()
    finally:
        server.close()
