"""Running a server in this process, or in several, by uvicorn."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from modpkg.core.errors import UsageError
from modpkg.core.system_processes import Terminated, end_with_parent
from modpkg.core.system_signals import left_to_handlers
from modpkg.core.system_sockets import listening_socket
from modpkg.server.request_log import log, write_log
from modpkg.server.settings import ServerSettings

if TYPE_CHECKING:
    import uvicorn

    from modpkg.server.file_answers import ServerApp
    from modpkg.server.state import Server

STOP_SECONDS = 60
"""For how long requests that are under way may take when the server is asked to end."""
FREE_SECONDS = 3
"""For how long a server that is ending may still hold the address of one that starts."""
SWITCH_SECONDS = 0.0002
"""After which a thread lets another one run Python: what answers the API is in threads, and reads
of files would wait for 5 ms for each of them."""
_BACKLOG = 1024
"""Connections that wait to be taken."""
_METRICS = "PROMETHEUS_MULTIPROC_DIR"


def serve(
    settings: ServerSettings,
    host: str,
    port: int,
    workers: int = 1,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until the process is asked to end; requests that are under way are answered first.

    ``ready`` is called when nothing is left that would be refused.

    Raises:
        ModpkgError: Storage or database cannot be reached, or written to.
        UsageError: Nothing can listen at the address.
    """
    with contextlib.ExitStack() as held:
        if workers > 1 and _METRICS not in os.environ:  # before the library is imported
            folder = tempfile.TemporaryDirectory(prefix="modpkg-metrics-")
            os.environ[_METRICS] = held.enter_context(folder)
        from modpkg.server.state import Server

        listening = held.enter_context(_listening(host, port))
        write_log()
        server = Server(settings)
        held.callback(server.close)
        server.prepare()
        ready()
        log("started", address=f"{host}:{port}", workers=workers, url=settings.url)
        with left_to_handlers(), contextlib.suppress(Terminated, KeyboardInterrupt):
            if workers > 1:
                server.close()  # each process has its own
                _serve_by_several(settings, listening, workers)
            else:
                _serve_alone(server, listening)
        log("stopped")


def uvicorn_config(app: ServerApp | partial[ServerApp], workers: int = 1) -> uvicorn.Config:
    """Return how uvicorn serves an application, or what a function returns as one."""
    import uvicorn

    from modpkg.server.connections import RegistryConnection

    return uvicorn.Config(
        app,
        factory=isinstance(app, partial),
        interface="asgi3",
        http=RegistryConnection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # of requests that are not HTTP there may be many
        access_log=False,
        proxy_headers=False,
        server_header=False,
        workers=workers,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
        timeout_worker_healthcheck=STOP_SECONDS,
    )


def _serve_alone(server: Server, listening: socket.socket) -> None:
    import uvicorn

    from modpkg.server.app import make_app

    sys.setswitchinterval(SWITCH_SECONDS)
    uvicorn.Server(uvicorn_config(make_app(server))).run([listening])


def _serve_by_several(settings: ServerSettings, listening: socket.socket, workers: int) -> None:
    from uvicorn.supervisors import Multiprocess

    class ServingProcesses(Multiprocess):
        """Processes that answer; one that dies is replaced."""

        def keep_subprocess_alive(self) -> None:
            for process in self.processes:  # else one that has died is waited for as if it hung:
                process.child_conn.close()  # its end of the pipe would still be open here
            super().keep_subprocess_alive()

        def terminate_all(self) -> None:
            listening.close()  # else who connects now would wait for an answer
            super().terminate_all()

    app = partial(_app_of_worker, settings, os.getpid())
    ServingProcesses(uvicorn_config(app, workers), [listening]).run()


def _app_of_worker(settings: ServerSettings, parent: int) -> Any:
    """Return the application of one of several processes, which ends with its parent."""
    from modpkg.server.app import make_app
    from modpkg.server.state import Server

    write_log()
    watch = partial(end_with_parent, parent, STOP_SECONDS)
    threading.Thread(target=watch, daemon=True).start()
    sys.setswitchinterval(SWITCH_SECONDS)
    return make_app(Server(settings))


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address, which is nobody else's.

    Raises:
        UsageError: Something else listens there, or it is no address of this machine.
    """
    until = time.monotonic() + FREE_SECONDS
    while True:
        try:
            return listening_socket(host, port, _BACKLOG)
        except OSError as error:  # noqa: PERF203
            if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(0.1)
                continue
            reason = f"{error.strerror or error}".lower()
            message = f"Nothing can listen at {host}, port {port}: {reason}; name another --port."
            raise UsageError("M901", message=message) from None
