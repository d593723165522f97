"""A server in a thread of this process, behind a port that is listened to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from modpkg.server.app import make_app
from modpkg.server.serving import uvicorn_config
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
    running = uvicorn.Server(uvicorn_config(make_app(state, routes)))
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        running.should_exit = True
        thread.join(10)
