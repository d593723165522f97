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
from modpkg.server.serving import STOP_SECONDS, uvicorn_config
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server


@contextmanager
def live_server(folder: Path, routes: Sequence[Any] = (), **settings: Any) -> Iterator[Server]:
    """Give the state of a server of the registry in ``folder``; it listens at ``settings.url``."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        state = Server(ServerSettings(storage=str(folder), name="test", url=url, **settings))
        state.prepare()
        running = uvicorn.Server(uvicorn_config(make_app(state, routes)))
        thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            running.should_exit = True
            thread.join(2 * STOP_SECONDS)
            assert not thread.is_alive(), "it would go on beside other tests"
