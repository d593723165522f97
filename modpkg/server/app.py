"""The application: what is asked where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Litestar, Request
from litestar.config.app import AppConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.types import Scope
from sqlalchemy.exc import DataError, OperationalError

from modpkg.core.errors import ModpkgError
from modpkg.core.version import __version__
from modpkg.server import (
    accounts,
    api_tokens,
    candidates,
    closing,
    events,
    health,
    organisations,
    owners,
    release_standing,
    sessions,
    trusted_publishers,
)
from modpkg.server.answers import database_answer, error_answer, malformed_answer, value_answer
from modpkg.server.callers import Caller, caller_of
from modpkg.server.chores import Chores
from modpkg.server.file_answers import ServerApp
from modpkg.server.health import ReadinessProbe, ask_of_database
from modpkg.server.pages.routes import PAGES
from modpkg.server.pages.site import nothing_here
from modpkg.server.state import Server

ROUTES: list[Any] = [
    *accounts.ROUTES,
    *api_tokens.ROUTES,
    *closing.ROUTES,
    *candidates.ROUTES,
    *organisations.ROUTES,
    *owners.ROUTES,
    *events.ROUTES,
    *sessions.ROUTES,
    *PAGES,
    *health.ROUTES,
    *trusted_publishers.ROUTES,
    *release_standing.ROUTES,
]
"""Handlers and routers of all parts; each part adds its own here."""


def make_app(server: Server, routes: Sequence[Any] = ()) -> ServerApp:
    """Return the application of a server.

    Handlers get ``server: NamedDependency[Server]`` and ``caller: NamedDependency[Caller]``.
    """

    def asking(request: Request[Any, Any, Any]) -> Caller:
        caller = request.state["caller"] = caller_of(server, request)
        return caller

    chores = Chores(server)

    def start(_: Litestar) -> None:
        chores.start()

    async def note(error: Exception, scope: Scope) -> None:
        server.traffic.note_error(error, scope)

    def close(_: Litestar) -> None:
        chores.stop()
        server.close()

    def quiet(config: AppConfig) -> AppConfig:
        config.logging_config = None
        return config

    readiness = ReadinessProbe(server)
    ask_of_database(server)
    app = ServerApp(
        route_handlers=[*ROUTES, *routes],
        dependencies={
            "server": Provide(lambda: server, sync_to_thread=False, use_cache=True),
            "caller": Provide(asking, sync_to_thread=True),
            "readiness": Provide(lambda: readiness, sync_to_thread=False, use_cache=True),
        },
        exception_handlers={
            ModpkgError: error_answer,
            HTTPException: malformed_answer,
            NotFoundException: nothing_here,
            DataError: value_answer,
            OperationalError: database_answer,
            OverflowError: value_answer,
        },
        state=State({"server": server}),
        after_exception=[note],
        on_app_init=[quiet],
        on_startup=[start],
        on_shutdown=[close],
        request_max_body_size=server.settings.limits.body_bytes,
        openapi_config=OpenAPIConfig(
            title="modpkg registry", version=__version__, path="/api/1/schema", render_plugins=()
        ),
    )
    app.registry_server = server
    return app
