"""Running a server in this process, by granian."""

from __future__ import annotations

from typing import Any

from modpkg.server.app import make_app
from modpkg.server.rsgi import RsgiApp
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server


def serve(settings: ServerSettings, host: str, port: int, workers: int = 1) -> None:
    """Serve until the process is asked to end; requests that are under way are answered first."""
    from granian import Granian
    from granian.constants import Interfaces

    prepared = Server(settings)
    prepared.prepare()
    prepared.close()

    def load() -> Any:
        return RsgiApp(make_app(Server(settings)))

    granian = Granian(
        "modpkg.server",
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        workers=workers,
        log_enabled=False,
    )
    granian.serve(target_loader=load, wrap_loader=False)
