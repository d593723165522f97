"""A server in a thread of this process, behind a port that is listened to."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from granian.server.embed import Server as Granian

from modpkg.server.app import make_app
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def live_server(folder: Path, routes: Sequence[Any] = (), **settings: Any) -> Iterator[Server]:
    """Give the state of a server of the registry in ``folder``; it listens at ``settings.url``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    state = Server(ServerSettings(storage=str(folder), name="test", url=url, **settings))
    state.prepare()
    loop = asyncio.new_event_loop()
    running = Granian(
        make_app(state, routes), port=port, interface="asgi", backlog=1024, log_enabled=False
    )
    thread = threading.Thread(target=loop.run_until_complete, args=(running.serve(),), daemon=True)
    thread.start()
    _wait_for(port)
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(running.stop)
        thread.join(10)
        loop.close()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise TimeoutError(port)
